"""Extraction under faults, through the real command in real processes: killed, out of room, damaged, in company."""

import json
import os
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch

from mllm_probe.cache.claims import Claims
from mllm_probe.cache.plan import FIRST, load_plan
from mllm_probe.cache.store import Store
from mllm_probe.errors import CacheError, ModelError
from mllm_probe.extraction.proof import prove
from mllm_probe.extraction.sharing import Work
from mllm_probe.extraction.stream import Extraction
from mllm_probe.files.digests import Digests
from mllm_probe.files.store_paths import CachePaths, GroupPaths
from mllm_probe.models.hf import HFModel
from mllm_probe.records.samples import Sample
from tests.support.caches import KEYS, as_an_older_release, contents, fill, plans_for
from tests.support.killed import DATA, cache, finish, shards, start
from tests.support.runs import Run, Silent, tiny


def test_killed_at_random_moments_and_resumed(checkpoint: Path, whole: Path, tmp_path: Path) -> None:
    """SIGKILL at several random moments of the extraction; what follows makes the very bytes of a run in peace."""
    rng, seen = Random(os.getpid()), []
    for _ in range(4):
        process = start(tmp_path / "killed", checkpoint)
        goal = min(5, len(seen[-1] if seen else []) + rng.randint(0, 2))
        while process.poll() is None and len(shards(tmp_path / "killed")) < goal:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        code, _ = finish(process)
        seen.append([path.name for path in shards(tmp_path / "killed")])
        if list((tmp_path / "killed").rglob("manifest.json")):
            assert len(seen[-1]) == 6
            break  # it was faster than the kill
        assert code == -signal.SIGKILL
    assert finish(start(tmp_path / "killed", checkpoint))[0] == 0
    left = {name: content for name, content in cache(tmp_path / "killed").items() if "/." not in name}
    assert left == cache(whole)
    stored = [json.loads(content)["samples"] for name, content in left.items() if name.endswith("manifest.json")]
    assert stored == [160]


def test_shard_jobs_equal_one_job(checkpoint: Path, whole: Path, tmp_path: Path) -> None:
    """Three jobs at once, then none is missing; the first to end says that others are not done yet."""
    jobs = [start(tmp_path / "n", checkpoint, f"extract.shard={i}", "extract.num_shards=3") for i in range(3)]
    assert [finish(job)[0] for job in jobs] == [0, 0, 0]
    assert cache(tmp_path / "n") == cache(whole)


def test_one_shard_job_alone_leaves_the_rest(checkpoint: Path, whole: Path, tmp_path: Path) -> None:
    code, err = finish(start(tmp_path / "one", checkpoint, "extract.shard=1", "extract.num_shards=3"))
    assert code == 0 and "shard 1 of 3 is done, others are not" in err
    assert [path.name[:5] for path in shards(tmp_path / "one")] == ["00001", "00004"]
    assert not list((tmp_path / "one").rglob("manifest.json"))


def test_gpus_starts_processes_that_equal_one(checkpoint: Path, whole: Path, tmp_path: Path) -> None:
    code, err = finish(start(tmp_path / "g", checkpoint, "extract.gpus=2"))
    assert code == 0 and "2 processes on cpu" in err and "[shard 1] loading" in err
    assert cache(tmp_path / "g") == cache(whole)


def test_shard_jobs_one_after_the_other_behind_another_request(checkpoint: Path, tmp_path: Path) -> None:
    """Some samples lack everything, some one position: two plans, which the second job must find as the first did."""
    folder, both = tmp_path / "later", ("extract.positions=[last,mean_text]", "data.n=40")
    assert finish(start(folder, checkpoint, "extract.positions=[last]", "data.n=12"))[0] == 0
    for i in range(2):
        code, err = finish(start(folder, checkpoint, *both, f"extract.shard={i}", "extract.num_shards=2"))
        assert code == 0 and ("others are not" in err) == (i == 0), err
    assert len(list(folder.glob("outputs/cache/*/groups/*"))) == len(list(folder.rglob("manifest.json")))
    code, err = finish(start(folder, checkpoint, *both))
    assert code == 0 and "samples are there" in err


def test_two_processes_on_one_cache(checkpoint: Path, whole: Path, tmp_path: Path) -> None:
    """Both want everything, and a third wants other layers of the same samples; nothing is corrupted."""
    both = [start(tmp_path / "two", checkpoint) for _ in range(2)]
    other = start(tmp_path / "two", checkpoint, "extract.positions=[mean_image]")
    assert [finish(process)[0] for process in (*both, other)] == [0, 0, 0]
    found, expected = cache(tmp_path / "two"), cache(whole)
    assert {name: found[name] for name in expected} == expected
    code, err = finish(start(tmp_path / "two", checkpoint, "extract.positions=[last,mean_image]"))
    assert code == 0 and "all 160 samples are there" in err


def test_a_full_disk_is_one_sentence_and_costs_nothing(checkpoint: Path, whole: Path, tmp_path: Path) -> None:
    """The kernel refuses to write a shard whole; later there is room."""
    size = max(path.stat().st_size for path in shards(whole))
    code, err = finish(start(tmp_path / "full", checkpoint, limit=size - 1))
    assert code == 1 and "Traceback" not in err
    assert "cannot be written" in err and "finished shards are kept: free disk space and repeat the command" in err
    assert not [path for path in (tmp_path / "full" / "outputs" / "cache").rglob(".*") if path.is_file()]
    assert finish(start(tmp_path / "full", checkpoint))[0] == 0
    assert cache(tmp_path / "full") == cache(whole)


def test_a_damaged_shard_is_found_by_digest_and_made_again_alone(checkpoint: Path, whole: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "copy"))
    victim, gone = shards(copy)[2], shards(copy)[5]
    content = bytearray(victim.read_bytes())
    content[-3] ^= 1  # a bit of a number; the file opens as before
    victim.write_bytes(bytes(content))
    gone.unlink()
    others = {path: path.stat().st_mtime_ns for path in shards(copy) if path != victim}
    code, err = finish(start(copy, checkpoint))
    assert code == 0, err
    assert f"{victim.name} is damaged or missing and is extracted again" in err
    assert cache(copy) == cache(whole)
    assert all(path.stat().st_mtime_ns == before for path, before in others.items())


def aged(whole: Path, folder: Path) -> Path:
    """A copy of an outputs folder whose one group is as an older release left it: the format in no plan."""
    (group,) = Path(shutil.copytree(whole / "outputs", folder)).glob("cache/*/groups/*")
    plan = replace(load_plan(GroupPaths(group)), format=FIRST)
    paths = GroupPaths(group.rename(group.parent / plan.digest))
    plan.save(paths.plan)
    as_an_older_release(paths)
    return paths.root


def test_a_cache_of_an_older_format_is_read_and_never_written_to(
    checkpoint: Path, whole: Path, tmp_path: Path, probe: Run
) -> None:
    """What it lacks is added in groups of this format, and so is what a damaged shard held: its bytes might differ."""
    group, command = aged(whole, tmp_path / "outputs"), ("extract", *tiny(checkpoint), *DATA)
    before = {path: path.read_bytes() for path in group.iterdir()}
    code, _, err = probe(*command)
    assert code == 0 and "all 160 samples are there" in err and "loading" not in err
    victim = sorted(group.glob("*.safetensors"))[2]
    victim.unlink()
    code, _, err = probe(*command)
    assert code == 0 and f"{victim.name} is damaged or missing and of an older format" in err
    code, _, err = probe(*command)
    assert code == 0 and "all 160 samples are there" in err
    assert len(list(group.parent.glob("*/manifest.json"))) > 1
    assert {path: before[path] for path in group.iterdir()} == {path: path.read_bytes() for path in group.iterdir()}
    assert not victim.exists()


def test_an_extraction_that_an_older_release_began_begins_anew(
    checkpoint: Path, whole: Path, tmp_path: Path, probe: Run
) -> None:
    (aged(whole, tmp_path / "outputs") / "manifest.json").unlink()
    code, _, err = probe("extract", *tiny(checkpoint), *DATA)
    assert code == 0 and "an older release began this extraction in another format, so it begins anew" in err
    assert cache(tmp_path).items() >= cache(whole).items()


def test_a_damaged_shard_of_another_request_is_left_out(
    model: HFModel, tmp_path: Path, samples: Sequence[Sample]
) -> None:
    """Its rows are missing, so whoever needs some of them gets a group of its own."""
    store = Store(CachePaths(tmp_path / "cache"), Digests(tmp_path / "memo.json"))
    fill(model, store, samples, KEYS)
    (path,) = store.paths.root.glob("groups/*/*.safetensors")
    path.write_bytes(b"nothing")
    assert fill(model, store, samples[:4], KEYS) == 4
    assert store.coverage().missing(KEYS, [sample.uid for sample in samples[:4]]) == {}
    assert len(store.coverage().damaged) == 1


def test_a_damaged_manifest_is_one_sentence(model: HFModel, tmp_path: Path, samples: Sequence[Sample]) -> None:
    store = Store(CachePaths(tmp_path / "cache"), Digests(tmp_path / "memo.json"))
    fill(model, store, samples[:2], KEYS)
    (path,) = store.paths.root.glob("groups/*/manifest.json")
    path.write_text(path.read_text()[:-9])
    with pytest.raises(CacheError, match=r"manifest.json is damaged .* cache prune --damaged --yes"):
        store.coverage()


def scarce(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """A device on which more than `most` samples do not fit; returns the sizes that were tried."""
    tried: list[int] = []
    forward = HFModel.forward

    def limited(self: HFModel, batch: object) -> None:
        tried.append(len(batch.uids))
        if len(batch.uids) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        forward(self, batch)

    monkeypatch.setattr(HFModel, "forward", limited)
    return tried


@pytest.mark.parametrize("shared", [False, True])
def test_out_of_memory_halves_the_passes(
    model: HFModel, tmp_path: Path, samples: Sequence[Sample], monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    monkeypatch.setattr("mllm_probe.extraction.plan.SHARD_UNITS", 1)
    calm = Store(CachePaths(tmp_path / "calm"), Digests(tmp_path / "memo.json"))
    fill(model, calm, samples, KEYS, batch=8, shared=shared)
    reporter = Silent()
    store = Store(CachePaths(tmp_path / "cache"), Digests(tmp_path / "memo.json"))
    sizes = scarce(monkeypatch, most=3)
    assert fill(model, store, samples, KEYS, batch=8, shared=shared, reporter=reporter) == 12
    assert max(sizes) > 3 and sum(size for size in sizes if size <= 3) >= 12
    assert "memory ran out" in reporter.notes[0] and "equal within tolerance" in reporter.notes[0]
    (entry,) = store.groups().values()
    assert entry["retries"]["0"] == {"pieces": 4, "equal": "within tolerance"}
    uids = [sample.uid for sample in samples]
    for key in KEYS:
        found, expected = (one.read(key, uids, one.coverage())[0] for one in (store, calm))
        assert torch.allclose(found, expected, atol=2e-5)
    before = contents(store)
    path = store.paths.group(next(iter(store.groups()))).shard(0)
    path.unlink()
    monkeypatch.undo()
    monkeypatch.setattr("mllm_probe.extraction.plan.SHARD_UNITS", 1)
    fresh = Store(CachePaths(tmp_path / "again"), Digests(tmp_path / "memo.json"))
    (plan,) = plans_for(model, fresh, samples, KEYS, batch=8, shared=shared)
    with Claims() as claims:
        Extraction(model, {s.uid: s for s in samples}, store, Work("float32"), Silent()).run([plan], claims)
    assert contents(store) == before, "a shard is made again with the pieces it had"


def test_a_single_sample_that_does_not_fit_is_an_error(
    model: HFModel, tmp_path: Path, samples: Sequence[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = scarce(monkeypatch, most=0)
    store = Store(CachePaths(tmp_path / "cache"), Digests(tmp_path / "memo.json"))
    with pytest.raises(ModelError, match="memory does not suffice for a single sample"):
        fill(model, store, samples, KEYS)
    assert sizes[-1] == 1 and not list(store.paths.root.rglob("*.safetensors"))
    with pytest.raises(ModelError, match="memory does not suffice for a single sample"):
        prove(model, samples[:2], KEYS, 200)


def test_a_non_finite_state_stops_the_run_and_leaves_no_shard(
    model: HFModel, tmp_path: Path, samples: Sequence[Sample]
) -> None:
    store = Store(CachePaths(tmp_path / "cache"), Digests(tmp_path / "memo.json"))
    block = model._model.model.language_model.layers[1]
    handle = block.register_forward_hook(lambda _m, _a, out: torch.full_like(out, float("nan")))
    try:
        with pytest.raises(
            ModelError, match=r"lm.02@\w+ of sample \w+ is not finite; all is float32 already, so weights or"
        ):
            fill(model, store, samples, KEYS, shared=True)
    finally:
        handle.remove()
    assert not list(store.paths.root.rglob("*.safetensors")) and store.groups() == {}


def test_the_shards_of_a_group_agree_when_made_again(model: HFModel, tmp_path: Path, samples: Sequence[Sample]) -> None:
    """Another content under the same plan is an error, never a silent change."""
    store = Store(CachePaths(tmp_path / "cache"), Digests(tmp_path / "memo.json"))
    fill(model, store, samples, KEYS)
    (group,) = store.groups()
    manifest = store.paths.group(group).manifest
    entry = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(entry | {"shards": ["another"]}))
    with pytest.raises(CacheError, match="was extracted again and differs"):
        store.finish(group, KEYS, 1, len(samples), joined=False)
