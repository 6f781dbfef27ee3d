"""Conclusions on the layers of a sweep: which may be the best, and the shape of the curve.

Reads held-out predictions of the real labels; fits nothing again. The results are rows of tests.csv, and a few lines
of the summary.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mllm_probe.errors import ProbeError
from mllm_probe.files.readback import columns, lines_of, save_table
from mllm_probe.fitting.trials import Trial
from mllm_probe.records.score import ALPHA, ZERO_SHOT, Score
from mllm_probe.records.sites import Key
from mllm_probe.scoring.aggregate import Scoring
from mllm_probe.scoring.verdicts.fixed_scores import ByDesign
from mllm_probe.stats.measures import HIGHER_IS_BETTER
from mllm_probe.stats.paired import Difference, known
from mllm_probe.stats.peak import Shape, preferred, shape, uncompared
from mllm_probe.stats.permutation import holm, holm_within

ABOVE, BELOW = "above", "below"
MAY_BE_BEST, WITHIN = "may be the best", "within the margin"
FEWEST = 3  # layers: fewer have no inside


@dataclass(frozen=True)
class Test:
    """One row of tests.csv.

    The verdict `by design` stands where no other value is possible: such a row has no p and is in no family.

    `test`: above_chance (a layer against permuted labels; p_adjusted by max-T over the family), floor (a layer against
    the best constant answer, one-sided; p_adjusted by Holm), beyond (a layer against labels permuted within strata of
    the covariate `other`; p_adjusted by max-T), contender (p of "no layer is better than this one"), drop and rise (the
    layer validation chose against the top and the bottom one; p_adjusted by Holm), difference (the chosen layer against
    each other one), equivalence (the pair that is hardest to call equal), plateau (the same among the
    layers from `site` to `other`, the ends of those that may be the best), shape (the word for the curve, with the
    largest p that it needs), gap (the chosen layer against the model's own answer), integration (several layers as one
    feature against `other`, p_adjusted by Holm over the family), control (a layer against the same one of a control or
    of one of its draws, `other`; p_adjusted two-sided by max-T over the layers and draws of the control).
    """

    run: str
    test: str
    family: str
    probe: str
    position: str
    site: str
    other: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    p_adjusted: float | None = None
    detectable: float | None = None
    verdict: str = ""


@dataclass(frozen=True)
class Curve:
    """One task at one position. `rows` [L, N] scores each test row (share of seeds that were right) at each layer.

    `sites` and `depths` [L] (0 to 1) name the layers from bottom to top, `groups` [N] the pictures; `chosen` indexes
    the best layer on validation; `name` is its name in sentences; `above`: a layer that may be the best is above
    chance; `uncompared`: why its layers are not compared, if they are not. Raises ProbeError for fewer than 3 layers or
    shapes.
    """

    sites: tuple[str, ...]
    depths: np.ndarray
    rows: np.ndarray
    groups: np.ndarray
    chosen: int
    name: str
    above: bool = True
    uncompared: str = ""

    def __post_init__(self) -> None:
        layers = len(self.sites)
        if layers < FEWEST:
            raise ProbeError(f"{self.name} has {layers} layers, and a curve needs {FEWEST} or more")
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


class Verdicts:
    """The real trials of a sweep, key by key, reduced to one score per test row."""

    def __init__(self, scoring: Scoring, design: ByDesign) -> None:
        self._scoring, self._probing, self._design = scoring, scoring.probing, design
        self._rows: dict[Key, np.ndarray] = {}
        self._read: dict[Key, np.ndarray] = {}
        self._probe = ""
        self._answer: np.ndarray | None = None
        self.curves: dict[str, Curve] = {}

    def add(self, trials: Sequence[Trial]) -> None:
        """Keep what the comparisons need: what each test row adds to the headline."""
        if trials and trials[0].control == ZERO_SHOT:
            self._answer = self._scoring.row_scores(trials, self._probing.test)
        real = [trial for trial in trials if trial.key and not trial.control and trial.features == "single"]
        if not real:
            return
        key = real[0].key
        assert key is not None
        self._probe = real[0].probe
        self._read[key] = self._scoring.rows(real[0], "test")
        self._rows[key] = self._scoring.row_scores(real, self._read[key])

    def tests(self, scores: Sequence[Score], floors: Sequence[Test]) -> tuple[list[Test], dict[str, Any]]:
        """All rows, and {position: what to say of it}; floors: the rows against chance."""
        found: list[Test] = []
        said: dict[str, Any] = {}
        for position in dict.fromkeys(key.position for key in self._rows):
            keys = [key for key in self._rows if self._block(key, position) and not self._design.has("", key)]
            if len(keys) == 1:  # nothing to compare it with but what the model answers
                found += self._gap(f"lm blocks at {position}", keys[0], self._rows[keys[0]])
            elif keys:
                rows, said[position] = self._position(keys, scores, _chance(floors, keys))
                found += rows
        return found, said

    def _block(self, key: Key, position: str) -> bool:
        """Blocks of the language model; those that can know nothing are known to be low, and not compared."""
        return key.site.tower == "lm" and key.site.part == "block" and key.position == position

    def _position(
        self, keys: Sequence[Key], scores: Sequence[Score], chance: np.ndarray | None
    ) -> tuple[list[Test], dict[str, Any]]:
        """The language-model blocks of one position, from bottom to top, with their p against chance."""
        rows = np.stack([self._rows[key] for key in keys])
        better = self._scoring.headline in HIGHER_IS_BETTER
        chosen = preferred(np.asarray([self._validation(key, scores) for key in keys]), better)
        form = self._form(keys, rows, chance)
        above = chance is not None and min(chance[i] for i in form.among.layers) <= ALPHA
        self._keep(keys, rows, chosen, above)
        family = f"lm blocks at {keys[0].position}"
        found = [*self._shape(family, keys, rows, form), *self._ends(family, keys, rows, chosen)]
        found += [*self._differences(family, keys, rows, chosen), *self._gap(family, keys[chosen], rows[chosen])]
        return found, self._line(keys, form, chosen)

    def _form(self, keys: Sequence[Key], rows: np.ndarray, chance: np.ndarray | None) -> Shape:
        read, layers = self._read[keys[0]], [key.site.layer for key in keys]
        if self._scoring.incomparable(read):
            return uncompared(len(rows), chance)
        others = [key.site.layer for key in self._rows if self._block(key, keys[0].position) and key not in keys]
        known = any(layer < layers[0] for layer in others), any(layer > layers[-1] for layer in others)
        return shape(rows, self._scoring.draws(read), chance, self._margin, known=known)

    @property
    def _margin(self) -> float:
        return self._probing.experiment.sweep.margin

    def _shape(self, family: str, keys: Sequence[Key], rows: np.ndarray, form: Shape) -> Iterator[Test]:
        """Which blocks may be the best, which are equal, and the word that follows."""
        among, measured = form.among, self._scoring.measured
        for i, (key, p) in enumerate(zip(keys, among.p, strict=True)):
            verdict = MAY_BE_BEST if i in among.layers else ""
            yield self._test("contender", family, key, value=measured(rows[i]), p_value=known(p), verdict=verdict)
        pairs = [("equivalence", form.flat, form.flat.pair)] if form.flat else []
        pairs += [("plateau", form.plateau, (among.first, among.last))] if form.plateau else []
        for name, same, (low, high) in pairs:
            more = {"p_value": same.p, "verdict": WITHIN if same.holds else ""}
            yield self._test(name, family, keys[low], other=str(keys[high].site), **more)
        last = str(keys[among.last].site) if among.last > among.first else ""
        yield self._test("shape", family, keys[among.first], other=last, p_value=known(form.p), verdict=form.verdict)

    def _keep(self, keys: Sequence[Key], rows: np.ndarray, chosen: int, above: bool) -> None:
        """The curve of a position, for studies that compare two."""
        if len(keys) >= FEWEST:
            experiment, position = self._probing.experiment, keys[0].position
            sites = tuple(str(key.site) for key in keys)
            depths = np.asarray([experiment.anatomy.depth(key.site) for key in keys])
            groups, name = self._probing.groups[self._read[keys[0]]], f"{experiment.task.name} at {position}"
            reason = self._scoring.incomparable(self._read[keys[0]]) or ""
            self.curves[position] = Curve(sites, depths, rows, groups, chosen, name, above, reason)

    def _ends(self, family: str, keys: Sequence[Key], rows: np.ndarray, chosen: int) -> list[Test]:
        """The chosen block against the top and the bottom one, one-sided; never against itself."""
        ends = [(name, end) for name, end in (("drop", len(keys) - 1), ("rise", 0)) if end != chosen]
        return self._against(family, keys, rows, chosen, ends, "p_greater")

    def _differences(self, family: str, keys: Sequence[Key], rows: np.ndarray, chosen: int) -> list[Test]:
        """The chosen block against every other one, two-sided."""
        others = [("difference", i) for i in range(len(keys)) if i != chosen]
        return self._against(family, keys, rows, chosen, others, "p")

    def _against(
        self,
        family: str,
        keys: Sequence[Key],
        rows: np.ndarray,
        chosen: int,
        others: Sequence[tuple[str, int]],
        tail: str,
    ) -> list[Test]:
        """The chosen block minus others, each with the name of its test; corrected by Holm."""
        found = [self._scoring.difference(rows[chosen], rows[i], self._read[keys[chosen]]) for _, i in others]
        raw, tests = [known(getattr(one, tail)) for one in found], []
        for (name, i), one, p, adjusted in zip(others, found, raw, holm_within(raw, [tail] * len(raw)), strict=True):
            tested = {"p_value": p, "p_adjusted": adjusted, "verdict": signed(one.value, adjusted)}
            tests.append(self._test(name, family, keys[chosen], other=str(keys[i].site), **numbers(one), **tested))
        return tests

    def _gap(self, family: str, key: Key, right: np.ndarray) -> list[Test]:
        """The chosen block against the model's own answer: what it knows and does not say."""
        if self._answer is None or len(right) != len(self._answer):
            return []
        found = self._scoring.difference(right, self._answer, self._read[key])
        p = known(found.p)
        told = {"p_value": p, "p_adjusted": p, "verdict": signed(found.value, p)}
        return [self._test("gap", family, key, other=ZERO_SHOT, **told, **numbers(found))]

    def _line(self, keys: Sequence[Key], form: Shape, chosen: int) -> dict[str, Any]:
        return {
            "verdict": form.verdict,
            "margin": self._margin,
            "level": 1 - ALPHA,
            "chosen": str(keys[chosen].site),
            "may_be_best": [str(keys[i].site) for i in form.among.layers],
            "blocks": [str(key.site) for key in keys],
        }

    def _validation(self, key: Key, scores: Sequence[Score]) -> float:
        """Mean headline on validation over seeds."""
        place = (str(key.site), key.position, self._scoring.headline, "val")
        return float(np.mean([s.value for s in scores if s.real and (s.site, s.position, s.metric, s.split) == place]))

    def _test(self, name: str, family: str, key: Key, **more: Any) -> Test:
        return Test(self._scoring.run, name, family, self._probe, key.position, str(key.site), **more)


def signed(value: float, p: float | None) -> str:
    """The word of a two-sided test."""
    return "" if p is None or p > ALPHA else ABOVE if value > 0 else BELOW


def _chance(tests: Sequence[Test], keys: Sequence[Key]) -> np.ndarray | None:
    """p against chance of each key, adjusted: 1 of what can know nothing, None where one was not tested."""
    found = {
        (t.site, t.position): 1.0 if t.p_adjusted is None else t.p_adjusted for t in tests if t.test == "above_chance"
    }
    p = [found.get((str(key.site), key.position)) for key in keys]
    return None if None in p else np.asarray(p, np.float64)


def numbers(found: Difference) -> dict[str, Any]:
    """Its columns in tests.csv."""
    return {name: known(getattr(found, name)) for name in ("value", "low", "high", "detectable")}


def p_values(tests: Sequence[Test]) -> Mapping[str, tuple[float, float, str]]:
    """{key: (p, p after Holm, family)} of the layers that were tested against chance."""
    rows = [test for test in tests if test.test == "above_chance" and test.p_value is not None]
    raw = np.asarray([test.p_value for test in rows])
    return {
        f"{test.site}@{test.position}": (float(p), float(corrected), test.family)
        for test, p, corrected in zip(rows, raw, holm(raw), strict=True)
    }


def save_tests(path: Path, tests: Sequence[Test]) -> None:
    save_table(path, columns(Test), lines_of(tests))
