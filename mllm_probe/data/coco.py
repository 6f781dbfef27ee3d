"""Pictures, captions and object categories in the layout of MS COCO. Knows no task, no prompt and no model.

Accepted under `root`: `captions.json` + `instances.json` + `images/`, or the official `annotations/captions_SPLIT.json`
+ `annotations/instances_SPLIT.json` + `SPLIT/`. Crowd regions (RLE) count as presence: the category is in the picture.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from mllm_probe.data.pictures import check_decodes, inside
from mllm_probe.digests import Digests
from mllm_probe.errors import DataError, MllmProbeError, choices
from mllm_probe.types import Collection, Picture

BAD_ROW = ("stop", "skip")


@dataclass(frozen=True)
class Selection:
    """Which pictures are taken: `n` of them (None = all), drawn with `seed`; `on_bad_row` is `stop` or `skip`."""

    n: int | None = None
    seed: int = 0
    on_bad_row: str = "stop"

    def __post_init__(self) -> None:
        if self.on_bad_row not in BAD_ROW:
            raise DataError(f"data.on_bad_row={self.on_bad_row} is unknown; {choices(self.on_bad_row, BAD_ROW)}")
        if self.n is not None and self.n < 1:
            raise DataError(f"data.n={self.n} selects no picture; give a number from 1, or null for all")


@dataclass(frozen=True)
class Coco:
    """COCO, or anything written like it. `split` names official files, for example val2017."""

    root: str | None = None
    split: str = "val2017"
    name: str = "coco"

    def load(self, outputs: Path, selection: Selection, digests: Digests) -> Collection:
        """Read the annotations and check the selected pictures. Raises DataError."""
        if not self.root:
            raise DataError(
                "dataset=coco needs dataset.root=FOLDER, the folder that holds the annotations and pictures"
            )
        return read_coco(Layout.find(Path(self.root), self.split), self.name, selection, digests)


@dataclass(frozen=True)
class Layout:
    """Where the files of one COCO folder are."""

    captions: Path
    instances: Path
    images: Path

    @classmethod
    def find(cls, root: Path, split: str) -> "Layout":
        flat = cls(root / "captions.json", root / "instances.json", root / "images")
        official = root / "annotations"
        nested = cls(official / f"captions_{split}.json", official / f"instances_{split}.json", root / split)
        for layout in (flat, nested):
            if layout.captions.is_file():
                return layout
        raise DataError(f"no COCO annotations in {root}: neither {flat.captions.name} nor {nested.captions} is there")


def read_coco(layout: Layout, name: str, selection: Selection, digests: Digests) -> Collection:
    """The selected pictures in the order of their ids, captions and categories attached."""
    records = _load(layout.captions, ("images", "annotations"))
    captions = _captions(records, layout.captions)
    present, categories = _presence(layout.instances)
    images = sorted(records["images"], key=lambda record: record["id"])
    if selection.n is not None:
        images = sorted(Random(f"select/{selection.seed}").sample(images, min(selection.n, len(images))), key=_id)
    pictures, skipped = [], []
    for record in images:
        try:
            path = _checked(layout, record, digests)
        except MllmProbeError as error:
            if selection.on_bad_row == "stop":
                raise DataError(f"{error}, or on_bad_row: data.on_bad_row=skip leaves such rows out") from error
            skipped.append(str(error))
            continue
        said = tuple(captions[record["id"]])
        picture = Picture(str(record["id"]), path, digests.of(path, check_decodes), said, present.get(record["id"]))
        pictures.append(picture)
    if not pictures:
        raise DataError(f"no usable picture is left in {layout.captions.parent} ({len(skipped)} skipped)")
    return Collection(name, tuple(pictures), categories, _not_said, tuple(skipped))


def _id(record: Mapping[str, Any]) -> int:
    return int(record["id"])


def _checked(layout: Layout, record: Mapping[str, Any], digests: Digests) -> Path:
    row = f"{layout.captions.name}, picture id {record['id']}"
    path = inside(layout.images, record["file_name"])
    if not path.is_file():
        raise DataError(f"{row}: {path} is missing; put the file there")
    try:
        digests.of(path, check_decodes)
    except DataError as error:
        raise DataError(f"{row}: {error}; replace the file") from error
    return path


def _load(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not JSON ({error}); a COCO annotation file is expected") from error
    missing = [key for key in keys if not isinstance(records, dict) or not isinstance(records.get(key), list)]
    if missing:
        raise DataError(f"{path} is not a COCO annotation file: the list {missing[0]!r} is missing at its top level")
    return records


def _captions(records: Mapping[str, Any], path: Path) -> Mapping[int, list[str]]:
    """Captions by picture id, whitespace (newlines too) folded to single blanks, repeats dropped, order kept."""
    found: dict[int, list[str]] = defaultdict(list)
    for row, record in enumerate(records["annotations"]):
        if not isinstance(record.get("caption"), str) or "image_id" not in record:
            raise DataError(f"{path}, annotations[{row}] is no caption: 'image_id' and 'caption' are expected")
        text = " ".join(record["caption"].split())
        if text and text not in found[record["image_id"]]:
            found[record["image_id"]].append(text)
    return found


def _presence(path: Path) -> tuple[dict[int, frozenset[str]], tuple[str, ...]]:
    """{picture id: categories in it} for every picture that was annotated, and all category names."""
    if not path.is_file():
        return {}, ()
    records = _load(path, ("images", "annotations", "categories"))
    names = {category["id"]: category["name"] for category in records["categories"]}
    found: dict[int, set[str]] = {image["id"]: set() for image in records["images"]}
    for row, record in enumerate(records["annotations"]):
        if record.get("category_id") not in names:
            raise DataError(f"{path}, annotations[{row}] has the unknown category id {record.get('category_id')}")
        found.setdefault(record["image_id"], set()).add(names[record["category_id"]])
    return {image: frozenset(seen) for image, seen in found.items()}, tuple(sorted(set(names.values())))


def _not_said(picture: Picture, caption: str) -> bool:
    """A caption of another picture counts as false unless the very same words were written about this one."""
    spoken = caption.casefold().rstrip(". ")
    return all(spoken != own.casefold().rstrip(". ") for own in picture.captions)
