"""A kind of intervention, measured on the prompts of an experiment: from conditions to what each prompt answers."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mllm_probe.errors import ProbeError
from mllm_probe.experiment.experiment import Experiment
from mllm_probe.files.jobs import code_here
from mllm_probe.files.store_paths import PartPaths
from mllm_probe.fitting.trials import Probing
from mllm_probe.interventions import fitted
from mllm_probe.interventions.conditions import changeable
from mllm_probe.interventions.erasure import Erasure
from mllm_probe.interventions.expected import expected
from mllm_probe.interventions.knockout import Knockout
from mllm_probe.interventions.loop import Share, in_parts, outcomes, slopes
from mllm_probe.interventions.patching import Pairs, Patching, pairs_of
from mllm_probe.interventions.steering import Steering
from mllm_probe.interventions.tested import Tested
from mllm_probe.records.interventions import Condition, Intervention, Outcomes
from mllm_probe.records.protocols import Intervenable, Reporter
from mllm_probe.records.samples import Sample, digest
from mllm_probe.records.sites import Site
from mllm_probe.results.effects import DENOISE, Slopes, Sweep
from mllm_probe.stats.links import linked

Both = list[tuple[Condition, Intervention]]
WHOLE = Share()


@dataclass(frozen=True)
class Measuring:
    """What a sweep is made with; `least` pictures (of patching: pairs) it must have, `places` are folders it kept
    parts in."""

    experiment: Experiment
    probing: Probing
    tested: Tested
    engine: Callable[[], Intervenable]
    lengths: Callable[[Sequence[Sample]], dict[str, int]]
    device: str
    least: int
    seed: int
    reporter: Reporter
    places: list[PartPaths]

    @property
    def sites(self) -> list[Site]:
        return list(changeable(self.experiment.sites))

    def clean(self, samples: Sequence[Sample]) -> Outcomes:
        """Without intervention."""
        return self._run(in_parts(samples, self.device), [], WHOLE)

    def changed(self, parts: list[list[Sample]], both: Both) -> Outcomes:
        share = Share(self.experiment.extract.shard, self.experiment.extract.num_shards)
        return self._run(parts, both, share)

    def _run(self, parts: list[list[Sample]], both: Both, share: Share) -> Outcomes:
        found = self.place([asdict(one) for one, _ in both], [_content(one) for _, one in both], parts)
        return outcomes(self.engine, parts, [one for _, one in both], found, share, self.reporter)

    def place(self, *parts: Any) -> PartPaths:
        """The folder of what these name, of this model and code."""
        *named, samples = parts
        uids = [[one.uid for one in part] for part in samples]
        own = self.experiment
        found = own.outputs.parts(digest("intervene", own.identity.digest, self.tested.words, code_here(), named, uids))
        self.places.append(found)
        return found


def _content(one: Intervention) -> Any:
    """What an intervention is, in parts that a digest can be made of."""
    payload: Any = one.payload
    if hasattr(payload, "arrays"):
        payload = {name: digest(value.tolist()) for name, value in payload.arrays().items()}
    elif hasattr(payload, "tolist"):
        payload = digest(payload.tolist())
    return one.kind, one.span, str(one.site), one.source, one.window, payload


def measured(kind: Any, own: Measuring) -> tuple[Sweep, dict[str, Any]]:
    """The sweep, and counts for summary.json. Raises MllmProbeError."""
    if isinstance(kind, Patching):
        return _patched(kind, own)
    if isinstance(kind, Knockout):
        return _knocked_out(kind, own)
    return _steered(kind, own) if isinstance(kind, Steering) else _erased(kind, own)


def _knocked_out(kind: Knockout, own: Measuring) -> tuple[Sweep, dict[str, Any]]:
    """Of the prompts that are answered rightly."""
    both = list(kind.conditions(own.experiment.anatomy))
    _told(own, own.tested.samples, both)
    clean = own.clean(own.tested.samples)
    labels, groups = own.tested.of(clean.uids)
    right = (clean.clean_d > 0) == (labels == 1)
    if (pictures := len(set(groups[right].tolist()))) < own.least:
        raise ProbeError(
            f"the model answers {int(right.sum())} of {len(right)} prompts rightly, about {pictures} pictures, and "
            f"intervene.least={own.least} are needed: what is not answered cannot be disturbed; take a model that "
            "knows the answers, or more pictures"
        )
    kept = own.tested.kept(frozenset(np.asarray(clean.uids)[right].tolist()))
    found = own.changed(in_parts(kept.samples, own.device), both)
    return _sweep(own, both, found), {"prompts": len(right), "answered_rightly": int(right.sum())}


def _erased(kind: Erasure, own: Measuring) -> tuple[Sweep, dict[str, Any]]:
    erasers = fitted.erasers(own.experiment, own.probing, kind, own.sites, own.seed, own.reporter)
    both = list(kind.conditions(own.experiment.anatomy, erasers))
    _told(own, own.tested.samples, both)
    found = own.changed(in_parts(own.tested.samples, own.device), both)
    return _sweep(own, both, found), {"prompts": len(found.uids)}


def _steered(kind: Steering, own: Measuring) -> tuple[Sweep, dict[str, Any]]:
    made = fitted.directions(own.experiment, own.probing, kind, own.sites, own.seed, own.reporter)
    both = list(kind.conditions(own.experiment.anatomy, made, own.experiment.model.dtype))
    along = list(kind.slopes(own.experiment.anatomy, made))
    parts = in_parts(own.tested.samples, own.device)
    _told(own, own.tested.samples, both)

    def product(engine: Intervenable, part: Sequence[Sample]) -> np.ndarray:
        found = engine.gradients(part, own.sites, kind.span)
        rows = {site: values.double().cpu().numpy() for site, values in found.items()}
        return np.stack([rows[site] @ step for _, site, step in along]).astype(np.float32)

    place = own.place([asdict(one) for one, _, _ in along], [digest(step.tolist()) for *_, step in along], parts)
    values = slopes(own.engine, parts, product, place, own.reporter)
    found = own.changed(parts, both)
    sloped = Slopes(tuple(one for one, *_ in along), values)
    return _sweep(own, both, found, slopes=sloped), {"prompts": len(found.uids)}


def _patched(kind: Patching, own: Measuring) -> tuple[Sweep, dict[str, Any]]:
    """A row for each pair: of `denoise` the prompt whose statement is false is changed, of `noise` the true one."""
    pairs = _pairs(kind, own)
    samples = {one.uid: one for one in own.tested.samples}
    asked = [samples[uid] for pair in pairs.pairs for uid in (pair.clean, pair.corrupt)]
    both = list(kind.conditions(own.experiment.anatomy, own.sites, pairs.pairs))
    _told(own, asked, both)
    names = [pair.group for pair in pairs.pairs for _ in range(2)]
    found = own.changed(in_parts(asked, own.device, names), both)
    place = {uid: i for i, uid in enumerate(found.uids)}
    first = np.asarray([place[pair.clean] for pair in pairs.pairs])
    second = np.asarray([place[pair.corrupt] for pair in pairs.pairs])
    rows = np.stack([second if one.direction == DENOISE else first for one, _ in both])
    d, p, kl = (np.take_along_axis(values, rows, axis=1) for values in (found.d, found.p, found.kl))
    labels, groups = own.tested.of([pair.clean for pair in pairs.pairs])
    _, others = own.tested.of([pair.corrupt for pair in pairs.pairs])
    return Sweep(
        tuple(one for one, _ in both),
        tuple(pair.clean for pair in pairs.pairs),
        linked(groups, others),
        labels,
        np.ones(len(labels), dtype=bool),
        found.clean_d[first],
        found.clean_p[first],
        d,
        p,
        kl,
        other_d=found.clean_d[second],
    ), {"pairs": len(labels), "dropped": dict(pairs.dropped)}


def _pairs(kind: Patching, own: Measuring) -> Pairs:
    """Those that the model tells apart. Raises ProbeError."""
    pairs = pairs_of(own.experiment.examples, own.lengths(own.tested.samples))
    uids = {uid for pair in pairs.pairs for uid in (pair.clean, pair.corrupt)}
    clean = own.clean([one for one in own.tested.samples if one.uid in uids]) if uids else None
    d = {} if clean is None else dict(zip(clean.uids, clean.clean_d.tolist(), strict=True))
    pairs = pairs.apart(d, kind.min_gap)
    if len(pairs.pairs) < own.least:
        why = "; ".join(f"{count} true statements: {reason}" for reason, count in pairs.dropped.items())
        raise ProbeError(
            f"{len(pairs.pairs)} pairs of prompts can be patched and intervene.least={own.least} are needed ({why}); "
            "take more pictures, or a lower intervention.min_gap"
        )
    return pairs


def _sweep(own: Measuring, both: Both, found: Outcomes, slopes: Slopes | None = None) -> Sweep:
    labels, groups = own.tested.of(found.uids)
    right = (found.clean_d > 0) == (labels == 1)
    values = (found.clean_d, found.clean_p, found.d, found.p, found.kl)
    return Sweep(tuple(one for one, _ in both), found.uids, groups, labels, right, *values, slopes=slopes)


def _told(own: Measuring, samples: Sequence[Sample], both: Both) -> None:
    random = sum(one.control == "random" for one, _ in both)
    own.reporter.note(
        f"to intervene: {len(samples)} prompts about {len({one.digests for one in samples})} pictures, each under "
        f"{len(both)} conditions{f', {random} of them random draws' if random else ''}; where tails suffice "
        f"{expected(own.experiment.blueprint, samples, [one for _, one in both], own.device)} of arithmetic or more"
    )
