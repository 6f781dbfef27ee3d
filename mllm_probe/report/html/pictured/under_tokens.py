"""What viewer.js reads: pictures under the tokens of a model, to be looked at layer by layer, with what a probe says,
where a statement looks, or the words that tokens stand for."""

from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mllm_probe.report.html.inspect_page import framed
from mllm_probe.results.lenses.lens import ELSEWHERE, LOCAL
from mllm_probe.spatial.grid_file import PictureGrid, RegionGrids, as_bytes, as_numbers

if TYPE_CHECKING:
    import pandas as pd

PROBE, ATTENTION, WORDS = "probe", "attention", "words"
ASKS = {PROBE: "object", ATTENTION: "statement", WORDS: "lens"}
LEGENDS = {
    PROBE: "Blue: the probe of this layer says that the object covers the token, the stronger the surer. Orange: it "
    "does, by half or more.",
    ATTENTION: "Blue: the stronger, the more of the attention on the picture lies on the token; each layer has a scale "
    "of its own. Orange: the statement's object covers it, by half or more. Attention is not use.",
    WORDS: "Blue: the nearest word names what lies on the token; yellow: what is elsewhere in the picture. Orange "
    "frames: an annotated object covers it, by half or more.",
}
KEPT = 3  # words of a token
BYTES = 1_000_000  # of all words, as they stand in the page
SAYS = {LOCAL: 255, ELSEWHERE: 1}  # the byte of what a nearest word says


def viewer_of(grids: RegionGrids, run: Path, pictures: str, kind: str) -> dict[str, Any]:
    """`run` is the folder of the run, `pictures` as in ReportSettings, `kind` one of ASKS."""
    shown = [_shown(one, grids, run, pictures) for one in grids.pictures]
    return _whole(grids, kind, shown)


def words_viewer(grids: RegionGrids, words: "pd.DataFrame", run: Path, pictures: str) -> dict[str, Any]:
    """The same of the rows of words.csv about these pictures: the nearest words of every token; of so many pictures as
    there is room for, one at least."""
    vocabulary = sorted(set(words[words["rank"] <= KEPT].word))
    number, size = {word: i for i, word in enumerate(vocabulary)}, 0
    shown: list[dict[str, Any]] = []
    for one in grids.pictures:
        objects = list(_lenses(one, grids, words[words.picture == one.picture.digest], number))
        size += sum(len(text) for each in objects for text in each["words"])
        if shown and size > BYTES:
            break
        shown.append({**_seen(one, grids, run, pictures), "objects": objects, "on": _on(one)})
    return {**_whole(grids, WORDS, shown), "vocabulary": vocabulary, "kept": KEPT}


def _whole(grids: RegionGrids, kind: str, shown: list[dict[str, Any]]) -> dict[str, Any]:
    told = {"kind": kind, "asks": ASKS[kind], "legend": LEGENDS[kind], "sites": list(grids.sites), "yes": grids.yes}
    return {**told, "ways": list(grids.ways), "pictures": shown, "licences": list(_licences(grids))}


def _shown(one: PictureGrid, grids: RegionGrids, run: Path, pictures: str) -> dict[str, Any]:
    objects = [
        {"name": name, "covered": one.covered.get(name, ""), "there": _there(one, name), "said": list(said)}
        for name, said in one.said.items()
    ]
    return {**_seen(one, grids, run, pictures), "objects": objects}


def _there(one: PictureGrid, name: str) -> bool | None:
    """Whether an object is in the picture, None where that is not known."""
    return bool(as_numbers(one.covered[name]).any()) if name in one.covered else None


def _seen(one: PictureGrid, grids: RegionGrids, run: Path, pictures: str) -> dict[str, Any]:
    found = framed(one.picture, [run / grids.folder], pictures)
    told = {"name": found.name, "uri": found.uri, "gone": found.gone}
    return {**told, "cells": list(map(list, one.cells)), "views": list(one.views)}


def _lenses(one: PictureGrid, grids: RegionGrids, words: "pd.DataFrame", number: dict[str, int]) -> Iterator[Any]:
    """Tokens stand in words.csv in the order that the picture's cells have; `words` are base64 of [T, KEPT] uint16,
    65,535 for none."""
    covered = np.max([as_numbers(each) for each in one.covered.values()], axis=0) if one.covered else np.zeros(1)
    place = {token: i for i, token in enumerate(dict.fromkeys(words.token))}
    for lens, own in words[words["rank"] <= KEPT].groupby("lens", sort=False):
        said, near = [], []
        for site in grids.sites:
            rows = own[own.site == site]
            ids, says = np.full((len(one.cells), KEPT), 65_535, np.uint16), np.zeros(len(one.cells))
            ids[rows.token.map(place), rows["rank"] - 1] = rows.word.map(number)
            first = rows[rows["rank"] == 1]
            says[first.token.map(place)] = first.said.map(SAYS).fillna(0)
            said.append(as_bytes(says))
            near.append(b64encode(ids.astype("<u2").tobytes()).decode())
        whole = np.resize(covered, len(one.cells))
        yield {"name": lens, "covered": as_bytes(whole), "there": True, "said": said, "words": near}


def _on(one: PictureGrid) -> list[str]:
    """The categories that cover each token by half or more [T]."""
    each = {name: as_numbers(covered) >= 127.5 for name, covered in one.covered.items()}
    return [", ".join(name for name, on in each.items() if on[t]) for t in range(len(one.cells))]


def _licences(grids: RegionGrids) -> Iterator[str]:
    for one in grids.pictures:
        if one.picture.licence:
            yield f"{Path(one.picture.path).name}: {one.picture.licence}"
