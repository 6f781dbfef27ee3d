"""Pictures, captions and object categories in the layout of MS COCO. Knows no task, no prompt and no model.

Accepted under `root`: `captions.json` + `instances.json` + `images/`, or the official `annotations/captions_SPLIT.json`
+ `annotations/instances_SPLIT.json` + `SPLIT/`. Crowd regions (RLE) count as presence: the category is in the picture,
and how often it is there is not known.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

from mllm_probe.data.annotations import Annotations
from mllm_probe.data.pictures import FOLLOW, LINKS, LOOKERS, MISSING, ahead, lacking, look_at, named_file
from mllm_probe.errors import DataError, MllmProbeError, choices
from mllm_probe.files.digests import Digests
from mllm_probe.records.samples import Collection, Picture

if TYPE_CHECKING:
    import numpy as np

    from mllm_probe.data.masks import Segmentations

BAD_ROW = ("stop", "skip")


@dataclass(frozen=True)
class Selection:
    """Which pictures are taken: `n` of them (None = all), drawn with `seed`; `on_bad_row` is `stop` or `skip`, `links`
    to files elsewhere are `follow`ed or `refuse`d."""

    n: int | None = None
    seed: int = 0
    on_bad_row: str = "stop"
    links: str = FOLLOW

    def __post_init__(self) -> None:
        for name, allowed in (("on_bad_row", BAD_ROW), ("links", LINKS)):
            if (value := getattr(self, name)) not in allowed:
                raise DataError(f"data.{name}={value} is unknown; {choices(value, allowed)}")
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
        for layout in (flat, nested):
            if layout.instances.is_file():
                return layout
        raise DataError(
            f"no COCO annotations in {root}: neither {flat.captions.name} nor {nested.captions} is there, and no "
            "instances there"
        )

    @property
    def listed(self) -> Path:
        """The file whose pictures are read: objects may be annotated where nobody wrote captions."""
        return self.captions if self.captions.is_file() else self.instances


def read_coco(layout: Layout, name: str, selection: Selection, digests: Digests) -> Collection:
    """The selected pictures in the order of their ids, captions and categories attached."""
    listed = Annotations.read(layout.listed).numbered("images", file_name=str)
    captions, (seen, categories) = _captions(layout.captions), _objects(layout.instances, listed)
    licences = _licences(layout.listed)
    images = sorted(listed.values(), key=_id)
    if selection.n is not None:
        images = sorted(Random(f"select/{selection.seed}").sample(images, min(selection.n, len(images))), key=_id)
    pictures: dict[str, Picture] = {}
    ids: dict[str, list[int]] = defaultdict(list)
    skipped: list[str] = []
    for record, seen_as in ahead(images, lambda one: _checked(layout, one, selection.links, digests), LOOKERS):
        if isinstance(seen_as, MllmProbeError):
            if selection.on_bad_row == "stop":
                raise DataError(f"{seen_as}, or leave such rows out with data.on_bad_row=skip") from seen_as
            skipped.append(str(seen_as))
            continue
        path, content = seen_as
        number = record["id"]
        said, (named, counts) = tuple(captions.get(number, ())), seen.get(number, (None, None))
        licence = _licence(record, licences)
        picture = Picture(str(number), path, content, said, named, counts, licence=licence)
        ids[content].append(number)
        pictures[content] = _merged(pictures[content], picture) if content in pictures else picture
    if not pictures:
        raise DataError(f"no usable picture is left in {layout.listed.parent} ({len(skipped)} skipped)")
    masks = None if lacking(layout.instances) == MISSING else _masks(layout.instances, name, ids)
    return Collection(name, tuple(pictures.values()), categories, _not_said, tuple(skipped), masks=masks)


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


def _checked(
    layout: Layout, record: Mapping[str, Any], links: str, digests: Digests
) -> tuple[Path, str] | MllmProbeError:
    """The picture's file and its digest, or what is wrong with it, naming the row."""
    try:
        path = named_file(layout.images, record["file_name"], links)
        return path, look_at(path, digests)
    except DataError as error:
        return DataError(f"{layout.listed.name}, picture id {record['id']}: {error}")
    except MllmProbeError as error:
        return error


def _licences(path: Path) -> Mapping[str, str]:
    """{licence id: its name and address}; files without them are common."""
    found = Annotations.read(path).lists.get("licenses")
    rows = [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
    return {str(row.get("id")): f"{row.get('name', '')} ({row.get('url', '')})" for row in rows}


def _licence(record: Mapping[str, Any], licences: Mapping[str, str]) -> str:
    """What may be shown beside the picture: its licence, and where it is from."""
    known = licences.get(str(record.get("license")))
    return f"{known}, from {record.get('flickr_url') or record['file_name']}" if known else ""


def _captions(path: Path) -> Mapping[int, list[str]]:
    """Captions by picture id, whitespace (newlines too) folded to single blanks, repeats dropped, order kept."""
    found: dict[int, list[str]] = defaultdict(list)
    if lacking(path) == MISSING:
        return found
    for record in Annotations.read(path).rows("annotations", image_id=int, caption=str):
        text = " ".join(record["caption"].split())
        if text and text not in found[record["image_id"]]:
            found[record["image_id"]].append(text)
    return found


def _objects(
    path: Path, listed: Mapping[int, Mapping[str, Any]]
) -> tuple[dict[int, tuple[frozenset[str], dict[str, int]]], tuple[str, ...]]:
    """{picture id: its categories, and the instances of those without a crowd} where annotated; all category names."""
    if lacking(path) == MISSING:
        return {}, ()
    annotations = Annotations.read(path)
    annotated = annotations.numbered("images")
    _check_same(path, annotated, listed)
    found: dict[int, Counter[str]] = {number: Counter() for number in annotated}
    crowds: set[tuple[int, str]] = set()
    for _, category, record in annotations.objects():
        found.setdefault(record["image_id"], Counter())[category] += 1
        if record.get("iscrowd"):
            crowds.add((record["image_id"], category))
    seen = {
        image: (frozenset(counts), {name: n for name, n in counts.items() if (image, name) not in crowds})
        for image, counts in found.items()
    }
    names = {row["name"] for row in annotations.numbered("categories", name=str).values()}
    return seen, tuple(sorted(names))


def _check_same(
    path: Path, annotated: Mapping[int, Mapping[str, Any]], listed: Mapping[int, Mapping[str, Any]]
) -> None:
    """Whether an id is one picture in both files; a name may have more before it, as it has in COCO 2014."""
    for number in annotated.keys() & listed.keys():
        mine, its = (str(row.get("file_name", "")) for row in (annotated[number], listed[number]))
        stems = (Path(mine).stem, Path(its).stem)
        if not stems[0].endswith(stems[1]) and not stems[1].endswith(stems[0]):
            raise DataError(
                f"{path}: the picture of the id {number} is {mine!r}, and {its!r} in the file of captions; use two "
                "files about the same pictures"
            )


def _masks(path: Path, name: str, ids: Mapping[str, Sequence[int]]) -> Callable[[Picture], Mapping[str, "np.ndarray"]]:
    """Of the pictures whose records have these ids, by digest. The file is read once more, when the first masks are
    asked for: few tasks need them, and all segmentations of a large data set are gigabytes."""

    @cache
    def read() -> "Segmentations":
        from mllm_probe.data.masks import Segmentations

        return Segmentations.read(path, name, ids)

    return lambda picture: read().masks(picture)


def _not_said(picture: Picture, caption: str) -> bool:
    """A caption of another picture counts as false unless the very same words were written about this one."""
    spoken = caption.casefold().rstrip(". ")
    return all(spoken != own.casefold().rstrip(". ") for own in picture.captions)
