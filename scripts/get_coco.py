"""Download MS COCO 2017 into the layout that dataset=coco reads: FOLDER/annotations/*.json and FOLDER/SPLIT/*.jpg.

    python scripts/get_coco.py data/coco                     # val2017
    python scripts/get_coco.py data/coco --limit 500         # its first 500 pictures, one by one
    mllm-probe run dataset=coco dataset.root=data/coco

From the official addresses, checked by MD5. Run it again after an interruption: it goes on where it stopped.
"""

import argparse
import hashlib
import http.client
import json
import shutil
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from mllm_probe.data.pictures import inside, open_rgb
from mllm_probe.errors import DataError
from mllm_probe.files.store_paths import replacing
from mllm_probe.report.terminal.progress import RichReporter

ADDRESS = "http://images.cocodataset.org"
SPLITS = ("val2017", "train2017")
ANNOTATIONS = "annotations/annotations_trainval2017.zip"
MD5 = {  # as many projects print them; COCO's own pages give none
    ANNOTATIONS: "f4bbac642086de4f52a3fdda2de5fa2c",
    "zips/val2017.zip": "442b8da7639aecaf257c1dceb8ba8c80",
    "zips/train2017.zip": "cced6f7f71b7629ddf16f17bbcfab6b2",
}
CHUNK = 1 << 20
PATIENCE = 60  # seconds without a byte


def get_coco(folder: Path, split: str, limit: int | None, address: str, reporter: RichReporter) -> None:
    """Raises DataError; what was fetched so far stays for the next run."""
    folder.mkdir(parents=True, exist_ok=True)
    archive = fetch_checked(ANNOTATIONS, folder, address, reporter)
    if limit is None:
        unpack(archive, folder, "annotations", reporter)
        if not all((folder / split / image["file_name"]).is_file() for image in images_of(folder, split)):
            pictures = fetch_checked(f"zips/{split}.zip", folder, address, reporter)
            unpack(pictures, folder, split, reporter)
            pictures.unlink()
    else:
        cut_annotations(archive, folder, split, limit)
        fetch_pictures(folder, split, address, reporter)
    reporter.note(
        f"{len(images_of(folder, split))} pictures of {split} are in {folder}; "
        f"use dataset=coco dataset.root={folder} dataset.split={split}"
    )


def fetch_checked(name: str, folder: Path, address: str, reporter: RichReporter) -> Path:
    """An archive whose MD5 is right; one that is wrong is removed, so that the next run starts anew."""
    target = folder / Path(name).name
    if not target.is_file():
        fetch(f"{address}/{name}", target, reporter)
    with target.open("rb") as handle:
        found = hashlib.file_digest(handle, "md5").hexdigest()
    if found != MD5[name]:
        target.unlink()
        raise DataError(f"{target} has the MD5 {found}, {MD5[name]} is expected; it was removed, run this again")
    return target


def fetch(url: str, target: Path, reporter: RichReporter | None = None) -> None:
    """Download into TARGET.part, going on where an earlier run stopped, and rename it when it is whole."""
    part = target.with_name(target.name + ".part")
    have = part.stat().st_size if part.is_file() else 0
    try:
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            resumed = answer.status == 206
            have = have if resumed else 0  # a server that knows no ranges sends everything again
            total = have + int(answer.headers.get("Content-Length", 0))
            with part.open("ab" if resumed else "wb") as handle:
                while chunk := answer.read(CHUNK):
                    handle.write(chunk)
                    have += len(chunk)
                    if reporter:
                        reporter.progress(target.name, have >> 10, total >> 10, "KiB")
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416:
            raise DataError(f"{url} cannot be fetched ({error}); try again or give a mirror with --address") from error
        total = int(error.headers.get("Content-Range", "*/-1").rpartition("/")[2])
        if total != have:
            part.unlink()
            raise DataError(f"{part} does not fit {url}; it was removed, run this again") from error
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        raise DataError(f"{url} cannot be fetched ({error}); run this again to go on, or give --address") from error
    if have < total:
        raise DataError(f"{url} broke off after {have} of {total} bytes; run this again to go on")
    part.replace(target)


def unpack(archive: Path, folder: Path, top: str, reporter: RichReporter) -> None:
    """Every file of an archive below FOLDER/TOP; each is written whole or not at all. Raises DataError."""
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.infolist() if not member.is_dir()]
            for member in members:  # all names first: an archive with one bad name is not unpacked at all
                if not inside(folder, member.filename).resolve().is_relative_to((folder / top).resolve()):
                    raise DataError(f"{archive} holds {member.filename!r}, files below {top}/ are expected")
            for done, member in enumerate(members, 1):
                with replacing(folder / member.filename) as part, part.open("wb") as handle:
                    shutil.copyfileobj(opened.open(member), handle, CHUNK)
                reporter.progress(f"unpack {archive.name}", done, len(members), "files")
    except zipfile.BadZipFile as error:
        raise DataError(f"{archive} is damaged ({error}); remove it and run this again") from error


def images_of(folder: Path, split: str) -> list[dict[str, Any]]:
    """What the annotations say about each picture of a split."""
    records = json.loads((folder / "annotations" / f"captions_{split}.json").read_bytes())
    return sorted(records["images"], key=lambda image: int(image["id"]))


def cut_annotations(archive: Path, folder: Path, split: str, limit: int) -> None:
    """Write the split's annotations for its first `limit` picture ids only, so that none names an absent picture."""
    with zipfile.ZipFile(archive) as opened:
        for kind in ("captions", "instances"):
            name = f"annotations/{kind}_{split}.json"
            records = json.loads(opened.read(name))
            chosen = set(sorted(image["id"] for image in records["images"])[:limit])
            records["images"] = [image for image in records["images"] if image["id"] in chosen]
            records["annotations"] = [row for row in records["annotations"] if row["image_id"] in chosen]
            with replacing(folder / name) as part:
                part.write_text(json.dumps(records))


def fetch_pictures(folder: Path, split: str, address: str, reporter: RichReporter) -> None:
    """Each picture that the annotations name, by its coco_url, decoded and held against the size they state."""
    images = images_of(folder, split)
    (folder / split).mkdir(exist_ok=True)
    for done, image in enumerate(images, 1):
        target = inside(folder / split, image["file_name"])
        if not target.is_file():
            fetch(address + urlsplit(image["coco_url"]).path, target)
            check_picture(target, (image["width"], image["height"]))
        reporter.progress(split, done, len(images), "pictures")


def check_picture(path: Path, size: tuple[int, int]) -> None:
    """Raises DataError, and removes the file, unless it decodes to this width and height."""
    try:
        open_rgb(path)
        with Image.open(path) as image:
            found = image.size
        if found != size:
            raise DataError(f"picture {path} has {found[0]}x{found[1]} pixels, annotated are {size[0]}x{size[1]}")
    except DataError as error:
        path.unlink()
        raise DataError(f"{error}; it was removed, run this again") from error


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", choices=SPLITS, default="val2017")
    parser.add_argument("--limit", type=int, metavar="N", help="only the pictures with the N lowest ids")
    parser.add_argument("--address", default=ADDRESS, help="a mirror with the same paths (default: %(default)s)")
    given = parser.parse_args(args)
    if given.limit is not None and given.limit < 1:
        parser.error(f"--limit {given.limit} selects no picture; give a number from 1")
    try:
        with RichReporter() as reporter:
            get_coco(given.folder, given.split, given.limit, given.address.rstrip("/"), reporter)
    except (DataError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run this again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
