"""Three hypotheses on the curves of a global task (entailment) and a local one (objects), each judged with intervals.

They are hypotheses of a reconstruction of Tao et al. 2024 (arXiv 2402.17304): H1 and the rise in H2 follow its
abstract and what a replication says of it, the rest is inferred, and no number here is that study's. Pure functions of
scores per test row; knows neither models nor files. One layer stands for a curve, the one validation chose, and beside
it the set of those that may be the best. Letters: N test rows, L layers in order of depth.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mllm_probe.errors import ProbeError
from mllm_probe.records.sites import listed
from mllm_probe.records.units import amount, gap
from mllm_probe.scoring.verdicts.best_layers import Curve
from mllm_probe.stats.bootstrap import Resamples
from mllm_probe.stats.paired import Difference, difference
from mllm_probe.stats.peak import behind, contenders

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"


@dataclass(frozen=True)
class Part:
    """What became of one part of a claim, the words that tell it, and the numbers that it rests on."""

    verdict: str
    said: str
    numbers: Mapping[str, float | str]


@dataclass(frozen=True)
class Statement:
    """What a hypothesis claims, what became of it and of each of its parts, and the numbers (shares and depths)."""

    name: str
    claim: str
    verdict: str
    sentence: str
    numbers: Mapping[str, float | str]
    parts: Mapping[str, str]


@dataclass(frozen=True)
class Judge:
    """How all three are judged: draws, their seed, the level of intervals, the margin that counts as nothing, and the
    measure that rows are scores of.

    A claim holds where all its parts do, and fails where one does. Each part is tested at 1 - level, so that what is
    false is said to hold in at most that share of studies.
    """

    draws: int = 2000
    seed: int = 0
    level: float = 0.95
    margin: float = 0.01
    metric: str = "accuracy"

    def statements(self, whole: Curve, local: Curve) -> tuple[Statement, ...]:
        """H1, H2 and H3 for the global and the local curve. Raises ProbeError for scores that are not finite, or layers
        that are not compared."""
        for curve in (whole, local):
            if curve.uncompared:
                raise ProbeError(f"the layers of {curve.name} are {curve.uncompared}")
        return self.peaks(whole), self.no_same_fall(whole, local), self.peaks_later(whole, local)

    def peaks(self, curve: Curve) -> Statement:
        """H1: the curve rises from the bottom layer, peaks strictly below the top and falls towards it.

        Holds: neither end is among the layers that may be the best, and one of these is above chance. Does not hold: no
        layer is better by the margin than one end (one-sided tests of that end against all others, joined by
        intersection-union, at half of 1 - level since there are two ends).
        """
        draws = self._draws(curve.groups)
        among, late = contenders(curve.rows, draws, self.level), behind(curve.rows, draws, self.margin).max(axis=0)
        ends = {"rise": (0, "lowest"), "fall": (len(curve.sites) - 1, "highest")}
        parts = {
            name: self._end(curve, name, end, word, (end in among.layers, float(late[end])), draws)
            for name, (end, word) in ends.items()
        }
        places = {"chosen": curve.chosen, "first": among.first, "last": among.last}
        numbers: dict[str, float | str] = {name: curve.sites[i] for name, i in places.items()}
        numbers |= {f"{name}_depth": float(curve.depths[i]) for name, i in places.items()}
        claim = f"{curve.name} rises from the bottom layer, peaks below the top layer and falls towards it"
        return _judged("H1", claim, f"{curve.name}: {self._chosen(curve, among.layers)}", numbers, parts)

    def _end(self, curve: Curve, name: str, end: int, word: str, found: tuple[bool, float], draws: Resamples) -> Part:
        """Is the curve lower at one end? `found`: may that end be the best, and p of "it is behind by the margin"."""
        contends, late = found
        place = f"the {word} layer compared, {curve.sites[end]},"
        numbers: dict[str, float | str] = {}
        shown = ""
        if curve.chosen != end:
            one = difference(curve.rows[curve.chosen], curve.rows[end], draws, self.level)
            numbers = {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high}
            shown = f" ({curve.sites[curve.chosen]} minus it: {self._gap(one)})"
        if not contends and curve.above:
            return Part(HOLDS, f"a {name} is shown: {place} is not among them{shown}", numbers)
        if late <= (1 - self.level) / 2:
            return Part(FAILS, f"there is no {name}: {place} is within {self._margin} of every layer{shown}", numbers)
        why = f"{place} may be the best{shown}" if curve.above else "none of the best layers is above chance"
        return Part(UNDECIDED, f"a {name} is not shown: {why}", numbers)

    def no_same_fall(self, whole: Curve, local: Curve) -> Statement:
        """H2: the local curve rises from the bottom to mid depth, and falls less towards the top than the global one.

        Rise: the layer nearest depth 0.5 minus the bottom one. Fall: the global chosen layer minus the top, less the
        local fall from whichever of its layers (intersection-union over them). Each part holds where its lower end is
        above 0, and does not where its upper end is below the margin, for the fall from whichever global layer.
        """
        parts = {"rise": self._risen(local), "fall": self._less_fall(whole, local)}
        claim = f"{local.name} rises from the bottom to the middle layers and does not fall as {whole.name} does"
        return _judged("H2", claim, "", {}, parts)

    def _risen(self, local: Curve) -> Part:
        middle = int(np.argmin(np.abs(local.depths - 0.5)))
        if middle == 0:
            return Part(
                UNDECIDED, f"a rise is not shown: {local.name} was read at no layer between bottom and middle", {}
            )
        one = difference(local.rows[middle], local.rows[0], self._draws(local.groups), self.level)
        said = f"{local.name} from {local.sites[0]} to {local.sites[middle]}: {self._gap(one)}"
        numbers: dict[str, float | str] = {"middle": local.sites[middle], "rise": one.value}
        numbers |= {"rise_low": one.low, "rise_high": one.high}
        if one.low > 0 and local.above:
            return Part(HOLDS, f"a rise is shown: {said}", numbers)
        if one.high < self.margin:
            return Part(FAILS, f"there is no rise: {said}", numbers)
        return Part(UNDECIDED, f"a rise is not shown: {said}", numbers)

    def _less_fall(self, whole: Curve, local: Curve) -> Part:
        draws = self._draws(np.concatenate([whole.groups, local.groups]))
        falls, local_falls = (curve.rows - curve.rows[-1] for curve in (whole, local))
        own = [self._apart(falls[whole.chosen], one, draws) for one in local_falls]
        least = min(range(len(own)), key=lambda k: own[k].low)
        others = [self._apart(one, local_falls[local.chosen], draws) for one in falls]
        one, from_ = own[least], local.sites[least]
        numbers: dict[str, float | str] = {"more": one.value, "more_low": one.low, "more_high": one.high, "from": from_}
        numbers |= {"fall_global": float(falls[whole.chosen].mean())}
        numbers |= {"fall_local": float(local_falls[local.chosen].mean())}
        by_more = f"falls towards the top by more than {local.name}"
        if all(other.high < self.margin for other in others):
            most = max(others, key=lambda other: other.high)
            return Part(
                FAILS, f"{whole.name} does not fall more than {local.name}: at most by {self._gap(most)}", numbers
            )
        layers = f"from {whole.sites[whole.chosen]}, against {local.name} from {from_}: {self._gap(one)}"
        if whole.chosen == len(whole.sites) - 1:
            layers = f"validation chose the highest layer compared, {whole.sites[-1]}"
        elif whole.above and all(other.low > 0 for other in own):
            return Part(HOLDS, f"{whole.name} {by_more}, {layers}", numbers)
        return Part(UNDECIDED, f"it is not shown that {whole.name} {by_more}, {layers}", numbers)

    def peaks_later(self, whole: Curve, local: Curve) -> Statement:
        """H3: the global curve is best deeper than where the local one saturates, its first layer within the margin of
        its best.

        Holds: all layers that may be the best global one lie above the local layer by which it has saturated. Does not
        hold: none lies above the one before which it has not. Two things may be wrong in either, so each has half of
        1 - level.
        """
        half = (1 - self.level) / 2
        among = contenders(whole.rows, self._draws(whole.groups), 1 - half)
        first, last = (float(whole.depths[i]) for i in (among.first, among.last))
        low, high = self._saturation(local, half)
        known = whole.above and local.above
        holds = known and high is not None and first > local.depths[high]
        verdict = HOLDS if holds else FAILS if known and last <= local.depths[low] else UNDECIDED
        said = (
            f"the best layer of {whole.name} is at depth {first:.2f}{f' to {last:.2f}' * (last > first)}, and "
            f"{local.name} comes within {self._margin} of its best {_between(local, low, high)} "
            f"({100 * (1 - half):g} % each)"
        )
        for curve in (whole, local):
            said += "" if curve.above else f"; {curve.name} is not shown to be above chance"
        numbers: dict[str, float | str] = {"first_depth": first, "last_depth": last}
        numbers |= {"not_before": float(local.depths[low])}
        numbers |= {} if high is None else {"saturated_by": float(local.depths[high])}
        claim = f"{whole.name} peaks deeper than {local.name} saturates"
        return _judged("H3", claim, "", {}, {"later": Part(verdict, said, numbers)})

    def _saturation(self, local: Curve, alpha: float) -> tuple[int, int | None]:
        """The layers before which the curve has not saturated and by which it has, None where that is not shown.

        Two fixed sequences, each stopped by its first failure: from the bottom up, is a layer behind the chosen one by
        more than the margin; from the chosen layer down, is no layer better than it by the margin.
        """
        draws = self._draws(local.groups)
        late = behind(local.rows, draws, self.margin).max(axis=0) <= alpha
        early = behind(-local.rows, draws, -self.margin)[local.chosen] <= alpha
        low = next((k for k in range(len(early)) if not early[k]), len(early) - 1)
        high = None
        for k in range(local.chosen, -1, -1):
            if not late[k]:
                break
            high = k
        return low, high

    def _draws(self, groups: np.ndarray) -> Resamples:
        return Resamples(groups, self.draws, self.seed)

    def _apart(self, a: np.ndarray, b: np.ndarray, draws: Resamples) -> Difference:
        """mean(a) - mean(b) of two sets of rows, in this order those of `draws`, so that common pictures move both.

        The linearised scores of that difference: their mean is it, their cluster standard error its own.
        """
        n = len(a) + len(b)
        own, other = (n / len(x) * (x - x.mean()) for x in (a, b))
        scores = np.concatenate([own, -other]) + (a.mean() - b.mean())
        return difference(scores, np.zeros(n), draws, self.level, permutations=1)

    def _chosen(self, curve: Curve, among: Sequence[int]) -> str:
        another = "" if curve.chosen in among else ", a different layer"
        best = _one_of([curve.sites[i] for i in among], curve.sites)
        return (
            f"validation chose {curve.sites[curve.chosen]}, the best layer is {best} ({100 * self.level:g} %){another}"
        )

    def _gap(self, one: Difference) -> str:
        return gap(one.value, one.low, one.high, self.metric)

    @property
    def _margin(self) -> str:
        return amount(self.margin, self.metric)


def _judged(
    name: str, claim: str, first: str, numbers: Mapping[str, float | str], parts: Mapping[str, Part]
) -> Statement:
    """All parts hold, or one fails, or it is open."""
    verdicts = {part.verdict for part in parts.values()}
    verdict = FAILS if FAILS in verdicts else UNDECIDED if UNDECIDED in verdicts else HOLDS
    said = "is undecided" if verdict == UNDECIDED else verdict
    sentence = "; ".join([*([first] if first else []), *(part.said for part in parts.values()), f"{name} {said}"])
    found = dict(numbers)
    for part in parts.values():
        found |= part.numbers
    return Statement(name, claim, verdict, sentence, found, {key: part.verdict for key, part in parts.items()})


def _one_of(sites: Sequence[str], order: Sequence[str]) -> str:
    return f"{'one of ' * (len(sites) > 1)}{listed(sites, order)}"


def _between(local: Curve, low: int, high: int | None) -> str:
    """Where a curve saturates, with its depth."""
    first, last = (f"{local.sites[k]} (depth {local.depths[k]:.2f})" for k in (low, low if high is None else high))
    if high is None:
        return f"at {first} or above it" if low else "at an undetermined layer"
    return f"at {first}" if low == high else f"between {first} and {last}"
