"""What is remembered of files and stored in caches is checked: replaced, rotten and hand-edited files tell on
themselves."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from safetensors import safe_open

from mllm_probe.cache.store import Store
from mllm_probe.errors import CacheError, ConfigError
from mllm_probe.files import digests as module
from mllm_probe.files.digests import SAMPLE, STRETCH, STRETCHES, TRUSTS, Digests, file_digest, open_digests
from mllm_probe.files.store_paths import CachePaths
from mllm_probe.models.hf import HFModel
from mllm_probe.records.samples import Sample
from tests.support.caches import KEYS, fill

NO_OBJECTS = ("[]", "null", "3", '"text"', "[" * 100_000, "{", "")


@pytest.fixture
def timeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that keeps no time of change, as those of images do: a file is its size, its time and its inode."""
    kept = ("st_size", "st_mtime_ns", "st_ino")
    monkeypatch.setattr(module, "_stat", lambda path: "|".join(str(getattr(path.stat(), name)) for name in kept))


def overwrite(path: Path, content: bytes) -> None:
    """With the same size, time and inode."""
    before = path.stat()
    assert len(content) == before.st_size
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << Random(at).randrange(8)
    overwrite(path, bytes(content))


def remembered(memo: Path, path: Path, trust: str = SAMPLE) -> str:
    """As another process finds it."""
    digests = open_digests(memo, trust)
    found = digests.of(path)
    digests.save()
    return found


@pytest.mark.parametrize("trust", TRUSTS)
def test_a_replaced_file_is_hashed_again(tmp_path: Path, trust: str) -> None:
    """The time of change is out of a user's reach: even with cache.trust=stat it gives the file away."""
    memo, path = tmp_path / "memo.json", tmp_path / "picture.png"
    path.write_bytes(b"one picture")
    assert remembered(memo, path, trust) == file_digest(path)
    while not (tmp_path / "now").exists() or (tmp_path / "now").stat().st_ctime_ns <= path.stat().st_ctime_ns:
        (tmp_path / "now").write_bytes(b"")  # the clock of a file system may stand still for some milliseconds
    overwrite(path, b"two picture")
    assert remembered(memo, path, trust) == file_digest(path)


def test_stretches_are_read_where_no_time_tells(tmp_path: Path, timeless: None) -> None:
    memo, path = tmp_path / "memo.json", tmp_path / "model.safetensors"
    one, two = (np.random.default_rng(seed).bytes(3 * STRETCHES * STRETCH + 5) for seed in (0, 1))
    path.write_bytes(one)
    first = remembered(memo, path)
    overwrite(path, two)
    assert remembered(memo, path, "stat") == first
    assert remembered(memo, path) == file_digest(path) != first
    for at in (0, len(two) - 1, len(two) // 2 // STRETCH * STRETCH):
        overwrite(path, one[:at] + two[at : at + 2 * STRETCH] + one[at + 2 * STRETCH :])
        assert remembered(memo, path, "content") == file_digest(path)
    small = tmp_path / "picture.png"
    small.write_bytes(one[: STRETCHES * STRETCH])
    remembered(memo, small)
    for at in Random(0).sample(range(STRETCHES * STRETCH), 20):
        flip(small, at)
        assert remembered(memo, small) == file_digest(small), "up to 1 MiB every byte counts"


def test_what_is_computed_from_a_picture_follows_its_content(tmp_path: Path, timeless: None) -> None:
    memo, path, seen = tmp_path / "memo.json", tmp_path / "picture.png", []

    def check(path: Path) -> None:
        seen.append(path.read_bytes())

    for content in (b"one", b"one", b"two"):
        path.write_bytes(content)
        os.utime(path, ns=(0, 0))
        digests = open_digests(memo)
        digests.of(path, check)
        assert digests.remembered(path, "letters", lambda p: p.read_text()) == content.decode()
        digests.save()
    assert seen == [b"one", b"two"]


def test_no_word_of_a_changed_memo_is_believed(tmp_path: Path) -> None:
    memo, paths = tmp_path / "memo.json", [tmp_path / f"{i}.png" for i in range(20)]
    for path in paths:
        path.write_bytes(path.name.encode())
        remembered(memo, path)
    whole = memo.read_text()
    for at, digit in [(i, digit) for i, digit in enumerate(whole) if digit.isalnum()][::7]:
        memo.write_text(whole[:at] + ("1" if digit == "0" else "0") + whole[at + 1 :])
        digests = open_digests(memo)
        assert all(digests.of(path) == file_digest(path) for path in paths)


@pytest.mark.parametrize("text", [*NO_OBJECTS, '{"x": 3}', '{"x": ["y"], "z": null}'])
def test_a_memo_that_is_none_is_started_anew(tmp_path: Path, text: str) -> None:
    memo, path = tmp_path / "digests.json", tmp_path / "x"
    path.write_bytes(b"content")
    memo.write_text(text)
    assert remembered(memo, path) == remembered(memo, path) == file_digest(path)
    assert json.loads(memo.read_text()).keys() == {str(path)}


def test_an_unknown_trust_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cache.trust=stats is unknown; did you mean 'stat'\? choose one of: cont"):
        open_digests(tmp_path / "memo.json", "stats")


@pytest.fixture
def shard(model: HFModel, samples: Sequence[Sample], tmp_path: Path) -> tuple[Callable[[], Store], Path]:
    """Opens a filled store as another process does, and its one shard."""

    def again() -> Store:
        return Store(CachePaths(tmp_path / "cache"), open_digests(tmp_path / "digests.json"))

    fill(model, again(), samples[:6], KEYS)
    (path,) = (tmp_path / "cache").glob("groups/*/*.safetensors")
    return again, path


def test_a_shard_that_rotted_is_refused_as_it_is_read(
    shard: tuple[Callable[[], Store], Path], samples: Sequence[Sample], timeless: None
) -> None:
    """A flipped bit anywhere, which no time and no size shows, is found by who reads there; then all know of it."""
    again, path = shard
    again().coverage()
    whole, length = path.read_bytes(), int.from_bytes(path.read_bytes()[:8], "little")
    uids = [sample.uid for sample in samples[:6]]
    for at in (*Random(0).sample(range(8 + length, len(whole)), 12), len(whole) - 1):
        flip(path, at)
        store, found = again(), []
        coverage = store.coverage()
        for key in KEYS:
            try:
                store.read(key, uids, coverage)
            except CacheError as error:
                found.append(str(error))
        assert len(found) == 1, at
        assert f"{path} is damaged: " in found[0] and "extracts it again" in found[0]
        assert [damage.path for damage in again().coverage().damaged] == [path]
        overwrite(path, whole)
        assert not again().coverage().damaged


def test_a_shard_whose_index_rotted_is_damaged(
    shard: tuple[Callable[[], Store], Path], samples: Sequence[Sample], timeless: None
) -> None:
    again, path = shard
    again().coverage()
    whole, length = path.read_bytes(), int.from_bytes(path.read_bytes()[:8], "little")
    for at in (0, 3, 7, *Random(0).sample(range(8, 8 + length), 12)):
        flip(path, at)
        assert [damage.path for damage in again().coverage().damaged] == [path], at
        overwrite(path, whole)
        assert not again().coverage().damaged


def test_checksums_are_of_every_tensor(shard: tuple[Callable[[], Store], Path]) -> None:
    again, path = shard
    (found,) = again().coverage().shards
    with safe_open(path, "pt") as file:
        assert found.sums.keys() == {"header", *file.keys()}
    assert all(isinstance(value, int) for value in found.sums.values())


@pytest.mark.parametrize("text", [*NO_OBJECTS, "{}", '{"shards": 3}'])
def test_a_manifest_that_is_none_is_one_sentence(shard: tuple[Callable[[], Store], Path], text: str) -> None:
    again, path = shard
    (path.parent / "manifest.json").write_text(text)
    with pytest.raises(
        CacheError, match=r"manifest.json is damaged \(.*\); `mllm-probe cache prune --damaged --yes --outputs /"
    ):
        again().coverage()


@pytest.mark.parametrize("name", ["shards", "keys", "samples", "joined", "retries", "provenance"])
@pytest.mark.parametrize("value", [None, "text", 3.5])
def test_an_entry_of_a_wrong_type_is_named(shard: tuple[Callable[[], Store], Path], name: str, value: object) -> None:
    again, path = shard
    manifest = path.parent / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {name: value}))
    with pytest.raises(CacheError, match=rf"manifest.json is damaged \(its entry '{name}' is no [\w ]+\)"):
        again().coverage()


def test_modules_that_differ_are_named(
    model: HFModel, samples: Sequence[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two lists as long as each other: it is their names that tell them apart."""
    provenance = model.provenance()
    store = Store(CachePaths(tmp_path / "cache"), Digests(tmp_path / "digests.json"))
    for names, expected in (
        (["a", "b"], ""),
        (["b", "c"], "2 modules, this run has 2 modules; only there: a, only here: c; use the same again"),
        (["b", "a"], "2 modules, this run has 2 modules; the order differs; use"),
        ([*"abcdefgh"], "2 modules, this run has 8 modules; only here: c, d, e and 3 more; use"),
        (None, "2 modules, this run has None; use"),
    ):
        monkeypatch.setattr(HFModel, "provenance", lambda self, names=names: provenance | {"quantized_modules": names})
        if not expected:
            fill(model, store, samples[:2], KEYS[:1])
            continue
        with pytest.raises(CacheError, match=f"was filled with quantized_modules {expected}"):
            fill(model, store, samples[:6], KEYS[:1])


def test_a_number_is_summed_whatever_its_type() -> None:
    from mllm_probe.files.seals import tensor_sum

    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.int64):
        values = torch.arange(12).reshape(3, 4).to(dtype)
        other = values.clone()
        other[1, 2] += 1
        assert tensor_sum(values) == tensor_sum(values.T.contiguous().T) != tensor_sum(other)
        assert tensor_sum(values[:0]) == 0
