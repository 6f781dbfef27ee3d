"""The reader against every quirk of real annotation files."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mllm_probe.data.coco import Coco, Selection
from mllm_probe.data.pictures import open_rgb
from mllm_probe.errors import DataError
from mllm_probe.files.digests import Digests
from mllm_probe.records.samples import Collection
from mllm_probe.tasks.entailment import Entailment

IMAGES = [
    {"id": 9, "file_name": "COCO_val2014_000000000009.jpg"},
    {"id": 25, "file_name": "000000000025.jpg"},
    {"id": 30, "file_name": "000000000030.jpg"},
]
CAPTIONS = [
    (9, "A cat\non a  mat.\n"),
    (9, "A cat on a mat."),
    (9, "Two cats."),
    (25, "A dog."),
    (30, "Two cats"),
    (30, ""),
]
INSTANCES = [
    {"image_id": 9, "category_id": 17, "iscrowd": 0, "segmentation": [[0, 0, 1, 1, 0, 1]], "bbox": [0, 0, 1, 1]},
    {"image_id": 9, "category_id": 1, "iscrowd": 1, "segmentation": {"counts": [4, 4], "size": [4, 2]}},
    {"image_id": 25, "category_id": 18, "iscrowd": 0},
]


def write(root: Path, **changes: Any) -> Path:
    (root / "images").mkdir(parents=True)
    for number, record in enumerate(IMAGES):
        Image.new("L" if number == 1 else "RGB", (8, 6), 40 * number).save(root / "images" / record["file_name"])
    captions = [{"id": i, "image_id": image, "caption": text} for i, (image, text) in enumerate(CAPTIONS)]
    names = [{"id": 1, "name": "person"}, {"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}]
    content = {
        "captions.json": {"images": IMAGES, "annotations": captions},
        "instances.json": {"images": IMAGES, "annotations": INSTANCES, "categories": names},
    } | changes
    for name, records in content.items():
        (root / name).write_text(records if isinstance(records, str) else json.dumps(records))
    return root


def load(root: Path, **selection: Any) -> Collection:
    return Coco(root=str(root)).load(root / "out", Selection(**selection), Digests(root / "digests.json"))


def test_captions_are_folded_and_repeats_dropped(tmp_path: Path) -> None:
    pictures = {picture.id: picture for picture in load(write(tmp_path / "c")).pictures}
    assert pictures["9"].captions == ("A cat on a mat.", "Two cats.")
    assert pictures["30"].captions == ("Two cats",)


def test_crowds_count_and_bare_pictures_have_no_object(tmp_path: Path) -> None:
    collection = load(write(tmp_path / "c"))
    seen = {picture.id: picture.categories for picture in collection.pictures}
    assert seen == {"9": {"cat", "person"}, "25": {"dog"}, "30": frozenset()}
    assert collection.categories == ("cat", "dog", "person")


def test_a_shared_caption_contradicts_nobody_who_has_it(tmp_path: Path) -> None:
    collection = load(write(tmp_path / "c"))
    by_id = {picture.id: picture for picture in collection.pictures}
    assert not collection.contradicts(by_id["30"], "two cats.")
    assert collection.contradicts(by_id["25"], "Two cats.")


def test_greyscale_is_opened_as_rgb(tmp_path: Path) -> None:
    assert open_rgb(write(tmp_path / "c") / "images" / IMAGES[1]["file_name"]).mode == "RGB"


def test_the_official_layout_is_read(tmp_path: Path) -> None:
    root = write(tmp_path / "c")
    (root / "annotations").mkdir()
    for kind in ("captions", "instances"):
        (root / f"{kind}.json").rename(root / "annotations" / f"{kind}_val2017.json")
    (root / "images").rename(root / "val2017")
    assert len(load(root).pictures) == 3


def test_selection_is_seeded_and_a_subset(tmp_path: Path) -> None:
    root = write(tmp_path / "c")
    ids = [tuple(p.id for p in load(root, n=2, seed=seed).pictures) for seed in (0, 0, 1, 2, 3, 4)]
    assert ids[0] == ids[1] and len(set(ids)) > 1 and all(len(one) == 2 for one in ids)


@pytest.mark.parametrize("fault", ["missing", "truncated"])
def test_a_bad_picture_is_named_or_skipped(tmp_path: Path, fault: str) -> None:
    root = write(tmp_path / "c")
    victim = root / "images" / IMAGES[1]["file_name"]
    if fault == "missing":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:-60])
    with pytest.raises(DataError, match=r"captions.json, picture id 25: .*000000000025.jpg.*on_bad_row=skip"):
        load(root)
    collection = load(root, on_bad_row="skip")
    assert [p.id for p in collection.pictures] == ["9", "30"]
    assert len(collection.skipped) == 1 and "picture id 25" in collection.skipped[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"captions.json": "{"}, "captions.json is not JSON"),
        ({"captions.json": {"images": []}}, "not a COCO annotation file: the list 'annotations' is missing"),
        ({"captions.json": [1]}, "not a COCO annotation file: the list 'images' is missing"),
        (
            {"captions.json": {"images": IMAGES, "annotations": [{"image_id": 9}]}},
            r"annotations\[0\]: 'caption' \(a text\) is missing",
        ),
        (
            {
                "instances.json": {
                    "images": IMAGES,
                    "categories": [],
                    "annotations": [{"image_id": 9, "category_id": 3}],
                }
            },
            r"annotations\[0\] has the unknown category id 3",
        ),
        (
            {"captions.json": {"images": IMAGES, "annotations": [{"image_id": 9, "caption": "\ud800 cat"}]}},
            r"annotations\[0\]: 'caption' holds half a character \(a lone surrogate\), '\\ud800 cat'; fix it",
        ),
        (
            {"instances.json": {"images": IMAGES, "categories": [{"id": 3, "name": " "}], "annotations": []}},
            r"instances.json, categories\[0\]: 'name' is empty; fix it",
        ),
        ({"captions.json": {"images": [{"id": 1, "file_name": ""}], "annotations": []}}, "'file_name' is empty; fix"),
        ({"captions.json": {"images": [{"id": 1, "file_name": "../../x.jpg"}], "annotations": []}}, "leads outside"),
    ],
)
def test_wrong_files_are_one_sentence(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load(write(tmp_path / "c", **changes))
    assert "\n" not in str(caught.value)


def test_a_mark_of_byte_order_is_no_fault(tmp_path: Path) -> None:
    root = write(tmp_path / "c")
    plain = load(root).pictures
    for name in ("captions.json", "instances.json"):
        (root / name).write_text((root / name).read_text(), encoding="utf-8-sig")
    assert load(root).pictures == plain


def test_no_root_and_an_empty_root(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="dataset.root=FOLDER"):
        Coco().load(tmp_path, Selection(), Digests(tmp_path / "d.json"))
    with pytest.raises(DataError, match="no COCO annotations in"):
        load(tmp_path)
    with pytest.raises(DataError, match="data.on_bad_row=ignore is unknown; .*choose one of: skip, stop"):
        Selection(on_bad_row="ignore")


def test_two_records_of_the_same_bytes_are_one_picture(tmp_path: Path) -> None:
    """Else one's caption would be a "false" one of the other, and both would be in the balance."""
    root = write(tmp_path / "c")
    files = [root / "images" / record["file_name"] for record in IMAGES]
    files[2].write_bytes(files[0].read_bytes())
    first, second = load(root).pictures
    assert (first.id, second.id) == ("9", "25")
    assert first.captions == ("A cat on a mat.", "Two cats.", "Two cats") and first.categories == {"cat", "person"}


def joined(
    *more: dict[str, Any], key: str = "images", file: str = "captions.json", first: Any = None
) -> dict[str, Any]:
    """What `write` is to change so that a list holds more rows, or others."""
    captions = [{"id": i, "image_id": image, "caption": text} for i, (image, text) in enumerate(CAPTIONS)]
    content = {"images": IMAGES, "annotations": captions}
    if file == "instances.json":
        names = [{"id": 1, "name": "person"}, {"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}]
        content = {"images": IMAGES, "annotations": INSTANCES, "categories": names}
    rows: Any = [*(content[key] if first is None else first), *more]
    return {file: {**content, key: rows}}


ONE_ID: dict[str, tuple[dict[str, Any], str]] = {
    "two pictures": (
        joined({"id": 9, "file_name": "other.jpg"}),
        r"captions.json, images\[3\]: 'other.jpg' has the id 9, as has 'COCO_val2014_000000000009.jpg' before it; "
        "joined files need new ids, in their annotations too",
    ),
    "two records of a picture": (joined(IMAGES[1]), r"images\[3\]: '000000000025.jpg' has the id 25, as has"),
    "two pictures with objects": (
        joined(IMAGES[0], file="instances.json"),
        r"instances.json, images\[3\]: .* has the id 9, as has",
    ),
    "two categories": (
        joined({"id": 17, "name": "cow"}, key="categories", file="instances.json"),
        r"instances.json, categories\[3\]: 'cow' has the id 17, as has 'cat' before it",
    ),
    "another picture in each file": (
        joined(first=[*IMAGES[:2], {"id": 30, "file_name": "x.jpg"}], file="instances.json"),
        "instances.json: the picture of the id 30 is 'x.jpg', and '000000000030.jpg' in the file of captions",
    ),
    "a string": (
        joined(first=[{"id": "9", "file_name": "a.jpg"}]),
        r"""images\[0\]: 'id' is a text, "9", but must be a whole number, as in every file of COCO""",
    ),
    "a float": (
        joined(first=[{"id": 9.0, "file_name": "a.jpg"}]),
        r"images\[0\]: 'id' is a number with a point, 9.0, but must be a whole number",
    ),
    "a truth": (joined(first=[{"id": True, "file_name": "a.jpg"}]), "'id' is true or false, true, but must be a whole"),
    "nothing": (joined({"image_id": None, "caption": "x"}, key="annotations"), "'image_id' is null, null, but must"),
    "a string in an annotation": (
        joined({"image_id": "9", "caption": "A cat."}, key="annotations"),
        r"""captions.json, annotations\[6\]: 'image_id' is a text, "9", but must be a whole number""",
    ),
    "a float category": (
        joined({"image_id": 9, "category_id": 17.0}, key="annotations", file="instances.json"),
        "'category_id' is a number with a point, 17.0, but must be a whole number",
    ),
    "a number for a caption": (
        joined({"image_id": 9, "caption": 3}, key="annotations"),
        "'caption' is a whole number, 3, but must be a text",
    ),
}


@pytest.mark.parametrize("case", ONE_ID)
def test_ids_that_do_not_name_one_thing_are_refused(tmp_path: Path, case: str) -> None:
    """Else two pictures would share their captions and objects without a word."""
    changes, message = ONE_ID[case]
    root = write(tmp_path / "c", **changes)
    for on_bad_row in ("stop", "skip"):
        with pytest.raises(DataError, match=message) as caught:
            load(root, on_bad_row=on_bad_row)
        assert "\n" not in str(caught.value)


def test_names_that_differ_as_those_of_2014_and_2017_are_one_picture(tmp_path: Path) -> None:
    renamed = [{"id": 9, "file_name": "000000000009.jpg"}, *IMAGES[1:]]
    found = load(write(tmp_path / "c", **joined(first=renamed, file="instances.json")))
    assert found.pictures[0].categories == {"cat", "person"}
    bare = [{"id": image["id"]} for image in IMAGES]
    found = load(write(tmp_path / "d", **joined(first=bare, file="instances.json")))
    assert found.pictures[0].categories == {"cat", "person"}, "nor need the second file name them"


def test_categories_that_stand_there_twice_are_one(tmp_path: Path) -> None:
    twice = joined({"id": 17, "name": "cat"}, key="categories", file="instances.json")
    assert load(write(tmp_path / "c", **twice)).categories == ("cat", "dog", "person")


@pytest.mark.parametrize("official", [False, True])
def test_objects_without_captions(tmp_path: Path, official: bool) -> None:
    root = write(tmp_path / "c")
    (root / "captions.json").unlink()
    if official:
        (root / "annotations").mkdir()
        (root / "instances.json").rename(root / "annotations" / "instances_val2017.json")
        (root / "images").rename(root / "val2017")
    pictures = load(root).pictures
    assert [picture.categories for picture in pictures] == [{"cat", "person"}, {"dog"}, frozenset()]
    assert not any(picture.captions for picture in pictures)
    with pytest.raises(DataError, match="no picture of coco has a caption; take others, or task=objects"):
        Entailment(on_bad_row="skip")._claims(load(root), dict.fromkeys((p.group for p in pictures), 1))
