"""Keypoint pairs in both layouts, written at run time, and one sentence for each way they can be wrong."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mllm_probe.data.spair import read_pairs
from mllm_probe.errors import DataError
from tests.support.encoders import write_spair

FIRST = "PairAnnotation/test/000000-one-two:cat.json"


@pytest.fixture
def spair(tmp_path: Path) -> Path:
    return write_spair(tmp_path / "spair")


def change(root: Path, **fields: object) -> None:
    told = json.loads((root / FIRST).read_text())
    (root / FIRST).write_text(json.dumps(told | fields))


@pytest.mark.parametrize("separator", [":", "_"])
def test_spair_is_read_as_written(tmp_path: Path, separator: str) -> None:
    pairs, skipped = read_pairs(write_spair(tmp_path / "spair", separator), "spair", "test")
    assert [pair.category for pair in pairs] == ["cat", "cat", "cow", "cow"] and not skipped
    assert pairs[0].name == "000000-one-two:cat"
    assert pairs[0].source.path == tmp_path / "spair" / "JPEGImages" / "cat" / "one.png"
    assert pairs[0].source.size == (60, 40) and pairs[0].target.size == (40, 60)
    np.testing.assert_array_equal(pairs[0].target.points, [[11, 8], [31, 14], [20, 50]])
    assert pairs[0].extent == 50, "the longer side of the target's box, 35 x 50"


def test_without_a_layout_every_file_is_a_pair(spair: Path) -> None:
    (spair / "Layout" / "large" / "test.txt").unlink()
    pairs, _ = read_pairs(spair, "spair", "test")
    assert len(pairs) == 4


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no picture": (lambda r: (r / "JPEGImages/cat/two.png").unlink(), "pair 000000-one-two:cat: .*two.png is missing"),
    "no annotation": (lambda r: (r / FIRST).unlink(), "000000-one-two:cat is listed .*000000-one-two:cat.json is miss"),
    "outside": (
        lambda r: change(r, trg_kps=[[11, 8], [41, 14], [20, 50]]),
        r"pair 000000-one-two:cat: the keypoint \(41, 14\) is outside two.png, which is 40 x 60 pixels",
    ),
    "other size": (
        lambda r: Image.new("RGB", (30, 20)).save(r / "JPEGImages/cat/one.png"),
        "one.png is 30 x 20 pixels and was annotated at 60 x 40, so its keypoints do not match",
    ),
    "counts": (lambda r: change(r, src_kps=[[1, 2]]), "its sides have 1 and 3 keypoints, and must have equal numbers"),
    "none": (lambda r: change(r, src_kps=[], trg_kps=[]), "its sides have 0 and 0 keypoints"),
    "box": (lambda r: change(r, trg_bndbox=[5, 5, 5, 5]), "the target's box has no side above 0 pixels"),
    "no box": (lambda r: change(r, trg_bndbox={"xmin": 1}), "is no pair annotation of SPair-71k"),
    "no JSON": (lambda r: (r / FIRST).write_text("{"), "is no pair annotation of SPair-71k .JSONDecodeError"),
    "leaves": (lambda r: change(r, src_imname="../../../x.png"), r"\.\./x.png' leads outside"),
    "no picture file": (lambda r: (r / "JPEGImages/cat/two.png").write_text("x"), "two.png cannot be read"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_bad_pair_is_one_sentence_or_is_skipped(spair: Path, name: str) -> None:
    damage, message = BROKEN[name]
    damage(spair)
    with pytest.raises(DataError, match=f"{message}.*leave such pairs out with pairs.on_bad_pair=skip"):
        read_pairs(spair, "spair", "test")
    pairs, skipped = read_pairs(spair, "spair", "test", "skip")
    assert len(pairs) + len(skipped) == 4 and 2 <= len(pairs) <= 3


def test_a_split_that_is_not_there(spair: Path) -> None:
    with pytest.raises(DataError, match="no SPair-71k split val in .*name the folder in pairs.root"):
        read_pairs(spair, "spair", "val")
    with pytest.raises(DataError, match="no PF-PASCAL split test in .*: neither test_pairs_pf_pascal.csv nor test_pai"):
        read_pairs(spair, "pf_pascal", "test")
    with pytest.raises(DataError, match="pairs.layout=pf is unknown; choose one of: pf_pascal, spair"):
        read_pairs(spair, "pf", "test")
    with pytest.raises(DataError, match="pairs.on_bad_pair=drop is unknown"):
        read_pairs(spair, "spair", "test", "drop")


def write_pf_pascal(root: Path, last: str = "3;4") -> Path:
    (root / "JPEGImages").mkdir(parents=True)
    for name, size in (("a", (60, 40)), ("b", (40, 60))):
        Image.new("RGB", size).save(root / "JPEGImages" / f"{name}.png")
    (root / "test_pairs_pf_pascal.csv").write_text(
        "source_image,target_image,class,XA,YA,XB,YB\n"
        "PF-dataset-PASCAL/JPEGImages/a.png,PF-dataset-PASCAL/JPEGImages/b.png,8.0,1.5;2;,3;4;,5;6;,7;8;\n"
        f"{root.name}/JPEGImages/b.png,{root.name}/JPEGImages/a.png,20,1;2,3;4,5;6,{last}\n"
    )
    return root


def test_pf_pascal_is_read_by_name_or_by_path(tmp_path: Path) -> None:
    pairs, _ = read_pairs(write_pf_pascal(tmp_path / "pf"), "pf_pascal", "test")
    assert [pair.category for pair in pairs] == ["cat", "tvmonitor"]
    np.testing.assert_array_equal(pairs[0].source.points, [[1.5, 3], [2, 4]])
    assert pairs[0].target.path.name == "b.png" and pairs[0].extent == 60


@pytest.mark.parametrize("root", ["", "PF-dataset-PASCAL"])
def test_pf_pascal_is_read_as_it_ships(tmp_path: Path, root: str) -> None:
    """The pairs in a folder of their own, beside that of the pictures; either may be taken for the root."""
    made = write_pf_pascal(tmp_path / "PF-dataset-PASCAL")
    (tmp_path / "image_pairs").mkdir()
    (made / "test_pairs_pf_pascal.csv").rename(tmp_path / "image_pairs" / "test_pairs.csv")
    pairs, _ = read_pairs(tmp_path / root, "pf_pascal", "test")
    assert [pair.target.path.resolve() for pair in pairs] == [
        made / "JPEGImages" / "b.png",
        made / "JPEGImages" / "a.png",
    ]


@pytest.mark.parametrize(
    ("last", "message"), [("3", "is no row of PF-PASCAL"), ("3;x", "is no row"), ("3;44", "44. is")]
)
def test_a_bad_row_of_pf_pascal(tmp_path: Path, last: str, message: str) -> None:
    with pytest.raises(DataError, match=f"test_pairs_pf_pascal.csv, line 3.*{message}"):
        read_pairs(write_pf_pascal(tmp_path / "pf", last), "pf_pascal", "test")
