"""From an experiment to a cache that holds all it needs: planned, claimed, proven, read; no model is loaded where it
already does."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mllm_probe.cache.claims import Claims
from mllm_probe.config.run import RunConfig
from mllm_probe.errors import ModelError, PendingError
from mllm_probe.experiment.experiment import OPTIONAL, Prepared
from mllm_probe.experiment.first_samples import keep_first
from mllm_probe.experiment.loaded_models import Models
from mllm_probe.experiment.prepare import prepare
from mllm_probe.experiment.repair import damaged_jobs, repair, share_of
from mllm_probe.experiment.request import Request
from mllm_probe.extraction.estimate import check_disk
from mllm_probe.extraction.keys import check_keys
from mllm_probe.extraction.plan import Plan
from mllm_probe.extraction.proof import Proof, prove
from mllm_probe.extraction.sharing import anything_to_fill, jobs_of
from mllm_probe.extraction.stream import Extraction, finish_filled, join
from mllm_probe.files.paths import RunPaths
from mllm_probe.records.protocols import Reporter

if TYPE_CHECKING:
    from mllm_probe.models.hf import HFModel

NOTHING = {"samples": 0, "forward_passes": 0, "seconds": 0.0, "complete": True}


def fill_missing(
    experiments: Sequence[Prepared], configs: Sequence[RunConfig], reporter: Reporter
) -> list[dict[str, Any]]:
    """Fill the caches of experiments and their controls; a covered request is a hit and writes nothing.

    Model by model, so that each is loaded once, however many experiments read it. `configs`: what each was prepared
    from, so that the processes of `extract.gpus` can do the same.
    """
    for ready in experiments:
        for tower in check_keys(ready.keys, ready.sites, ready.extract.positions):
            reporter.note(f"{tower}: none of the positions asked for exists there, left out")
    models = Models(reporter)
    fills = [(i, each) for i, ready in enumerate(experiments) for each in (ready, *ready.variants)]
    caches = list(dict.fromkeys(each.identity.digest for _, each in fills))
    done: list[list[dict[str, Any]]] = [[] for _ in experiments]
    for i, each in sorted(fills, key=lambda fill: caches.index(fill[1].identity.digest)):
        done[i].append(_fill(each, configs[i], models, reporter))
    return [_summed(fills) for fills in done]


def fill_all(experiments: Sequence[Prepared], configs: Sequence[RunConfig], reporter: Reporter) -> list[dict[str, Any]]:
    """The same, for what needs all of it now. Raises PendingError where other processes still have shards to fill."""
    done = fill_missing(experiments, configs, reporter)
    if not all(extraction["complete"] for extraction in done):
        raise PendingError(
            "other processes have not filled their shards yet; when all are done, the same command goes on"
        )
    return done


def _one_share(config: RunConfig, paths: RunPaths, reporter: Reporter) -> None:
    """What each of several processes does."""
    fill_missing([prepare(config, paths, reporter, scored=False)], [config], reporter)


def _summed(done: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What was done for an experiment and its controls together."""
    passes = [one["forward_passes"] for one in done]
    return {
        **done[0],
        "samples": sum(one["samples"] for one in done),
        "forward_passes": None if None in passes else sum(passes),
        "seconds": round(sum(one["seconds"] for one in done), 2),
        "complete": all(one["complete"] for one in done),
        "hit": all(one["hit"] for one in done),
    }


def _fill(ready: Prepared, config: RunConfig, models: Models, reporter: Reporter) -> dict[str, Any]:
    samples = {sample.uid: sample for sample in ready.examples.samples}
    what = f"{ready.control}: " if ready.control else ""
    coverage = ready.store.coverage()
    repairs = [] if ready.control else damaged_jobs(ready, coverage, samples, reporter)
    if repairs:
        repair(ready, models, repairs, samples, reporter)
        coverage = ready.store.coverage()
    missing = coverage.missing(ready.stored, samples)
    if not missing:
        reporter.note(f"{what}cache {ready.identity.digest}: all {len(samples)} samples are there")
        return {**NOTHING, "hit": not repairs}
    try:
        return {**_extract(Request(ready, coverage, missing), config, models, what, reporter), "hit": False}
    except ModelError as error:
        if ready.control not in OPTIONAL:
            raise
        reporter.note(f"{what}not applicable: {error}")
        return {**NOTHING, "hit": True}


def _extract(request: Request, config: RunConfig, models: Models, what: str, reporter: Reporter) -> dict[str, Any]:
    from mllm_probe.models.loading.device import pick_device

    ready, settings = request.ready, request.ready.extract
    device = pick_device(ready.device)
    plans = request.plans(device, request.shares, ready.anatomy.causal)
    if not any(plan.units for plan in plans):
        for plan in plans:
            join(plan, ready.store)
        return dict(NOTHING)
    expected = request.estimate(plans, device)
    check_disk(expected, ready.store.paths.root, settings.max_disk_gb)
    reporter.note(f"{what}to extract: {len(request.samples)} samples, {expected}")
    if settings.gpus > 1:
        from mllm_probe.experiment.processes import in_processes

        return in_processes(_one_share, config, request, device, reporter)
    if not ready.control:
        keep_first(ready)
    done = _with_others(request, request.begun(plans, device), device, models, reporter)
    if not done["complete"]:
        reporter.note(f"{what}shard {settings.shard} of {settings.num_shards} is done, others are not yet")
    return done


def _with_others(
    request: Request, plans: list[Plan], device: str, models: Models, reporter: Reporter
) -> dict[str, Any]:
    """Claim a shard before the model is loaded: where others fill all that is left, no weight is needed."""
    ready, work = request.ready, share_of(request.ready)
    with Claims() as claims:
        if not anything_to_fill(jobs_of(plans, ready.store, work), claims, work, reporter):
            return {**NOTHING, "complete": finish_filled(plans, ready.store)}
        model = models.get(ready)
        proof = _prove(request, model, reporter)
        model.anatomy = replace(model.anatomy, causal=proof.causal)
        proven = request.plans(device, request.shares and not proof.why, proof.causal)
        if proven != plans:
            claims.clear()
        done = Extraction(model, request.samples, ready.store, work, reporter).run(proven, claims)
    return {**done, "prefix": "plain" if proof.why else "shared"}


def _prove(request: Request, model: "HFModel", reporter: Reporter) -> Proof:
    """Whether statements share their prompt heads; where they do not, one line says why."""
    if not request.pictured:
        return Proof(request.ready.anatomy.causal, why="there is no picture to share")
    keys = request.ready.stored
    proof = prove(model, request.proof_samples(), keys, request.longest, model.top(keys))
    if request.ready.extract.prefix == "off":  # the row spaces rest on the rest of the proof all the same
        return replace(proof, why="extract.prefix=off")
    if proof.why:
        reporter.note(f"every statement is read on its own: {proof.why}")
    return proof
