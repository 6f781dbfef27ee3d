"""Segmentations as COCO writes them, as masks on the pixels of their pictures: polygons, and runs of pixels (RLE).

A corner of a polygon is a place, so the middle of the pixel in row i and column j is at x = j + 0.5, y = i + 0.5; a
pixel is covered where its middle is. Runs go down one column after the other, and the first is not covered. Knows no
task.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mllm_probe.data.annotations import Annotations
from mllm_probe.data.pictures import size_of
from mllm_probe.errors import DataError
from mllm_probe.records.samples import Picture

FAR = 1e6  # pixels; a corner that is farther away is a mistake
FORMS = "polygons ([[x, y, x, y, ...], ...]) or RLE ({'size': [height, width], 'counts': ...})"
ZERO, BITS, MORE, SIGN = ord("0"), 5, 0x20, 0x10  # of COCO's text for runs: the first letter; what a letter's bits are
Size = tuple[int, int]  # width and height in pixels


@dataclass(frozen=True, slots=True)
class Polygons:
    """The union of `rings`, each [K, 2] float64: x and y of its K > 2 corners in pixels, inside the picture or not."""

    rings: tuple[np.ndarray, ...]
    size: None = None

    def over(self, size: Size) -> np.ndarray:
        """The mask [H, W] bool for a picture of that size."""
        mask = np.zeros(size[::-1], dtype=bool)
        for ring in self.rings:
            left, top = np.clip(np.floor(ring.min(0)), 0, size).astype(int)
            right, bottom = np.clip(np.ceil(ring.max(0)), 0, size).astype(int)
            mask[top:bottom, left:right] |= _filled(ring - (left, top), right - left, bottom - top)
        return mask


@dataclass(frozen=True, slots=True)
class Runs:
    """Lengths `counts` [R] int64 of runs of pixels, which fill a picture of this size."""

    counts: np.ndarray
    size: Size

    def over(self, size: Size) -> np.ndarray:
        """The mask [H, W] bool for a picture of that size, which is the runs' own."""
        width, height = size
        return np.repeat(np.arange(len(self.counts)) % 2 == 1, self.counts).reshape(width, height).T


Outline = Polygons | Runs


@dataclass(frozen=True)
class Segmentations:
    """What one annotation file, `path`, says of the selected pictures.

    `ids` are the records of a picture by its digest, `sizes` those that the file gives, `outlines` the objects of a
    record: where each stands in the file, its category and its outline.
    """

    path: Path
    ids: Mapping[str, Sequence[int]]
    sizes: Mapping[int, Size]
    outlines: Mapping[int, Sequence[tuple[int, str, Outline]]]

    @classmethod
    def read(cls, path: Path, dataset: str, ids: Mapping[str, Sequence[int]]) -> "Segmentations":
        """Raises DataError, also where a segmentation of the selected pictures cannot be read."""
        annotations, wanted = Annotations.read(path), {one for same in ids.values() for one in same}
        rows = annotations.rows("annotations")
        if rows and not any(row.get("segmentation") for row in rows):
            raise DataError(
                f"dataset={dataset} has no masks: no annotation in {path} has a 'segmentation', and task=regions and "
                f"edges of objects need one in each, {FORMS}; a bounding box alone is no mask"
            )
        outlines: dict[int, list[tuple[int, str, Outline]]] = defaultdict(list)
        for number, category, row in annotations.objects():
            if row["image_id"] in wanted:
                outlines[row["image_id"]].append((number, category, _outline_at(path, number, row)))
        images = annotations.numbered("images").values()
        sizes = {row["id"]: (row["width"], row["height"]) for row in images if {"width", "height"} <= row.keys()}
        return cls(path, ids, {one: size for one, size in sizes.items() if one in wanted}, outlines)

    def masks(self, picture: Picture) -> dict[str, np.ndarray]:
        """{category: mask [H, W] bool} at the pixels of the picture as `open_rgb` shows it: the union of its objects,
        crowds too, of all records of equal pictures; a category too thin for any pixel has an empty mask.

        Raises DataError where the file is about a picture of another size.
        """
        size, found = size_of(picture.path), dict[str, np.ndarray]()
        for one in self.ids[picture.digest]:
            self._check(size, self.sizes.get(one), f"picture id {one}")
            for number, category, outline in self.outlines.get(one, ()):
                self._check(size, outline.size, f"annotations[{number}], picture id {one}")
                mask = outline.over(size)
                found[category] = found[category] | mask if category in found else mask
        return found

    def _check(self, size: Size, said: Size | None, where: str) -> None:
        if said is not None and said != size:
            raise DataError(
                f"{self.path}, {where}: mask of {said[0]} x {said[1]} for a picture of {size[0]} x {size[1]}; "
                "annotate the file that is there, turned as its EXIF orientation says"
            )


def _outline_at(path: Path, number: int, row: Mapping[str, Any]) -> Outline:
    try:
        return _outline(row.get("segmentation"))
    except DataError as error:
        raise DataError(f"{path}, annotations[{number}], picture id {row['image_id']}: {error}") from error


def _outline(found: Any) -> Outline:
    """Raises DataError."""
    if not found:
        raise DataError(f"'segmentation' is missing; give {FORMS}")
    if isinstance(found, list):
        return Polygons(tuple(_ring(one) for one in found))
    if isinstance(found, dict):
        return _runs(found.get("size"), found.get("counts"))
    raise DataError(f"'segmentation' is neither polygon nor RLE, found {str(found)[:80]}; give {FORMS}")


def _ring(found: Any) -> np.ndarray:
    if not isinstance(found, list) or not {type(one) for one in found} <= {int, float}:
        raise DataError(f"'segmentation' is neither polygon nor RLE, found {str(found)[:80]}; give {FORMS}")
    if len(found) % 2 or len(found) < 6:
        raise DataError(f"a polygon of {len(found)} numbers; give x and y of each of its corners, 3 or more")
    if far := [one for one in found if not abs(one) <= FAR]:
        raise DataError(f"a polygon with a corner at {str(far[0])[:20]}; give pixels of the picture")
    return np.array(found, float).reshape(-1, 2)


def _filled(ring: np.ndarray, width: int, height: int) -> np.ndarray:
    """[height, width] bool: the pixels that have their middle in the polygon `ring` [K, 2]: an odd number of its edges
    cross the line through the middles of their row before it."""
    (x, y), (to_x, to_y) = ring.T, np.roll(ring, -1, axis=0).T
    first, behind = (np.clip(np.ceil(end(y, to_y) - 0.5), 0, height).astype(int) for end in (np.minimum, np.maximum))
    crossed = behind - first  # rows, by edge
    edge = np.repeat(np.arange(len(ring)), crossed)
    row = np.arange(len(edge)) + np.repeat(behind - crossed.cumsum(), crossed)
    at = x[edge] + (row + 0.5 - y[edge]) * ((to_x - x)[edge] / (to_y - y)[edge])
    column = np.clip(np.ceil(at - 0.5), 0, width).astype(int)
    crossings = np.bincount(row * (width + 1) + column, minlength=height * (width + 1)).reshape(height, width + 1)
    return crossings[:, :width].cumsum(1) % 2 == 1


def _runs(size: Any, counts: Any) -> Runs:
    if (
        not isinstance(size, list)
        or [type(one) for one in size] != [int, int]
        or not 1 <= min(size) <= max(size) <= FAR
    ):
        raise DataError(f"RLE with the size {str(size)[:80]}; give [height, width] in pixels")
    height, width = size
    lengths = _decoded(counts) if isinstance(counts, str) else counts
    if not isinstance(lengths, list) or not {type(one) for one in lengths} <= {int}:
        raise DataError(f"RLE with the counts {str(counts)[:80]}; give a list of whole numbers, or COCO's text for one")
    if min(lengths, default=0) < 0:
        raise DataError(f"RLE with a run of {min(lengths)} pixels; write its counts again")
    if sum(lengths) != height * width:
        raise DataError(
            f"RLE counts that do not add up: {sum(lengths)} pixels, and {width} x {height} are {height * width}; write "
            "them again"
        )
    return Runs(np.array(lengths, np.int64), (width, height))


def _decoded(text: str) -> list[int] | None:
    """The lengths that COCO's text stands for; None where it stands for none.

    A letter holds 5 bits, the lowest first, and whether more follow; the last one's highest bit is the sign. From the
    fourth length on it is the difference to the one before the last (rleToString in maskApi.c of pycocotools).
    """
    lengths: list[int] = []
    value = shift = 0
    for letter in text:
        code = ord(letter) - ZERO
        if not 0 <= code < 2 * MORE:
            return None
        value |= (code & (MORE - 1)) << shift
        shift += BITS
        if not code & MORE:
            value -= (1 << shift) if code & SIGN else 0
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    return None if shift else lengths
