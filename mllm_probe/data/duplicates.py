"""Pictures that look the same: they stay on one side of a split. Knows no labels and no splits.

A perceptual hash (pHash: the signs of the 64 lowest DCT coefficients of the grey picture) proposes pairs. It is blind
to colour and to small shapes, so a thumbnail in colour confirms each pair: a photograph that was resized, recompressed
or shifted by a pixel is found, and two drawn scenes that differ in one shape are two pictures.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from PIL.Image import Resampling

from mllm_probe.data.pictures import hash_of, open_rgb
from mllm_probe.files.digests import Digests
from mllm_probe.records.samples import Picture

BITS = 6  # hashes this far apart are looked at
SIDE = 16  # of a thumbnail, in pixels
MEAN, LARGEST = 6.0, 32  # grey levels that two thumbnails may differ by, on average and anywhere
BLOCK, PAIRS = 256, 1 << 16  # rows compared at once, pairs confirmed at once


def grouped(pictures: Sequence[Picture], digests: Digests) -> tuple[Picture, ...]:
    """The pictures, those that look the same in one `group`; groups given before are joined whole, never taken
    apart."""
    return regrouped(pictures, alike(pictures, digests))


def alike(pictures: Sequence[Picture], digests: Digests) -> list[tuple[str, str]]:
    """The digests of each two that look the same.

    Hashes are remembered in `digests`, so only the first run opens every picture.
    """
    hashes = np.array([hash_of(picture.path, digests) for picture in pictures], np.uint64)
    found = look_alikes(hashes, [picture.path for picture in pictures])
    return [(pictures[i].digest, pictures[j].digest) for i, j in found]


def regrouped(pictures: Sequence[Picture], pairs: Iterable[tuple[str, str]]) -> tuple[Picture, ...]:
    """The pictures with the groups of each pair of digests as one, where both are among them."""
    group_of: dict[str, str] = {}
    for picture in pictures:
        group_of.setdefault(picture.digest, picture.group)
    same = [(group_of[picture.digest], picture.group) for picture in pictures]
    known = [(group_of[one], group_of[other]) for one, other in pairs if one in group_of and other in group_of]
    name = joined((picture.group for picture in pictures), (*same, *known))
    return tuple(replace(picture, group=name[picture.group]) for picture in pictures)


def look_alikes(hashes: np.ndarray, paths: Sequence[Path]) -> Iterator[tuple[int, int]]:
    """Pairs i < j with hashes [N] at most BITS apart and thumbnails at most MEAN and LARGEST apart."""
    thumbnail = cache(lambda i: _thumbnail(paths[i]))
    for first, second in _candidates(hashes):
        for start in range(0, len(first), PAIRS):
            i, j = first[start : start + PAIRS], second[start : start + PAIRS]
            gap = np.abs(np.stack([thumbnail(k) for k in i]) - np.stack([thumbnail(k) for k in j]))
            same = (gap.mean(1) <= MEAN) & (gap.max(1) <= LARGEST)
            yield from zip(i[same].tolist(), j[same].tolist(), strict=True)


def _candidates(hashes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs i < j of close hashes, a block of rows at a time."""
    for start in range(0, len(hashes), BLOCK):
        rows = hashes[start : start + BLOCK, None]
        close = np.bitwise_count(rows ^ hashes[None, start:]) <= BITS
        i, j = np.nonzero(np.triu(close, 1))
        if len(i):
            yield i + start, j + start


def _thumbnail(path: Path) -> np.ndarray:
    """[SIDE * SIDE * 3] levels, wide enough to be subtracted."""
    return np.asarray(open_rgb(path).resize((SIDE, SIDE), Resampling.BOX), np.int16).ravel()


def joined(items: Iterable[str], pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """{item: the smallest member of its component}; two items are in one component where a chain of pairs leads."""
    parent = {item: item for item in items}

    def root(item: str) -> str:
        while parent[item] != item:
            parent[item] = parent[parent[item]]  # halves the way for whoever comes next
            item = parent[item]
        return item

    for pair in pairs:
        for item in pair:
            parent.setdefault(item, item)
        small, large = sorted((root(pair[0]), root(pair[1])))
        parent[large] = small
    return {item: root(item) for item in parent}
