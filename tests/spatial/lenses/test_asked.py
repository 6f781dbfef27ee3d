"""Which statements are read, and where their objects are, against the data set's own annotations."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mllm_probe.errors import DataError
from mllm_probe.records.samples import Collection, Examples, Picture
from mllm_probe.spatial.lenses.asked import Statements, statements_of
from mllm_probe.tasks.objects import Objects
from mllm_probe.tasks.splits import TEST, Folds


def experiment(scenes: Collection, examples: Examples) -> Any:
    """Grids of four tokens, the last without a place; a category's mask covers as many as its name has letters."""

    def shares(picture: Picture) -> dict[str, np.ndarray]:
        return {name: np.asarray([1, 0.5, 0, np.nan], np.float32) for name in picture.categories or ()}

    pictures = {picture.digest: picture for picture in scenes.pictures}
    grid = SimpleNamespace(placed=np.arange(3))
    places = SimpleNamespace(pictures=pictures, shares=shares, grid=lambda _: grid)
    return SimpleNamespace(examples=examples, collection=scenes, task=Objects(), places=places)


@pytest.fixture(scope="module")
def examples(scenes: Collection) -> Examples:
    return Objects().examples(scenes, Folds())


def read(scenes: Collection, examples: Examples, pictures: int | None = 5, **more: Any) -> Statements:
    return statements_of(experiment(replace(scenes, **more), examples), pictures, 0, "Describe it.")


def test_test_pictures_are_drawn_whole_and_objects_are_those_that_are_there(
    scenes: Collection, examples: Examples
) -> None:
    found = read(scenes, examples)
    group_of = {one.sample: one.group for one in examples.decisions}
    asked = {group_of[sample.uid] for sample in found.samples}
    assert len(asked) == 5 and {examples.folds[group] for group in asked} == {TEST}
    assert {s.uid for s in found.samples} == {one.sample for one in examples.decisions if one.group in asked}
    pictures = {picture.digest: picture for picture in scenes.pictures}
    for sample, name, on, owner in zip(found.samples, found.categories, found.objects, found.owner, strict=True):
        there = name in (pictures[sample.digests[0]].categories or ())
        assert name in sample.text and (on is not None) == there
        assert on is None or np.array_equal(on, np.asarray([1, 0.5, 0, 0], np.float32))
        assert found.neutral[owner].digests == sample.digests and found.neutral[owner].text == "Describe it."
    assert len({n.digests for n in found.neutral}) == len(found.neutral) == len(found.placed)
    assert len(np.unique(found.groups)) == 5


def test_the_draw_is_by_seed_and_all_are_taken_without_a_number(scenes: Collection, examples: Examples) -> None:
    every = read(scenes, examples, None)
    some = read(scenes, examples, 5)
    assert {sample.uid for sample in some.samples} < {sample.uid for sample in every.samples}
    other = statements_of(experiment(scenes, examples), 5, 1, "Describe it.")
    assert [s.uid for s in other.samples] != [s.uid for s in some.samples]


def test_data_without_masks_are_about_no_object_and_one_picture_is_too_few(
    scenes: Collection, examples: Examples
) -> None:
    assert set(read(scenes, examples, masks=None).objects) == {None}
    with pytest.raises(DataError, match=r"about 1 group\(s\) of test pictures, and lens=\[attention\] needs 2"):
        read(scenes, examples, 1)
