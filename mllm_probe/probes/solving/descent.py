"""Probes without a closed form: targets of every kind as a loss, and seeded descent with early stopping.

Knows logits and targets, no features. Letters in shapes: N decisions, B of a batch, C outputs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from mllm_probe.errors import ConfigError, ProbeError
from mllm_probe.records.problems import Problem

Parameters = Mapping[str, torch.Tensor]
BETTER = 1e-3  # nats, or variances of a number: validation must fall by more to count as progress


class Goal:
    """What a problem wants of logits [B, C]; numbers are standardised by the training rows."""

    def __init__(self, problem: Problem, device: str) -> None:
        self._kind = problem.kind
        self.train, self.val = np.flatnonzero(problem.train), np.flatnonzero(problem.val)
        for rows, name in ((self.train, "training"), (self.val, "validation")):
            if not len(rows):
                raise ProbeError(f"a problem has no {name} rows")
        self.shift, self.scale = 0.0, 1.0
        y = problem.y
        if problem.kind == "number":
            self.shift, self.scale = float(y[self.train].mean()), float(y[self.train].std())
            y = (y - self.shift) / self.scale
        self.single = problem.kind in ("number", "binary")
        self.outputs = int(y.max()) + 1 if problem.kind == "classes" else 1 if self.single else y.shape[1]
        self._y = torch.from_numpy(y if problem.kind == "classes" else y.reshape(len(y), -1)).to(device)
        mask = np.ones(y.shape, dtype=bool) if problem.mask is None else problem.mask
        self._counted = torch.from_numpy(mask.reshape(len(y), -1)).to(device)

    def loss(self, logits: torch.Tensor, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor | int]:
        """Summed loss of these rows, and the cells it is the sum of."""
        here = torch.from_numpy(rows).to(logits.device)
        y = self._y[here]
        if self._kind == "classes":
            return cross_entropy(logits, y.long(), reduction="sum"), len(rows)
        if self._kind == "number":
            return (logits - y.float()).square().sum() / 2, len(rows)
        counted = self._counted[here]
        cells = binary_cross_entropy_with_logits(logits, y.float(), reduction="none")
        return (cells * counted).sum(), counted.sum()


@dataclass(frozen=True)
class Trained:
    """The parameters with the least validation loss."""

    parameters: Parameters
    val_loss: float
    epochs: int
    converged: bool


@dataclass(frozen=True)
class Descent:
    """How to descend: AdamW (Loshchilov and Hutter 2019) on minibatches of `batch` decisions, until validation has not
    improved for `patience` epochs; `weight_decay` acts on matrices, not on biases."""

    rate: float = 1e-3
    weight_decay: float = 1e-2
    batch: int = 64
    patience: int = 10
    max_epochs: int = 200

    def __post_init__(self) -> None:
        counts = {"batch": self.batch, "patience": self.patience, "max_epochs": self.max_epochs}
        for name, value in counts.items():
            if value < 1:
                raise ConfigError(f"probe.{name}={value} must be 1 or more")
        if self.rate <= 0 or self.weight_decay < 0:
            raise ConfigError(
                f"probe.rate={self.rate} must be above 0 and probe.weight_decay={self.weight_decay} not below 0"
            )

    def descend(
        self,
        start: Parameters,
        logits: Callable[[Parameters, np.ndarray], torch.Tensor],
        goal: Goal,
        generator: torch.Generator,
    ) -> Trained:
        """`logits(parameters, rows)` are [B, C]. `converged`: patience ended it, not the limit of epochs."""
        now = {name: value.clone().requires_grad_() for name, value in start.items()}
        groups: list[dict[str, Any]] = [
            {"params": [value for value in now.values() if value.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [value for value in now.values() if value.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.rate, fused=True)
        best, waited, epoch = Trained(start, self._held_out(start, logits, goal), 0, False), 0, 0
        while waited < self.patience and epoch < self.max_epochs:
            epoch += 1
            order = goal.train[torch.randperm(len(goal.train), generator=generator).numpy()]
            for rows in self._batches(order):
                total, count = goal.loss(logits(now, rows), rows)
                optimizer.zero_grad()
                torch.autograd.backward(total / max(1, int(count)))
                optimizer.step()
            loss = self._held_out(now, logits, goal)
            waited += 1
            if loss < best.val_loss - BETTER:
                waited = 0
                best = Trained({name: value.detach().clone() for name, value in now.items()}, loss, epoch, False)
        return Trained(best.parameters, best.val_loss, epoch, waited >= self.patience)

    def _batches(self, rows: np.ndarray) -> list[np.ndarray]:
        return [rows[start : start + self.batch] for start in range(0, len(rows), self.batch)]

    @torch.no_grad()
    def _held_out(self, now: Parameters, logits: Callable[[Parameters, np.ndarray], torch.Tensor], goal: Goal) -> float:
        sums = [goal.loss(logits(now, rows), rows) for rows in self._batches(goal.val)]
        return float(sum(total for total, _ in sums)) / max(1, int(sum(count for _, count in sums)))
