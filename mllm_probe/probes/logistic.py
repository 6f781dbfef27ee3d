"""The default probe: L2-regularised logistic regression, its strength chosen on validation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from mllm_probe.probes.solving.linear import LinearFit, check_lambdas, fit_linear
from mllm_probe.probes.solving.objectives import Loss, Sigmoid, Softmax
from mllm_probe.records.problems import LayerData, Problem, check_problems

LOSSES: Mapping[str, Loss] = {"binary": Sigmoid(), "labels": Sigmoid(), "classes": Softmax()}


@dataclass(frozen=True)
class Logistic:
    """`lambdas` are tried from strong to weak; the one with the least validation loss wins, ties to the stronger.

    Two classes have one logit, more have one each (softmax); several labels are fitted each on its own. Deterministic.
    """

    lambdas: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    name: ClassVar[str] = "logistic"
    kinds: ClassVar[tuple[str, ...]] = ("binary", "classes", "labels")
    reads: ClassVar[str] = "vector"
    log_odds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_lambdas(self.lambdas)

    def fit(self, data: LayerData, problems: Sequence[Problem]) -> list[LinearFit]:
        """Raises ProbeError."""
        check_problems(data, problems, self.kinds, self.name)
        return fit_linear(data, problems, self.lambdas, LOSSES)
