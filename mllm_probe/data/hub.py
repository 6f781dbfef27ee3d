"""Questions from a Hugging Face data set, kept as pictures and a table, then read. Knows no task and no model."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllm_probe.data.coco import Selection
from mllm_probe.data.folders import filled_once
from mllm_probe.data.table import Table
from mllm_probe.digests import Digests
from mllm_probe.errors import DataError, choices
from mllm_probe.paths import OutputPaths
from mllm_probe.types import Collection, digest

VERSION = 2  # raise it when what is written of the same data set changes
ROWS, PICTURES = "rows.jsonl", "images"


@dataclass(frozen=True)
class Hub:
    """`id` is a data set of huggingface.co or a local folder that `datasets.load_dataset` reads; `picture_column` holds
    pictures, the others what they hold in a Table. Labels that the data set numbers and names are the names.
    """

    id: str | None = None
    split: str = "train"
    revision: str | None = None
    picture_column: str = "image"
    text_column: str = "text"
    label_column: str = "label"
    group_column: str | None = None
    name: str = "hub"

    def load(self, outputs: Path, selection: Selection, digests: Digests) -> Collection:
        """Write the pictures and rows unless they are there, then read them like any table. Raises DataError."""
        if not self.id:
            raise DataError("dataset=hub needs dataset.id=NAME, a data set of huggingface.co or a local folder")
        found = self._loaded(self.id)
        columns = self._columns(found)
        folder = OutputPaths(outputs).dataset("hub", digest(VERSION, found._fingerprint, columns))
        if not folder.exists():
            with filled_once(folder) as part:
                self._write(part, found, columns, selection)
        table = Table(str(folder), ROWS, PICTURES, group_column="group" if self.group_column else None, name=self.name)
        return table.load(outputs, selection, digests)

    def _loaded(self, id: str) -> Any:
        try:
            from datasets import load_dataset
            from datasets.exceptions import DatasetsError
        except ImportError as error:
            raise DataError("dataset=hub needs datasets; pip install 'mllm-probe[hub]'") from error
        try:
            return load_dataset(id, split=self.split, revision=self.revision)
        except (DatasetsError, OSError, ValueError) as error:
            said = " ".join(str(error).split())
            raise DataError(f"dataset.id={id}, dataset.split={self.split} cannot be loaded ({said[:300]})") from error

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
                record["picture"] = self._kept(folder / PICTURES, record["picture"], number)
                if named and record["label"] is not None:
                    record["label"] = named(record["label"])
                out.write(json.dumps(record, ensure_ascii=False, default=str) + "\n")

    def _row(self, found: Any, number: int, selection: Selection) -> Any:
        """One that cannot be decoded is empty where bad rows are left out."""
        try:
            return found[number]
        except (OSError, ValueError, SyntaxError) as error:
            if selection.on_bad_row == "skip":
                return {}
            raise DataError(f"dataset {self.id}, row {number + 1} cannot be decoded ({error})") from error

    def _kept(self, folder: Path, picture: Any, number: int) -> str | None:
        """The name of the picture's file, one for all rows with the same pixels."""
        if picture is None:
            return None
        if not hasattr(picture, "convert"):
            raise DataError(
                f"dataset {self.id}, row {number + 1}: '{self.picture_column}' is {str(picture)[:80]!r}, but must hold "
                "pictures; name their column with dataset.picture_column"
            )
        pixels = picture.convert("RGB")
        content = hashlib.sha256(repr(pixels.size).encode() + pixels.tobytes()).hexdigest()[:32]
        if not (folder / f"{content}.png").exists():
            pixels.save(folder / f"{content}.png")
        return f"{content}.png"
