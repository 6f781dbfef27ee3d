"""Questions from a Hugging Face data set, kept as pictures and a table, then read. Knows no task and no model."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mllm_probe.data.coco import Selection
from mllm_probe.data.pictures import as_rgb, filled_once
from mllm_probe.data.table import Table
from mllm_probe.errors import DataError, MllmProbeError, choices
from mllm_probe.files.digests import Digests
from mllm_probe.files.paths import OutputPaths
from mllm_probe.records.samples import Collection, digest

VERSION = 3  # raise it when what is written of the same data set changes
ROWS, PICTURES = "rows.jsonl", "images"
SAVED = ("dataset_dict.json", "state.json")  # one of them lies in what `save_to_disk` wrote


@dataclass(frozen=True)
class Hub:
    """`id` is a data set of huggingface.co, or a local folder that `datasets.load_dataset` reads or that `save_to_disk`
    wrote; `picture_column` holds pictures, the others what they hold in a Table. Labels that the data set numbers and
    names are the names, and none where it has -1. Code that a data set brings is not run.
    """

    id: str | None = None
    split: str = "train"
    revision: str | None = None
    picture_column: str = "image"
    text_column: str = "text"
    label_column: str = "label"
    group_column: str | None = None
    id_column: str | None = None
    columns: Sequence[str] = ()
    name: str = "hub"

    def load(self, outputs: Path, selection: Selection, digests: Digests) -> Collection:
        """Write the pictures and rows unless they are there, then read them like any table. Raises DataError."""
        if not self.id:
            raise DataError("dataset=hub needs dataset.id=NAME, a data set of huggingface.co or a local folder")
        found = self._loaded(self.id)
        columns = self._columns(found)
        folder = OutputPaths(outputs).dataset("hub", digest(VERSION, found._fingerprint, columns))
        if not folder.exists():
            pictures = found.features[self.picture_column]
            if getattr(pictures, "decode", True) is False:
                found = found.cast_column(self.picture_column, type(pictures)())
            with filled_once(folder) as part:
                self._write(part, found, columns, selection)
        group = "group" if self.group_column else None
        own = {"id_column": self.id_column, "columns": self.columns, "name": self.name}
        table = Table(str(folder), ROWS, PICTURES, group_column=group, **own)  # type: ignore[arg-type]
        return replace(table.load(outputs, selection, digests), source=f"dataset {self.id}")

    def _loaded(self, id: str) -> Any:
        try:
            from datasets import load_dataset, load_from_disk
        except ImportError as error:
            raise DataError("dataset=hub needs datasets; pip install 'mllm-probe[hub]'") from error
        saved = any((Path(id) / name).is_file() for name in SAVED)
        try:
            if saved:
                return self._of_split(load_from_disk(id))
            return load_dataset(id, split=self.split, revision=self.revision)
        except MllmProbeError:
            raise
        except Exception as error:  # datasets raises anything here
            said = " ".join(str(error).split())
            if "scripts are no longer supported" in said or "custom code" in said:
                raise DataError(
                    f"dataset.id={id} needs its own code, and no such code is run here; if you trust it, use it to "
                    "write the rows as parquet, and name that folder"
                ) from error
            fix = "; save it again with save_to_disk" if saved else ""
            raise DataError(
                f"dataset.id={id}, dataset.split={self.split} cannot be loaded ({said[:300]}){fix}"
            ) from error

    def _of_split(self, saved: Any) -> Any:
        """What `save_to_disk` left: splits by name, or one that may have a name. Raises DataError."""
        named = saved if isinstance(saved, dict) else {str(saved.split or self.split): saved}
        if self.split not in named:
            raise DataError(f"dataset.id={self.id} has no split '{self.split}'; {choices(self.split, named)}")
        return named[self.split]

    def _columns(self, found: Any) -> dict[str, str]:
        """{column of the table: column of the data set}. Raises DataError."""
        columns = {"picture": self.picture_column, "text": self.text_column, "label": self.label_column}
        if self.group_column is not None:
            columns["group"] = self.group_column
        for name, column in columns.items():
            if column not in found.column_names:
                raise DataError(
                    f"dataset {self.id} has no column '{column}' (dataset.{name}_column); "
                    f"{choices(column, found.column_names)}"
                )
        return columns

    def _write(self, folder: Path, found: Any, columns: Mapping[str, str], selection: Selection) -> None:
        (folder / PICTURES).mkdir()
        feature = found.features[self.label_column]
        named = getattr(getattr(feature, "feature", feature), "int2str", None)
        with (folder / ROWS).open("w", encoding="utf-8") as out:
            for number in range(len(found)):
                row = self._row(found, number, selection)
                plain = {name: cell for name, cell in row.items() if isinstance(cell, str | int | float)}  # covariates
                record: dict[str, Any] = plain | {name: row.get(column) for name, column in columns.items()}
                if odd := next((name for name in columns if name != "picture" and _is_picture(record[name])), ""):
                    raise DataError(
                        f"dataset {self.id}, row {number + 1}: '{columns[odd]}' (dataset.{odd}_column) holds pictures; "
                        "name another column"
                    )
                record["picture"] = self._kept(folder / PICTURES, record["picture"], number)
                if named and record["label"] is not None:
                    record["label"] = _names(record["label"], named)
                out.write(json.dumps(record, ensure_ascii=False, default=str) + "\n")

    def _row(self, found: Any, number: int, selection: Selection) -> dict[str, Any]:
        """With its picture as it is shown; one that cannot be decoded is empty where bad rows are left out."""
        try:
            row = dict(found[number])  # pictures come decoded, and upright
            picture = row[self.picture_column]
            return row | {self.picture_column: as_rgb(picture) if _is_picture(picture) else picture}
        except Exception as error:  # pillow and datasets raise anything here
            if selection.on_bad_row == "skip":
                return {}
            said = re.sub(r" <_io.*?>", "", str(error)) or type(error).__name__
            raise DataError(
                f"dataset {self.id}, row {number + 1} cannot be decoded ({said}); fix it, or leave such rows out with "
                "data.on_bad_row=skip"
            ) from error

    def _kept(self, folder: Path, pixels: Any, number: int) -> str | None:
        """The name of the picture's file, one for all rows with the same pixels."""
        if pixels is None:
            return None
        if not _is_picture(pixels):
            raise DataError(
                f"dataset {self.id}, row {number + 1}: '{self.picture_column}' is {str(pixels)[:80]!r}, but must hold "
                "pictures; name their column with dataset.picture_column"
            )
        content = hashlib.sha256(repr(pixels.size).encode() + pixels.tobytes()).hexdigest()[:32]
        if not (folder / f"{content}.png").exists():
            pixels.save(folder / f"{content}.png")
        return f"{content}.png"


def _is_picture(value: Any) -> bool:
    return hasattr(value, "convert")


def _names(label: Any, named: Any) -> Any:
    """The names of a numbered label, or of several; none for -1, which stands for a label that was not published."""
    numbers = label if isinstance(label, list) else [label]
    return named(label) if all(number >= 0 for number in numbers) else None
