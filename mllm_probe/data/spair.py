"""Pairs of pictures with keypoints on the same parts of an object: SPair-71k and PF-PASCAL. Knows no model.

SPair-71k (Min et al. 2019, arXiv 1908.10543), under its root: `PairAnnotation/SPLIT/ID-SOURCE-TARGET:CATEGORY.json`
(any other character in place of the colon, which some file systems refuse), `JPEGImages/CATEGORY/NAME`, and
`Layout/large/SPLIT.txt` with one pair a line, without which every JSON file of the split is a pair. The keypoints are
the pair file's own; image annotations are not needed.

PF-PASCAL (Ham et al. 2018): `SPLIT_pairs_pf_pascal.csv` or `SPLIT_pairs.csv`, also in a folder `image_pairs` in or
beside the root, with the columns source_image, target_image, class (1 to 20), XA, YA, XB, YB, coordinates joined by
semicolons; pictures by their path, or by their name under JPEGImages. This layout was read off programs that use it, no
original file was at hand; that its threshold is a share of the target picture's longer side is recalled.
"""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mllm_probe.data.pictures import inside, lacking
from mllm_probe.errors import DataError, choices

VOC = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
PF_COLUMNS = ("source_image", "target_image", "class", "XA", "YA", "XB", "YB")
ON_BAD_PAIR = ("stop", "skip")


@dataclass(frozen=True)
class View:
    """One side of a pair: the picture, its `size` (W, H) and the keypoints [K, 2] float64, x and y, all in pixels."""

    path: Path
    size: tuple[int, int]
    points: np.ndarray


@dataclass(frozen=True)
class Pair:
    """Keypoint k of the source shows the same part as keypoint k of the target; there is at least one.

    `extent`: what alpha is a share of, in pixels of the target.
    """

    name: str
    category: str
    source: View
    target: View
    extent: float


def read_pairs(root: Path, layout: str, split: str, on_bad_pair: str = "stop") -> tuple[list[Pair], list[str]]:
    """The pairs of a split by category and name, and a sentence for each that was left out (`on_bad_pair` skip).

    Raises DataError.
    """
    if layout not in LAYOUTS:
        raise DataError(f"pairs.layout={layout} is unknown; {choices(layout, LAYOUTS)}")
    if on_bad_pair not in ON_BAD_PAIR:
        raise DataError(f"pairs.on_bad_pair={on_bad_pair} is unknown; {choices(on_bad_pair, ON_BAD_PAIR)}")
    pairs: list[Pair] = []
    skipped: list[str] = []
    for read in LAYOUTS[layout](root, split):
        try:
            pairs.append(read())
        except DataError as error:
            if on_bad_pair == "stop":
                raise DataError(f"{error}; fix it, or leave such pairs out with pairs.on_bad_pair=skip") from error
            skipped.append(str(error))
    if not pairs:
        raise DataError(f"no usable pair is left in {root}, split {split} ({len(skipped)} skipped)")
    return sorted(pairs, key=lambda pair: (pair.category, pair.name)), skipped


def _spair(root: Path, split: str) -> Iterator[Callable[[], Pair]]:
    folder, listed = root / "PairAnnotation" / split, root / "Layout" / "large" / f"{split}.txt"
    if not folder.is_dir():
        raise DataError(f"no SPair-71k split {split} in {root}: {folder} is missing; name the folder in pairs.root")
    names = listed.read_text(encoding="utf-8").split() if listed.is_file() else None
    stems = sorted(path.stem for path in folder.glob("*.json")) if names is None else names
    for stem in stems:
        yield lambda stem=stem: _spair_pair(root, inside(folder, stem))  # type: ignore[misc]


def _spair_pair(root: Path, stem: Path) -> Pair:
    found = sorted(stem.parent.glob(f"{escape(stem.name).replace(':', '?')}.json"))
    if not found:
        raise DataError(f"the pair {stem.name} is listed for its split, but {stem}.json is missing")
    try:
        told = json.loads(found[0].read_text(encoding="utf-8"))
        sides = [_side(root, told, side) for side in ("src", "trg")]
        left, top, right, bottom = map(float, told["trg_bndbox"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{found[0]} is no pair annotation of SPair-71k ({type(error).__name__}: {error})") from error
    return _checked(Pair(stem.name, told["category"], sides[0], sides[1], max(right - left, bottom - top)))


def _side(root: Path, told: dict[str, Any], side: str) -> View:
    path = inside(root, f"JPEGImages/{told['category']}/{told[f'{side}_imname']}")
    width, height, *_ = told[f"{side}_imsize"]
    points = np.asarray(told[f"{side}_kps"], dtype=np.float64)
    return View(path, (width, height), points.reshape(len(points), 2))


def _pf_pascal(root: Path, split: str) -> Iterator[Callable[[], Pair]]:
    names = (f"{split}_pairs_pf_pascal.csv", f"{split}_pairs.csv")
    folders = (root, root / "image_pairs", root.absolute().parent / "image_pairs")
    table = next((folder / name for folder in folders for name in names if (folder / name).is_file()), None)
    if table is None:
        raise DataError(
            f"no PF-PASCAL split {split} in {root}: neither {names[0]} nor {names[1]} is there or in image_pairs"
        )
    with table.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    for number, row in enumerate(rows, start=2):
        yield lambda number=number, row=row: _pf_pair(root, f"{table.name}, line {number}", row)  # type: ignore[misc]


def _pf_pair(root: Path, name: str, row: dict[str, str]) -> Pair:
    try:
        category = VOC[int(float(row["class"])) - 1]
        ends = [(row[f"{side}_image"], row[f"X{a}"], row[f"Y{a}"]) for side, a in (("source", "A"), ("target", "B"))]
        sides = [_pf_side(root, name, picture, np.stack([_numbers(x), _numbers(y)], axis=1)) for picture, x, y in ends]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise DataError(
            f"{name} is no row of PF-PASCAL ({type(error).__name__}: {error}); its columns are {', '.join(PF_COLUMNS)}"
        ) from error
    return _checked(Pair(name, category, sides[0], sides[1], float(max(sides[1].size))))


def _numbers(text: str) -> np.ndarray:
    return np.asarray([float(part) for part in text.split(";") if part.strip()])


def _pf_side(root: Path, name: str, picture: str, points: np.ndarray) -> View:
    path = inside(root, picture)
    path = path if path.is_file() else inside(root, f"JPEGImages/{Path(picture).name}")
    return View(path, _size(name, path), points)


def _size(name: str, path: Path) -> tuple[int, int]:
    if said := lacking(path):
        raise DataError(f"pair {name}: {path} {said}")
    try:
        with Image.open(path) as image:
            return image.size
    except Exception as error:  # Pillow raises anything here
        raise DataError(f"pair {name}: {path} cannot be read ({error})") from error


def _checked(pair: Pair) -> Pair:
    """Raises DataError for what would give a wrong score in silence."""
    sides = (pair.source, pair.target)
    if len(pair.source.points) != len(pair.target.points) or not len(pair.source.points):
        counts = f"{len(pair.source.points)} and {len(pair.target.points)}"
        raise DataError(
            f"pair {pair.name}: its sides have {counts} keypoints, and must have equal numbers, at least one"
        )
    if not pair.extent > 0:
        raise DataError(f"pair {pair.name}: the target's box has no side above 0 pixels")
    for side in sides:
        if (size := _size(pair.name, side.path)) != side.size:
            raise DataError(
                f"pair {pair.name}: {side.path} is {size[0]} x {size[1]} pixels and was annotated at "
                f"{side.size[0]} x {side.size[1]}, so its keypoints do not match"
            )
        _check_inside(pair.name, side)
    return pair


def _check_inside(name: str, side: View) -> None:
    outside = side.points[((side.points < 0) | (side.points > side.size)).any(axis=1)]
    if len(outside):
        x, y = outside[0]
        raise DataError(
            f"pair {name}: the keypoint ({x:g}, {y:g}) is outside {side.path.name}, which is "
            f"{side.size[0]} x {side.size[1]} pixels"
        )


LAYOUTS: dict[str, Callable[[Path, str], Iterator[Callable[[], Pair]]]] = {"spair": _spair, "pf_pascal": _pf_pascal}
