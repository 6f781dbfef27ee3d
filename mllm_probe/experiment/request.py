"""What one extraction requests from a store: the samples, the keys they lack, and the plans that fill the gaps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mllm_probe.cache.coverage import Coverage
from mllm_probe.cache.plan import FIRST, Plan
from mllm_probe.experiment.experiment import Experiment
from mllm_probe.extraction.estimate import Estimate, bytes_of, estimate, matrix_rate
from mllm_probe.extraction.plan import BYTES, Planner
from mllm_probe.records.batches import Survey, unpacked
from mllm_probe.records.samples import Sample
from mllm_probe.records.sites import Key

PROOF_GROUP, PROOF_OTHERS = 3, 2


@dataclass(frozen=True)
class Request:
    """`missing`: {keys that no whole shard holds: the samples that lack these}."""

    experiment: Experiment
    coverage: Coverage
    missing: Mapping[tuple[Key, ...], Sequence[str]]

    @cached_property
    def samples(self) -> dict[str, Sample]:
        lacking = {uid for uids in self.missing.values() for uid in uids}
        return {sample.uid: sample for sample in self.experiment.examples.samples if sample.uid in lacking}

    @cached_property
    def survey(self) -> Survey:
        """Raises ModelError, SpanError, DataError for prompts the model cannot read."""
        return self.experiment.blueprint.survey(list(self.samples.values()), self.experiment.stored)

    @property
    def pictured(self) -> bool:
        return all(sample.images for sample in self.samples.values())

    @property
    def shares(self) -> bool:
        """Whether prompt heads are to be shared, if the model proves that it can."""
        return self.experiment.extract.prefix == "auto" and self.pictured

    def plans(self, device: str, shared: bool, causal: bool) -> list[Plan]:
        """Image states that are stored already under the same prefix are not planned again."""
        survey, needed = self.survey, dict(self.missing)
        if self.coverage.shards:
            needed = self._gaps(survey)
        anatomy = replace(self.experiment.anatomy, causal=causal)
        stored, asked = self.experiment.storage, self.experiment.extract.micro_batch
        return Planner.of(survey, anatomy, device, stored, shared, asked).plans(needed)

    def _gaps(self, survey: Survey) -> dict[tuple[Key, ...], Sequence[str]]:
        """What is missing once it is known which samples have which prefix."""
        known = self.coverage.knowing(survey.prefix_of())
        needed: dict[tuple[Key, ...], list[str]] = {}
        for keys, uids in self.missing.items():
            for gap, some in known.gaps(keys, uids).items():
                needed.setdefault(gap, []).extend(some)
        return dict(needed)

    def begun(self, plans: list[Plan], device: str) -> list[Plan]:
        """The plans another process is following, where the model proved to it that `plans` do not suit it."""
        groups, causal = self.experiment.store.unfinished(), self.experiment.anatomy.causal
        if groups and groups.isdisjoint(plan.digest for plan in plans):
            for other in (self.plans(device, False, causal), self.plans(device, False, False)):
                if groups.issuperset(plan.digest for plan in other if plan.read):
                    return other
        return plans

    def outdated(self, plans: Sequence[Plan]) -> bool:
        """Whether a release with an older format began these plans, whose groups this one cannot finish."""
        groups = self.experiment.store.unfinished()
        return bool(groups) and any(replace(plan, format=FIRST).digest in groups for plan in plans)

    def proof_samples(self) -> list[Sample]:
        """Some statements about one picture, and some about others."""
        prefix = self.survey.prefix
        first, *others = np.argsort(-np.bincount(prefix), kind="stable")[: 1 + PROOF_OTHERS]
        own = np.flatnonzero(prefix == first)[:PROOF_GROUP]
        rows = [*own, *(np.flatnonzero(prefix == other)[0] for other in others)]
        return [self.samples[uid] for uid in unpacked(self.survey.uids[rows])]

    def estimate(self, plans: list[Plan], device: str) -> Estimate:
        from mllm_probe.models.loading.device import keeps_dequantised

        model, blueprint = self.experiment.model, self.experiment.blueprint
        plain = BYTES[model.dtype] * sum(blueprint.parameters.get(tower, 0) for tower in model.quantize)
        kept = keeps_dequantised(model, device, plain)
        each = {**bytes_of(model, blueprint.parameters, kept), "stored": BYTES[self.experiment.storage]}
        rate = matrix_rate(device, model.dtype)
        return estimate(plans, self.survey, self.experiment.anatomy, blueprint.parameters, each, rate)
