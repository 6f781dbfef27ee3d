"""Which layers may be the best, and what is the shape of their curve? Knows scores per row and layer, and pictures.

Validation chooses, test judges: `preferred` sees validation values only, everything else test scores only, so no layer
is rewarded for luck on the rows that chose it. Letters: L layers in order of depth, N test rows, R draws.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import bdtr, bdtrc, stdtr

from mllm_probe.errors import ProbeError
from mllm_probe.stats.bootstrap import Resamples, picture_sums
from mllm_probe.stats.intervals import degrees, moments
from mllm_probe.stats.paired import TIE, check_scores
from mllm_probe.stats.permutation import signs

FEW = 10  # pictures that disagree: where there are fewer, they are counted
ROUNDING = 1e-6  # of sums over flipped signs, which are 32 bits wide
NOTHING, RISING, PEAK = "nothing above chance", "rising to the top", "peak"
PLATEAU, FALLING, FLAT, UNDECIDED = "plateau", "falling from the bottom", "flat", "undecided"


def preferred(values: np.ndarray, higher_is_better: bool = True) -> int:
    """The best layer on validation: values [L], nan never wins, ties go to the earlier. ProbeError if all are nan."""
    values = np.asarray(values, np.float64) * (1 if higher_is_better else -1)
    if not len(values) or np.isnan(values).all():
        raise ProbeError(f"none of the {len(values)} layers has a value on validation, so none can be chosen")
    return int(np.nanargmax(values))


@dataclass(frozen=True)
class Contenders:
    """Layers (indices, ascending) that may be the best one; `first` and `last` are the hull.

    `p` [L] is that of "no layer is better than this one"; the set holds those with p above 1 - level.
    """

    layers: tuple[int, ...]
    first: int
    last: int
    p: tuple[float, ...]


def contenders(scores: np.ndarray, draws: Resamples, level: float = 0.95) -> Contenders:
    """The set that holds the truly best layer with probability `level`: scores [L, N] of test rows.

    Layer k stays unless some layer is better by more than chance allows. With d_gj the lead of layer j over k, summed
    over picture g, the test of "no layer beats k" is max_j of sum_g d_gj / sqrt(sum_g d_gj^2), against the same maximum
    where each picture's leads change their sign together at random: exact for few pictures where layers are
    exchangeable, and to first order otherwise. A layer that lies behind k by more than sqrt(ln G) of it cannot make the
    maximum large in truth and is left out: the selection of moments of Andrews and Soares 2010, with their kappa. Only
    the hypothesis about the true best layer must survive for coverage, so nothing is corrected over k. The best layer
    of the sample is always in. Raises ProbeError for shapes or non-finite scores.
    """
    scores = check_scores(scores, draws)
    sums = picture_sums(draws.member, draws.size, scores.T).T
    turned, behind = signs(draws.size, draws.counts.shape[1], seed=0), -np.sqrt(np.log(draws.size))
    p = np.ones(len(scores))
    for k in range(len(scores)):
        lead = sums - sums[k]
        length = np.linalg.norm(lead, axis=1)
        lead /= np.where(length > TIE, length, np.inf)[:, None]
        ahead = lead.sum(axis=1)
        if ahead.max() > TIE:
            largest = (turned @ lead[ahead > behind].T).max(axis=1)
            p[k] = (largest >= ahead.max() - ROUNDING).mean()
    kept = np.flatnonzero(p > 1 - level)
    return Contenders(tuple(kept.tolist()), int(kept[0]), int(kept[-1]), tuple(p.tolist()))


@dataclass(frozen=True)
class Equivalence:
    """All layers lie within `margin` of each other if `holds`; `pair` is the pair that is hardest to call equal."""

    holds: bool
    p: float
    margin: float
    pair: tuple[int, int]


def behind(scores: np.ndarray, draws: Resamples, margin: float) -> np.ndarray:
    """p [L, L] of "layer i is better than layer j by `margin` or more"; small where j is less than that behind i.

    scores [L, N] of test rows. One-sided, P(T > (margin - difference) / se), T of Student with G - 1 degrees.

    Where fewer than 10 pictures disagree, se says little: p is then at least that of so few, or for a margin below 0 so
    many, if just the share of pictures that the margin needs disagreed (0.01 needs 299 pictures without one). Scores
    that have no bounds tell no such share: their T has the degrees of `intervals.degrees`, and p is 1 where the
    difference is the same in every picture.
    """
    scores = check_scores(scores, draws)
    p = np.stack([_behind(scores, k, draws, margin) for k in range(len(scores))])
    np.fill_diagonal(p, 0 if margin > 0 else 1)
    return p


def _behind(scores: np.ndarray, k: int, draws: Resamples, margin: float) -> np.ndarray:
    gap, pictures = scores[k] - scores, draws.size
    sizes = picture_sums(draws.member, pictures, np.ones(scores.shape[1]))
    value, variance, parts = moments(picture_sums(draws.member, pictures, gap.T).T, sizes)
    se, room = np.sqrt(variance), margin - value
    shares = np.abs(scores).max() <= 1 and scores.min() * scores.max() >= 0  # of right answers, or negated
    p = np.where((room > 0) & shares, 0.0, 1.0)
    df = np.full(len(scores), pictures - 1) if shares else degrees(parts, pictures)
    p[se > 0] = stdtr(df[se > 0], -room[se > 0] / se[se > 0])
    if not shares:
        return p
    differ = (picture_sums(draws.member, pictures, np.abs(gap).T) > TIE).sum(axis=0)
    needed = min(1.0, abs(margin) * scores.shape[1] / (pictures * sizes.max()))  # the largest picture weighs most
    so_few, so_many = bdtr(differ, pictures, needed), bdtrc(differ - 1, pictures, needed)
    least = so_few if margin > 0 else np.maximum(so_many, 0.5**differ)
    return np.where(differ < FEW, np.maximum(p, least), p)


def equivalence(scores: np.ndarray, draws: Resamples, margin: float = 0.01, alpha: float = 0.05) -> Equivalence:
    """Two one-sided tests (Schuirmann 1987) for each pair of layers, joined by intersection-union (Berger 1982).

    scores [L, N] of test rows; margin in units of the score (0.01 is one point of accuracy). p is the largest of
    `behind` over pairs; since all pairs must be within the margin, alpha is not divided. Without this nobody may call a
    curve flat: not to find a difference is no evidence.
    """
    if not margin > 0 or len(scores) < 2:
        raise ProbeError(f"margin={margin} must be above 0 and layers={len(scores)} at least 2")
    p = behind(scores, draws, margin)
    np.fill_diagonal(p, -1)  # no layer is held against itself
    i, j = np.unravel_index(int(np.argmax(p)), p.shape)
    return Equivalence(bool(p.max() <= alpha), float(p.max()), margin, (int(min(i, j)), int(max(i, j))))


@dataclass(frozen=True)
class Shape:
    """The word for a curve, and the tests it rests on.

    `p` is the largest p of the tests that the word needs, the least against chance for "nothing above chance", nan for
    "undecided". `flat` compares all layers; `plateau` those of the hull of `among`, where they are two or more; both
    are None where layers are not compared.
    """

    verdict: str
    p: float
    among: Contenders
    flat: Equivalence | None
    plateau: Equivalence | None


def shape(
    scores: np.ndarray,
    draws: Resamples,
    chance: np.ndarray | None,
    margin: float = 0.01,
    alpha: float = 0.05,
    known: tuple[bool, bool] = (False, False),
) -> Shape:
    """The shape of the curve of scores [L, N] of test rows, from the bottom layer to the top one.

    chance [L]: p of each layer against chance, adjusted over them; None where that could not be tested. known: does
    the curve go on below, or above, with layers that can know nothing and are not compared? Such an end is lower than
    what is above chance, without a test. The words, of which each needs all its tests at alpha (intersection-union,
    Berger 1982), so that alpha is not divided:

    - nothing above chance: no layer is.
    - flat: all layers are within `margin` of each other (`equivalence`), and no end is known to be lower.
    - rising to the top, falling from the bottom: that layer is an end, and the only one that may be the best
      (`contenders`).
    - plateau: layers of the hull of these are within `margin` of each other (p counts twice), and an end outside it
      may not be the best.
    - peak: neither end may be the best, so the curve falls on both sides of what may.

    The last four also need one of the layers that may be the best above chance. Everything else is undecided. Raises
    ProbeError.
    """
    among, flat = contenders(scores, draws, 1 - alpha), equivalence(scores, draws, margin, alpha)
    if chance is not None and len(chance) != len(scores):
        raise ProbeError(f"{len(chance)} p values against chance must be one for each of the {len(scores)} layers")
    hull = scores[among.first : among.last + 1]
    plateau = _picked(equivalence(hull, draws, margin), alpha) if len(hull) > 1 else None
    if chance is not None and min(chance) > alpha:
        return Shape(NOTHING, float(min(chance)), among, flat, plateau)
    if flat.holds and not any(known):
        return Shape(FLAT, flat.p, among, flat, plateau)
    above = np.inf if chance is None else min(chance[i] for i in among.layers)
    word, p = _curved(among, plateau, known) if above <= alpha else (UNDECIDED, np.nan)
    return Shape(word, max(p, float(above)) if p == p else p, among, flat, plateau)


def uncompared(layers: int, chance: np.ndarray | None, alpha: float = 0.05) -> Shape:
    """Of layers that are not compared: all may be the best, and the tests against chance alone give a word."""
    among = Contenders(tuple(range(layers)), 0, layers - 1, (np.nan,) * layers)
    if chance is not None and min(chance) > alpha:
        return Shape(NOTHING, float(min(chance)), among, None, None)
    return Shape(UNDECIDED, np.nan, among, None, None)


def _picked(same: Equivalence, alpha: float) -> Equivalence:
    """p counts twice: the rows that judge these layers have picked them, and a layer on either side may be wrong."""
    p = min(1.0, 2 * same.p)
    return replace(same, holds=p <= alpha, p=p)


def _curved(among: Contenders, plateau: Equivalence | None, known: tuple[bool, bool]) -> tuple[str, float]:
    """The word that the contenders allow, and the largest p it needs of them."""
    top = len(among.p) - 1
    ends = ((known[0], 0, among.first > 0), (known[1], top, among.last < top))
    outside = [0.0 if sure else among.p[end] for sure, end, out in ends if sure or out]
    if plateau is not None and plateau.holds and outside:
        return PLATEAU, max(*outside, plateau.p)
    if len(outside) == 2:
        return PEAK, max(outside)
    if among.layers in ((0,), (top,)) and not known[among.first > 0]:
        return RISING if among.first else FALLING, max(p for i, p in enumerate(among.p) if i not in among.layers)
    return UNDECIDED, np.nan
