"""The loop: plan by plan, unit by unit, from the model into the store. Knows no model class and no label.

A shard that already exists is not computed again: after a kill the loop goes on with the first shard that is missing.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mllm_probe.cache.store import Store
from mllm_probe.cache.writer import ShardWriter
from mllm_probe.digests import file_digest
from mllm_probe.extract.plan import Plan, Unit
from mllm_probe.extract.taps import read_states
from mllm_probe.protocols import Extractable, Reporter
from mllm_probe.types import Sample


def stream(
    plans: Sequence[Plan],
    model: Extractable,
    samples: Mapping[str, Sample],
    store: Store,
    storage: str,
    reporter: Reporter,
) -> dict[str, Any]:
    """Extract everything the plans name into `store`, in storage dtype `storage`; returns counts and seconds."""
    started, total = time.monotonic(), sum(len(unit.samples) for plan in plans for unit in plan.units)
    done = sum(len(unit.samples) for plan in plans for unit in plan.units if _is_stored(plan, unit, store))
    computed = passes = 0
    reporter.progress("extract", done, total, "samples")

    def advance(n: int) -> None:
        nonlocal computed, passes
        computed, passes = computed + n, passes + 1
        reporter.progress("extract", done + computed, total, "samples")

    for plan in plans:
        _fill(plan, model, samples, store, storage, advance)
    return {"samples": computed, "forward_passes": passes, "seconds": round(time.monotonic() - started, 2)}


def join(plan: Plan, store: Store) -> None:
    """Enter a plan without units: its samples only point to image states that are stored already."""
    store.begin(plan.digest, plan.to_json(), store.provenance())
    store.finish(plan.digest, {"shards": [], "keys": [], "samples": len(plan.prefixes)})


def _is_stored(plan: Plan, unit: Unit, store: Store) -> bool:
    return store.paths.group(plan.digest).shard(unit.shard).exists()


def _fill(
    plan: Plan,
    model: Extractable,
    samples: Mapping[str, Sample],
    store: Store,
    storage: str,
    advance: Callable[[int], None],
) -> None:
    import torch

    paths = store.begin(plan.digest, plan.to_json(), model.provenance())
    for number in range(plan.shards):
        if paths.shard(number).exists():
            continue
        writer = ShardWriter(paths.shard(number), plan.prefixes, plan.owners, plan.spaces)
        for unit in (unit for unit in plan.units if unit.shard == number):
            batch = model.collate([samples[uid] for uid in unit.samples], tuple(plan.spaces))
            writer.add(read_states(model, batch, tuple(plan.spaces), getattr(torch, storage)))
            advance(len(unit.samples))
        writer.write()
    shards = [file_digest(paths.shard(number)) for number in range(plan.shards)]
    entry = {"shards": shards, "keys": sorted(map(str, plan.spaces)), "samples": len(plan.prefixes)}
    store.finish(plan.digest, entry)
