"""From an experiment to a cache that holds all it needs: planned, claimed, proven, read; no model is loaded where it
already does.

A model is loaded when the first shard needs it, and kept while the next cache is the same. A shard that turns out to be
damaged is made again.
"""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mllm_probe.cache.claims import Claims
from mllm_probe.cache.coverage import Coverage
from mllm_probe.cache.plan import FORMAT, Plan, load_plan
from mllm_probe.config.run import RunConfig
from mllm_probe.errors import CacheError, ModelError, PendingError
from mllm_probe.experiment.cache_identity import name_cache
from mllm_probe.experiment.examples import keep_first
from mllm_probe.experiment.experiment import OPTIONAL, Experiment
from mllm_probe.experiment.prepare import prepare
from mllm_probe.experiment.request import Request
from mllm_probe.extraction.estimate import check_disk, check_keys
from mllm_probe.extraction.proof import Proof, prove_once
from mllm_probe.extraction.sharing import Job, anything_to_fill, claim_all, jobs_of
from mllm_probe.extraction.stream import Extraction, finish_filled, join
from mllm_probe.files.paths import RunPaths
from mllm_probe.records.protocols import Reporter
from mllm_probe.records.samples import Sample

if TYPE_CHECKING:
    from mllm_probe.models.hf import HFModel

NOTHING = {"samples": 0, "forward_passes": 0, "seconds": 0.0, "complete": True}


class Models:
    """At most one loaded model; experiments and controls that share a cache share it."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._held: dict[str, HFModel] = {}

    def get(self, experiment: Experiment) -> "HFModel":
        from mllm_probe.models.hf import load_model
        from mllm_probe.models.loading.device import pick_device

        name = experiment.identity.digest
        if name not in self._held:
            self._held.clear()
            gc.collect()  # before the next one takes its memory
            device = pick_device(experiment.device)
            self._reporter.note(f"loading {experiment.model.label} ({experiment.model.precision}) on {device}")
            self._held[name] = load_model(experiment.blueprint, device, experiment.stored)
            self._held[name].keep_dequantised()
            for remark in self._held[name].remarks:
                self._reporter.note(remark)
            name_cache(experiment.store, experiment.identity, experiment.model.label)
        self._held[name].require(experiment.stored)
        return self._held[name]


def fill_missing(
    experiments: Sequence[Experiment], configs: Sequence[RunConfig], reporter: Reporter
) -> list[dict[str, Any]]:
    """Fill the caches of experiments and their controls; a covered request is a hit and writes nothing.

    Model by model, so that each is loaded once, however many experiments read it. `configs`: what each was prepared
    from, so that the processes of `extract.gpus` can do the same.
    """
    unread = [check_keys(each.keys, each.sites, each.extract.positions) for each in experiments]
    for towers in filter(None, dict.fromkeys(unread)):
        reporter.note(f"{', '.join(towers)}: none of the requested positions exists there, left out")
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
    fill_missing([prepare(config, paths, reporter, scored=False, picking=True)], [config], reporter)


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
    if not any(plan.read for plan in plans):
        for plan in plans:
            join(plan, experiment.store)
        return dict(NOTHING)
    expected = request.estimate(plans, device)
    check_disk(expected, experiment.store.paths.root, settings.max_disk_gb)
    reporter.note(f"{what}to extract: {len(request.samples)} samples, {expected}")
    if request.outdated(plans):
        reporter.note(f"{what}an older release began this extraction in another format, so it begins anew")
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
        if [plan.digest for plan in proven] != [plan.digest for plan in plans]:
            claims.clear()
        done = Extraction(model, request.samples, experiment.store, work, reporter).run(proven, claims)
    return {**done, "prefix": "plain" if proof.why else "shared"}


def _prove(request: Request, model: "HFModel", reporter: Reporter) -> Proof:
    """Whether statements share their prompt heads; where they do not, one line says why."""
    if not request.pictured:
        return Proof(request.experiment.anatomy.causal, why="there is no picture to share")
    experiment, keys = request.experiment, request.experiment.stored
    memory, name = experiment.store.memory, experiment.identity.digest
    samples, longest = request.proof_samples(), request.survey.longest
    proof = prove_once(memory, name, model, samples, keys, longest, model.top(keys))
    if experiment.extract.prefix == "off":  # the row spaces rest on the rest of the proof all the same
        return replace(proof, why="extract.prefix=off")
    if proof.why:
        reporter.note(f"every statement is read separately: {proof.why}")
    return proof


def repaired(
    experiment: Experiment, coverage: Coverage, samples: Mapping[str, Sample], models: Models, reporter: Reporter
) -> bool:
    """Make damaged shards of the experiment's samples again; whether there were any. Raises CacheError."""
    if jobs := _damaged(experiment, coverage, samples, reporter):
        _repair(experiment, models, jobs, samples, reporter)
    return bool(jobs)


def _damaged(
    experiment: Experiment, coverage: Coverage, samples: Mapping[str, Sample], reporter: Reporter
) -> list[Job]:
    """The damaged shards whose samples are at hand. Raises CacheError where work is shared out.

    Others are left alone: what this request needs of them is missing, and is extracted into a group of its own.
    """
    if coverage.damaged and experiment.extract.num_shards > 1:
        raise CacheError(
            f"{coverage.damaged[0].path} is damaged or missing; repeat the command once without "
            "extract.num_shards to fix it"
        )
    jobs = []
    for damage in coverage.damaged:
        plan = _stored_plan(experiment, damage.group)
        needed = plan.content(damage.number).prefixes.keys() if plan else set()
        if plan and plan.format != FORMAT:
            reporter.note(
                f"{damage.path} is damaged or missing and of an older format: what this request lacks of it is "
                "extracted into a group of its own"
            )
        elif plan and needed and needed <= samples.keys():
            reporter.note(f"{damage.path} is damaged or missing and is extracted again")
            jobs.append(Job(plan, experiment.store.paths.group(damage.group), damage.number))
        else:
            reporter.note(
                f"{damage.path} is damaged or missing, and this request does not contain its samples: left out"
            )
    return jobs


def _repair(
    experiment: Experiment, models: Models, jobs: Sequence[Job], samples: Mapping[str, Sample], reporter: Reporter
) -> None:
    """The plans make their shards again, byte for byte; what another machine made stays as it is. Raises CacheError."""
    work = experiment.work
    with Claims() as claims:
        claim_all(jobs, claims, work, reporter)
        still = {damage.path for damage in experiment.store.coverage().damaged}
        if not still.intersection(job.path for job in jobs):  # another process has fixed them
            return
        model = models.get(experiment)
        model.anatomy = replace(model.anatomy, causal=experiment.anatomy.causal)
        plans = list({job.plan.digest: job.plan for job in jobs}.values())
        for plan in plans:
            experiment.store.begin(plan, model.provenance())
        for job in jobs:
            if job.path in still:
                job.path.unlink(missing_ok=True)
        Extraction(model, samples, experiment.store, work, reporter).run(plans, claims)


def _stored_plan(experiment: Experiment, group: str) -> Plan | None:
    """The plan that made a group; None where it can no longer be trusted."""
    try:
        return load_plan(experiment.store.paths.group(group))
    except ValueError:
        return None
