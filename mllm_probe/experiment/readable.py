"""Pictures that the model's processor refuses, found before a task makes samples of them. Loads no weight."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mllm_probe.data.pictures import size_of
from mllm_probe.errors import DataError
from mllm_probe.records.samples import Collection

if TYPE_CHECKING:
    from mllm_probe.models.blueprint import Blueprint

SHORT, LONG = 28, 50  # a shorter side in pixels or a greater share of the sides is tried: processors refuse by size


def readable(collection: Collection, on_bad_row: str, made: Callable[[], "Blueprint"]) -> Collection:
    """The collection without the pictures that cannot be read, where those are left out. Raises DataError elsewhere.

    Only odd sizes are tried, each once, so that most runs need no `Blueprint` for this.
    """
    paths: dict[tuple[int, int], Path] = {}
    size_by = {picture.digest: size_of(picture.path) for picture in collection.pictures}
    for picture in collection.pictures:
        paths.setdefault(size_by[picture.digest], picture.path)
    blueprint = cache(made)
    refused = {size: why for size, path in paths.items() if _is_odd(size) and (why := blueprint().refusal(path))}
    if not refused:
        return collection
    left_out = [picture for picture in collection.pictures if size_by[picture.digest] in refused]
    told = []
    for picture in left_out:
        width, height = size_by[picture.digest]
        why = refused[width, height]
        told.append(f"picture {picture.id}: the model's processor refuses its {width} x {height} pixels ({why})")
    if on_bad_row == "stop":
        raise DataError(f"{told[0]}; cut it, or leave such pictures out with data.on_bad_row=skip")
    gone = {picture.digest for picture in left_out}
    pictures = tuple(picture for picture in collection.pictures if picture.digest not in gone)
    if not pictures:
        raise DataError(f"no usable picture is left: {told[0]}")
    rows = tuple(row for row in collection.rows if row.picture.digest not in gone)
    return replace(collection, pictures=pictures, rows=rows, skipped=(*collection.skipped, *told))


def _is_odd(size: tuple[int, int]) -> bool:
    return min(size) < SHORT or max(size) > LONG * min(size)
