"""grids.json: what the probe of each layer sees at every token of some test pictures, or where statements about them
look, to be looked at.

Numbers of a token are one byte each, in base64: there may be a million of them.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mllm_probe.files.readback import damaged
from mllm_probe.files.seals import check_entries, read_object
from mllm_probe.files.store_paths import replacing
from mllm_probe.results.examples import Seen

SAID = 128  # of a byte, from which on a category is said to cover a token
KINDS: dict[str, Any] = {"sites": [str], "folder": str, "pictures": [dict]}


@dataclass(frozen=True)
class PictureGrid:
    """One picture of T tokens: `cells` are left, top, right, bottom of each in shares of its sides, `views` the looks
    at it. `covered` {category, or text of a statement: base64 of T bytes}: 255 times the share of the cell that it, or
    its object, covers, 0 everywhere if it is not in the picture, without an entry where that is not known. `said` {the
    same: for each way and in it for each site base64 of T bytes}: of a probe SAID and more where it says that the
    category covers the token, 255 the surest; of attention 255 for the token that gets most."""

    picture: Seen
    cells: tuple[tuple[float, float, float, float], ...]
    views: tuple[int, ...]
    covered: Mapping[str, str]
    said: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class RegionGrids:
    """`sites` in the order the data passes them; paths of pictures begin at `folder`. `ways` are what is looked at one
    after the other, such as maps of several tokens; a byte counts as said from `yes` on."""

    sites: tuple[str, ...]
    folder: str
    pictures: tuple[PictureGrid, ...]
    ways: tuple[str, ...] = ("",)
    yes: int = SAID


def as_bytes(values: np.ndarray) -> str:
    """[T] uint8 in base64."""
    return b64encode(values.astype(np.uint8).tobytes()).decode()


def as_numbers(text: str) -> np.ndarray:
    """[T] uint8 again."""
    return np.frombuffer(b64decode(text), np.uint8)


def save_grids(path: Path, grids: RegionGrids) -> None:
    with replacing(path) as part:
        part.write_text(json.dumps(asdict(grids)))


def load_grids(path: Path) -> RegionGrids | None:
    """None where a run left none. Raises DataError where the file is damaged."""
    if not path.is_file():
        return None
    try:
        found = read_object(path)
        check_entries(found, KINDS)
        pictures, more = (
            tuple(map(_picture, found["pictures"])),
            (tuple(found.get("ways", ("",))), found.get("yes", SAID)),
        )
        return RegionGrids(tuple(found["sites"]), found["folder"], pictures, *more)
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(path, error) from error


def _picture(entry: Mapping[str, Any]) -> PictureGrid:
    said = {name: tuple(each) for name, each in entry["said"].items()}
    cells: Sequence[Sequence[float]] = entry["cells"]
    picture = Seen(**entry["picture"])
    return PictureGrid(picture, tuple(map(tuple, cells)), tuple(entry["views"]), entry["covered"], said)  # type: ignore[arg-type]
