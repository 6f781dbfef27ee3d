"""What a probe is given: the rows of a layer, which of them a decision reads, labels and a split; and whether they can
be learnt."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mllm_probe.errors import ProbeError
from mllm_probe.records.samples import Examples
from mllm_probe.records.sites import before_question

if TYPE_CHECKING:
    import torch


class Rows(Protocol):
    """Vectors [T, D] in storage dtype, in memory (a tensor is one) or read from the cache where they are asked for.

    What may hold a row many times can have `distinct()`: Rows that hold each once, and which of them is where [T].
    """

    @property
    def shape(self) -> Any: ...

    def __getitem__(self, rows: slice) -> "torch.Tensor": ...


def content(*parts: Any) -> str:
    """A digest of arrays, by their types, shapes and bytes, and of other values, by their text."""
    found = blake2b(digest_size=16)
    for part in parts:
        array = isinstance(part, np.ndarray)
        found.update(f"{part.dtype.str}{part.shape};".encode() if array else f"{part!r};".encode())
        if array:
            found.update(part.tobytes())
    return found.hexdigest()


KINDS = ("binary", "classes", "labels", "number")


@dataclass(frozen=True)
class Problem:
    """One fit to make: what is predicted, and who trains and who validates ([N] bool each).

    `kind` says what `y` is: "binary" [N] of 0 and 1, "classes" [N] of 0 to C - 1, "labels" [N, C] of 0 and 1 of which
    the cells in `mask` [N, C] count, "number" [N] floats. Rows outside both splits hold no label (0) that a probe
    could learn from. `seed` starts whatever is random in a probe.
    """

    y: np.ndarray
    train: np.ndarray
    val: np.ndarray
    kind: str = "binary"
    mask: np.ndarray | None = None
    seed: int = 0

    @cached_property
    def fault(self) -> str | None:
        """Why no probe can learn it, in a sentence, whatever the layer."""
        found = {"number": _fault_of_numbers, "labels": _fault_of_labels}.get(self.kind, _fault_of_classes)
        return found(self)


@dataclass(frozen=True)
class Compute:
    """Where a probe is fitted, and how many bytes of features it may hold at once; more are read chunk by chunk."""

    device: str = "cpu"
    memory: int = 4 << 30


@dataclass(frozen=True)
class LayerData:
    """The rows of one key, ready for probes: no label, no split.

    `rows` [T, D] slices into tensors of the storage dtype. `bounds` [N + 1] cuts them into decisions where a position
    has a row for every token; without it T = N. `pairs` [N] numbers the contrast pairs (-1: none), and `sides` [N]
    tells their halves apart (1, -1).
    """

    rows: "Rows"
    bounds: np.ndarray | None = None
    pairs: np.ndarray | None = None
    sides: np.ndarray | None = None
    name: str = ""
    compute: Compute = Compute()

    def __len__(self) -> int:
        return self.rows.shape[0] if self.bounds is None else len(self.bounds) - 1

    @property
    def width(self) -> int:
        return self.rows.shape[1]

    def held(self) -> "LayerData":
        """With its rows in memory where that is little beside what may be held, for what reads them several times."""
        rows, width = self.rows.shape
        return replace(self, rows=self.rows[:]) if 8 * 4 * rows * width <= self.compute.memory else self


def row_offsets(examples: Examples, position: str) -> np.ndarray:
    """Which of its sample's rows each decision reads [N]: its mark's place among the marks that the position reads, and
    -1 (none) where those are the marks of others."""
    marks_of = {sample.uid: sample.marks for sample in examples.samples}
    family = position.partition(":")[2]

    def offset(sample: str, mark: str | None) -> int:
        marks = [name for name in marks_of[sample] if name.partition(":")[0] == family]
        if mark in marks:
            return marks.index(mark)
        return -1 if any(":" in name for name in marks) else 0

    return np.asarray([offset(decision.sample, decision.mark) for decision in examples.decisions])


def outputs_apart(examples: Examples, position: str, offsets: np.ndarray) -> bool:
    """Whether a probe needs an output for each category: what decisions about several things read is the same."""
    if position.startswith("tokens:") or any(decision.head is None for decision in examples.decisions):
        return False
    read = [(one.sample, at) for one, at in zip(examples.decisions, offsets.tolist(), strict=True) if at >= 0]
    return before_question(position) or len(set(read)) < len(read)


def trained(heads: np.ndarray, y: np.ndarray, train: np.ndarray, val: np.ndarray) -> np.ndarray:
    """The outputs that have both labels to learn from and something to validate on; all arguments are [M]."""
    seen = [set(heads[train & (y == label)].tolist()) for label in (0, 1)]
    return np.asarray(sorted(seen[0] & seen[1] & set(heads[val].tolist())), dtype=heads.dtype)


def check_problems(data: LayerData, problems: Sequence[Problem], kinds: Sequence[str], probe: str) -> None:
    """Raises ProbeError for a wrong kind of target, rows that do not match, or a class that cannot be learnt."""
    for problem in problems:
        if problem.kind not in kinds:
            raise ProbeError(f"probe {probe} fits {', '.join(kinds)}, and the target is of kind {problem.kind}")
        if not len(data) == len(problem.y) == len(problem.train) == len(problem.val):
            raise ProbeError(f"{data.name or 'the layer'} has {len(data)} rows and the target {len(problem.y)}")
        if problem.fault:
            raise ProbeError(problem.fault)


def _fault_of_classes(problem: Problem) -> str | None:
    """Every class that occurs in training or validation must be in training, and at least two must."""
    seen = np.unique(problem.y[problem.train])
    if len(seen) < 2:
        label = seen[0] if len(seen) else "none"
        return f"all {problem.train.sum()} training rows have the label {label}; two are needed"
    wanted = np.arange(problem.y.max() + 1) if problem.kind == "classes" else np.arange(2)
    if len(missing := np.setdiff1d(wanted, seen)):
        return (
            f"{problem.train.sum()} training rows hold no example of {len(missing)} of {len(wanted)} classes "
            f"(class {missing[0]} first); take more pictures or fewer classes"
        )
    return None


def _fault_of_labels(problem: Problem) -> str | None:
    mask = np.ones(problem.y.shape, dtype=bool) if problem.mask is None else problem.mask
    learnt = mask & problem.train[:, None]
    for cells, name in ((learnt, "training"), (mask & problem.val[:, None], "validation")):
        if len(empty := np.flatnonzero(~cells.any(0))):
            return f"label {empty[0]} has no {name} rows; take more pictures or leave it out"
    if len(alike := np.flatnonzero(~((learnt & (problem.y > 0)).any(0) & (learnt & (problem.y <= 0)).any(0)))):
        return f"label {alike[0]} is the same in all training rows that count; take more pictures"
    return None


def _fault_of_numbers(problem: Problem) -> str | None:
    seen = problem.y[problem.train | problem.val]
    if not np.isfinite(seen).all():
        return f"{(~np.isfinite(seen)).sum()} of {len(seen)} target numbers are not finite"
    if not len(seen) or np.ptp(problem.y[problem.train]) == 0:
        return f"all {problem.train.sum()} training rows have the same number; nothing can be learnt"
    return None
