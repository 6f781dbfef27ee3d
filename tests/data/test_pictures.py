"""One way in for every picture: what a model is shown does not depend on how the file says it."""

import json
import os
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, PngImagePlugin

from mllm_probe.config.vision import ScoreSettings
from mllm_probe.data.coco import Coco, Selection
from mllm_probe.data.pictures import ORIENTATION, UPRIGHT, look_at, named_file, open_rgb, size_of, write_blank
from mllm_probe.data.spair import Pair, View
from mllm_probe.data.table import Table
from mllm_probe.errors import DataError
from mllm_probe.files.digests import Digests, file_digest
from mllm_probe.records.samples import Collection, Picture, Sample
from mllm_probe.vision.encoding import Features, matched, pooled
from tests.support.checkpoints import blueprint_of
from tests.support.runs import QUICK, Run, Silent

GREYS = np.arange(0, 256, 5, dtype=np.uint8)[:48].reshape(6, 8)
PICTURE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def save(path: Path, values: np.ndarray, **options: object) -> Path:
    Image.fromarray(values).save(path, **options)  # type: ignore[arg-type]
    return path


def tiff(path: Path, values: np.ndarray, bits: int, kind: int = 1, photometric: int = 1) -> Path:
    """A grey TIFF of one strip, with the tags that are asked for; 12 bits are packed, two pixels in three bytes."""
    data = values.tobytes()
    if bits == 12:
        data = b"".join(struct.pack(">I", (int(a) << 12) | int(b))[1:] for a, b in values.reshape(-1, 2))
    height, width = values.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height, 279: len(data)}
    tags[339] = kind
    offset = 8 + len(data)
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", t, 4, 1, v) for t, v in tags.items())
    path.write_bytes(struct.pack("<2sHI", b"II", 42, offset) + data + directory + struct.pack("<I", 0))
    return path


DEEP: dict[str, Callable[[Path], Path]] = {
    "16-bit PNG": lambda p: save(p / "a.png", GREYS.astype(np.uint16) * 257),
    "16-bit TIFF": lambda p: save(p / "a.tif", GREYS.astype(np.uint16) * 257),
    "16-bit PGM": lambda p: save(p / "a.pgm", GREYS.astype(np.uint16) * 257),
    "12-bit TIFF": lambda p: tiff(p / "a.tif", np.rint(GREYS / 255 * 4095).astype(int), 12),
    "16-bit TIFF from white to black": lambda p: tiff(p / "a.tif", ~(GREYS.astype("<u2") * 257), 16, photometric=0),
    "float TIFF": lambda p: save(p / "a.tif", (GREYS / 255).astype(np.float32)),
    "float TIFF from white to black": lambda p: tiff(p / "a.tif", (1 - GREYS / 255).astype("<f4"), 32, 3, 0),
    "float PFM": lambda p: save(p / "a.pfm", (GREYS / 255).astype(np.float32)),
}


@pytest.mark.parametrize("kind", DEEP)
def test_deep_greys_are_those_of_the_8_bit_file(tmp_path: Path, kind: str) -> None:
    path = DEEP[kind](tmp_path)
    assert np.array_equal(np.asarray(open_rgb(path))[..., 0], GREYS), kind
    assert open_rgb(path).mode == "RGB" and look_at(path, Digests(tmp_path / "memo.json")) != file_digest(path)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (GREYS.astype(np.float32), "fractions from 0 to 235"),
        (np.full((2, 2), np.nan, np.float32), "fractions from nan to nan"),
        (GREYS.astype(np.int32), "signed numbers, so its black is unknown"),
    ],
)
def test_numbers_without_a_white_are_refused(tmp_path: Path, values: np.ndarray, said: str) -> None:
    with pytest.raises(DataError, match=rf"a.tif cannot be decoded \(it holds {said}.*save it with 8 or 16 bits"):
        open_rgb(save(tmp_path / "a.tif", values))


@pytest.mark.parametrize(("dtype", "bits"), [("i1", 8), ("<i2", 16), ("<i4", 32)])
def test_signed_numbers_are_refused(tmp_path: Path, dtype: str, bits: int) -> None:
    path = tiff(tmp_path / "a.tif", np.array([[-5, 0, 5]], dtype), bits, 2)
    with pytest.raises(DataError, match="signed numbers, so its black is unknown; save it with 8 or 16"):
        open_rgb(path)


def test_unsigned_numbers_of_32_bits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="32-bit whole numbers, so its white is unknown"):
        open_rgb(tiff(tmp_path / "a.tif", np.array([[0, 5]], "<u4"), 32))


def turned(path: Path, orientation: int) -> Path:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return save(path, PICTURE, exif=exif)


@pytest.mark.parametrize("orientation", [*UPRIGHT])
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_pictures_are_upright_unless_stored_pixels_are_asked_for(tmp_path: Path, orientation: int, name: str) -> None:
    path = turned(tmp_path / name, orientation)
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")  # Pillow's own way, as an oracle
    assert open_rgb(path).tobytes() == upright.tobytes() and open_rgb(path).size == upright.size == size_of(path)
    assert write_blank(path, tmp_path / "blank").stem == f"{upright.width}x{upright.height}"
    if name != "a.tif":  # which Pillow turns whoever asks
        assert open_rgb(path, upright=False).size == (8, 6)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")
def test_torn_exif_is_none(tmp_path: Path) -> None:
    """Every viewer shows such a picture as it is stored."""
    path = save(tmp_path / "a.jpg", PICTURE, exif=b"Exif\0\0II\x2a\0\x08\0\0\0\xff\xff\x12\x01")
    assert open_rgb(path).size == (8, 6) and look_at(path, Digests(tmp_path / "memo.json")) == file_digest(path)


def hidden(path: Path, mode: str) -> Path:
    """A black mark on nothing, whose hidden colour is red; or a palette, a grey and a colour that stand for nothing."""
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 2, 4))
    options: dict[str, object] = {}
    if mode in ("L", "RGB", "I;16"):
        seen = np.asarray(image)[..., 3] // 255 * 90
        values = {"L": 90 - seen, "I;16": (90 - seen).astype(np.uint16) * 257, "RGB": np.stack([90 - seen] * 3, -1)}
        image = Image.fromarray(values[mode])
        options["transparency"] = {"L": 90, "I;16": 90 * 257, "RGB": (90, 90, 90)}[mode]
    elif mode == "P":
        image = image.quantize()
    elif mode != "RGBA":
        image = image.convert(mode)
    image.save(path, **options)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB", "I;16"])
def test_nothing_is_white(tmp_path: Path, mode: str) -> None:
    pixels = np.asarray(open_rgb(hidden(tmp_path / "a.png", mode)))
    assert np.array_equal(pixels[:, 2:], np.full((4, 2, 3), 255)) and not pixels[:, :2].any()


def png(path: Path, bits: int, kind: int, row: bytes, width: int, hidden: bytes) -> Path:
    """One row of a PNG by hand: `kind` 0 is grey, 2 colours; `hidden` stands for nothing."""
    head, data = struct.pack(">IIBBBBB", width, 1, bits, kind, 0, 0, 0), zlib.compress(b"\0" + row)
    parts = ((b"IHDR", head), (b"tRNS", hidden), (b"IDAT", data), (b"IEND", b""))
    chunks = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return path


@pytest.mark.parametrize(("bits", "row", "grey"), [(1, 0b01000000, 255), (2, 0b00011011, 85), (4, 0x01, 17)])
def test_a_grey_of_few_bits_that_stands_for_nothing(tmp_path: Path, bits: int, row: int, grey: int) -> None:
    """The value 1, and no other that is as bright as the number 1 of 8 bits."""
    path = png(tmp_path / "a.png", bits, 0, bytes([row]), 2, b"\0\1")
    assert np.asarray(open_rgb(path))[0, :, 0].tolist() == [0, 255]
    path = png(tmp_path / "a.png", bits, 0, bytes([row]), 2, b"\0\0")
    assert np.asarray(open_rgb(path))[0, :, 0].tolist() == [255, grey]


def test_a_colour_of_16_bits_that_stands_for_nothing(tmp_path: Path) -> None:
    """Pillow has 8 bits of it, which others share."""
    row = struct.pack(">6H", 1000, 2000, 3000, 1001, 2000, 3000)
    with pytest.raises(DataError, match="a colour of 16 bits marks transparency, .* with an alpha channel"):
        open_rgb(png(tmp_path / "a.png", 16, 2, row, 2, struct.pack(">3H", 1000, 2000, 3000)))


def test_half_of_a_colour_is_half_white(tmp_path: Path) -> None:
    Image.new("RGBA", (1, 1), (0, 100, 200, 127)).save(tmp_path / "a.png")
    assert np.allclose(open_rgb(tmp_path / "a.png").getpixel((0, 0)), (128, 178, 228), atol=1)


def test_the_digest_says_how_a_picture_is_read(tmp_path: Path) -> None:
    """Else states of the picture as older releases showed it would be served; of plain pictures they still are."""
    plain = save(tmp_path / "plain.png", PICTURE)
    digests = Digests(tmp_path / "digests.json")
    assert look_at(plain, digests) == file_digest(plain)
    for path in (turned(tmp_path / "t.png", 6), hidden(tmp_path / "h.png", "RGBA"), DEEP["16-bit PNG"](tmp_path)):
        assert look_at(path, digests) != file_digest(path) == digests.of(path)
        assert len(look_at(path, digests)) == 32


def bomb(path: Path) -> Path:
    """The head of a PNG of 400 megapixels."""
    return save(path, np.zeros((20_000, 20_000), bool), compress_level=1)


def talk(path: Path) -> Path:
    """A PNG with a compressed comment that is longer than Pillow reads."""
    told = PngImagePlugin.PngInfo()
    told.add_text("comment", "x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    return save(path, PICTURE, pnginfo=told)


WILD = {bomb: "has more than 178956970 pixels; make it smaller", talk: "cannot be decoded"}


@pytest.mark.parametrize("wild", WILD)
def test_what_pillow_raises_is_a_sentence_with_the_row(tmp_path: Path, wild: Callable[[Path], Path]) -> None:
    """In every reader: COCO, a table, keypoints."""
    wild(tmp_path / "a.png")
    for load in (in_coco, in_table):
        with pytest.raises(DataError, match=f"(picture id 1|row 1): .*a.png {WILD[wild]}.*on_bad_row=skip") as caught:
            load(tmp_path)
        assert "\n" not in str(caught.value)
        save(tmp_path / "b.png", PICTURE)
        assert len(load(tmp_path, "a.png", "b.png", on_bad_row="skip").pictures) == 1


def in_coco(root: Path, *names: str, **selection: str) -> Collection:
    images = [{"id": i, "file_name": name} for i, name in enumerate(names or ("a.png",), 1)]
    (root / "captions.json").write_text(json.dumps({"images": images, "annotations": []}))
    if not (root / "images").exists():
        (root / "images").symlink_to(root)
    return Coco(str(root)).load(root, Selection(**selection), Digests(root / "digests.json"))  # type: ignore[arg-type]


def in_table(root: Path, *names: str, **selection: str) -> Collection:
    rows = [{"picture": name, "text": "?", "label": "x"} for name in names or ("a.png",)]
    (root / "rows.json").write_text(json.dumps(rows))
    table = Table(str(root), "rows.json")
    return table.load(root, Selection(**selection), Digests(root / "digests.json"))  # type: ignore[arg-type]


@pytest.mark.parametrize("load", [in_coco, in_table])
def test_the_target_of_a_link_may_lie_anywhere_and_the_name_may_not(
    tmp_path: Path, load: Callable[..., Collection], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, store = tmp_path / "set", tmp_path / "store"
    root.mkdir()
    store.mkdir()
    (root / "images").mkdir()
    for folder in (root, root / "images"):  # where the table looks, and where COCO does
        (folder / "a.png").symlink_to(save(store / "blob.png", PICTURE))
        (folder / "lost.png").symlink_to(store / "annexed")
        (folder / "ring.png").symlink_to(folder / "ring.png")
    assert len(load(root).pictures) == 1
    (root / "images" / "folder.png").mkdir()
    (root / "images" / "device.png").symlink_to("/dev/zero")
    os.mkfifo(root / "images" / "pipe.png")
    monkeypatch.chdir(root / "images")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket.png")  # a name of its own, for whole paths may be too long
    for odd in ("folder", "device", "pipe", "socket"):
        (root / f"{odd}.png").symlink_to(root / "images" / f"{odd}.png")
    for name, said in [
        ("../store/blob.png", "'../store/blob.png' leads outside"),
        (str(store / "blob.png"), "leads outside"),
        ("lost.png", "lost.png is a symbolic link to .*annexed, which does not exist; put the file there"),
        ("ring.png", "ring.png is a symbolic link to itself; put the file there"),
        ("folder.png", "folder.png is a folder, not a file"),
        ("pipe.png", "pipe.png is a pipe, not a file"),  # which would keep its reader waiting
        ("socket.png", "socket.png is a socket, not a file"),
        ("device.png", "device.png is a device, not a file"),
        ("n" * 300, "n' is no file name that can be opened; fix the row"),
        ("a\0b", "is no file name that can be opened; fix the row|is missing; put the file there"),
    ]:
        with pytest.raises(DataError, match=said):
            load(root, name)
    monkeypatch.chdir(root)
    for name in ("../store/blob.png", "images/../../store/blob.png"):
        with pytest.raises(DataError, match="leads outside"):
            named_file(Path(), name)
    with pytest.raises(
        DataError, match=r"a.png is a link to .*blob.png, outside .*, and data.links=refuse refuses such"
    ):
        load(root, links="refuse")
    with pytest.raises(DataError, match="data.links=no is unknown; choose one of: follow, refuse"):
        load(root, links="no")
    (root / "inner.png").symlink_to(save(root / "images" / "own.png", PICTURE))
    assert named_file(root, "inner.png", "refuse") == root / "inner.png", "it stays below the root"


@pytest.mark.parametrize(
    ("file", "word"),
    [
        ("pipe.jsonl", "dataset.file=pipe.jsonl"),
        ("splits.csv", "splits.file=splits.csv"),
        ("images/instances.json", "dataset.root=images"),
    ],
)
def test_a_pipe_keeps_no_reader_waiting(probe: Run, tmp_path: Path, file: str, word: str) -> None:
    (tmp_path / "images").mkdir()
    os.mkfifo(tmp_path / file)
    if "instances" in file:
        (tmp_path / "images" / "captions.json").write_text(json.dumps({"images": [], "annotations": []}))
    task = ["task=custom", "dataset.root=."] if "jsonl" in file else ["dataset=coco"] if "json" in file else []
    code, _, err = probe("inspect", "data.n=8", *task, word)
    assert code == 1 and f"{file} is a pipe, not a file" in err.replace("it is", f"{file} is")


def test_the_command_names_the_choices(probe: Run) -> None:
    code, _, err = probe("extract", *QUICK, "data.links=elsewhere")
    assert code == 1 and "data.links=elsewhere is unknown; choose one of: follow, refuse" in err


def test_the_model_is_shown_the_upright_picture(checkpoint: Path, tmp_path: Path) -> None:
    upright = save(tmp_path / "u.png", np.rot90(PICTURE, -1))
    shown = [
        blueprint_of(checkpoint).process([Sample.of([Picture("p", path, "p")], "a", {})])["pixel_values"]
        for path in (upright, turned(tmp_path / "t.png", 6))
    ]
    assert torch.equal(*shown)


def test_keypoints_lie_in_stored_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The C score must see a pair's pictures as their keypoints count pixels, and the other measures upright ones."""
    seen: list[bytes] = []

    class Encoder:
        plan, remarks = SimpleNamespace(name="e", size=8), ()

        def features(self, pictures: list[Image.Image]) -> torch.Tensor:
            seen.extend(picture.tobytes() for picture in pictures)
            return torch.zeros(len(pictures), 4, 3)

    monkeypatch.setattr("mllm_probe.models.encoders.by_kind.load_encoder", lambda *_: Encoder())
    monkeypatch.setattr("mllm_probe.vision.encoding.drawer", lambda _: lambda picture, _: picture)
    monkeypatch.setattr("mllm_probe.vision.encoding.find_keypoints", lambda *_: None)
    one = SimpleNamespace(name="e", encoders=("e",), features=lambda parts: parts["e"])
    features = Features({"e": None}, [one], ScoreSettings(), "cpu", Silent())  # type: ignore[dict-item, list-item]
    path = turned(tmp_path / "t.png", 6)
    side = View(path, (8, 6), np.zeros((1, 2)))
    matched(features, [Pair("p", "cat", side, side, 6.0)], "soft", Silent())
    pooled(features, [path], Silent())
    assert seen == [PICTURE.tobytes(), np.rot90(PICTURE, -1).tobytes()]
