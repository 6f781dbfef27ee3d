"""The reader against every quirk of real annotation files."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mllm_probe.data.coco import Coco, Selection
from mllm_probe.data.pictures import open_rgb
from mllm_probe.digests import Digests
from mllm_probe.errors import DataError
from mllm_probe.types import Collection

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
        ({"captions.json": [1]}, "not a COCO annotation file: the list 'annotations' is missing"),
        (
            {"captions.json": {"images": IMAGES, "annotations": [{"image_id": 9}]}},
            r"annotations\[0\]: 'caption' \(str\) is missing",
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
        ({"captions.json": {"images": [{"id": 1, "file_name": "../../x.jpg"}], "annotations": []}}, "leads outside"),
    ],
)
def test_wrong_files_are_one_sentence(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load(write(tmp_path / "c", **changes))
    assert "\n" not in str(caught.value)


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
