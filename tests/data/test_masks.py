"""Masks of segmentations against pycocotools, angles around points, and pixels counted by hand; what is refused, and
when the file is read."""

import gc
import json
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as theirs

from mllm_probe.data.coco import Coco, Selection
from mllm_probe.data.pictures import open_rgb
from mllm_probe.errors import DataError
from mllm_probe.files.digests import Digests
from mllm_probe.records.samples import Collection
from tests.support.runs import REAL

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
COCO = REAL / "coco_subset"
WIDTH, HEIGHT = 60, 45
CATEGORIES = [{"id": 1, "name": "person"}, {"id": 17, "name": "cat"}]
SQUARE = [[10, 5, 14, 5, 14, 8, 10, 8]]  # four columns and three rows


def write(root: Path, *annotations: Any, size: tuple[int, int] = (WIDTH, HEIGHT), said: Any = None) -> Path:
    """Two pictures with the ids 1 and 2; an annotation is of a cat on the first unless it says otherwise."""
    (root / "images").mkdir(parents=True)
    for number in (1, 2):
        Image.new("RGB", size, (20 * number,) * 3).save(root / "images" / f"{number}.png")
    images = [{"id": number, "file_name": f"{number}.png", **(said or {})} for number in (1, 2)]
    rows = [{"image_id": 1, "category_id": 17, "iscrowd": 0, **one} for one in annotations]
    content = {"images": images, "categories": CATEGORIES, "annotations": rows}
    (root / "instances.json").write_text(json.dumps(content))
    return root


def load(root: Path, **selection: Any) -> Collection:
    return Coco(root=str(root)).load(root / "out", Selection(**selection), Digests(root / "digests.json"))


def masks(root: Path, picture: int = 0) -> dict[str, np.ndarray]:
    collection = load(root)
    assert collection.masks
    return dict(collection.masks(collection.pictures[picture]))


def only(root: Path) -> np.ndarray:
    (mask,) = masks(root).values()
    assert mask.dtype == bool
    return mask


def blob(rng: np.random.Generator, corners: int = 24) -> list[float]:
    """A round polygon with a rough edge, somewhere in the picture, in hundredths of a pixel as COCO has them."""
    turns = np.arange(corners) / corners * 2 * np.pi
    radius = rng.uniform(0.8, 1, corners) * rng.uniform(14, 20)
    x, y = rng.uniform(20, 40) + radius * np.cos(turns), rng.uniform(15, 30) + radius * np.sin(turns)
    return np.round(np.stack([x, y], 1), 2).ravel().tolist()


def by_pycocotools(segmentation: Any, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    packed = isinstance(segmentation, dict) and isinstance(segmentation["counts"], str)
    found = segmentation if packed else theirs.frPyObjects(segmentation, height, width)
    return theirs.decode(theirs.merge(found) if isinstance(found, list) else found).astype(bool)


def text_of(mask: np.ndarray) -> str:
    """COCO's text for its runs."""
    return theirs.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


def runs_of(mask: np.ndarray) -> list[int]:
    """Down the columns, one pixel after the other; the first run is not covered and may have no pixel."""
    runs = [(covered, len(list(same))) for covered, same in groupby(mask.T.ravel().tolist())]
    return [0] * runs[0][0] + [length for _, length in runs]


@pytest.mark.parametrize("rings", [1, 2, 3])
def test_polygons_are_those_of_pycocotools_but_for_borders(tmp_path: Path, rings: int) -> None:
    rng = np.random.default_rng(rings)
    for i in range(5):
        segmentation = [blob(rng) for _ in range(rings)]
        mine, its = only(write(tmp_path / str(i), {"segmentation": segmentation})), by_pycocotools(segmentation)
        assert (mine & its).sum() / (mine | its).sum() >= 0.98
        assert mine.sum() == pytest.approx(its.sum(), rel=0.03)


def test_a_pixel_is_covered_where_its_middle_is(tmp_path: Path) -> None:
    """Corners far outside, edges that cross each other, a polygon beside the picture: around the middle of a covered
    pixel the corners turn an odd number of times."""
    rng = np.random.default_rng(0)
    rings = [blob(rng), [70, 5, 90, 5, 80, 40], *(rng.uniform(-60, 120, 12).tolist() for _ in range(12))]
    middles = np.arange(WIDTH) + 0.5 + 1j * (np.arange(HEIGHT)[:, None] + 0.5)
    for i, ring in enumerate(rings):
        corners = np.array(ring[::2]) + 1j * np.array(ring[1::2])
        away = corners - middles[..., None]
        turns = np.rint(np.angle(np.roll(away, -1, -1) / away).sum(-1) / (2 * np.pi)).astype(int)
        np.testing.assert_array_equal(only(write(tmp_path / str(i), {"segmentation": [ring]})), turns % 2 == 1)


def test_a_rectangle_covers_its_columns_and_rows(tmp_path: Path) -> None:
    mask = only(write(tmp_path / "c", {"segmentation": SQUARE}))
    assert mask.shape == (HEIGHT, WIDTH) and mask.sum() == 12 and mask[5:8, 10:14].all()
    thin = {"segmentation": [[10.6, 5, 11.4, 5, 11.4, 8, 10.6, 8]]}
    assert not only(write(tmp_path / "thin", thin)).any(), "named, and too thin for a pixel"


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", ["noise", "blocks", "empty", "full"])
def test_runs_are_those_of_pycocotools(tmp_path: Path, kind: str, compressed: bool) -> None:
    width, height = 310, 230
    fine = np.random.default_rng(0).random((height, width)) < 0.4
    mask = {"noise": fine, "blocks": fine[:5, :6].repeat(46, 0).repeat(52, 1)[:, :width]}.get(kind, fine & False)
    mask = ~mask if kind == "full" else mask
    segmentation = {"size": [height, width], "counts": (text_of if compressed else runs_of)(mask)}
    found = only(write(tmp_path / "c", {"segmentation": segmentation, "iscrowd": 1}, size=(width, height)))
    np.testing.assert_array_equal(found, mask)
    np.testing.assert_array_equal(found, by_pycocotools(segmentation, width, height))


def test_objects_of_a_category_are_one_mask_and_crowds_are_covered(tmp_path: Path) -> None:
    crowd = np.zeros((HEIGHT, WIDTH), dtype=bool)
    crowd[30:, 2:9] = True
    runs = {"segmentation": {"size": [HEIGHT, WIDTH], "counts": runs_of(crowd)}, "iscrowd": 1}
    person = {"segmentation": [[0, 0, 60, 0, 60, 1, 0, 1]], "category_id": 1}
    root = write(tmp_path / "c", {"segmentation": SQUARE}, runs, person, {**person, "image_id": 2})
    found = masks(root)
    assert found.keys() == {"cat", "person"} and found["person"].sum() == WIDTH
    crowd[5:8, 10:14] = True
    np.testing.assert_array_equal(found["cat"], crowd)
    assert masks(root, 1).keys() == {"person"}


def test_a_picture_without_objects_and_a_folder_without_annotations(tmp_path: Path) -> None:
    root = write(tmp_path / "c", {"segmentation": SQUARE})
    assert masks(root, 1) == {}
    assert masks(write(tmp_path / "none")) == {}, "nothing is annotated, so nothing lacks a mask"
    (root / "instances.json").rename(root / "captions.json")
    content = json.loads((root / "captions.json").read_text())
    (root / "captions.json").write_text(json.dumps({**content, "annotations": []}))
    assert load(root).masks is None


def test_equal_pictures_have_the_masks_of_both(tmp_path: Path) -> None:
    other = {"image_id": 2, "segmentation": [[20, 5, 24, 5, 24, 8, 20, 8]]}
    person = {"image_id": 2, "category_id": 1, "segmentation": SQUARE}
    root = write(tmp_path / "c", {"segmentation": SQUARE}, other, person)
    (root / "images" / "2.png").write_bytes((root / "images" / "1.png").read_bytes())
    assert [picture.id for picture in load(root).pictures] == ["1"]
    found = masks(root)
    assert (found["cat"].sum(), found["person"].sum()) == (24, 12) and found["cat"][5:8, 20:24].all()


def test_masks_are_those_of_the_picture_as_it_is_shown(tmp_path: Path) -> None:
    """A turned picture is annotated as people see it, and its record says so."""
    root = write(
        tmp_path / "c", {"segmentation": [[0, 0, 2, 0, 2, 60, 0, 60]]}, said={"width": HEIGHT, "height": WIDTH}
    )
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in (1, 2):
        path = root / "images" / f"{number}.png"
        Image.open(path).save(path, exif=exif)
    shown = open_rgb(load(root).pictures[0].path)
    assert only(root).shape == (shown.height, shown.width) == (WIDTH, HEIGHT)
    assert only(root).sum() == 2 * WIDTH


RUNS = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}
EITHER = r"; give polygons \(\[\[x, y, x, y, ...\], ...\]\) or RLE \(\{'size': \[height, width\], 'counts': ...\}\)"
REFUSED: dict[str, tuple[Any, str]] = {
    "none": (None, f"'segmentation' is missing{EITHER}"),
    "an empty one": ([], "'segmentation' is missing"),
    "a text": ("here", f"'segmentation' is neither polygon nor RLE, found here{EITHER}"),
    "a bare polygon": (SQUARE[0], "neither polygon nor RLE, found 10"),
    "words": ([["a"] * 6], "neither polygon nor RLE, found .'a'"),
    "truths": ([[True] * 6], "neither polygon nor RLE, found .True"),
    "an odd number": ([[*SQUARE[0], 3]], "a polygon of 9 numbers; give x and y of each of its corners, 3 or more"),
    "two corners": ([SQUARE[0][:4]], "a polygon of 4 numbers; give x and y"),
    "a second one of none": ([*SQUARE, []], "a polygon of 0 numbers"),
    "not a number": ([[*SQUARE[0][:-1], float("nan")]], "a polygon with a corner at nan; give pixels of the picture"),
    "far away": ([[*SQUARE[0][:-1], -(10**400)]], r"a polygon with a corner at -10+; give pixels"),
    "no size": ({"counts": [4]}, r"RLE with the size None; give \[height, width\] in pixels"),
    "half a size": ({"size": [4], "counts": [4]}, r"RLE with the size \[4\]"),
    "no pixel": ({"size": [0, 5], "counts": [0]}, r"RLE with the size \[0, 5\]"),
    "a size without end": ({"size": [10**12, 10**12], "counts": [10**24]}, r"RLE with the size \[10+, 10+\]"),
    "no counts": ({"size": [4, 4]}, "RLE with the counts None; give a list of whole numbers, or COCO's text for one"),
    "broken counts": ({**RUNS, "counts": [1.5]}, r"RLE with the counts \[1.5\]"),
    "too few": ({**RUNS, "counts": [4, 4]}, "RLE counts that do not add up: 8 pixels, and 60 x 45 are 2700; write"),
    "none at all": ({**RUNS, "counts": []}, "RLE counts that do not add up: 0 pixels, and"),
    "an empty text": ({**RUNS, "counts": ""}, "RLE counts that do not add up: 0 pixels, and"),
    "backwards": ({**RUNS, "counts": [2703, -3]}, "RLE with a run of -3 pixels; write its counts again"),
    "half a text": ({**RUNS, "counts": "P"}, "RLE with the counts P; give a list"),
    "another alphabet": ({**RUNS, "counts": "é1"}, "RLE with the counts é1"),
    "another size": (
        {"size": [4, 5], "counts": [20]},
        "mask of 5 x 4 for a picture of 60 x 45; annotate the file that is there, turned as its EXIF orientation says",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_segmentation_is_refused(tmp_path: Path, case: str) -> None:
    segmentation, message = REFUSED[case]
    root = write(tmp_path / "c", {"segmentation": SQUARE}, {"image_id": 2, "segmentation": segmentation})
    collection = load(root)
    with pytest.raises(DataError, match=rf"c/instances.json, annotations\[1\], picture id 2: .*{message}") as caught:
        assert collection.masks and collection.masks(collection.pictures[1])
    assert "\n" not in str(caught.value)


def test_what_cannot_be_read_is_refused_with_the_first_picture(tmp_path: Path) -> None:
    """And not hours later, when its own turn comes; what is wrong with a picture that is not selected harms nobody."""
    root = write(tmp_path / "c", {"segmentation": SQUARE}, {"image_id": 2, "segmentation": [[1, 2]]})
    with pytest.raises(DataError, match="picture id 2"):
        masks(root)
    alone = next(found for seed in range(9) if (found := load(root, n=1, seed=seed)).pictures[0].id == "1")
    assert alone.masks and alone.masks(alone.pictures[0])["cat"].sum() == 12


def test_a_record_of_another_size_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "c", {"segmentation": SQUARE}, said={"width": 640, "height": 480})
    with pytest.raises(DataError, match="c/instances.json, picture id 1: mask of 640 x 480 for a picture of 60 x 45;"):
        masks(root)


@pytest.mark.parametrize("beside", [{}, {"segmentation": []}, {"segmentation": None}])
def test_boxes_alone_are_no_masks(tmp_path: Path, beside: dict[str, Any]) -> None:
    root = write(tmp_path / "c", {"bbox": [1, 2, 3, 4], **beside}, {"bbox": [1, 2, 3, 4], "image_id": 2})
    with pytest.raises(
        DataError,
        match="dataset=coco has no masks: no annotation in .*instances.json has a 'segmentation', and task=regions and "
        "edges of objects need one in each, .*; a bounding box alone is no mask",
    ):
        masks(root)


def held(mark: float) -> bool:
    """Whether any list or array that lives has the number."""
    found = gc.get_objects()
    lists = (one for one in found if type(one) is list)
    return any(type(part) is float and part == mark for one in lists for part in one)


def test_no_segmentation_is_held_before_masks_are_asked_for_and_the_file_is_read_once(tmp_path: Path) -> None:
    mark = 7.0 + 2**-20
    other = {"image_id": 2, "segmentation": [[1, 1, 5, 1, 5, 5]]}
    root = write(tmp_path / "c", {"segmentation": [[1, 1, 5, 1, 5, mark]]}, other)
    parsed = json.loads((root / "instances.json").read_text())
    assert held(mark), "so they would be seen"
    del parsed
    gc.collect()
    collection = load(root)
    gc.collect()
    assert not held(mark)
    assert collection.masks and collection.masks(collection.pictures[0])
    (root / "instances.json").unlink()
    assert collection.masks(collection.pictures[1])["cat"].any()


@pytest.mark.realdata
@pytest.mark.skipif(not COCO.is_dir(), reason=f"{COCO} is absent; set MLLM_PROBE_REAL_DATA to the folder with it")
@pytest.mark.parametrize("compressed", [False, True])
def test_photographs_have_the_masks_of_pycocotools(tmp_path: Path, compressed: bool) -> None:
    """Exactly so where pycocotools has written them as runs."""
    content = json.loads((COCO / "instances.json").read_text())
    names = {one["id"]: one["name"] for one in content["categories"]}
    sizes = {one["id"]: (one["width"], one["height"]) for one in content["images"]}
    expected: dict[tuple[str, str], np.ndarray] = {}
    for one in content["annotations"]:
        width, height = sizes[one["image_id"]]
        mask, key = (
            by_pycocotools(one["segmentation"], width, height),
            (str(one["image_id"]), names[one["category_id"]]),
        )
        expected[key] = expected.get(key, False) | mask
        if compressed:
            one["segmentation"] = {"size": [height, width], "counts": text_of(mask)}
    (tmp_path / "images").symlink_to(COCO / "images")
    (tmp_path / "instances.json").write_text(json.dumps(content))
    collection = load(tmp_path)
    assert collection.masks
    found = {(p.id, name): mask for p in collection.pictures for name, mask in collection.masks(p).items()}
    assert found.keys() == expected.keys() and len(found) == 691
    for key, mask in expected.items():
        both, either = (found[key] & mask).sum(), (found[key] | mask).sum()
        assert both == either if compressed else mask.sum() < 500 or both / either > 0.96, key
    total = sum(mask.sum() for mask in expected.values())
    assert sum(mask.sum() for mask in found.values()) == pytest.approx(total, rel=0.001)


@pytest.mark.realdata
@pytest.mark.skipif(not COCO.is_dir(), reason=f"{COCO} is absent; set MLLM_PROBE_REAL_DATA to the folder with it")
def test_crowds_of_photographs_are_exactly_those_of_pycocotools(tmp_path: Path) -> None:
    content = json.loads((COCO / "instances.json").read_text())
    names = {one["id"]: one["name"] for one in content["categories"]}
    crowds = [one for one in content["annotations"] if one["iscrowd"]]
    (tmp_path / "images").symlink_to(COCO / "images")
    (tmp_path / "instances.json").write_text(json.dumps({**content, "annotations": crowds}))
    collection = load(tmp_path)
    assert collection.masks and len(crowds) == 20
    found = {picture.id: collection.masks(picture) for picture in collection.pictures}
    for one in crowds:
        mask = found[str(one["image_id"])].pop(names[one["category_id"]])
        np.testing.assert_array_equal(mask, by_pycocotools(one["segmentation"], *mask.shape[::-1]))
    assert not any(found.values())
