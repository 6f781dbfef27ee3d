"""Ridge regression: the linear probe of numbers, and of labels as -1 and 1."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mllm_probe.probes.solving.linear import LinearFit, check_lambdas, fit_linear
from mllm_probe.probes.solving.normal_equations import few_columns, fit_labels
from mllm_probe.probes.solving.objectives import Squared
from mllm_probe.records.problems import LayerData, Problem, check_problems


@dataclass(frozen=True)
class Ridge:
    """Half the mean squared error plus lambda / 2 times the squared norm of the weights; Deterministic.

    Predicts numbers. For labels its output orders rows (and splits them at 0), but is no log-odds. Several labels are
    fitted each on its own, and share the work where there are few columns.
    """

    lambdas: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    name: ClassVar[str] = "ridge"
    kinds: ClassVar[tuple[str, ...]] = ("number", "binary", "labels")
    reads: ClassVar[str] = "vector"
    log_odds: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_lambdas(self.lambdas)

    def fit(self, data: LayerData, problems: Sequence[Problem]) -> list[LinearFit]:
        """Raises ProbeError."""
        check_problems(data, problems, self.kinds, self.name)
        if few_columns(data, problems):
            return fit_labels(data, problems, self.lambdas)
        return fit_linear(data, problems, self.lambdas, dict.fromkeys(self.kinds, Squared()))
