"""Where along the layers is the best, and may it be called a peak? Knows scores per row and layer, and pictures.

Validation chooses, test judges: `preferred` sees validation values only, everything else test scores only, so no layer
is rewarded for luck on the rows that chose it. Letters: L layers in order of depth, N test rows, R draws.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from mllm_probe.errors import ProbeError
from mllm_probe.stats.bootstrap import Resamples
from mllm_probe.stats.paired import Difference, check_scores, difference, standard_errors
from mllm_probe.stats.permutation import holm

PEAK, FLAT, UNDECIDED = "peak", "flat within margin", "undecided"


def preferred(values: np.ndarray, higher_is_better: bool = True) -> int:
    """The layer validation prefers: values [L], nan never wins, ties go to the earlier. ProbeError if all are nan."""
    values = np.asarray(values, np.float64) * (1 if higher_is_better else -1)
    if not len(values) or np.isnan(values).all():
        raise ProbeError(f"none of the {len(values)} layers has a value on validation, so none can be chosen")
    return int(np.nanargmax(values))


@dataclass(frozen=True)
class Contenders:
    """Layers (indices, ascending) that may be the best one; `first` and `last` are the hull."""

    layers: tuple[int, ...]
    first: int
    last: int


def contenders(scores: np.ndarray, draws: Resamples, level: float = 0.95) -> Contenders:
    """The set that holds the truly best layer with probability `level`: scores [L, N] of test rows.

    Layer k stays unless some layer is better by more than chance allows. With m the means and se the cluster standard
    errors of their differences, the test of "no layer beats k" is max_j (m_j - m_k) / se_jk, against the quantile of
    the same maximum of centred draws. A layer j that is clearly worse than k, by more than sqrt(ln G) standard errors,
    cannot make that maximum large in truth and is left out of its quantile: the selection of moments of Andrews and
    Soares 2010 (with their choice of kappa, sqrt(ln n)); Mogstad, Romano, Shaikh and Wilhelm 2024 build confidence
    sets for ranks from the same studentised differences. Only
    the hypothesis about the true best layer must survive for coverage, so nothing is corrected over k. The best layer
    of the sample is always in. Raises ProbeError for shapes or non-finite scores.
    """
    scores = check_scores(scores, draws)
    mean, se = scores.mean(axis=1), standard_errors(scores, draws)
    centred = draws.ratios(scores.T) - mean
    clear = np.sqrt(np.log(draws.size))
    kept = []
    for k in range(len(scores)):
        differs = se[k] > 0
        ahead = mean - mean[k]
        sure = np.where(np.abs(ahead) > 1e-12, np.copysign(np.inf, ahead), 0)  # every picture says the same
        gap = np.where(differs, ahead / np.where(differs, se[k], 1), sure)
        close = differs & (gap > -clear)
        if gap.max() <= 0:
            kept.append(k)
            continue
        if not close.any() or np.isinf(gap.max()):
            continue
        largest = ((centred[:, close] - centred[:, [k]]) / se[k, close]).max(axis=1)
        if gap.max() <= np.quantile(largest, level):
            kept.append(k)
    return Contenders(tuple(kept), kept[0], kept[-1])


@dataclass(frozen=True)
class Equivalence:
    """All layers lie within `margin` of each other if `holds`; `pair` is the pair that is hardest to call equal."""

    holds: bool
    p: float
    margin: float
    pair: tuple[int, int]


def equivalence(scores: np.ndarray, draws: Resamples, margin: float = 0.01, alpha: float = 0.05) -> Equivalence:
    """Two one-sided tests (Schuirmann 1987) for each pair of layers, joined by intersection-union (Berger 1982).

    scores [L, N] of test rows; margin in units of the score (0.01 is one point of accuracy). p is the largest over
    pairs of P(T > (margin - |difference|) / se), T of Student with G - 1 degrees; since all pairs must be within the
    margin, alpha is not divided. Without this nobody may call a curve flat: not to find a difference is no evidence.
    """
    scores = check_scores(scores, draws)
    if not margin > 0 or len(scores) < 2:
        raise ProbeError(f"margin={margin} must be above 0 and layers={len(scores)} at least 2")
    mean, se = scores.mean(axis=1), standard_errors(scores, draws)
    room = margin - np.abs(mean[:, None] - mean)
    p = np.where(room > 0, 0.0, 1.0)
    p[se > 0] = student.sf(room[se > 0] / se[se > 0], draws.size - 1)
    i, j = np.unravel_index(int(np.argmax(p)), p.shape)
    return Equivalence(bool(p.max() <= alpha), float(p.max()), margin, (int(min(i, j)), int(max(i, j))))


@dataclass(frozen=True)
class Shape:
    """What may be said of a curve of layers: `verdict` is "peak", "flat within margin" or "undecided".

    `drop` is chosen - top, `rise` is chosen - bottom; `p_drop` and `p_rise` are one-sided and corrected by Holm.
    """

    chosen: int
    verdict: str
    drop: Difference
    rise: Difference
    p_drop: float
    p_rise: float
    equivalence: Equivalence


def shape(
    scores: np.ndarray,
    chosen: int,
    draws: Resamples,
    bottom: int = 0,
    top: int = -1,
    margin: float = 0.01,
    alpha: float = 0.05,
) -> Shape:
    """A peak is declared when the chosen layer beats both the bottom and the top layer, after Holm at alpha.

    scores: [L, N] of test rows; `chosen` by `preferred` on validation; `bottom` and `top` index layers. A flat curve is
    declared only by `equivalence`. A layer chosen at either end is no peak (p = 1). Raises ProbeError.
    """
    scores = check_scores(scores, draws)
    if not all(-len(scores) <= layer < len(scores) for layer in (chosen, bottom, top)):
        raise ProbeError(f"chosen={chosen}, bottom={bottom}, top={top} must index the {len(scores)} layers")
    drop, rise = (difference(scores[chosen], scores[end], draws, 1 - alpha) for end in (top, bottom))
    p_drop, p_rise = holm(np.asarray([drop.p_greater, rise.p_greater]))
    same = equivalence(scores, draws, margin, alpha)
    verdict = PEAK if max(p_drop, p_rise) <= alpha else FLAT if same.holds else UNDECIDED
    return Shape(chosen, verdict, drop, rise, float(p_drop), float(p_rise), same)
