"""Which tokens are read of each picture: half on objects, half beside, and all of some test pictures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mllm_probe.errors import ConfigError, DataError
from mllm_probe.records.grids import Grid
from mllm_probe.records.samples import Collection, Examples, Picture
from mllm_probe.records.sites import PICKED
from mllm_probe.tasks.regions import Regions
from mllm_probe.tasks.splits import TEST, Folds

SIDE = 6
FOLDS = Folds(test=0.5, blocks=3)


def grid() -> Grid:
    """36 tokens in six lines, and one behind each line that has no place; each is made of two patches."""
    places = np.asarray(
        [(0, row, column) if column < SIDE else (-1, -1, -1) for row in range(SIDE) for column in range(SIDE + 1)]
    )
    read = tuple(np.arange(2 * i, 2 * i + 2) for i in range(len(places)))
    return Grid(np.zeros((len(places), 4)), *places.T, patches=np.zeros((2 * len(places), 4)), read=read)


GRID = grid()


def collection(n: int = 8) -> Collection:
    pictures = tuple(Picture(str(i), Path(f"{i}.png"), f"d{i}", categories=frozenset({"cat"})) for i in range(n))
    return Collection("made", pictures, ("cat",), lambda *_: False, masks=lambda _picture: {})


def picked(task: Regions, on: int, room: int = 10**6) -> tuple[Examples, str, dict[str, set[int]]]:
    """With the first `on` placed tokens of every picture on an object; {picture: tokens}."""
    made = collection()
    covered = np.zeros(len(GRID.cells), dtype=bool)
    covered[GRID.placed[:on]] = True
    examples = task.examples(made, FOLDS)
    pictures = {picture.digest: picture for picture in made.pictures}
    found, position = task.picked(examples, pictures, lambda _: GRID, lambda _: covered, room)
    return found, position, {sample.digests[0]: set(sample.picked.tokens) for sample in found.samples}


@pytest.mark.parametrize(("on", "inside", "beside"), [(20, 5, 5), (3, 3, 7), (32, 6, 4), (0, 0, 10)])
def test_half_of_the_tokens_lie_on_objects_as_far_as_there_are_so_many(on: int, inside: int, beside: int) -> None:
    _, _, tokens = picked(Regions(tokens=10, whole=0), on)
    objects = set(GRID.placed[:on].tolist())
    for own in tokens.values():
        assert (len(own & objects), len(own - objects)) == (inside, beside)
        assert own <= set(GRID.placed.tolist())


def test_tokens_are_drawn_anew_for_each_picture_and_the_same_in_every_run() -> None:
    first, second = (picked(Regions(tokens=10, whole=0), 20)[2] for _ in range(2))
    assert first == second
    assert len(set(map(frozenset, first.values()))) > 4
    assert picked(Regions(tokens=10, whole=0, seed=1), 20)[2] != first


def test_test_pictures_are_read_whole_as_far_as_there_is_room() -> None:
    examples, _, tokens = picked(Regions(tokens=10), 20)
    group = {
        sample.digests[0]: examples.folds[decision.group]
        for sample, decision in zip(examples.samples, examples.decisions, strict=True)
    }
    assert {name for name, own in tokens.items() if len(own) == SIDE**2} == {n for n, f in group.items() if f == TEST}
    for room, whole in ((80, 0), (80 + 26, 1), (80 + 53, 2)):
        assert sum(len(own) == SIDE**2 for own in picked(Regions(tokens=10), 20, room)[2].values()) == whole
    assert sum(len(own) == SIDE**2 for own in picked(Regions(tokens=10, whole=3), 20)[2].values()) == 3


def test_the_name_of_the_position_knows_which_tokens_are_read() -> None:
    examples, position, _ = picked(Regions(tokens=10, whole=0), 20)
    assert position.startswith(f"{PICKED}10.")
    assert picked(Regions(tokens=10, whole=0), 20)[1] == position != picked(Regions(tokens=10, whole=0), 19)[1]
    assert picked(Regions(tokens=10), 20)[1].startswith(f"{PICKED}23."), "on average: 4 of 36 and 4 of 10"
    sample = examples.samples[0]
    assert sample.picked.patches == tuple((2 * token, 2 * token + 1) for token in sample.picked.tokens)
    assert sample.uid == replace(sample, picked=examples.samples[1].picked).uid, "what a model reads stays the same"


def test_pictures_without_annotated_objects_are_left_out() -> None:
    made = collection()
    bare = replace(made, pictures=(*made.pictures, Picture("9", Path("9.png"), "d9")))
    assert len(Regions().examples(bare, FOLDS).samples) == 8


def test_what_cannot_be_picked_is_refused() -> None:
    with pytest.raises(DataError, match="has no masks of its objects; task=regions needs"):
        Regions().examples(replace(collection(), masks=None), FOLDS)
    with pytest.raises(DataError, match="task.categories=dog is not in dataset made"):
        Regions(categories=["dog"]).examples(collection(), FOLDS)
    for wrong, said in (
        ({"tokens": 1}, "task.tokens=1"),
        ({"whole": -1}, "task.whole=-1"),
        ({"template": " "}, "empty"),
    ):
        with pytest.raises(ConfigError, match=said):
            Regions(**wrong)  # type: ignore[arg-type]
