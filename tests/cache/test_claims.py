"""One extraction, many jobs: no shard is computed twice, and what a dead or sleeping process claimed is not lost."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from mllm_probe.cache.claims import STALE, Claims, Owner, holder
from mllm_probe.cache.plan import Plan, ShardWriter
from mllm_probe.extraction import stream
from mllm_probe.files.store_paths import GroupPaths
from mllm_probe.models import hf
from tests.support.killed import DATA, cache, finish, shards, start
from tests.support.runs import Run, tiny


def begin(folder: Path, checkpoint: Path, *args: str) -> subprocess.Popen[str]:
    """`mllm-probe extract`, which writes down what it does; every pass takes a moment longer, so that there is time to
    meet."""
    return start(folder, checkpoint, *args, first=write_down)


def write_down() -> None:
    stream.launch = logged(lambda *_: "pass", stream.launch)
    hf.load_model = logged(lambda *_: "load", hf.load_model)
    ShardWriter.write = logged(lambda writer: writer.path.name, ShardWriter.write)  # type: ignore[method-assign]


def logged(word: Callable[..., str], function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        with Path("log").open("a") as log:
            log.write(f"{word(*args)} {os.getpid()}\n")
        time.sleep(0.03)
        return function(*args)

    return call


def log(folder: Path) -> list[list[str]]:
    return [line.split() for line in (folder / "log").read_text().splitlines()]


def times(folder: Path) -> Counter[str]:
    """How often each thing was done, by whomever."""
    return Counter(word for word, _ in log(folder))


def passes(folder: Path) -> int:
    """What the plan asks for."""
    (path,) = folder.rglob("plan.npz")
    return len(Plan.load(path).ends)


def wait_for(folder: Path, many: int, process: subprocess.Popen[str]) -> None:
    """Until so many shards are there and another is being filled."""
    until = time.monotonic() + 120
    while len(shards(folder)) < many or not claims_in(folder):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.005)


def claims_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.claim"))


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


@pytest.fixture
def group(tmp_path: Path) -> GroupPaths:
    return GroupPaths(tmp_path / "cache" / "groups" / "plan")


@pytest.fixture
def ours() -> Iterator[Claims]:
    with Claims() as claims:
        yield claims


@pytest.fixture
def theirs() -> Iterator[Claims]:
    with Claims() as claims:
        yield claims


def test_jobs_with_one_plan_share_its_shards(checkpoint: Path, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "both"
    both = [begin(folder, checkpoint) for _ in range(2)]
    for process in both:
        code, err = finish(process)
        assert code == 0, err
    assert cache(folder) == cache(whole)
    done = times(folder)
    assert done["pass"] == passes(folder), "no pass is computed twice"
    assert [done[path.name] for path in shards(folder)] == [1] * 6, "and no shard is written twice"
    assert {pid for word, pid in log(folder) if word == "pass"} == {str(process.pid) for process in both}


def test_the_claim_of_a_killed_job_is_taken_over_at_once(checkpoint: Path, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "alone"
    first = begin(folder, checkpoint)
    wait_for(folder, 1, first)
    first.kill()
    finish(first)
    left = claims_in(folder)
    assert left, "nobody gave them up"
    code, err = finish(begin(folder, checkpoint, "extract.wait_s=0"))
    assert code == 0 and "waiting" not in err, err
    assert cache(folder) == cache(whole) and not claims_in(folder)


def test_a_job_that_slept_too_long_does_no_harm(checkpoint: Path, whole: Path, tmp_path: Path) -> None:
    """Stopped in the middle of a shard, taken for dead, woken when another has done its work."""
    folder = tmp_path / "asleep"
    sleeper = begin(folder, checkpoint)
    wait_for(folder, 1, sleeper)
    sleeper.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, sleeper.pid, os.WSTOPPED)  # until then it may still give up a claim
    try:
        mine = claims_in(folder)
        for claim in mine:
            age(claim, 2 * STALE)
        code, err = finish(begin(folder, checkpoint, "extract.wait_s=0"))
        assert code == 0, err
        assert cache(folder) == cache(whole) and not claims_in(folder)
    finally:
        sleeper.send_signal(signal.SIGCONT)
    code, err = finish(sleeper)
    assert code == 0, err
    assert cache(folder) == cache(whole)
    done = times(folder)
    assert [done[path.name] for path in shards(folder)] == [1] * 6, "what was lost is not written again"


def test_an_array_fills_one_cache_and_a_sweep_reads_it(
    probe: Run, checkpoint: Path, whole: Path, tmp_path: Path
) -> None:
    """Killed in its second task, and started again as it was."""
    array = ("experiment=sharded_extract", "extract.num_shards=2", "-m")
    first = begin(tmp_path, checkpoint, *array)
    wait_for(tmp_path, 4, first)
    first.kill()
    code, err = finish(first)
    assert code == -signal.SIGKILL and "shard 0 of 2 is done, others are not" in err
    assert {"00000", "00001", "00002", "00004"} <= {path.name[:5] for path in shards(tmp_path)}
    assert not list(tmp_path.rglob("manifest.json"))
    code, err = finish(begin(tmp_path, checkpoint, *array))
    assert code == 0, err
    assert cache(tmp_path) == cache(whole)
    done = times(tmp_path)
    assert done["load"] == 3 and [done[path.name] for path in shards(tmp_path)] == [1] * 6
    code, _, err = probe("sweep", *tiny(checkpoint), *DATA, "sweep.seeds=[0]", "sweep.draws=50", "layers=every4")
    assert code == 0, err


def half(whole: Path, folder: Path) -> tuple[GroupPaths, Path]:
    """A copy of a whole cache without its last shard and its manifest: (the group, the shard elsewhere)."""
    shutil.copytree(whole / "outputs", folder / "outputs")
    (path,) = folder.glob("outputs/cache/*/groups/*")
    group = GroupPaths(path)
    group.manifest.unlink()
    shutil.move(group.shard(5), folder / "last")
    return group, folder / "last"


def test_no_weights_are_loaded_for_what_others_fill(
    probe: Run, checkpoint: Path, whole: Path, tmp_path: Path, theirs: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, _ = half(whole, tmp_path)
    monkeypatch.setattr("mllm_probe.models.hf.load_model", lambda *_: pytest.fail("loaded"))
    assert theirs.take(group, 5)
    for command in ("extract", "run"):
        code, _, err = probe(command, *tiny(checkpoint), *DATA, "extract.wait_s=0")
        assert code == 1 and f"{group.shard(5).relative_to(tmp_path)} is being filled by {Owner.here()}" in err
        assert "not done after extract.wait_s=0; repeat the command later to continue" in err
    assert [claim.name for claim in claims_in(tmp_path)] == ["00005.0.claim"]


def test_who_waits_finishes_what_others_filled(
    probe: Run, checkpoint: Path, whole: Path, tmp_path: Path, theirs: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one is killed between its shard and the manifest."""
    group, last = half(whole, tmp_path)
    monkeypatch.setattr("mllm_probe.models.hf.load_model", lambda *_: pytest.fail("loaded"))
    assert theirs.take(group, 5)
    Timer(3, lambda: last.rename(group.shard(5))).start()
    code, _, err = probe("extract", *tiny(checkpoint), *DATA)
    assert code == 0 and "waiting for 120 s at most" in err
    assert cache(tmp_path) == cache(whole)


def test_a_model_that_shares_no_heads_is_waited_for_as_well(
    probe: Run, checkpoint: Path, tmp_path: Path, theirs: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its plan is not the one a process would begin with, and what that claimed meanwhile leaves no trace."""
    args = (*tiny(checkpoint), *DATA, "model.attn=eager")
    assert probe("extract", *args)[0] == 0
    (path,) = tmp_path.glob("outputs/cache/*/groups/*")
    group = GroupPaths(path)
    group.manifest.unlink()
    group.shard(0).unlink()
    assert theirs.take(group, 0)
    monkeypatch.setattr("mllm_probe.models.hf.load_model", lambda *_: pytest.fail("loaded"))
    code, _, err = probe("extract", *args, "extract.wait_s=0")
    assert code == 1 and f"{group.shard(0).relative_to(tmp_path)} is being filled by" in err
    assert list(tmp_path.glob("outputs/cache/*/groups/*")) == [path]


def test_a_shard_job_that_was_started_twice(
    probe: Run, checkpoint: Path, whole: Path, tmp_path: Path, theirs: Claims
) -> None:
    """Its own shards are in work, so it says so; another's do not concern it."""
    group, _ = half(whole, tmp_path)
    assert theirs.take(group, 5)
    args = (*tiny(checkpoint), *DATA, "extract.num_shards=2", "extract.wait_s=0")
    code, _, err = probe("extract", *args, "extract.shard=1")
    assert code == 1 and "is being filled by" in err
    code, _, err = probe("extract", *args, "extract.shard=0")
    assert code == 0 and "shard 0 of 2 is done, others are not" in err


def test_two_menders_of_one_shard(probe: Run, checkpoint: Path, whole: Path, tmp_path: Path, theirs: Claims) -> None:
    """The later one waits for the claim, and finds nothing left to fix."""
    shutil.copytree(whole / "outputs", tmp_path / "outputs")
    victim = shards(tmp_path)[2]
    good = victim.read_bytes()
    victim.write_bytes(good[:-1])
    group = GroupPaths(victim.parent)
    assert theirs.take(group, 2)

    def fix() -> None:
        victim.write_bytes(good)
        theirs.release(group, 2)

    Timer(8, fix).start()
    code, _, err = probe("extract", *tiny(checkpoint), *DATA)
    assert code == 0 and "waiting for 120 s at most" in err and "loading" not in err
    assert cache(tmp_path) == cache(whole)


def test_a_claim_has_one_owner(group: GroupPaths, ours: Claims, theirs: Claims) -> None:
    assert ours.take(group, 3) and ours.take(group, 3) and not theirs.take(group, 3)
    assert theirs.take(group, 4), "another shard is free"
    assert ours.holds(group, 3) and not theirs.holds(group, 3) and str(holder(group, 3)).startswith(Owner.here().host)
    ours.release(group, 3)
    assert holder(group, 3) is None and theirs.take(group, 3)
    theirs.clear()
    assert not group.root.parents[1].exists(), "no empty folder stays behind"


@pytest.mark.parametrize("dead", [False, True])
def test_of_many_takers_one_wins(group: GroupPaths, dead: bool) -> None:
    """All at once, at a free shard and at one whose owner was not heard of for long."""
    takers = [Claims() for _ in range(8)]
    with ThreadPoolExecutor(len(takers)) as pool:
        for number in range(40):
            if dead:
                Claims().take(group, number)
                age(group.claim(number, 0), 2 * STALE)
            assert sum(pool.map(lambda taker, n=number: taker.take(group, n), takers)) == 1


def foreign(group: GroupPaths, ours: Claims, **changes: object) -> Path:
    """A claim to shard 0 by a process of another host."""
    owner = {"host": "node7", "namespace": "", "pid": 1, "job": "", "restart": 0, "token": "x"}
    path = group.claim(0, 0)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(owner | changes))
    return path


@pytest.mark.parametrize(("seconds", "free"), [(0, False), (STALE / 2, False), (2 * STALE, True)])
@pytest.mark.parametrize("written", [True, False])
def test_another_host_is_judged_by_its_signs_of_life(
    group: GroupPaths, ours: Claims, seconds: float, free: bool, written: bool
) -> None:
    path = foreign(group, ours)
    if not written:
        path.write_text("")  # it has created its claim, and not yet said who it is
    age(path, seconds)
    assert ours.take(group, 0) == free
    assert sorted(path.name for path in group.root.iterdir()) == ["00000.0.claim", "00000.1.claim"][: 1 + free]


def test_clocks_of_hosts_do_not_count(group: GroupPaths, ours: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is hours ahead kills nobody."""
    foreign(group, ours)
    now = time.time
    monkeypatch.setattr("time.time", lambda: now() + 7200)
    assert not ours.take(group, 0)


@pytest.mark.parametrize(("restart", "free"), [("0", False), ("1", True)])
def test_a_requeued_job_takes_over_from_itself(
    group: GroupPaths, monkeypatch: pytest.MonkeyPatch, restart: str, free: bool
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", restart)
    with Claims() as again:
        foreign(group, again, job="77")
        assert again.take(group, 0) == free


def test_a_claim_that_was_lost_stays_the_others(group: GroupPaths, ours: Claims, theirs: Claims) -> None:
    assert ours.take(group, 0)
    age(group.claim(0, 0), 2 * STALE)
    assert theirs.take(group, 0)
    assert not ours.holds(group, 0) and not ours.take(group, 0)
    ours.release(group, 0)
    assert theirs.holds(group, 0) and len(list(group.root.iterdir())) == 2
    theirs.release(group, 0)
    assert ours.take(group, 0), "both are gone"


def test_a_claim_is_kept_young(group: GroupPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mllm_probe.cache.claims.BEAT", 0.01)
    with Claims() as claims:
        assert claims.take(group, 0)
        age(group.claim(0, 0), 2 * STALE)
        until = time.monotonic() + 30
        while time.time() - group.claim(0, 0).stat().st_mtime > STALE:
            assert time.monotonic() < until
            time.sleep(0.01)
    assert not group.root.exists()


def test_a_sweep_says_how_far_an_unfinished_extraction_is(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    base = (*tiny(checkpoint), *DATA)
    assert probe("extract", *base, "extract.num_shards=3")[0] == 0
    code, _, err = probe("sweep", *base)
    there = len(list(tmp_path.glob("outputs/cache/*/groups/*/*.safetensors")))
    assert code == 1 and f", and {there} of 6 shards of an unfinished extraction are there" in err
    assert err.rstrip().endswith("with the same settings first, which continues from them")
