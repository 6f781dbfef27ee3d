"""Numbers of objects: read from annotations, and not to be guessed from the text."""

import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from PIL import Image

from mllm_probe.data.coco import Coco, Selection
from mllm_probe.data.scenes import Scenes
from mllm_probe.errors import ConfigError, DataError
from mllm_probe.files.digests import Digests
from mllm_probe.records.samples import Collection, Picture
from mllm_probe.tasks.count import Count
from mllm_probe.tasks.entailment import Entailment
from mllm_probe.tasks.splits import Folds

FOLDS = Folds(blocks=3)
EACH = "How many of these are in this image: {category}?"


def write(root: Path, annotations: list[dict[str, int]], colours: list[int]) -> Collection:
    """Pictures 1, 2, ... of these grey values; category 1 is a cat, 2 a dog."""
    (root / "images").mkdir(parents=True)
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(1, len(colours) + 1)]
    for record, colour in zip(images, colours, strict=True):
        Image.new("L", (4, 4), colour).save(root / "images" / str(record["file_name"]))
    names = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    (root / "captions.json").write_text(json.dumps({"images": images, "annotations": []}))
    content = {"images": images[:-1], "annotations": annotations, "categories": names}
    (root / "instances.json").write_text(json.dumps(content))
    return Coco(root=str(root)).load(root / "out", Selection(), Digests(root / "digests.json"))


def box(image: int, category: int, crowd: int = 0) -> dict[str, int]:
    return {"image_id": image, "category_id": category, "iscrowd": crowd}


def test_instances_are_counted_and_crowds_are_not(tmp_path: Path) -> None:
    boxes = [box(1, 1), box(1, 1), box(1, 2), box(2, 1), box(2, 1, crowd=1), box(2, 2)]
    del boxes[0]["iscrowd"]
    pictures = {p.id: p for p in write(tmp_path / "c", boxes, [10, 20, 30, 40]).pictures}
    assert pictures["1"].counts == {"cat": 2, "dog": 1}
    assert pictures["2"].counts == {"dog": 1} and pictures["2"].categories == {"cat", "dog"}
    assert pictures["3"].counts == {} and pictures["3"].categories == frozenset()
    assert pictures["4"].counts is None and pictures["4"].categories is None
    assert len({pictures["1"], pictures["2"]}) == 2


def test_twins_have_the_larger_number_and_a_crowd_in_either_is_one(tmp_path: Path) -> None:
    boxes = [box(1, 1), box(1, 1), box(2, 1), box(1, 2), box(2, 2, crowd=1)]
    first, other = write(tmp_path / "c", boxes, [10, 10, 50]).pictures
    assert first.counts == {"cat": 2} and first.categories == {"cat", "dog"} and first.id == "1"
    assert other.counts is None
    alone = write(tmp_path / "d", [box(1, 1)], [10, 10]).pictures
    assert [(p.id, p.counts, p.categories) for p in alone] == [("1", {"cat": 1}, {"cat"})]


def test_drawn_scenes_are_asked_once_and_the_label_is_the_number_of_shapes(scenes: Collection) -> None:
    examples = Count().examples(scenes, FOLDS)
    records = json.loads((scenes.pictures[0].path.parents[1] / "captions.json").read_text())["images"]
    shapes = {str(record["id"]): len(record["scene"]["shapes"]) for record in records}
    assert examples.kind == "number"
    assert {d.strata["picture"]: d.label for d in examples.decisions} == shapes
    assert {s.text for s in examples.samples} == {"How many objects are there in this image?"}
    for decision in examples.decisions:
        assert type(decision.label) is float and decision.target == "count" and decision.mark is None
    assert Entailment().examples(scenes, FOLDS).kind == "binary"


@pytest.mark.parametrize("seed", range(3))
def test_each_category_has_each_number_equally_often_in_every_split(tmp_path: Path, seed: int) -> None:
    collection = Scenes(pictures=150, max_shapes=4).load(tmp_path, Selection(), Digests(tmp_path / "digests.json"))
    names = ("red circle", "blue square", "green triangle")
    names = tuple(name for name in names if name in collection.categories)
    assert len(names) >= 2
    examples = Count(EACH, names, seed=seed).examples(collection, FOLDS)
    split = FOLDS.splits(examples.folds, seed)
    cells: dict[tuple[str, float], Counter[str]] = defaultdict(Counter)
    truth = {p.digest: p.counts or {} for p in collection.pictures}
    for d in examples.decisions:
        cells[split[d.group], d.label][d.type or ""] += 1
        assert truth[d.group].get(d.type or "", 0) == d.label
    for labels in cells.values():
        assert len(labels) == len(names) and len(set(labels.values())) == 1
    assert {label for _, label in cells} >= {0.0, 1.0}
    sample = examples.samples[0]
    start, stop = sample.marks["object"]
    assert sample.text[start:stop] in names and examples.decisions[0].mark == "object"


def test_pictures_of_unknown_number_are_not_asked_about() -> None:
    def picture(i: int, seen: frozenset[str] | None, counts: dict[str, int] | None) -> Picture:
        return Picture(str(i), Path(), str(i), categories=seen, counts=counts)

    known = [picture(i, frozenset({"cat"}), {"cat": 1 + i % 3}) for i in range(20)]
    crowd = [picture(20 + i, frozenset({"cat", "dog"}), {"dog": 2}) for i in range(4)]
    bare = [picture(30 + i, None, None) for i in range(4)]
    collection = Collection("few", (*known, *crowd, *bare), ("cat", "dog"), lambda p, c: False)
    assert {d.group for d in Count().examples(collection, FOLDS).decisions} == {p.digest for p in known}
    dogs = Count(EACH, ["dog"]).examples(collection, FOLDS).decisions
    assert Counter(d.label for d in dogs) == {0.0: 20, 2.0: 4}
    FOLDS.check(Count().examples(collection, FOLDS), [0])


def test_bad_input_is_named(scenes: Collection) -> None:
    with pytest.raises(ConfigError, match=r"must hold {category} nowhere with task.categories=null"):
        Count(template=EACH)
    with pytest.raises(ConfigError, match=r"must hold {category} exactly once with task.categories=\['cat'\]"):
        Count(categories=["cat"])
    with pytest.raises(ConfigError, match="task.categories='cat' must be a list"):
        Count(EACH, "cat")
    with pytest.raises(
        DataError, match="task.categories=red circel is not in dataset scenes; did you mean 'red circle'"
    ):
        Count(EACH, ["red circel"]).examples(scenes, FOLDS)
    bare = Collection("plain", scenes.pictures, (), scenes.contradicts)
    with pytest.raises(DataError, match="dataset plain has no instance annotations; task=count needs instances.json"):
        Count().examples(bare, FOLDS)
    unknown = Collection("x", tuple(Picture(str(i), Path(), str(i)) for i in range(20)), ("cat",), scenes.contradicts)
    with pytest.raises(DataError, match="dataset x: no picture has a known number of each of object"):
        Count().examples(unknown, FOLDS)
