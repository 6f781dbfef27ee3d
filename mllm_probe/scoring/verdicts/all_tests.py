"""All that compares the keys of a sweep with each other and with what they must beat: the rows of tests.csv."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mllm_probe.config.sweep import drawn_from
from mllm_probe.experiment.experiment import FLOORS
from mllm_probe.fitting.readout import Source
from mllm_probe.fitting.trials import Trial
from mllm_probe.records.protocols import Reporter
from mllm_probe.records.score import BY_DESIGN, Score
from mllm_probe.records.sites import Key
from mllm_probe.scoring.aggregate import Scoring, tested
from mllm_probe.scoring.verdicts.baselines import Floors
from mllm_probe.scoring.verdicts.best_layers import Curve, Test, Verdicts, numbers, p_values, signed
from mllm_probe.scoring.verdicts.fixed_scores import ByDesign
from mllm_probe.stats.permutation import max_t_flips

if TYPE_CHECKING:
    from mllm_probe.scoring.verdicts.integration_gains import Gains

CONTROL = "control"  # the test of tests.csv: a layer minus the same layer of a control


class Comparisons:
    """Trials are given key by key; each comparison keeps what it needs of them."""

    def __init__(self, scoring: Scoring, source: Source) -> None:
        self._scoring, self._design = scoring, ByDesign.of(scoring.probing, source)
        self._floors, self._verdicts = Floors(scoring, self._design), Verdicts(scoring, self._design)
        self._controls, self._gains = Controls(scoring, self._design), _gains(scoring)

    @property
    def curves(self) -> Mapping[str, Curve]:
        """As `Verdicts.curves`, once there are tests."""
        return self._verdicts.curves

    def add(self, trials: Sequence[Trial]) -> None:
        for kept in (self._floors, self._verdicts, self._controls, self._gains):
            if kept is not None:
                kept.add(trials)

    def floors(self) -> list[Score]:
        """The rows of scores.csv that no layer gives."""
        return self._floors.scores()

    def tests(self, scores: Sequence[Score], reporter: Reporter) -> tuple[list[Test], dict[str, Any]]:
        """All rows, and what the summary says of them."""
        floors = self._floors.tests(reporter)
        layers, shapes = self._verdicts.tests(scores, floors)
        gained, integrations = self._gains.tests() if self._gains else ([], {"integrations": [], "orders": []})
        tests = [*floors, *layers, *self._controls.tests(), *gained]
        said = {"verdicts": shapes, "gap": _gap(tests), "by_design": self._design.names(), **integrations}
        return tests, said

    def tested(self, scores: Sequence[Score], tests: Sequence[Test]) -> list[Score]:
        """The rows with what was found of layers and what is by design filled in."""
        metric = self._scoring.headline
        return self._design.marked(tested(scores, p_values(tests), metric), metric)


def _gains(scoring: Scoring) -> "Gains | None":
    if not scoring.probing.experiment.integrated:
        return None
    from mllm_probe.scoring.verdicts.integration_gains import Gains

    return Gains(scoring)


def _gap(tests: Sequence[Test]) -> dict[str, Any] | None:
    """What the probe at the last token knows beyond the model's own answer there."""
    found = (test for test in tests if test.test == "gap" and test.position == "last")
    return next(({name: getattr(test, name) for name in ("site", "value", "low", "high")} for test in found), None)


@dataclass(frozen=True)
class _Arm:
    """One score per test row, and which decisions [N] bool these are."""

    rows: np.ndarray
    read: np.ndarray


@dataclass(frozen=True)
class _Pair:
    """A layer and what it is held against, on the same decisions; `designed`: either can be no other number."""

    key: Key
    control: str
    real: _Arm
    other: _Arm
    designed: bool

    @property
    def gap(self) -> np.ndarray:
        return self.real.rows - self.other.rows


class Controls:
    """The trials of the layers and of the controls with activations of their own, reduced to one score per test row."""

    def __init__(self, scoring: Scoring, design: ByDesign) -> None:
        self._scoring, self._probing, self._design = scoring, scoring.probing, design
        self._arms: dict[str, dict[Key, _Arm]] = {name: {} for name in ("", *self._names)}

    @property
    def _names(self) -> list[str]:
        return [variant.control for variant in self._probing.experiment.variants]

    def add(self, trials: Sequence[Trial]) -> None:
        """Of anything else nothing is kept."""
        same = [trial for trial in trials if trial.key and trial.control == trials[0].control]
        if not same or same[0].features != "single" or same[0].control not in self._arms:
            return
        read = self._scoring.rows(same[0], "test")
        self._arms[same[0].control][same[0].key] = _Arm(self._scoring.row_scores(same, read), read)  # type: ignore[index]

    def tests(self) -> list[Test]:
        """Each layer minus each control and each draw of it, two-sided; a control is a family with all its draws."""
        families: dict[str, list[_Pair]] = {}
        for name in self._names:
            families.setdefault(drawn_from(name), []).extend(self._pairs(name))
        return [test for name, pairs in families.items() for test in self._family(name, pairs)]

    def _pairs(self, name: str) -> list[_Pair]:
        """Site by site; a picture tower by itself is held against every layer of the language model."""
        real, shown, design = self._arms[""], self._arms[name], self._design
        places = [(key, key) for key in shown if key in real]
        if name in FLOORS:
            places = [(key, floor) for floor in shown for key in real if key.site.tower == "lm"]
        return [
            _Pair(key, name, real[key], shown[its], design.has("", key) or design.has(name, its))
            for key, its in places
            if np.array_equal(real[key].read, shown[its].read)
        ]

    def _family(self, name: str, pairs: Sequence[_Pair]) -> list[Test]:
        """Pairs of which one arm can be no other number are told, and tested neither alone nor with the others."""
        rows = [self._row(BY_DESIGN, pair, verdict=BY_DESIGN) for pair in pairs if pair.designed]
        pairs = [pair for pair in pairs if not pair.designed]
        if not pairs:
            return rows
        draws = len({pair.control for pair in pairs})
        family = f"{name}, {len({pair.key for pair in pairs})} keys" + f" x {draws} draws" * (draws > 1)
        rows += [self._row(family, pair) for pair in pairs if self._scoring.incomparable(pair.real.read)]
        pairs = [pair for pair in pairs if not self._scoring.incomparable(pair.real.read)]
        if not pairs:
            return rows
        found = max_t_flips(self._sums(pairs), self._probing.experiment.sweep.permutations)
        for pair, p, adjusted in zip(pairs, found.p.tolist(), found.p_adjusted.tolist(), strict=True):
            verdict = signed(float(pair.gap.mean()), adjusted)
            rows.append(self._row(family, pair, p_value=p, p_adjusted=adjusted, verdict=verdict))
        return rows

    def _sums(self, pairs: Sequence[_Pair]) -> np.ndarray:
        """Differences added up by picture [K, G]."""
        groups = np.unique(self._probing.groups, return_inverse=True)[1]
        return np.stack([np.bincount(groups[pair.real.read], pair.gap, groups.max() + 1) for pair in pairs])

    def _row(self, family: str, pair: _Pair, **more: Any) -> Test:
        one = self._scoring.difference(pair.real.rows, pair.other.rows, pair.real.read, permutations=1)
        return Test(
            self._scoring.run,
            CONTROL,
            family,
            self._probing.experiment.probe.name,
            pair.key.position,
            str(pair.key.site),
            pair.control,
            **numbers(one),
            **more,
        )
