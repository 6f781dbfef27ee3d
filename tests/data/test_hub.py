"""A Hugging Face data set in a local folder: its pictures and rows are kept, and read like any table."""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from mllm_probe.data.coco import Selection
from mllm_probe.data.hub import Hub
from mllm_probe.data.pictures import ORIENTATION, open_rgb
from mllm_probe.errors import DataError
from mllm_probe.files.digests import Digests
from mllm_probe.records.samples import Collection

GREYS = [10, 90, 10, 200]


def encoded(grey: int) -> dict[str, Any]:
    held = io.BytesIO()
    Image.new("L", (6, 5), grey).save(held, "PNG")
    return {"bytes": held.getvalue(), "path": None}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Parquet with embedded pictures, the first and the third alike; labels are numbered and named."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    datasets.disable_progress_bars()
    rows = {
        "image": [encoded(grey) for grey in GREYS],
        "question": ["A?", "B?", "C?", "D?"],
        "answer": [1, 0, 1, 1],
        "film": ["x", "x", "y", "z"],
    }
    kinds = {
        "image": datasets.Image(),
        "question": datasets.Value("string"),
        "answer": datasets.ClassLabel(names=["no", "yes"]),
        "film": datasets.Value("string"),
    }
    (tmp_path / "set").mkdir()
    made = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
    made.to_parquet(str(tmp_path / "set" / "train.parquet"))
    return tmp_path / "set"


def load(hub: Hub, tmp_path: Path) -> Collection:
    return hub.load(tmp_path / "out", Selection(), Digests(tmp_path / "digests.json"))


def asked(folder: Path, **more: Any) -> Hub:
    return Hub(str(folder), **{"text_column": "question", "label_column": "answer", **more})


def test_rows_and_pictures_are_kept_and_read(folder: Path, tmp_path: Path) -> None:
    collection = load(asked(folder, group_column="film"), tmp_path)
    assert [(row.text, row.label, row.number) for row in collection.rows] == [
        ("A?", "yes", 1),
        ("B?", "no", 2),
        ("C?", "yes", 3),
        ("D?", "yes", 4),
    ]
    assert [open_rgb(row.picture.path).getpixel((0, 0)) for row in collection.rows] == [(g, g, g) for g in GREYS]
    first, second, third, fourth = (row.picture for row in collection.rows)
    assert first == third and len(collection.pictures) == 3
    assert first.group == second.group != fourth.group
    (kept,) = (tmp_path / "out" / "datasets").iterdir()
    assert kept.name.startswith("hub-") and len(list((kept / "images").iterdir())) == 3


def test_what_is_kept_is_not_written_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load(asked(folder), tmp_path)
    monkeypatch.setattr(Hub, "_write", None)
    assert load(asked(folder), tmp_path).rows == before.rows


def test_wrong_settings_are_one_sentence(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for hub, message in [
        (Hub(), "dataset=hub needs dataset.id=NAME"),
        (asked(folder, split="test"), 'dataset.split=test cannot be loaded \\(Unknown split "test"'),
        (asked(folder / "none"), "none, dataset.split=train cannot be loaded"),
        (
            asked(folder, text_column="quest"),
            "has no column 'quest' \\(dataset.text_column\\); did you mean 'question'\\?",
        ),
        (asked(folder, picture_column="film"), "row 1: 'film' is 'x', but must hold pictures; name their column"),
    ]:
        with pytest.raises(DataError, match=message) as caught:
            load(hub, tmp_path)
        assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out" / "datasets").glob("*"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"needs datasets; pip install 'mllm-probe\[hub\]'"):
        load(asked(folder), tmp_path)


def test_pictures_that_cannot_be_decoded_stop_or_are_left_out(tmp_path: Path, folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    torn = {"bytes": encoded(10)["bytes"][:30], "path": None}
    kinds = {"image": datasets.Image(), "text": datasets.Value("string")}
    kinds["label"] = datasets.Sequence(datasets.ClassLabel(names=["cat", "dog"]))
    rows = {"image": [encoded(10), torn, encoded(90)], "text": ["A", "B", "C"], "label": [[0, 1], [0], [1]]}
    (tmp_path / "torn").mkdir()
    made = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
    made.to_parquet(str(tmp_path / "torn" / "train.parquet"))
    with pytest.raises(DataError, match="row 2 cannot be decoded"):
        load(Hub(str(tmp_path / "torn")), tmp_path)
    skipping = Selection(on_bad_row="skip")
    found = Hub(str(tmp_path / "torn")).load(tmp_path / "out", skipping, Digests(tmp_path / "digests.json"))
    assert [(row.text, row.label) for row in found.rows] == [("A", ("cat", "dog")), ("C", ("dog",))]
    assert len(found.skipped) == 1 and "row 2" in found.skipped[0]


def parquet(tmp_path: Path, name: str, images: list[Any], labels: list[Any], **kinds: Any) -> Path:
    datasets = pytest.importorskip("datasets")
    features = {"image": datasets.Image(), "text": datasets.Value("string"), "label": datasets.Value("string"), **kinds}
    rows = {"image": images, "text": [f"{i}?" for i in range(len(images))], "label": labels}
    made = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    (tmp_path / name).mkdir()
    made.to_parquet(str(tmp_path / name / "train.parquet"))
    return tmp_path / name


def held(image: Image.Image, **options: Any) -> dict[str, Any]:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return {"bytes": buffer.getvalue(), "path": None}


def test_pictures_are_shown_as_those_of_every_reader(tmp_path: Path, folder: Path) -> None:
    """16 bits, EXIF, transparency."""
    ramp = np.arange(0, 240, 5, dtype=np.uint8).reshape(6, 8)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    images = [
        held(Image.fromarray(ramp.astype(np.uint16) * 257)),
        held(Image.fromarray(ramp), exif=exif),
        held(Image.new("RGBA", (8, 6), (255, 0, 0, 0))),
    ]
    rows = load(Hub(str(parquet(tmp_path, "odd", images, ["a", "b", "c"]))), tmp_path).rows
    deep, turned, nothing = (np.asarray(open_rgb(row.picture.path))[..., 0] for row in rows)
    assert np.array_equal(deep, ramp) and np.array_equal(turned, np.rot90(ramp, -1)) and (nothing == 255).all()


def test_a_label_that_was_not_published_is_a_bad_row(tmp_path: Path, folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    images, named = [encoded(grey) for grey in GREYS], datasets.ClassLabel(names=["no", "yes"])
    one = parquet(tmp_path, "one", images, [1, -1, 0, 1], label=named)
    several = parquet(tmp_path, "several", images, [[0, 1], [0, -1], [1], [0]], label=datasets.Sequence(named))
    for place in (one, several):
        with pytest.raises(DataError, match="row 2: 'label' is empty, but must be a word, .*data.on_bad_row=skip"):
            load(Hub(str(place)), tmp_path)
        skipping = Selection(on_bad_row="skip")
        found = Hub(str(place)).load(tmp_path / "out", skipping, Digests(tmp_path / "digests.json"))
        assert [row.number for row in found.rows] == [1, 3, 4] and len(found.skipped) == 1


def test_what_pillow_raises_is_a_sentence(tmp_path: Path, folder: Path) -> None:
    told = PngImagePlugin.PngInfo()
    told.add_text("comment", "x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    place = parquet(tmp_path, "long", [held(Image.new("L", (2, 2)), pnginfo=told), encoded(9)], ["a", "b"])
    with pytest.raises(DataError, match="row 1 cannot be decoded"):
        load(Hub(str(place)), tmp_path)
    found = Hub(str(place)).load(tmp_path / "out", Selection(on_bad_row="skip"), Digests(tmp_path / "digests.json"))
    assert [row.label for row in found.rows] == ["b"]


def test_folders_of_save_to_disk_are_read(tmp_path: Path, folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    whole = datasets.load_dataset(str(folder), split="train")
    datasets.Dataset.from_dict(whole.to_dict(), features=whole.features).save_to_disk(str(tmp_path / "nameless"))
    whole.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict(train=whole, test=whole.select([1])).save_to_disk(str(tmp_path / "both"))
    for place, split, texts in [
        ("nameless", "train", "ABCD"),
        ("one", "train", "ABCD"),
        ("both", "train", "ABCD"),
        ("both", "test", "B"),
    ]:
        rows = load(asked(tmp_path / place, split=split), tmp_path).rows
        assert [row.text for row in rows] == [f"{letter}?" for letter in texts], place
    for place, said in [("one", "choose one of: train"), ("both", "choose one of: test, train")]:
        with pytest.raises(DataError, match=f"{place} has no split 'val'; {said}"):
            load(asked(tmp_path / place, split="val"), tmp_path)


def test_the_code_of_a_data_set_is_not_run(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "scripted").mkdir()
    (tmp_path / "scripted" / "scripted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(DataError, match="scripted needs its own code, and no such code is run here; if"):
        load(asked(tmp_path / "scripted"), tmp_path)
    assert not (tmp_path / "ran").exists()


def test_what_save_to_disk_left_is_torn_or_empty(folder: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    made = datasets.load_dataset(str(folder), split="train")
    made.save_to_disk(str(tmp_path / "saved"))
    next((tmp_path / "saved").glob("*.arrow")).write_bytes(b"")
    made.select([]).save_to_disk(str(tmp_path / "empty"))
    for name in ("saved", "empty"):
        with pytest.raises(DataError, match=f"{name}, .* cannot be loaded .*; save it again with save_to_disk$"):
            load(asked(tmp_path / name), tmp_path)


def test_columns_of_pictures(folder: Path, tmp_path: Path) -> None:
    """As a label they would be classes named by their place in memory; kept as bytes they are read all the same."""
    datasets = pytest.importorskip("datasets")
    with pytest.raises(DataError, match=r"row 1: 'image' \(dataset.label_column\) holds pictures; name another column"):
        load(asked(folder, label_column="image"), tmp_path)
    plain = load(asked(folder), tmp_path)
    made = datasets.load_dataset(str(folder), split="train").cast_column("image", datasets.Image(decode=False))
    made.save_to_disk(str(tmp_path / "bytes"))
    assert [row.picture.digest for row in load(asked(tmp_path / "bytes"), tmp_path).rows] == [
        row.picture.digest for row in plain.rows
    ]
    spoilt = [encoded(1), {"bytes": b"none", "path": None}]
    kinds = datasets.Features({"image": datasets.Image(), "question": datasets.Value("string")})
    rows = {"image": spoilt, "question": ["A?", "B?"]}
    datasets.Dataset.from_dict(rows, features=kinds).save_to_disk(str(tmp_path / "spoilt"))
    with pytest.raises(
        DataError, match=r"row 2 cannot be decoded \(cannot identify image file\); fix it, or leave such"
    ):
        load(asked(tmp_path / "spoilt", label_column="question"), tmp_path)
