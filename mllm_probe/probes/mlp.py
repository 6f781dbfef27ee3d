"""A probe with one hidden layer: reads what no linear probe can, so its score says less about linear structure.

Its own strength is the point of the control task (Hewitt and Liang 2019, arXiv 1909.03368): report selectivity with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch

from mllm_probe.errors import ConfigError
from mllm_probe.probes.solving.descent import Descent, Goal, Parameters, Trained
from mllm_probe.probes.solving.standardised import chunks
from mllm_probe.probes.solving.states import States, standardised
from mllm_probe.records.problems import KINDS, LayerData, Problem, check_problems


def forward(parameters: Parameters, rows: torch.Tensor) -> torch.Tensor:
    """Logits [B, C] of standardised rows [B, D]: `out` [C, H] relu(`hidden` [H, D] x + `hidden_bias`) + `out_bias`."""
    inside = torch.relu(rows @ parameters["hidden"].T + parameters["hidden_bias"])
    return inside @ parameters["out"].T + parameters["out_bias"]


@dataclass(frozen=True)
class MlpFit:
    """The weights of `forward`, float32, for rows (x - mean) / scale; its outputs times `unit` plus `origin`.

    `single` drops the axis of one output.
    """

    mean: np.ndarray
    scale: np.ndarray
    parameters: Mapping[str, np.ndarray]
    single: bool
    origin: float = 0.0
    unit: float = 1.0
    facts: Mapping[str, float] = field(default_factory=dict)

    @torch.no_grad()
    def __call__(self, data: LayerData) -> np.ndarray:
        mean, scale = (torch.from_numpy(part).to(data.compute.device) for part in (self.mean, self.scale))
        parameters = {name: torch.from_numpy(part).to(data.compute.device) for name, part in self.parameters.items()}
        parts = [np.zeros((0, len(self.parameters["out_bias"])), np.float32)]
        parts += [forward(parameters, standardised(x, mean, scale)).cpu().numpy() for _, _, x in chunks(data)]
        logits = np.concatenate(parts) * self.unit + self.origin
        return logits[:, 0] if self.single else logits

    def arrays(self) -> dict[str, np.ndarray]:
        units = {"origin": np.asarray([self.origin]), "unit": np.asarray([self.unit])}
        return {"mean": self.mean, "scale": self.scale, **self.parameters, **units}


@dataclass(frozen=True)
class Mlp(Descent):
    """Each of `widths` is trained from the problem's seed; the one with the least validation loss wins, ties to the
    first. `converged` says it of all of them.

    An epoch costs about 6 n D H operations for each width H.
    """

    widths: Sequence[int] = (32, 128, 512)
    name: ClassVar[str] = "mlp"
    kinds: ClassVar[tuple[str, ...]] = KINDS
    reads: ClassVar[str] = "vector"
    log_odds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.widths or min(self.widths) < 1:
            raise ConfigError(f"probe.widths={list(self.widths)} must hold numbers from 1")

    def fit(self, data: LayerData, problems: Sequence[Problem]) -> list[MlpFit]:
        """Raises ProbeError."""
        check_problems(data, problems, self.kinds, self.name)
        states = States(data)
        moments = states.moments(problems)
        return [self._fit(states, problem, *moment) for problem, moment in zip(problems, moments, strict=True)]

    def _fit(self, states: States, problem: Problem, mean: torch.Tensor, scale: torch.Tensor) -> MlpFit:
        goal = Goal(problem, states.device)

        def logits(now: Parameters, rows: np.ndarray) -> torch.Tensor:
            return forward(now, standardised(states.take(rows)[0], mean, scale))

        tried: list[Trained] = []
        for width in self.widths:
            generator = torch.Generator().manual_seed(problem.seed)
            start = _start(width, len(mean), goal.outputs, generator)
            tried.append(
                self.descend({name: part.to(states.device) for name, part in start.items()}, logits, goal, generator)
            )
        best = min(tried, key=lambda found: found.val_loss)
        facts = {
            "converged": float(all(found.converged for found in tried)),
            "width": float(len(best.parameters["hidden"])),
            "epochs": float(best.epochs),
            "val_loss": best.val_loss,
        }
        kept = {name: part.cpu().numpy() for name, part in best.parameters.items()}
        return MlpFit(mean.cpu().numpy(), scale.cpu().numpy(), kept, goal.single, goal.shift, goal.scale, facts)


def _start(width: int, inputs: int, outputs: int, generator: torch.Generator) -> Parameters:
    """He et al. 2015 for the hidden layer; the outputs begin at 0."""
    return {
        "hidden": torch.randn(width, inputs, generator=generator) * (2 / inputs) ** 0.5,
        "hidden_bias": torch.zeros(width),
        "out": torch.zeros(outputs, width),
        "out_bias": torch.zeros(outputs),
    }
