"""From an experiment to a cache that holds all it needs: planned, claimed, proven, read; no model is loaded where it
already does."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mllm_probe.cache.claims import Claims
from mllm_probe.config.run import RunConfig
from mllm_probe.errors import ModelError, PendingError
from mllm_probe.experiment.experiment import OPTIONAL, Experiment
from mllm_probe.experiment.first_samples import keep_first
from mllm_probe.experiment.loaded_models import Models
from mllm_probe.experiment.prepare import prepare
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
    experiments: Sequence[Experiment], configs: Sequence[RunConfig], reporter: Reporter
) -> list[dict[str, Any]]:
    """Fill the caches of experiments and their controls; a covered request is a hit and writes nothing.

    Model by model, so that each is loaded once, however many experiments read it. `configs`: what each was prepared
    from, so that the processes of `extract.gpus` can do the same.
    """
    for experiment in experiments:
        for tower in check_keys(experiment.keys, experiment.sites, experiment.extract.positions):
            reporter.note(f"{tower}: none of the requested positions exists there, left out")
    models = Models(reporter)
    fills = [(i, each) for i, experiment in enumerate(experiments) for each in (experiment, *experiment.variants)]
    caches = list(dict.fromkeys(each.identity.digest for _, each in fills))
    done: list[list[dict[str, Any]]] = [[] for _ in experiments]
    for i, each in sorted(fills, key=lambda fill: caches.index(fill[1].identity.digest)):
        done[i].append(_fill(each, configs[i], models, reporter))
    return [_summed(fills) for fills in done]


def fill_all(
    experiments: Sequence[Experiment], configs: Sequence[RunConfig], reporter: Reporter
) -> list[dict[str, Any]]:
    """The same, for what needs all of it now. Raises PendingError where other processes still have shards to fill."""
    done = fill_missing(experiments, configs, reporter)
    if not all(extraction["complete"] for extraction in done):
        raise PendingError("other processes have not filled their shards yet; repeat the command when all are done")
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


def _fill(experiment: Experiment, config: RunConfig, models: Models, reporter: Reporter) -> dict[str, Any]:
    samples = {sample.uid: sample for sample in experiment.examples.samples}
    what = f"{experiment.control}: " if experiment.control else ""
    coverage = experiment.store.coverage()
    mended = False
    if coverage.damaged and not experiment.control:
        from mllm_probe.experiment.repair import repaired

        mended = repaired(experiment, coverage, samples, models, reporter)
        coverage = experiment.store.coverage()
    missing = coverage.missing(experiment.stored, samples)
    if not missing:
        reporter.note(f"{what}cache {experiment.identity.digest}: all {len(samples)} samples are there")
        return {**NOTHING, "hit": not mended}
    try:
        return {**_extract(Request(experiment, coverage, missing), config, models, what, reporter), "hit": False}
    except ModelError as error:
        if experiment.control not in OPTIONAL:
            raise
        reporter.note(f"{what}not applicable: {error}")
        return {**NOTHING, "hit": True}


def _extract(request: Request, config: RunConfig, models: Models, what: str, reporter: Reporter) -> dict[str, Any]:
    from mllm_probe.models.loading.device import pick_device

    experiment, settings = request.experiment, request.experiment.extract
    device = pick_device(experiment.device)
    plans = request.plans(device, request.shares, experiment.anatomy.causal)
    if not any(plan.units for plan in plans):
        for plan in plans:
            join(plan, experiment.store)
        return dict(NOTHING)
    expected = request.estimate(plans, device)
    check_disk(expected, experiment.store.paths.root, settings.max_disk_gb)
    reporter.note(f"{what}to extract: {len(request.samples)} samples, {expected}")
    if settings.gpus > 1:
        from mllm_probe.experiment.processes import in_processes

        return in_processes(_one_share, config, request, device, reporter)
    if not experiment.control:
        keep_first(experiment)
    done = _with_others(request, request.begun(plans, device), device, models, reporter)
    if not done["complete"]:
        reporter.note(f"{what}shard {settings.shard} of {settings.num_shards} is done, others are not")
    return done


def _with_others(
    request: Request, plans: list[Plan], device: str, models: Models, reporter: Reporter
) -> dict[str, Any]:
    """Claim a shard before the model is loaded: where others fill all that is left, no weight is needed."""
    experiment, work = request.experiment, request.experiment.work
    with Claims() as claims:
        if not anything_to_fill(jobs_of(plans, experiment.store, work), claims, work, reporter):
            return {**NOTHING, "complete": finish_filled(plans, experiment.store)}
        model = models.get(experiment)
        proof = _prove(request, model, reporter)
        model.anatomy = replace(model.anatomy, causal=proof.causal)
        proven = request.plans(device, request.shares and not proof.why, proof.causal)
        if proven != plans:
            claims.clear()
        done = Extraction(model, request.samples, experiment.store, work, reporter).run(proven, claims)
    return {**done, "prefix": "plain" if proof.why else "shared"}


def _prove(request: Request, model: "HFModel", reporter: Reporter) -> Proof:
    """Whether statements share their prompt heads; where they do not, one line says why."""
    if not request.pictured:
        return Proof(request.experiment.anatomy.causal, why="there is no picture to share")
    keys = request.experiment.stored
    proof = prove(model, request.proof_samples(), keys, request.survey.longest, model.top(keys))
    if request.experiment.extract.prefix == "off":  # the row spaces rest on the rest of the proof all the same
        return replace(proof, why="extract.prefix=off")
    if proof.why:
        reporter.note(f"every statement is read separately: {proof.why}")
    return proof
