"""Pictures, captions and object categories in the layout of MS COCO. Knows no task, no prompt and no model.

Accepted under `root`: `captions.json` + `instances.json` + `images/`, or the official `annotations/captions_SPLIT.json`
+ `annotations/instances_SPLIT.json` + `SPLIT/`. Crowd regions (RLE) count as presence: the category is in the picture,
and how often it is there is not known.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, ClassVar

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
    name: ClassVar[str] = "coco"

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
    captions, seen, categories = _captions(layout.captions), *_objects(layout.instances)
    licences = _licences(layout.captions)
    images = sorted(_rows(layout.captions, "images", {"id": int, "file_name": str}), key=_id)
    if selection.n is not None:
        images = sorted(Random(f"select/{selection.seed}").sample(images, min(selection.n, len(images))), key=_id)
    pictures: dict[str, Picture] = {}
    skipped: list[str] = []
    for record in images:
        try:
            path, content = _checked(layout, record, digests)
        except MllmProbeError as error:
            if selection.on_bad_row == "stop":
                raise DataError(f"{error}, or leave such rows out with data.on_bad_row=skip") from error
            skipped.append(str(error))
            continue
        number = record["id"]
        said, (named, counts) = tuple(captions.get(number, ())), seen.get(number, (None, None))
        licence = _licence(record, licences)
        picture = Picture(str(number), path, content, said, named, counts, licence=licence)
        pictures[content] = _merged(pictures[content], picture) if content in pictures else picture
    if not pictures:
        raise DataError(f"no usable picture is left in {layout.captions.parent} ({len(skipped)} skipped)")
    return Collection(name, tuple(pictures.values()), categories, _not_said, tuple(skipped))


def _id(record: Mapping[str, Any]) -> int:
    return int(record["id"])


def _merged(first: Picture, twin: Picture) -> Picture:
    """Two records of the same bytes are one picture, with all that was said about either."""
    known = [picture for picture in (first, twin) if picture.categories is not None]
    captions = tuple(dict.fromkeys(first.captions + twin.captions))
    if len(known) < 2:
        return replace(known[0] if known else first, id=first.id, path=first.path, captions=captions)
    crowds = {c for picture in known for c in picture.categories or () if c not in (picture.counts or {})}
    named = frozenset().union(*(picture.categories or () for picture in known))
    counts = {c: max((picture.counts or {}).get(c, 0) for picture in known) for c in named - crowds}
    return replace(first, captions=captions, categories=named, counts=counts)


def _checked(layout: Layout, record: Mapping[str, Any], digests: Digests) -> tuple[Path, str]:
    """The picture's file and its digest. Raises DataError naming the row."""
    row = f"{layout.captions.name}, picture id {record['id']}"
    path = inside(layout.images, record["file_name"])
    if not path.is_file():
        raise DataError(f"{row}: {path} is missing; put the file there")
    try:
        return path, digests.of(path, check_decodes)
    except DataError as error:
        raise DataError(f"{row}: {error}; replace the file") from error


def _rows(path: Path, key: str, fields: Mapping[str, type]) -> list[dict[str, Any]]:
    """One list of an annotation file, each row checked to hold these fields. Raises DataError naming the row."""
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not JSON ({error}); a COCO annotation file is expected") from error
    rows = records.get(key) if isinstance(records, dict) else None
    if not isinstance(rows, list):
        raise DataError(f"{path} is not a COCO annotation file: the list {key!r} is missing at its top level")
    for number, row in enumerate(rows):
        for name, kind in fields.items():
            if not isinstance(row, dict) or not isinstance(row.get(name), kind):
                raise DataError(
                    f"{path}, {key}[{number}]: {name!r} ({kind.__name__}) is missing, found {str(row)[:80]}"
                )
    return rows


def _licences(path: Path) -> Mapping[str, str]:
    """{licence id: its name and address}; files without them are common."""
    found = json.loads(path.read_text(encoding="utf-8")).get("licenses")
    rows = [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
    return {str(row.get("id")): f"{row.get('name', '')} ({row.get('url', '')})" for row in rows}


def _licence(record: Mapping[str, Any], licences: Mapping[str, str]) -> str:
    """What may be shown beside the picture: its licence, and where it is from."""
    known = licences.get(str(record.get("license")))
    return f"{known}, from {record.get('flickr_url') or record['file_name']}" if known else ""


def _captions(path: Path) -> Mapping[int, list[str]]:
    """Captions by picture id, whitespace (newlines too) folded to single blanks, repeats dropped, order kept."""
    found: dict[int, list[str]] = defaultdict(list)
    for record in _rows(path, "annotations", {"image_id": int, "caption": str}):
        text = " ".join(record["caption"].split())
        if text and text not in found[record["image_id"]]:
            found[record["image_id"]].append(text)
    return found


def _objects(path: Path) -> tuple[dict[int, tuple[frozenset[str], dict[str, int]]], tuple[str, ...]]:
    """{picture id: its categories, and the instances of those without a crowd} where annotated; all category names."""
    if not path.is_file():
        return {}, ()
    names = {row["id"]: row["name"] for row in _rows(path, "categories", {"id": int, "name": str})}
    found: dict[int, Counter[str]] = {row["id"]: Counter() for row in _rows(path, "images", {"id": int})}
    crowds: set[tuple[int, str]] = set()
    for number, record in enumerate(_rows(path, "annotations", {"image_id": int, "category_id": int})):
        image, category = record["image_id"], record["category_id"]
        if category not in names:
            raise DataError(f"{path}, annotations[{number}] has the unknown category id {category}")
        found.setdefault(image, Counter())[names[category]] += 1
        if record.get("iscrowd"):
            crowds.add((image, names[category]))
    seen = {
        image: (frozenset(counts), {name: n for name, n in counts.items() if (image, name) not in crowds})
        for image, counts in found.items()
    }
    return seen, tuple(sorted(set(names.values())))


def _not_said(picture: Picture, caption: str) -> bool:
    """A caption of another picture counts as false unless the very same words were written about this one."""
    spoken = caption.casefold().rstrip(". ")
    return all(spoken != own.casefold().rstrip(". ") for own in picture.captions)
