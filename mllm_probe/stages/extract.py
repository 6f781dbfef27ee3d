"""`mllm-probe extract`: bring the cache up to what is asked for; load no model where it already is."""

from typing import Any

from mllm_probe.cache.store import Coverage
from mllm_probe.config import RunConfig
from mllm_probe.extract.layers import check_keys
from mllm_probe.extract.plan import Plan, Planner
from mllm_probe.extract.stream import join, stream
from mllm_probe.paths import RunPaths
from mllm_probe.protocols import Reporter
from mllm_probe.settings import DTYPES
from mllm_probe.stages.prepare import Prepared, claim_cache, prepare, storage_dtype
from mllm_probe.types import Key

BYTES = dict(zip(DTYPES, (4, 2, 2), strict=True))


def extract(config: RunConfig, paths: RunPaths, reporter: Reporter) -> dict[str, Any]:
    """The command: prepare, then extract what is missing."""
    return extract_missing(prepare(config, paths, reporter), reporter)


def extract_missing(ready: Prepared, reporter: Reporter) -> dict[str, Any]:
    """Fill the cache and return what was done; a covered request is a hit and writes nothing."""
    for tower in check_keys(ready.keys, ready.sites, ready.config.extract.positions):
        reporter.note(f"{tower}: none of the positions asked for exists there, left out")
    coverage = ready.store.coverage()
    missing = coverage.missing(ready.keys, (sample.uid for sample in ready.examples.samples))
    if not missing:
        reporter.note(f"cache {ready.identity.digest}: all {len(ready.examples.samples)} samples are there")
        return {"samples": 0, "forward_passes": 0, "seconds": 0.0, "hit": True}
    from mllm_probe.models.hf import pick_device

    device = pick_device(ready.config.device)
    plans = _plans(ready, coverage, missing)
    samples = {sample.uid: sample for sample in ready.examples.samples}
    done: dict[str, Any] = {"samples": 0, "forward_passes": 0, "seconds": 0.0}
    if filling := [plan for plan in plans if plan.units]:
        reporter.note(f"loading {ready.config.model.label} ({ready.config.model.precision}) on {device}")
        model = ready.blueprint.load(device)
        claim_cache(ready.store, ready.identity)
        done = stream(filling, model, samples, ready.store, storage_dtype(ready.config), reporter)
    for plan in plans:
        if not plan.units:
            join(plan, ready.store)
    return {**done, "hit": False}


def _plans(ready: Prepared, coverage: Coverage, missing: dict[str, tuple[Key, ...]]) -> list[Plan]:
    """Check the prompts of the missing samples, then plan them; image states already stored are not planned again."""
    samples = {sample.uid: sample for sample in ready.examples.samples if sample.uid in missing}
    prompter = ready.blueprint.prompter
    ready.blueprint.check_prompts(list(samples.values()), ready.keys)
    prefixes = {uid: prompter.prefix(sample) for uid, sample in samples.items()}
    known = coverage.knowing(prefixes)
    needed = {uid: known.missing(keys, [uid]).get(uid, ()) for uid, keys in missing.items()}
    width = BYTES[storage_dtype(ready.config)]
    batch = ready.config.extract.micro_batch
    planner = Planner(prefixes, lambda uid: prompter.render(samples[uid]).text, ready.anatomy, batch, width)
    return planner.plans(needed)
