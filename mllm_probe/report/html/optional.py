"""Files of a run that only add to its page, which goes without those that are damaged. Computes no score."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mllm_probe.errors import DataError
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.readback import read_table
from mllm_probe.records.samples import label_said
from mllm_probe.results.predictions import Scored, load_scored

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")


@dataclass(frozen=True)
class OptionalFiles:
    """What splits.csv and predictions.safetensors say, None where they are not there or damaged; `damaged` has a line
    on each file that was left out."""

    paths: RunPaths

    @cached_property
    def damaged(self) -> list[str]:
        return []

    def spared(self, path: Path, read: Callable[[Path], T], empty: T, what: str) -> T:
        """What is read of a file that only adds to the page; where it is damaged `empty`, which is then said."""
        try:
            return read(path)
        except DataError as error:
            self.damaged.append(f"left out, {what}: {error}")
            return empty

    @cached_property
    def splits(self) -> "pd.DataFrame | None":
        path, texts = self.paths.splits, dict.fromkeys(("seed", "group", "split"), str)
        read = partial(read_table, texts=texts, numbers={})
        return self.spared(path, read, None, "pictures in several splits") if path.is_file() else None

    @cached_property
    def scored(self) -> Scored | None:
        path = self.paths.predictions
        return self.spared(path, load_scored, None, "the balance of labels") if path.is_file() else None

    def leakage(self, groups: str) -> Iterator[tuple[str, str]]:
        """What splits.csv and predictions.safetensors say of groups on two sides, and of the balance of labels;
        `groups` is what they are called."""
        if (table := self.splits) is not None:
            several = int((table.groupby(["seed", "group"]).split.nunique() > 1).sum())
            moved = table.assign(test=table.split == "test").groupby("group").test.nunique()
            yield f"{groups} in two splits of one seed", f"{several} of {table.group.nunique()}"
            yield f"{groups} in the test split of some seeds only", f"{int((moved > 1).sum())}"
        if self.scored is not None and self.scored.kind == "binary":
            yield f"share of label {label_said(self.scored.names, 1)} in the test set", _balance(self.scored)


def _balance(scored: Scored) -> str:
    tested = [label for label, test in zip(scored.labels, scored.test, strict=True) if test]
    return f"{100 * sum(tested) / len(tested):.1f} % of {len(tested)}"
