"""Some test pictures under their tokens, to be looked at: where statements about them look, or what lies on the tokens
whose words are kept."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mllm_probe.experiment.experiment import Experiment
from mllm_probe.models.attended import Attended
from mllm_probe.records.samples import Picture
from mllm_probe.results.examples import Seen
from mllm_probe.results.lenses.attention import LAST, NEUTRAL, OWN, RELATIVE, SPANS, STATEMENT
from mllm_probe.scoring.summary import below, folder_of
from mllm_probe.spatial.field import Field
from mllm_probe.spatial.grid_file import PictureGrid, RegionGrids, as_bytes
from mllm_probe.spatial.lenses.asked import Statements
from mllm_probe.spatial.lenses.masses import relative

PICTURES, ASKED = 8, 4  # of a page; statements about one
BYTES = 500_000  # about so many numbers, over all maps
CALLED = {STATEMENT: "the statement", LAST: "the last token"}
KINDS = {OWN: "as it is", RELATIVE: "relative to a neutral question", NEUTRAL: "of a neutral question"}


def attention_grids(
    experiment: Experiment,
    statements: Statements,
    own: Sequence[Attended],
    neutral: Sequence[Attended],
    sites: Sequence[str],
    run: Path,
) -> RegionGrids:
    """Pictures while they take little room, those with objects that are asked about first; a way for each span and
    kind of map."""
    ways = tuple(f"{span}, {kind}" for span in CALLED.values() for kind in KINDS.values())
    asked = [np.flatnonzero(statements.owner == g).tolist() for g in range(len(statements.neutral))]
    order = sorted(range(len(asked)), key=lambda g: not any(statements.objects[n] is not None for n in asked[g]))
    folder, size = folder_of(experiment.examples.samples), 0
    found: list[PictureGrid] = []
    for g in order[:PICTURES]:
        chosen = sorted(asked[g], key=lambda n: statements.objects[n] is None)[:ASKED]
        size += len(statements.placed[g]) * len(chosen) * len(ways) * len(sites)
        if found and size > BYTES:
            break
        each = {statements.samples[n].text: tuple(_maps(own[n], neutral[g], statements.placed[g])) for n in chosen}
        covered = dict(_covered(experiment, statements, chosen))
        picture = experiment.places.pictures[statements.neutral[g].digests[0]]
        found.append(_grid(experiment, picture, folder, statements.placed[g], covered, each))
    return RegionGrids(tuple(sites), below(run, folder), tuple(found), ways, yes=0)


def word_grids(experiment: Experiment, field: Field, shown: np.ndarray, sites: Sequence[str], run: Path) -> RegionGrids:
    """What lies on the tokens `shown` [T] bool of a field, picture by picture as words.csv has them."""
    samples, folder, found = experiment.examples.samples, folder_of(experiment.examples.samples), []
    for number in dict.fromkeys(field.pictures[shown].tolist()):
        own = field.shares[field.pictures == number]
        covered = {
            name: as_bytes(np.round(255 * own[:, c])) for c, name in enumerate(field.categories) if own[:, c].any()
        }
        picture = experiment.places.pictures[samples[number].digests[0]]
        found.append(_grid(experiment, picture, folder, np.asarray(samples[number].picked.tokens), covered, {}))
    return RegionGrids(tuple(sites), below(run, folder), tuple(found))


def _maps(own: Attended, neutral: Attended, placed: np.ndarray) -> Iterator[str]:
    """Of all ways one after the other, of each the sites: bytes, 255 for the token that gets most."""
    plain = neutral.picture
    kinds = {OWN: own.picture, RELATIVE: relative(own.picture, plain), NEUTRAL: plain}
    for span in CALLED:
        for kind in KINDS:
            for each in kinds[kind][:, SPANS.index(span)]:
                seen = each[placed]
                yield as_bytes(np.round(255 * seen / max(float(seen.max()), 1e-30)))


def _covered(experiment: Experiment, statements: Statements, chosen: Sequence[int]) -> Iterator[tuple[str, str]]:
    """Of statements about an object that is seen, or that is known not to be in the picture."""
    for n in chosen:
        placed, on = statements.placed[statements.owner[n]], statements.objects[n]
        picture = experiment.places.pictures[statements.samples[n].digests[0]]
        if on is not None:
            yield statements.samples[n].text, as_bytes(np.round(255 * on[placed]))
        elif statements.categories[n] and statements.categories[n] not in (picture.categories or ()):
            yield statements.samples[n].text, as_bytes(np.zeros(len(placed)))


def _grid(
    experiment: Experiment,
    picture: Picture,
    folder: Path,
    tokens: np.ndarray,
    covered: dict[str, str],
    said: dict[str, tuple[str, ...]],
) -> PictureGrid:
    grid = experiment.places.grid(picture)
    return PictureGrid(
        Seen(below(folder, picture.path), picture.digest, picture.licence),
        tuple(tuple(cell) for cell in np.round(grid.cells[tokens], 4).tolist()),
        tuple(grid.views[tokens].tolist()),
        covered,
        said,
    )
