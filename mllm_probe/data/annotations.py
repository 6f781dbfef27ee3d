"""The lists of an annotation file in COCO's layout, each row checked. Knows no picture and what no list means."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllm_probe.data.pictures import lacking
from mllm_probe.errors import DataError, is_whole

KINDS: Mapping[type, str] = {
    int: "a whole number",
    str: "a text",
    float: "a number with a point",
    bool: "true or false",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


@dataclass(frozen=True)
class Annotations:
    """An annotation file: its `lists` by name, none where it is JSON of another form. Large ones are not to be kept."""

    path: Path
    lists: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> "Annotations":
        """Raises DataError."""
        if said := lacking(path):
            raise DataError(f"{path} {said}; put the file there")
        try:
            records = json.loads(path.read_text(encoding="utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is not JSON ({error}); a COCO annotation file is expected") from error
        return cls(path, records if isinstance(records, dict) else {})

    def rows(self, key: str, **fields: type) -> list[dict[str, Any]]:
        """One list, each row checked to hold these fields. Raises DataError naming the row."""
        rows = self.lists.get(key)
        if not isinstance(rows, list):
            raise DataError(f"{self.path} is not a COCO annotation file: the list {key!r} is missing at its top level")
        for number, row in enumerate(rows):
            _check(f"{self.path}, {key}[{number}]", row, fields)
        return rows

    def numbered(self, key: str, **fields: type) -> dict[int, dict[str, Any]]:
        """{id: row} of a list of things. Raises DataError where two have one id."""
        found: dict[int, dict[str, Any]] = {}
        for number, row in enumerate(self.rows(key, id=int, **fields)):
            first = found.setdefault(row["id"], row)
            one, two = (str(each.get("file_name", each.get("name", ""))) for each in (first, row))
            if first is not row and (key == "images" or one != two):
                raise DataError(
                    f"{self.path}, {key}[{number}]: {two!r} has the id {row['id']}, as has {one!r} before it; joined "
                    "files need new ids, in their annotations too"
                )
        return found

    def objects(self) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """Where each annotated object stands in its list, its category and its row. Raises DataError."""
        names = {number: row["name"] for number, row in self.numbered("categories", name=str).items()}
        for number, row in enumerate(self.rows("annotations", image_id=int, category_id=int)):
            if row["category_id"] not in names:
                raise DataError(f"{self.path}, annotations[{number}] has the unknown category id {row['category_id']}")
            yield number, names[row["category_id"]], row


def _check(where: str, row: Any, fields: Mapping[str, type]) -> None:
    if not isinstance(row, dict):
        raise DataError(f"{where} is no object, found {str(row)[:80]}")
    for name, kind in fields.items():
        if name not in row:
            raise DataError(f"{where}: {name!r} ({KINDS[kind]}) is missing, found {str(row)[:80]}")
        if type(row[name]) is not kind:
            was = f"{KINDS.get(type(row[name]), 'no such value')}, {json.dumps(row[name])[:80]}"
            raise DataError(f"{where}: {name!r} is {was}, but must be {KINDS[kind]}, as in every file of COCO")
        if kind is str and not is_whole(row[name]):
            raise DataError(f"{where}: {name!r} holds half a character (a lone surrogate), {row[name]!a}; fix it")
        if name in ("name", "file_name") and not row[name].strip():
            raise DataError(f"{where}: {name!r} is empty; fix it")
