"""All that compares the keys of a sweep with each other and with what they must beat: the rows of tests.csv."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mllm_probe.fitting.readout import Source
from mllm_probe.fitting.trials import Trial
from mllm_probe.records.protocols import Reporter
from mllm_probe.records.score import Score
from mllm_probe.scoring.aggregate import Scoring, tested
from mllm_probe.scoring.verdicts.baselines import Floors
from mllm_probe.scoring.verdicts.best_layers import Test, Verdicts, p_values
from mllm_probe.scoring.verdicts.control_tests import Controls
from mllm_probe.scoring.verdicts.fixed_scores import ByDesign
from mllm_probe.scoring.verdicts.hypotheses import Curve

if TYPE_CHECKING:
    from mllm_probe.scoring.verdicts.integration_gains import Gains


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
