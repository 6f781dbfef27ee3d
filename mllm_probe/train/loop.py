"""The loop that every training goes through: AdamW, warm-up and cosine, a CSV of losses, a state to go on from.

Knows parameters and steps; what a step's loss is, and which examples it reads, is the learner's. A step is a function
of its number alone, so a killed training that goes on from its state has the same losses as one that was not killed.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from mllm_probe.config.tune import TrainSettings
from mllm_probe.errors import TrainError
from mllm_probe.files.seals import read_sealed, save_sealed
from mllm_probe.files.store_paths import TrainingPaths
from mllm_probe.records.protocols import Reporter

MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class Learner(Protocol):
    """What is trained, and how its loss is made."""

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """The float32 parameters that move, by name; all others stay as they are."""

    def backward(self, step: int) -> Mapping[str, float]:
        """Add the gradients of a step's loss to the parameters; the losses to write down, `loss` among them."""


def train(
    learner: Learner, settings: TrainSettings, paths: TrainingPaths, reporter: Reporter
) -> list[dict[str, float]]:
    """Run the steps that are not done yet; returns the losses of all, step by step. Raises TrainError."""
    steps = settings.steps or 0
    parameters = dict(learner.parameters())
    optimiser = torch.optim.AdamW(
        parameters.values(), lr=settings.lr, betas=(0.9, settings.beta2), weight_decay=settings.weight_decay
    )
    losses = _restore(paths.state, parameters, optimiser, reporter)
    for step in range(len(losses), steps):
        for group in optimiser.param_groups:
            group["lr"] = settings.lr * share(step, steps, settings.warmup)
        losses.append(_step(learner, step, parameters, optimiser, settings))
        reporter.progress("train", step + 1, steps, f"steps, loss {losses[-1]['loss']:.3f}")
        if (step + 1) % settings.save_every == 0 or step + 1 == steps:
            _save(paths.state, parameters, optimiser, losses)
    return losses


def share(step: int, steps: int, warmup: float) -> float:
    """Of the peak learning rate at a step: linear warm-up over a share of all steps, then half a cosine to 0."""
    warm = math.ceil(warmup * steps)
    if step < warm:
        return (step + 1) / warm
    return (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) / 2


def _step(
    learner: Learner,
    step: int,
    parameters: Mapping[str, nn.Parameter],
    optimiser: torch.optim.Optimizer,
    settings: TrainSettings,
) -> dict[str, float]:
    torch.manual_seed(settings.seed * 1_000_003 + step)  # dropout, which is then a function of the step, too
    optimiser.zero_grad(set_to_none=True)
    found = dict(learner.backward(step))
    if not math.isfinite(found["loss"]):
        raise TrainError(
            f"the loss of step {step} is {found['loss']}; the last good state is kept: lower train.lr, or raise "
            "train.warmup"
        )
    norm = nn.utils.clip_grad_norm_(parameters.values(), settings.clip or math.inf)
    optimiser.step()
    return {"step": step, "lr": optimiser.param_groups[0]["lr"], **found, "gradient": float(norm)}


def _save(
    path: Path,
    parameters: Mapping[str, nn.Parameter],
    optimiser: torch.optim.Optimizer,
    losses: list[dict[str, float]],
) -> None:
    """Parameters, moments and all losses so far in one file, so that no kill can leave one without the others."""
    tensors = {f"value/{name}": value.detach().cpu().contiguous() for name, value in parameters.items()}
    for name, value in parameters.items():
        for moment in MOMENTS:
            tensors[f"{moment}/{name}"] = optimiser.state[value][moment].detach().cpu().contiguous()
    save_sealed(path, tensors, {"losses": json.dumps(losses)})


def _restore(
    path: Path, parameters: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer, reporter: Reporter
) -> list[dict[str, float]]:
    """The losses of the steps that are done, whose parameters and moments are now in place; none where the state is
    damaged."""
    if not path.exists():
        return []
    try:
        found, metadata = read_sealed(path)
        done: list[dict[str, float]] = json.loads(metadata["losses"])
    except (ValueError, KeyError) as error:
        reporter.note(f"{path} is damaged ({error}), so the training starts again")
        path.unlink()
        return []
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(found[f"value/{name}"])
            moments = {moment: found[f"{moment}/{name}"] for moment in MOMENTS}
            optimiser.state[value] = {m: t if m == "step" else t.to(value.device) for m, t in moments.items()}
    return done
