"""The COCO download against a small server: what it writes is read by dataset=coco, and every fault is one sentence."""

import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import get_coco
import pytest
from PIL import Image

from mllm_probe.data.coco import Coco, Selection
from mllm_probe.files.digests import Digests

PICTURES = 6


class Site(ThreadingHTTPServer):
    """`files` by path; `ranges` off ignores Range, `breaks` cuts one answer short, `asked` keeps (path, Range)."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.ranges, self.breaks = True, {}  # type: bool, dict[str, int]
        self.asked: list[tuple[str, str | None]] = []


class Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        wanted, body = self.headers["Range"], self.server.files.get(self.path)
        self.server.asked.append((self.path, wanted))
        if body is None:
            self.send_error(404)
            return
        start = int(wanted[len("bytes=") : -1]) if wanted and self.server.ranges else 0
        if start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start : self.server.breaks.pop(self.path, len(body))])

    def log_message(self, *args: object) -> None:
        pass


def zipped(files: dict[str, bytes]) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name, body in files.items():
            archive.writestr(name, body)
    return held.getvalue()


def jpeg(number: int) -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (20 + number, 16), (number * 30, 90, 10)).save(held, "JPEG")
    return held.getvalue()


def annotations() -> dict[str, bytes]:
    images = [
        {
            "id": n,
            "file_name": f"{n:012d}.jpg",
            "width": 20 + n,
            "height": 16,
            "coco_url": f"http://images.cocodataset.org/val2017/{n:012d}.jpg",
        }
        for n in range(PICTURES, 0, -1)
    ]
    said = [{"image_id": n, "caption": f"picture {n}"} for n in range(1, PICTURES + 1)]
    seen = [{"image_id": n, "category_id": 1} for n in range(1, PICTURES + 1)]
    records = {
        "captions": {"images": images, "annotations": said},
        "instances": {"images": images, "annotations": seen, "categories": [{"id": 1, "name": "dog"}]},
    }
    return {f"annotations/{kind}_val2017.json": json.dumps(held).encode() for kind, held in records.items()}


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    server = Site()
    names = {n: f"val2017/{n:012d}.jpg" for n in range(1, PICTURES + 1)}
    server.files = {f"/{name}": jpeg(n) for n, name in names.items()}
    publish(server, monkeypatch, get_coco.ANNOTATIONS, annotations())
    publish(server, monkeypatch, "zips/val2017.zip", {name: jpeg(n) for n, name in names.items()})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def publish(site: Site, monkeypatch: pytest.MonkeyPatch, name: str, files: dict[str, bytes]) -> None:
    site.files[f"/{name}"] = zipped(files)
    monkeypatch.setitem(get_coco.MD5, name, hashlib.md5(site.files[f"/{name}"]).hexdigest())


def call(site: Site, folder: Path, *args: str) -> int:
    return get_coco.main([str(folder), "--address", f"http://127.0.0.1:{site.server_address[1]}/", *args])


def ids(folder: Path, tmp_path: Path) -> list[str]:
    held = Coco(root=str(folder)).load(tmp_path, Selection(), Digests(tmp_path / "digests.json"))
    assert not held.skipped and all(p.captions and p.categories == {"dog"} for p in held.pictures)
    return [p.id for p in held.pictures]


def test_what_is_fetched_is_read_by_the_dataset(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "coco"
    assert call(site, folder) == 0
    assert ids(folder, tmp_path) == [str(n) for n in range(1, PICTURES + 1)]
    assert not (folder / "val2017.zip").exists()
    asked = len(site.asked)
    assert call(site, folder) == 0 and len(site.asked) == asked, "nothing is fetched twice"
    (folder / "val2017" / f"{3:012d}.jpg").unlink()
    assert call(site, folder) == 0 and len(ids(folder, tmp_path)) == PICTURES


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_goes_on(
    ranges: bool, site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.ranges, site.breaks = ranges, {"/zips/val2017.zip": 500}
    assert call(site, tmp_path / "coco") == 1
    whole = len(site.files["/zips/val2017.zip"])
    assert f"val2017.zip broke off after 500 of {whole} bytes; run this again to go on" in capsys.readouterr().err
    assert (tmp_path / "coco" / "val2017.zip.part").stat().st_size == 500
    assert call(site, tmp_path / "coco") == 0
    assert site.asked[-1] == ("/zips/val2017.zip", "bytes=500-")
    assert len(ids(tmp_path / "coco", tmp_path)) == PICTURES


def test_a_part_that_is_whole_or_too_long(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "coco"
    folder.mkdir()
    part, body = folder / "annotations_trainval2017.zip.part", site.files[f"/{get_coco.ANNOTATIONS}"]
    part.write_bytes(body + b"more")
    assert call(site, folder) == 1
    assert "annotations_trainval2017.zip.part does not fit" in capsys.readouterr().err and not part.exists()
    part.write_bytes(body)
    assert call(site, folder) == 0


def test_a_wrong_checksum_is_named(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = get_coco.MD5["zips/val2017.zip"]
    monkeypatch.setitem(get_coco.MD5, "zips/val2017.zip", "0" * 32)
    assert call(site, tmp_path / "coco") == 1
    said = capsys.readouterr().err
    assert f"val2017.zip has the MD5 {right}, {'0' * 32} is expected; it was removed" in said
    assert not list((tmp_path / "coco").glob("val2017*"))


def test_a_limit_fetches_single_pictures(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "coco"
    assert call(site, folder, "--limit", "2") == 0
    assert ids(folder, tmp_path) == ["1", "2"]
    assert [path for path, _ in site.asked if path.startswith("/val2017")] == [f"/val2017/{n:012d}.jpg" for n in (1, 2)]
    site.files[f"/val2017/{3:012d}.jpg"] = jpeg(5)
    assert call(site, folder, "--limit", "3") == 1
    assert "000000000003.jpg has 25x16 pixels, annotated are 23x16; it was removed" in capsys.readouterr().err
    site.files[f"/val2017/{3:012d}.jpg"] = jpeg(3)[:-40]
    assert call(site, folder, "--limit", "3") == 1
    assert "cannot be decoded" in capsys.readouterr().err
    del site.files[f"/val2017/{3:012d}.jpg"]
    assert call(site, folder, "--limit", "3") == 1
    assert "000000000003.jpg cannot be fetched (HTTP Error 404" in capsys.readouterr().err
    assert call(site, folder) == 0 and len(ids(folder, tmp_path)) == PICTURES, "the whole split after a limit"


@pytest.mark.parametrize("name", ["../out.jpg", "/tmp/out.jpg", "val2017/../../out.jpg", "annotations/x.json"])
def test_an_archive_that_leaves_its_folder_is_refused(
    name: str, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(site, monkeypatch, "zips/val2017.zip", {"val2017/a.jpg": b"a", name: b"b"})
    assert call(site, tmp_path / "coco") == 1
    assert repr(name) in capsys.readouterr().err
    assert not list(tmp_path.rglob("out.jpg")) and not (tmp_path / "coco" / "val2017").exists()


def test_no_server_and_no_pictures_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert get_coco.main([str(tmp_path), "--address", "http://127.0.0.1:9"]) == 1
    assert "cannot be fetched" in capsys.readouterr().err
    assert get_coco.main([str(tmp_path), "--address", "nowhere"]) == 1
    assert "unknown url type" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        get_coco.main([str(tmp_path), "--limit", "0"])


def test_the_checksums_are_the_published_ones() -> None:
    assert set(get_coco.MD5) == {get_coco.ANNOTATIONS, *(f"zips/{split}.zip" for split in get_coco.SPLITS)}
    assert all(len(value) == 32 for value in get_coco.MD5.values())
