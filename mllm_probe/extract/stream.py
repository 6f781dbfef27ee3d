"""The loop: plan by plan, unit by unit, from the model into the store. Knows no model class and no label.

A shard that already exists is not computed again: after a kill the loop goes on with the first shard that is missing.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mllm_probe.cache.store import Store, write_json
from mllm_probe.cache.writer import ShardWriter
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
    done = passes = 0

    def advance(n: int) -> None:
        nonlocal done, passes
        done, passes = done + n, passes + 1
        reporter.progress("extract", done, total, "samples")

    store.check_provenance(model.provenance())
    for plan in plans:
        _fill(plan, model, samples, store, storage, advance)
    return {"samples": done, "forward_passes": passes, "seconds": round(time.monotonic() - started, 2)}


def _fill(
    plan: Plan,
    model: Extractable,
    samples: Mapping[str, Sample],
    store: Store,
    storage: str,
    advance: Callable[[int], None],
) -> None:
    import torch

    paths = store.paths.group(plan.digest)
    write_json(paths.plan, plan.to_json())
    for number in range(plan.shards):
        if paths.shard(number).exists():
            continue
        writer = ShardWriter(paths.shard(number), plan.prefixes, plan.owners, plan.spaces)
        for unit in _units(plan, number):
            batch = model.collate([samples[uid] for uid in unit.samples], tuple(plan.spaces))
            writer.add(read_states(model, batch, tuple(plan.spaces), getattr(torch, storage)))
            advance(len(unit.samples))
        writer.write()
    entry = {"shards": plan.shards, "keys": sorted(map(str, plan.spaces)), "samples": len(plan.prefixes)}
    store.finish(plan.digest, entry, model.provenance())


def _units(plan: Plan, shard: int) -> list[Unit]:
    return [unit for unit in plan.units if unit.shard == shard]
