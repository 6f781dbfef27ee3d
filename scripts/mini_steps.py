"""Steps of a training that can be stopped at any of them and gone on with: what a step changes is kept in one file.

Data and rates come from the number of the step alone, so nothing else is needed.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file


class Stepper:
    """AdamW, warmed up for 150 steps, then falling to 0 in a straight line; `model`'s gradients clipped to norm 1.

    With `fall` the rate falls in that many last steps alone, so that what comes before does not depend on `steps`.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        lr: float,
        steps: int,
        heads: torch.nn.Module | None = None,
        fall: int | None = None,
    ) -> None:
        self.at, self._lr, self._steps, self.fall = 0, lr, steps, fall
        self._clipped = list(model.parameters())
        self._named = dict(model.named_parameters())
        self._named |= {f"heads.{name}": value for name, value in heads.named_parameters()} if heads else {}
        self._optimiser = torch.optim.AdamW(self._named.values(), lr=lr, betas=(0.9, 0.98), weight_decay=0.05)

    def step(self, loss: torch.Tensor) -> None:
        for group in self._optimiser.param_groups:
            group["lr"] = self._lr * min((self.at + 1) / 150, 1.0) * self._left()
        self._optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._clipped, 1.0)
        self._optimiser.step()
        self.at += 1

    def _left(self) -> float:
        return min((self._steps - self.at) / (self.fall or self._steps), 1.0)

    def save(self, path: Path, facts: dict[str, Any]) -> None:
        """Weights, moments, the number of steps taken and these facts, at once or not at all."""
        tensors = {f"weight/{name}": value.detach() for name, value in self._named.items()}
        for name, value in self._named.items():
            tensors |= {f"{key}/{name}": held for key, held in self._optimiser.state[value].items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        save_file(tensors, part, {"facts": json.dumps({**facts, "at": self.at})})
        part.replace(path)

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote."""
        with safe_open(path, "pt") as file, torch.no_grad():
            for key in file.keys():  # noqa: SIM118  # no mapping
                kind, name = key.split("/", 1)
                if kind == "weight":
                    self._named[name].copy_(file.get_tensor(key))
                else:
                    self._optimiser.state[self._named[name]][kind] = file.get_tensor(key)
        self.at = read_facts(path)["at"]


def read_facts(path: Path) -> dict[str, Any]:
    """What stands beside the tensors of a state."""
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["facts"])


class Phase:
    """The steps that one phase of a training still has to do, what they have cost and how the loss falls.

    With `args.state`, a folder, the state is written after every `args.every` steps and after the last.
    """

    def __init__(self, name: str, stepper: Stepper, steps: int, args: argparse.Namespace) -> None:
        self._name, self._stepper, self._steps, self._every = name, stepper, steps, args.every
        self._settings = {"steps": steps, "pictures": args.pictures, "lr": args.lr, "seed": args.seed}
        self._settings |= {"fall": stepper.fall, "material": args.material}
        self._path: Path | None = args.state and args.state / f"{name}.safetensors"
        self.seconds = 0.0  # of CPU
        self._average: float | None = None
        if self._path and self._path.exists():
            self._go_on(self._path)

    def _go_on(self, path: Path) -> None:
        facts = read_facts(path)
        began = facts["settings"]
        if self._stepper.fall and facts["at"] + self._stepper.fall <= min(began["steps"], self._steps):
            began = {**began, "steps": self._steps}  # no step so far depended on how many there will be
        if began != self._settings:
            raise SystemExit(f"{path} was begun with {facts['settings']}, not with {self._settings}")
        self._stepper.load(path)
        self._average, self.seconds = facts["average"], facts["seconds"]

    def steps(self) -> Iterator[int]:
        """The number of each step; whoever asks for them calls `take` once in each."""
        started = time.process_time() - self.seconds
        for step in range(self._stepper.at, self._steps):
            yield step
            self.seconds = time.process_time() - started
            last = step == self._steps - 1
            if step % 50 == 0 or last:
                print(f"{self._name} step {step} loss {self._average:.4f} {self.seconds:.0f} CPU s", flush=True)
            if self._path and ((step + 1) % self._every == 0 or last):
                facts = {"average": self._average, "seconds": self.seconds, "settings": self._settings}
                self._stepper.save(self._path, facts)

    def take(self, loss: torch.Tensor) -> None:
        self._stepper.step(loss)
        self._average = loss.item() if self._average is None else 0.98 * self._average + 0.02 * loss.item()
