"""Conclusions on an integration: does it gain over its final layer, by its layers or by its width?

Reads held-out predictions; fits nothing again. The results are rows of tests.csv and entries of the summary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mllm_probe.config.sweep import CONTROL_TASK, PERMUTED
from mllm_probe.features.controls import BEST, FINAL, WIDTH
from mllm_probe.features.recipes import STI
from mllm_probe.fitting.trials import Trial
from mllm_probe.records.score import COPY_CEILING
from mllm_probe.scoring.aggregate import Scoring
from mllm_probe.scoring.integrations import Place, places
from mllm_probe.scoring.verdicts.best_layers import ABOVE, BELOW, Test, numbers, signed
from mllm_probe.scoring.verdicts.hypotheses import FAILS, HOLDS, UNDECIDED
from mllm_probe.stats.paired import known
from mllm_probe.stats.permutation import holm_within

INTEGRATION = "integration"  # the test of tests.csv: an integration minus one of its controls or another integration
OTHER_LABELS = (CONTROL_TASK, PERMUTED, COPY_CEILING)
LOSS = "it is below its final layer"
NO_GAIN = "no gain over its final layer was shown"
BARE = "a gain over its final layer, and nothing of equal width was read beside it"
BY_WIDTH = "a gain over its final layer, which its width alone may explain"
BY_ONE = "a gain over its final layer and over equal width, which a better single layer may explain"
BY_LAYERS = "a gain of its layers, not of its width"
ORDER = ("dci", "sci")  # of the paper: the first not below the second, and the second above its final layer


@dataclass(frozen=True)
class _Arm:
    """One score per test row, and the mean headline on validation; `edge`: no stronger penalty was tried."""

    site: str
    rows: np.ndarray
    read: np.ndarray
    val: float
    edge: bool


class Gains:
    """The trials of integrations and of their controls, reduced to one score per test row."""

    def __init__(self, scoring: Scoring) -> None:
        self._scoring, self._probing = scoring, scoring.probing
        self._places = {(p.position, p.features): p for p in places(scoring.probing.experiment)}
        self._arms: dict[tuple[str, str], dict[str, _Arm]] = {}

    def add(self, trials: Sequence[Trial]) -> None:
        """Of anything else nothing is kept."""
        real = [trial for trial in trials if trial.key and trial.control not in OTHER_LABELS]
        if not real or (real[0].key.position, real[0].features) not in self._places:  # type: ignore[union-attr]
            return
        key = real[0].key
        assert key is not None
        read = self._scoring.rows(real[0], "test")
        scores = self._scoring.row_scores(real, read)
        strongest = max(getattr(self._probing.experiment.probe, "lambdas", ()), default=None)
        edge = strongest is not None and any(trial.facts.get("lambda") == strongest for trial in real)
        arm = _Arm(str(key.site), scores, read, self._scoring.validation(real), edge)
        self._arms.setdefault((key.position, real[0].features), {})[real[0].control] = arm

    def tests(self) -> tuple[list[Test], dict[str, Any]]:
        """All rows, and what the summary says of integrations and of their order."""
        rows: list[Test] = []
        said: list[dict[str, Any]] = []
        for place, arms in self._arms.items():
            own, others = arms[""], {name: arm for name, arm in arms.items() if name}
            beside = {name: more[""] for (at, name), more in self._arms.items() if at == place[0] and name != place[1]}
            tests = self._against(place, own, {**others, **beside})
            rows += tests
            said.append(self._line(self._places[place], arms, {test.other: test for test in tests}))
        return rows, {"integrations": said, "orders": self._orders(rows)}

    def _against(self, place: tuple[str, str], own: _Arm, others: Mapping[str, _Arm]) -> list[Test]:
        """The integration against each of its controls and each other integration, two-sided, corrected by Holm."""
        position, features = place
        found = [self._scoring.difference(own.rows, other.rows, own.read) for other in others.values()]
        raw = [known(one.p) for one in found]
        common = (
            self._scoring.run,
            INTEGRATION,
            f"{features} at {position}",
            self._probing.experiment.probe.name,
            position,
        )
        return [
            Test(*common, own.site, name, p_value=p, p_adjusted=q, verdict=signed(one.value, q), **numbers(one))
            for name, one, p, q in zip(others, found, raw, holm_within(raw, [features] * len(raw)), strict=True)
        ]

    def _orders(self, tests: Sequence[Test]) -> list[dict[str, Any]]:
        """What became of the paper's order, dci >= sci > final layer, where both were read at a position."""
        found = []
        for position in dict.fromkeys(at for at, _ in self._arms):
            rows = {(test.family, test.other): test for test in tests if test.test == INTEGRATION}
            first, second = (rows.get((f"{a} at {position}", b)) for a, b in (ORDER, (ORDER[1], FINAL)))
            if first and second:
                found.append(
                    {"position": position, "verdict": _order(first, second)}
                    | {name: _numbers(test) for name, test in (("dci_over_sci", first), ("sci_over_final", second))}
                )
        return found

    def _line(self, place: Place, arms: Mapping[str, _Arm], tests: Mapping[str, Test]) -> dict[str, Any]:
        """The integration must beat the best control of equal width on validation."""
        wide = max((name for name in WIDTH if name in tests), key=lambda name: arms[name].val, default=None)
        against = {name: test for name, test in tests.items() if name in (FINAL, wide, BEST)}
        return {
            "features": place.features,
            "position": place.position,
            "layers": _layers(place),
            "value": float(arms[""].rows.mean()),
            "best_layer": arms[BEST].site if BEST in arms else None,
            "against": {name: _numbers(test) for name, test in against.items()},
            "verdict": _verdict(tests, wide),
            "edge": arms[""].edge,
        }


def _layers(place: Place) -> str:
    """`8 + 2 + 5`, groups as `8 + 0-3 + 4-7`; STI's tokens as `8, then 2 + 5 by 8`, their mean with its weights."""
    own = place.arms.own
    parts = [str(group[0]) if len(group) == 1 else f"{group[0]}-{group[-1]}" for group in own.groups]
    if own.kind != STI:
        return " + ".join([str(own.final), *parts])
    if place.position.startswith("tokens:"):
        return f"{own.final}, then {' + '.join(parts)} by {own.pooled}"
    share = 1 / (own.pooled + len(parts))
    summed = [f"{own.pooled * share:.3g} x {own.final}", *(f"{share:.3g} x {part}" for part in parts)]
    return f"no more than {' + '.join(summed)}"


def _numbers(test: Test) -> dict[str, Any]:
    return {name: getattr(test, name) for name in ("value", "low", "high", "p_adjusted", "detectable")}


def _verdict(tests: Mapping[str, Test], wide: str | None) -> str:
    if tests[FINAL].verdict != ABOVE:
        return LOSS if tests[FINAL].verdict == BELOW else NO_GAIN
    if wide is None:
        return BARE
    if tests[wide].verdict != ABOVE:
        return BY_WIDTH
    return BY_ONE if BEST in tests and tests[BEST].verdict != ABOVE else BY_LAYERS


def _order(first: Test, second: Test) -> str:
    """The first step must not be below 0, and the second above it."""
    if BELOW in (first.verdict, second.verdict):
        return FAILS
    return HOLDS if second.verdict == ABOVE and (first.value or 0) >= 0 else UNDECIDED
