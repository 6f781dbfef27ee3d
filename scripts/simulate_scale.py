"""What the cache does with a million samples: rows are drawn instead of computed, everything else is the real thing.

    python scripts/simulate_scale.py                  # 1,000,000 samples x 33 sites x width 64: minutes, 4.5 GB
    python scripts/simulate_scale.py --samples 2000   # some seconds

Plan, shards, index, manifest, coverage and probes are those of mllm_probe; each step runs in a process of its own, so
that its peak memory is its own. The folder is removed at the end. Prints one JSON object; docs/scale.md has a table.
"""

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any

import numpy as np

from mllm_probe.cache.claims import Claims
from mllm_probe.cache.plan import Plan, ShardWriter
from mllm_probe.cache.store import Store
from mllm_probe.extraction.plan import Planner
from mllm_probe.extraction.sharing import Work, jobs_of
from mllm_probe.extraction.stream import finish_filled
from mllm_probe.files.digests import open_digests
from mllm_probe.files.paths import OutputPaths
from mllm_probe.probes.logistic import Logistic
from mllm_probe.records.batches import Chunk, Survey, packed
from mllm_probe.records.problems import Compute, LayerData, Problem
from mllm_probe.records.sites import Anatomy, Key, Site

SITES, STORAGE = 33, "bfloat16"
PICTURE_TOKENS, TEXT_TOKENS, PASS_TOKENS = 576, 100, 16_384  # of a LLaVA-1.5 prompt; what a GPU takes at once
PROVENANCE = {"device": "none", "torch": "none", "causal": True}
KEYS = tuple(Key(Site("lm", layer), "last") for layer in range(SITES))
MEMORY = 4 << 20  # of features at once, less than a layer has here, so that they are read for every product


def uids(samples: int) -> list[str]:
    return [hashlib.sha256(str(i).encode()).hexdigest()[:16] for i in range(samples)]


def planned(samples: int, width: int) -> list[Plan]:
    names = uids(samples)
    survey = Survey(
        uids=packed(names),
        prefix=np.arange(samples, dtype=np.uint32),
        prefixes=packed([uid[::-1] for uid in names]),
        flat=np.zeros(TEXT_TOKENS * samples, np.int32),
        bounds=np.arange(samples + 1) * TEXT_TOKENS,
        picture_tokens=PICTURE_TOKENS,
        prompts=("a prompt",),
    )
    anatomy = Anatomy({"lm": SITES - 1}, {"lm": width}, causal=True, max_tokens=4096)
    planner = Planner(survey, anatomy, PASS_TOKENS // (PICTURE_TOKENS + TEXT_TOKENS), 2, shared=False)
    return planner.plans({KEYS: names})


def opened(folder: Path) -> Store:
    outputs = OutputPaths(folder)
    return Store(outputs.cache("simulated"), open_digests(outputs.digests))


def fill(folder: Path, samples: int, width: int) -> dict[str, Any]:
    """Plan, write every shard, and the manifest."""
    import torch

    plans, planning = timed(planned, samples, width)
    store = opened(folder)
    _, beginning = timed(lambda: [store.begin(plan, PROVENANCE) for plan in plans])
    generator = torch.Generator().manual_seed(0)
    rows = np.arange(max(int(np.diff(plan.ends, prepend=0).max()) for plan in plans) + 1)
    pool = torch.randn(len(rows) - 1 + SITES, width, generator=generator).bfloat16()
    started, computing = time.perf_counter(), time.process_time()
    with Claims() as claims:
        for job in jobs_of(plans, store, Work(STORAGE)):
            job.take(claims)
            content = job.content
            writer = ShardWriter(job.path, content.prefixes, content.owners, job.plan.spaces)
            for unit in content.units:
                n = len(unit.samples)
                values = {key: pool[i : i + n].clone() for i, key in enumerate(KEYS)}
                writer.add(Chunk(unit.samples, values, dict.fromkeys(KEYS, rows[: n + 1])))
            writer.write()
            store.learn(job.path)
            claims.release(job.paths, job.number)
    elapsed, computed = time.perf_counter() - started, time.process_time() - computing
    _, finishing = timed(finish_filled, plans, store)
    paths = store.paths.group(plans[0].digest)
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        "shards": plans[0].shards,
        "files": len(files),
        "bytes": sum(path.stat().st_size for path in files),
        "values": samples * SITES * width * 2,
        "plan_mb": paths.plan.stat().st_size / 1e6,
        "manifest_mb": paths.manifest.stat().st_size / 1e6,
        "memo_mb": OutputPaths(folder).digests.stat().st_size / 1e6,
        "plan_s": planning,
        "begin_s": beginning,
        "write_s": round(computed, 2),
        "write_elapsed_s": round(elapsed, 2),
        "finish_s": finishing,
    }


def covered(folder: Path, samples: int, width: int) -> dict[str, Any]:
    """A finished cache: what does a request lack that asks for all of it, and for one sample more?"""
    names = uids(samples + 1)
    coverage, opening = timed(opened(folder).coverage)
    hit, first = timed(coverage.missing, KEYS, names[:-1])
    more, again = timed(coverage.missing, KEYS, names)
    assert hit == {} and more == {KEYS: names[-1:]}
    return {"open_s": opening, "list_s": first, "list_again_s": again, "missing_s": opening + first}


def resumed(folder: Path, samples: int, width: int) -> dict[str, Any]:
    """A killed extraction: no manifest, its last shard gone. The plan is made again and its shards are looked for."""
    store = opened(folder)
    (group,) = (store.paths.group(name) for name in store.groups())
    manifest = group.manifest.read_bytes()
    last = group.shard(len(json.loads(manifest)["shards"]) - 1)
    content = last.read_bytes()
    group.manifest.unlink()
    last.unlink()
    coverage, opening = timed(store.coverage)
    gaps, listing = timed(coverage.missing, KEYS, uids(samples))
    plans, planning = timed(planned, samples, width)
    jobs, looking = timed(lambda: [job for job in jobs_of(plans, store, Work(STORAGE)) if not job.path.exists()])
    assert [job.path for job in jobs] == [last] and sum(map(len, gaps.values())) == samples
    last.write_bytes(content)
    group.manifest.write_bytes(manifest)
    return {"missing_s": opening + listing, "plan_s": planning, "look_s": looking}


def read(folder: Path, samples: int, width: int) -> dict[str, Any]:
    """All rows of one key, summed chunk by chunk."""
    store = opened(folder)
    coverage = store.coverage()
    (rows, _), placing = timed(store.rows, KEYS[7], uids(samples), coverage)
    total, reading = timed(lambda: sum(float(rows[i : i + 4096].float().sum()) for i in range(0, samples, 4096)))
    assert np.isfinite(total)
    return {"place_s": placing, "read_s": reading}


def sweep(folder: Path, samples: int, width: int, keys: int = 2) -> dict[str, Any]:
    """The default probe on some keys, its features read from the cache for every product."""
    store = opened(folder)
    coverage = store.coverage()
    split = np.random.default_rng(0).permutation(samples) % 4
    y = np.random.default_rng(1).integers(0, 2, samples)
    names, started = uids(samples), time.process_time()
    for key in KEYS[:keys]:
        rows, _ = store.rows(key, names, coverage)
        problem = Problem(y, split < 2, split == 2)
        (fit,) = Logistic(lambdas=(0.1,)).fit(LayerData(rows, compute=Compute(memory=MEMORY)), [problem])
        assert np.isfinite(fit(LayerData(rows, compute=Compute(memory=MEMORY)))).all()
    return {"seconds_a_key": round((time.process_time() - started) / keys, 2)}


STEPS: dict[str, Callable[[Path, int, int], dict[str, Any]]] = {
    step.__name__: step for step in (fill, covered, resumed, read, sweep)
}


def timed(function: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    """What it returns, and the seconds this process computed: who else is on the machine does not count."""
    started = time.process_time()
    result = function(*args)
    return result, round(time.process_time() - started, 2)


def peak_megabytes(step: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a step returns, with the peak of its memory, and of that without the mapped files, which need not stay."""
    anonymous, ended = [0], Event()

    def watch() -> None:
        over = False
        while not over:
            over = ended.wait(0.02)  # one look at the end, however short the step
            text = Path("/proc/self/status").read_text()
            anonymous.append(int(text.split("RssAnon:")[1].split()[0]))

    thread = Thread(target=watch)
    thread.start()
    try:
        found = step()
    finally:
        ended.set()
        thread.join()
    whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {**found, "peak_mb": whole // 1000, "peak_anonymous_mb": max(anonymous) // 1000}


def in_process(step: str, folder: Path, samples: int, width: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder)]
    command += ["--samples", str(samples), "--width", str(width)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--folder", type=Path, help="where to put the cache (default: the system's temporary folder)")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    given = parser.parse_args(args)
    if given.step:
        step = partial(STEPS[given.step], given.folder, given.samples, given.width)
        print(json.dumps(peak_megabytes(step)))
        return
    found = {}
    for samples in (given.samples // 10, given.samples):
        with TemporaryDirectory(dir=given.folder) as folder:
            found[samples] = {step: in_process(step, Path(folder), samples, given.width) for step in STEPS}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
