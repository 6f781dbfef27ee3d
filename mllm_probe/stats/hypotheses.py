"""Three hypotheses on the curves of a global task (entailment) and a local one (objects), each judged with intervals.

They are hypotheses of a reconstruction of Tao et al. 2024 (arXiv 2402.17304): H1 and the rise in H2 follow its
abstract and what a replication says of it, the rest is inferred, and no number here is that study's. Pure functions of
scores per test row; knows neither models nor files. Letters: N test rows, L layers in order of depth, R draws.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mllm_probe.errors import ProbeError
from mllm_probe.stats.bootstrap import Resamples, interval
from mllm_probe.stats.joint import JointResamples
from mllm_probe.stats.paired import difference
from mllm_probe.stats.peak import Contenders, Shape, contenders, shape

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
FEWEST = 3  # layers: fewer have no inside


@dataclass(frozen=True)
class Curve:
    """One task at one position. `rows` [L, N] scores each test row (share of seeds that were right) at each layer.

    `sites` and `depths` [L] (0 to 1) name the layers from bottom to top, `groups` [N] the pictures; `chosen` indexes
    the layer validation prefers; `name` is what sentences call it. Raises ProbeError for fewer than 3 layers or shapes.
    """

    sites: tuple[str, ...]
    depths: np.ndarray
    rows: np.ndarray
    groups: np.ndarray
    chosen: int
    name: str

    def __post_init__(self) -> None:
        layers = len(self.sites)
        if layers < FEWEST:
            raise ProbeError(f"{self.name} has {layers} layers, and a curve needs {FEWEST} or more to have an inside")
        if (
            self.rows.shape != (layers, len(self.groups))
            or len(self.depths) != layers
            or (np.diff(self.depths) <= 0).any()
        ):
            raise ProbeError(
                f"{self.name}: rows of shape {self.rows.shape} and {len(self.depths)} depths must be those of {layers} "
                f"layers, deeper ones last, and {len(self.groups)} test rows"
            )
        if not 0 <= self.chosen < layers:
            raise ProbeError(f"{self.name}: chosen={self.chosen} must be 0 to {layers - 1}")


@dataclass(frozen=True)
class Statement:
    """What a hypothesis claims, what became of it, and the numbers it was judged by (shares and depths)."""

    name: str
    claim: str
    verdict: str
    sentence: str
    numbers: Mapping[str, float | str]


@dataclass(frozen=True)
class Judge:
    """How all three are judged: draws, their seed, the level of intervals, and the margin that counts as nothing."""

    draws: int = 2000
    seed: int = 0
    level: float = 0.95
    margin: float = 0.01

    def statements(self, whole: Curve, local: Curve) -> tuple[Statement, ...]:
        """H1, H2 and H3 for the global and the local curve. Raises ProbeError for scores that are not finite."""
        joint = JointResamples(whole.groups, local.groups, self.draws, self.seed)
        return self.peaks(whole), self.no_same_fall(whole, local, joint), self.peaks_later(whole, local, joint)

    def peaks(self, curve: Curve) -> Statement:
        """H1: accuracy rises from the bottom layer, peaks strictly below the top and falls towards it.

        Holds: the chosen layer beats bottom and top (sign flips by picture, Holm) and no contender is the top. Does not
        hold: no contender, so with this confidence not the best layer, is ahead of the top, or of the bottom, by as
        much as the margin at the upper end of its interval.
        """
        draws = Resamples(curve.groups, self.draws, self.seed)
        form = shape(curve.rows, curve.chosen, draws, margin=self.margin, alpha=1 - self.level)
        among = contenders(curve.rows, draws, self.level)
        top = len(curve.sites) - 1
        shown = max(form.p_drop, form.p_rise) <= 1 - self.level and among.last < top
        means = draws.ratios(curve.rows.T)
        nothing = min(self._lead(means, among, end) for end in (top, 0)) < self.margin
        verdict = HOLDS if shown else FAILS if nothing else UNDECIDED
        sentence = f"{_peak_words(curve, form, among, verdict)}; H1 {_said(verdict)}"
        claim = f"{curve.name} rises from the bottom layer, peaks below the top layer and falls towards it"
        return Statement("H1", claim, verdict, sentence, _peak_numbers(curve, form, among))

    def no_same_fall(self, whole: Curve, local: Curve, joint: JointResamples) -> Statement:
        """H2: the local curve rises from the bottom to mid depth, and falls less towards the top than the global one.

        Holds: rise (layer nearest depth 0.5 minus bottom) and difference of the falls (chosen minus top, global minus
        local) are both above 0 at their lower ends. Does not hold: one is below the margin at its upper end, for the
        falls whichever contender the global curve falls from.
        """
        middle = int(np.argmin(np.abs(local.depths - 0.5)))
        own = Resamples(local.groups, self.draws, self.seed)
        rise = difference(local.rows[middle], local.rows[0], own, self.level)
        fell = joint.ratios("b", (local.rows[local.chosen] - local.rows[-1])[:, None])
        falls = joint.ratios("a", (whole.rows - whole.rows[-1]).T) - fell
        low, high = map(float, interval(falls[:, whole.chosen], self.level))
        among = contenders(whole.rows, Resamples(whole.groups, self.draws, self.seed), self.level)
        most = max(float(interval(falls[:, k], self.level)[1]) for k in among.layers)
        shown, nothing = rise.low > 0 and low > 0, min(rise.high, most) < self.margin
        verdict = HOLDS if shown else FAILS if nothing else UNDECIDED
        value = _fall(whole) - _fall(local)
        sentence = (
            f"{local.name}: {local.sites[middle]} is {_points(rise.value, rise.low, rise.high, 'higher', 'lower')} "
            f"than {local.sites[0]}; towards the top {whole.name} loses "
            f"{_points(value, low, high, 'more', 'fewer')} than it; H2 {_said(verdict)}"
        )
        claim = f"{local.name} rises from the bottom to the middle layers and does not fall as {whole.name} does"
        numbers: dict[str, float | str] = {"middle": local.sites[middle]}
        numbers |= {"rise": rise.value, "rise_low": rise.low, "rise_high": rise.high}
        numbers |= {"fall_global": _fall(whole), "fall_local": _fall(local)}
        numbers |= {"more": value, "more_low": low, "more_high": high}
        return Statement("H2", claim, verdict, sentence, numbers)

    def peaks_later(self, whole: Curve, local: Curve, joint: JointResamples) -> Statement:
        """H3: the global curve peaks deeper than where the local one saturates, the first layer within the margin of
        its maximum. Both are found anew in every draw; the interval is that of the difference of depths."""
        peak = _best(whole.rows.mean(axis=1)[None], whole.depths, 0.0)
        full = _best(local.rows.mean(axis=1)[None], local.depths, self.margin)
        peaks = _best(joint.ratios("a", whole.rows.T), whole.depths, 0.0)
        fulls = _best(joint.ratios("b", local.rows.T), local.depths, self.margin)
        low, high = map(float, interval(peaks - fulls, self.level))
        verdict = HOLDS if low > 0 else FAILS if high <= 0 else UNDECIDED
        value = float(peak[0] - full[0])
        sentence = (
            f"{whole.name} peaks at depth {peak[0]:.2f}, {local.name} saturates at {full[0]:.2f}: "
            f"{_signed(value, low, high, ' later', ' earlier', 1, 2)}; H3 {_said(verdict)}"
        )
        claim = f"{whole.name} peaks at a later depth than the one at which {local.name} saturates"
        numbers = {"peak_depth": float(peak[0]), "saturation_depth": float(full[0])}
        return Statement("H3", claim, verdict, sentence, {**numbers, "later": value, "low": low, "high": high})

    def _lead(self, means: np.ndarray, among: Contenders, end: int) -> float:
        """The largest upper end of a contender's lead over one layer; means [R, L]."""
        return max(float(interval(means[:, k] - means[:, end], self.level)[1]) for k in among.layers)


def _fall(curve: Curve) -> float:
    return float((curve.rows[curve.chosen] - curve.rows[-1]).mean())


def _best(means: np.ndarray, depths: np.ndarray, margin: float) -> np.ndarray:
    """Depth of the first layer within the margin of the best: means [R, L] -> [R], nan where the means are."""
    enough = means >= means.max(axis=1, keepdims=True) - margin - 1e-12
    return np.where(np.isnan(means).any(axis=1), np.nan, np.asarray(depths)[enough.argmax(axis=1)])


def _peak_words(curve: Curve, form: Shape, among: Contenders, verdict: str) -> str:
    """Where the best layer is and what the top has lost; the rise only where it is what was missing."""
    where = f"{curve.sites[curve.chosen]} [{curve.sites[among.first]}, {curve.sites[among.last]}]"
    words = f"{curve.name}: {'peak at' if verdict == HOLDS else 'the best layer is'} {where}"
    rise, drop, top = form.rise, form.drop, len(curve.sites) - 1
    if curve.chosen == top:
        words += ", the top layer itself"
    else:
        words += f"; the top layer {curve.sites[top]} is {_points(drop.value, drop.low, drop.high, 'lower', 'higher')}"
    if rise.low > 0:
        return words
    return (
        f"{words}; the bottom layer {curve.sites[0]} is {_points(rise.value, rise.low, rise.high, 'lower', 'higher')}"
    )


def _peak_numbers(curve: Curve, form: Shape, among: Contenders) -> Mapping[str, float | str]:
    sites, depths = curve.sites, curve.depths
    named = {"peak": curve.chosen, "first": among.first, "last": among.last, "top": len(sites) - 1}
    found: dict[str, float | str] = {name: sites[i] for name, i in named.items()}
    found |= {f"{name}_depth": float(depths[i]) for name, i in named.items()}
    for name, one, p in (("drop", form.drop, form.p_drop), ("rise", form.rise, form.p_rise)):
        found |= {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high, f"{name}_p": p}
    return found


def _said(verdict: str) -> str:
    return "is undecided" if verdict == UNDECIDED else verdict


def _points(value: float, low: float, high: float, more: str, less: str) -> str:
    return _signed(value, low, high, f" points {more}", f" points {less}", 100, 1)


def _signed(value: float, low: float, high: float, more: str, less: str, scale: int, digits: int) -> str:
    """A number without a minus sign in front of its word: 5.2 points lower [4.3, 6.1]."""
    if value < 0:
        value, low, high, more = -value, -high, -low, less
    return f"{scale * value:.{digits}f}{more} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"
