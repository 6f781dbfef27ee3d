"""Shards of a cache that are damaged or missing: their plans make them again, byte for byte."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mllm_probe.cache.claims import Claims
from mllm_probe.cache.coverage import Coverage
from mllm_probe.errors import CacheError
from mllm_probe.experiment.experiment import Experiment
from mllm_probe.experiment.loaded_models import Models
from mllm_probe.extraction.plan import Plan
from mllm_probe.extraction.sharing import Job, claim_all
from mllm_probe.extraction.stream import Extraction
from mllm_probe.records.protocols import Reporter
from mllm_probe.records.samples import Sample

EMPTY = Plan((), {}, {}, frozenset(), ())


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
        needed = {uid for unit in plan.units if unit.shard == damage.number for uid in unit.samples}
        if needed and needed <= samples.keys():
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
            experiment.store.begin(plan.digest, plan.to_json(), model.provenance())
        for job in jobs:
            if job.path in still:
                job.path.unlink(missing_ok=True)
        Extraction(model, samples, experiment.store, work, reporter).run(plans, claims)


def _stored_plan(experiment: Experiment, group: str) -> Plan:
    """The plan that made a group; an empty one where it can no longer be trusted."""
    try:
        plan = Plan.from_json(json.loads(experiment.store.paths.group(group).plan.read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        plan = EMPTY
    return plan if plan.digest == group else EMPTY
