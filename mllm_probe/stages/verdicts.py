"""What may be said of the layers of a sweep together: which are above chance, where the best is, is there a peak.

Reads held-out predictions of the real labels; fits nothing again. The results are rows of tests.csv, and a few lines
of the summary.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from mllm_probe.paths import replacing
from mllm_probe.score import Score
from mllm_probe.sites import Key
from mllm_probe.stages.answers import ZERO_SHOT
from mllm_probe.stages.bench import Trial
from mllm_probe.stages.by_design import ByDesign
from mllm_probe.stages.scoring import Scoring
from mllm_probe.stats.hypotheses import FEWEST, Curve
from mllm_probe.stats.measures import HIGHER_IS_BETTER
from mllm_probe.stats.paired import Difference, difference
from mllm_probe.stats.peak import Shape, contenders, preferred, shape
from mllm_probe.stats.permutation import holm

ALPHA = 0.05


@dataclass(frozen=True)
class Test:
    """One row of tests.csv.

    The verdict `by design` stands where no other value is possible: such a row has no p and is in no family.

    `test`: above_chance (a layer against permuted labels; p_adjusted by max-T over the family), floor (a layer against
    the best constant answer, one-sided; p_adjusted by Holm), contender (a layer that
    may be the best), drop and rise (the layer validation chose against the top and the bottom one; p_adjusted by
    Holm), difference (the chosen layer against each other one), equivalence (the pair that is hardest to call equal),
    gap (the chosen layer against the model's own answer), integration (several layers as one feature against `other`,
    p_adjusted by Holm over the family), control (a layer against the same one of a control or of one of its draws,
    `other`; p_adjusted two-sided by max-T over the layers and draws of the control).
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


class Verdicts:
    """The real trials of a sweep, key by key, reduced to one score per test row."""

    def __init__(self, scoring: Scoring, design: ByDesign) -> None:
        self._scoring, self._bench, self._design = scoring, scoring.bench, design
        self._rows: dict[Key, np.ndarray] = {}
        self._read: dict[Key, np.ndarray] = {}
        self._probe = ""
        self._answer: np.ndarray | None = None
        self.curves: dict[str, Curve] = {}

    def add(self, trials: Sequence[Trial]) -> None:
        """Keep what the comparisons need: what each test row adds to the headline."""
        if trials and trials[0].control == ZERO_SHOT:
            self._answer = self._scoring.row_scores(trials, self._bench.test)
        real = [trial for trial in trials if trial.key and not trial.control and trial.features == "single"]
        if not real:
            return
        key = real[0].key
        assert key is not None
        self._probe = real[0].probe
        self._read[key] = self._scoring.rows(real[0], "test")
        self._rows[key] = self._scoring.row_scores(real, self._read[key])

    def tests(self, scores: Sequence[Score]) -> tuple[list[Test], dict[str, Any]]:
        """All rows, and {position: what to say of it}."""
        found: list[Test] = []
        said: dict[str, Any] = {}
        for position in dict.fromkeys(key.position for key in self._rows):
            keys = [k for k in self._rows if k.position == position and k.site.tower == "lm" and k.site.part == "block"]
            if len(keys) > 1 and not all(self._design.has("", key) for key in keys):
                rows, line = self._position(keys, scores)
                found += rows
                said[position] = line
        return found, said

    def _position(self, keys: Sequence[Key], scores: Sequence[Score]) -> tuple[list[Test], dict[str, Any]]:
        """The language-model blocks of one position, from bottom to top."""
        rows = np.stack([self._rows[key] for key in keys])
        draws, level = self._scoring.draws(self._read[keys[0]]), self._scoring.level
        better = self._scoring.headline in HIGHER_IS_BETTER
        chosen = preferred(np.asarray([self._validation(key, scores) for key in keys]), better)
        self._keep(keys, rows, chosen)
        form = shape(rows, chosen, draws, margin=self._bench.ready.config.sweep.margin, alpha=1 - level)
        among = contenders(rows, draws, level)
        family = f"lm blocks at {keys[0].position}"
        found = [self._test("contender", family, keys[i], value=self._scoring.measured(rows[i])) for i in among.layers]
        found += [
            self._versus("drop", family, (keys[chosen], keys[-1]), form.drop, (form.drop.p_greater, form.p_drop)),
            self._versus("rise", family, (keys[chosen], keys[0]), form.rise, (form.rise.p_greater, form.p_rise)),
        ]
        found += self._differences(family, keys, rows, chosen)
        found += self._gap(family, keys[chosen], rows[chosen])
        first, second = form.equivalence.pair
        same = {"p_value": form.equivalence.p, "verdict": form.verdict}
        found.append(self._test("equivalence", family, keys[first], other=str(keys[second].site), **same))
        return found, self._line(keys, form, (keys[among.first], keys[among.last]))

    def _keep(self, keys: Sequence[Key], rows: np.ndarray, chosen: int) -> None:
        """The curve of a position, for studies that compare two."""
        if len(keys) >= FEWEST:
            ready, position = self._bench.ready, keys[0].position
            sites = tuple(str(key.site) for key in keys)
            depths = np.asarray([ready.anatomy.depth(key.site) for key in keys])
            groups, name = self._bench.groups[self._read[keys[0]]], f"{ready.task.name} at {position}"
            self.curves[position] = Curve(sites, depths, rows, groups, chosen, name)

    def _differences(self, family: str, keys: Sequence[Key], rows: np.ndarray, chosen: int) -> list[Test]:
        """The chosen block against every other one, two-sided, corrected by Holm."""
        others = [i for i in range(len(keys)) if i != chosen]
        draws = self._scoring.draws(self._read[keys[0]])
        found = [difference(rows[chosen], rows[i], draws, self._scoring.level) for i in others]
        adjusted = holm(np.asarray([one.p for one in found]))
        return [
            self._versus("difference", family, (keys[chosen], keys[i]), one, (one.p, float(p)))
            for i, one, p in zip(others, found, adjusted, strict=True)
        ]

    def _gap(self, family: str, key: Key, right: np.ndarray) -> list[Test]:
        """The chosen block against the model's own answer: what it knows and does not say."""
        if self._answer is None or len(right) != len(self._answer):
            return []
        found = difference(right, self._answer, self._scoring.draws(self._read[key]), self._scoring.level)
        return [self._test("gap", family, key, other=ZERO_SHOT, p_value=found.p, **numbers(found))]

    def _line(self, keys: Sequence[Key], form: Shape, hull: tuple[Key, Key]) -> dict[str, Any]:
        return {
            "verdict": form.verdict,
            "margin": form.equivalence.margin,
            "chosen": str(keys[form.chosen].site),
            "best_between": [str(key.site) for key in hull],
            "drop": form.drop.value,
            "drop_low": form.drop.low,
            "drop_high": form.drop.high,
            "drop_p": form.p_drop,
            "detectable": form.drop.detectable,
            "top": str(keys[-1].site),
        }

    def _validation(self, key: Key, scores: Sequence[Score]) -> float:
        """Mean headline on validation over seeds."""
        place = (str(key.site), key.position, self._scoring.headline, "val")
        return float(np.mean([s.value for s in scores if s.real and (s.site, s.position, s.metric, s.split) == place]))

    def _versus(self, name: str, family: str, pair: tuple[Key, Key], found: Difference, p: tuple[float, float]) -> Test:
        """The first layer of the pair minus the second; p before and after correction."""
        tested = {"p_value": p[0], "p_adjusted": p[1]}
        return self._test(name, family, pair[0], other=str(pair[1].site), **numbers(found), **tested)

    def _test(self, name: str, family: str, key: Key, **more: Any) -> Test:
        return Test(self._scoring.run, name, family, self._probe, key.position, str(key.site), **more)


def numbers(found: Difference) -> dict[str, float]:
    """Its columns in tests.csv."""
    return {name: getattr(found, name) for name in ("value", "low", "high", "detectable")}


def p_values(tests: Sequence[Test]) -> Mapping[str, tuple[float, float, str]]:
    """{key: (p, p after Holm, family)} of the layers that were tested against chance."""
    rows = [test for test in tests if test.test == "above_chance" and test.p_value is not None]
    raw = np.asarray([test.p_value for test in rows])
    return {
        f"{test.site}@{test.position}": (float(p), float(corrected), test.family)
        for test, p, corrected in zip(rows, raw, holm(raw), strict=True)
    }


def save_tests(path: Path, tests: Sequence[Test]) -> None:
    with replacing(path) as part, part.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, [field.name for field in fields(Test)])
        writer.writeheader()
        writer.writerows(asdict(test) for test in tests)
