"""Near-duplicates: photographs that were copied are found, drawn scenes that differ in one thing are not joined."""

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from mllm_probe.data import pictures
from mllm_probe.data.coco import Coco, Selection
from mllm_probe.data.drawing import COLOURS, draw, random_scene
from mllm_probe.data.duplicates import _candidates, grouped, joined
from mllm_probe.data.pictures import hash_of, open_rgb, perceptual_hash
from mllm_probe.data.scenes import Scenes
from mllm_probe.files.digests import Digests, file_digest
from mllm_probe.records.samples import Picture
from tests.support.runs import REAL


@pytest.fixture
def digests(tmp_path: Path) -> Digests:
    return Digests(tmp_path / "digests.json")


def saved(folder: Path, *images: Image.Image, suffix: str = ".png", **options: int) -> list[Picture]:
    pictures = []
    for image in images:
        path = folder / f"{len(list(folder.iterdir()))}{suffix}"
        image.save(path, **options)
        pictures.append(Picture(path.stem, path, file_digest(path)))
    return pictures


def soft_photo(seed: int) -> Image.Image:
    """Smooth random blobs: what a photograph is to a perceptual hash."""
    cells = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(cells).resize((320, 240), Image.Resampling.BICUBIC)


def test_components_are_named_by_their_smallest_member() -> None:
    assert joined("gfedcba", [("a", "c"), ("e", "c"), ("f", "g")]) == dict(zip("abcdefg", "abadaff", strict=True)) | {
        "c": "a",
        "e": "a",
    }
    assert joined([], []) == {}
    rng = Random(0)
    items = [f"{i:03d}" for i in range(200)]
    pairs = [(rng.choice(items), rng.choice(items)) for _ in range(120)]
    found, wanted = joined(items, pairs), {item: {item} for item in items}
    for a, b in pairs:  # the oracle: sets merged by hand
        both = wanted[a] | wanted[b]
        wanted.update(dict.fromkeys(both, both))
    assert found == {item: min(wanted[item]) for item in items}


COPIES: dict[str, Callable[[Image.Image, Path], list[Picture]]] = {
    "resized": lambda image, folder: saved(folder, image.resize((round(image.width * 0.7), round(image.height * 0.7)))),
    "recompressed": lambda image, folder: saved(folder, image, suffix=".jpg", quality=40),
    "converted": lambda image, folder: saved(folder, image),
    "shifted": lambda image, folder: saved(folder, image.crop((1, 1, image.width, image.height))),
}


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_shares_the_group_of_its_photo(how: str, tmp_path: Path, digests: Digests) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    photos = [soft_photo(seed) for seed in range(12)]
    originals = saved(folder, *photos, suffix=".jpg", quality=95)
    copies = [COPIES[how](photo, folder)[0] for photo in photos]
    found = grouped(originals + copies, digests)
    assert [p.group for p in found[:12]] == [p.group for p in found[12:]]
    assert len({p.group for p in found}) == 12
    assert all(p.group in {o.digest, c.digest} for p, o, c in zip(found, originals, copies, strict=False))


def test_scenes_that_differ_in_one_shape_or_colour_stay_apart(tmp_path: Path, digests: Digests) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    images = []
    for seed in range(8):
        scene = random_scene(Random(seed), 4)
        small = replace(scene.shapes[0], size="small")
        for colour in COLOURS:
            images.append(draw(replace(scene, shapes=(replace(small, colour=colour), *scene.shapes[1:]))))
    pictures = saved(folder, *images)
    assert [p.group for p in grouped(pictures, digests)] == [p.digest for p in pictures]


def test_flat_pictures_are_told_apart_by_their_colour(tmp_path: Path, digests: Digests) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    colours = ["red", "blue", "black", "white", (128, 128, 128), "red", (130, 127, 128)]
    flat = saved(folder, *(Image.new("RGB", (40 + i, 30), colour) for i, colour in enumerate(colours)))
    groups = [p.group for p in grouped(flat, digests)]
    assert groups[0] == groups[5] and groups[4] == groups[6] and len(set(groups)) == 5


def test_given_groups_are_joined_whole(tmp_path: Path, digests: Digests) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    a, b, twin, alone = saved(folder, soft_photo(0), soft_photo(1), soft_photo(0).resize((200, 150)), soft_photo(2))
    a, b, twin = replace(a, group="patient 7"), replace(b, group="patient 7"), replace(twin, group="patient 3")
    assert [p.group for p in grouped([a, b, twin, alone], digests)] == ["patient 3"] * 3 + [alone.digest]
    assert [p.group for p in grouped([a, b, alone], digests)] == ["patient 7", "patient 7", alone.digest]


def test_a_picture_is_hashed_once(tmp_path: Path, digests: Digests, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    photos = saved(folder, *(soft_photo(seed) for seed in range(3)))
    grouped(photos, digests)
    digests.save()
    monkeypatch.setattr(pictures, "perceptual_hash", None)
    again = Digests(tmp_path / "digests.json")
    assert len(grouped(photos, again)) == 3
    assert again.of(photos[0].path) == photos[0].digest, "a hash is not mistaken for a digest"
    soft_photo(9).save(photos[0].path)
    with pytest.raises(TypeError):
        grouped(photos, again)


def test_checks_digest_and_hash_take_one_decoding_of_each_picture(
    tmp_path: Path, digests: Digests, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, decode = [], pictures._read

    def counted(path: Path, upright: bool) -> tuple[Image.Image, bool]:
        opened.append(path.name)
        return decode(path, upright)

    monkeypatch.setattr(pictures, "_read", counted)
    found = Scenes(pictures=12).load(tmp_path, Selection(), digests).pictures
    hashes = [hash_of(picture.path, digests) for picture in found]
    assert sorted(opened) == sorted(picture.path.name for picture in found)
    assert hashes == [int(perceptual_hash(open_rgb(picture.path)), 16) for picture in found] and len(set(hashes)) > 6


def test_candidates_are_those_of_counting_bits_by_hand() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 1 << 63, 700, np.uint64)
    hashes[600:] = hashes[:100] ^ (np.uint64(1) << rng.integers(0, 60, 100).astype(np.uint64)) ^ np.uint64(0b111 << 61)
    found = {(int(i), int(j)) for first, second in _candidates(hashes) for i, j in zip(first, second, strict=True)}
    values = hashes.tolist()
    assert found == {(i, j) for i, j in combinations(range(700), 2) if (values[i] ^ values[j]).bit_count() <= 6}
    assert len(found) >= 100


def test_twenty_thousand_hashes_take_seconds() -> None:
    hashes = np.random.default_rng(0).integers(0, 1 << 63, 20_000, np.uint64)
    start = time.perf_counter()
    assert sum(len(first) for first, _ in _candidates(hashes)) < 10
    assert time.perf_counter() - start < 30


def test_no_two_scenes_are_joined(tmp_path: Path, digests: Digests) -> None:
    pictures = Scenes(pictures=300).load(tmp_path, Selection(), digests).pictures
    assert grouped(pictures, digests) == pictures


@pytest.mark.realdata
@pytest.mark.skipif(not (REAL / "coco_subset").is_dir(), reason="the COCO subset is absent")
@pytest.mark.parametrize("how", COPIES)
def test_real_photos_and_their_copies(how: str, tmp_path: Path, digests: Digests) -> None:
    pictures = Coco(root=str(REAL / "coco_subset")).load(tmp_path, Selection(n=None), digests).pictures
    assert grouped(pictures, digests) == pictures
    folder = tmp_path / "copies"
    folder.mkdir()
    copies = [COPIES[how](Image.open(p.path).convert("RGB"), folder)[0] for p in pictures]
    found = grouped([*pictures, *copies], digests)
    half = len(pictures)
    assert [p.group for p in found[:half]] == [p.group for p in found[half:]]
    assert len({p.group for p in found}) == half
