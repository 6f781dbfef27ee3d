"""What a kind of intervention is measured with: from conditions to what each prompt answers. Knows no kind."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mllm_probe.experiment.experiment import Experiment
from mllm_probe.files.jobs import code_here
from mllm_probe.files.store_paths import PartPaths
from mllm_probe.fitting.trials import Probing
from mllm_probe.interventions import fitted
from mllm_probe.interventions.conditions import changeable
from mllm_probe.interventions.expected import expected
from mllm_probe.interventions.loop import Share, in_parts, outcomes, slopes
from mllm_probe.interventions.tested import Tested
from mllm_probe.records.interventions import Condition, Intervention, Outcomes
from mllm_probe.records.protocols import Intervenable, Reporter
from mllm_probe.records.samples import Sample, digest
from mllm_probe.records.sites import Site
from mllm_probe.results.effects import Slopes, Sweep

if TYPE_CHECKING:
    from mllm_probe.probes.directions import Directions, Erasers

Both = list[tuple[Condition, Intervention]]
Along = list[tuple[Condition, Site, np.ndarray]]  # see `Measuring.slopes`
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

    def directions(self, position: str, draws: int) -> "Mapping[Site, Directions]":
        """Of training rows at a position, and random ones. Raises CacheError, ProbeError."""
        return fitted.directions(self.experiment, self.probing, position, draws, self.sites, self.seed, self.reporter)

    def erasers(self, position: str, draws: int) -> "Mapping[Site, Erasers]":
        """The same."""
        return fitted.erasers(self.experiment, self.probing, position, draws, self.sites, self.seed, self.reporter)

    def tell(self, samples: Sequence[Sample], both: Both) -> None:
        """How much is to be done, before a weight is loaded."""
        random = sum(one.control == "random" for one, _ in both)
        work = expected(self.experiment.blueprint, samples, [one for _, one in both], self.device)
        self.reporter.note(
            f"to intervene: {len(samples)} prompts about {len({one.digests for one in samples})} pictures, each under "
            f"{len(both)} conditions{f', {random} of them random draws' if random else ''}; where tails suffice "
            f"{work} of arithmetic or more"
        )

    def clean(self, samples: Sequence[Sample]) -> Outcomes:
        """Without intervention."""
        return self._run(in_parts(samples, self.device), [], WHOLE)

    def changed(self, samples: Sequence[Sample], both: Both, together: Sequence[str] = ()) -> Outcomes:
        """Under every condition; prompts with one name in `together` [N] stay side by side, else those of a picture."""
        share = Share(self.experiment.extract.shard, self.experiment.extract.num_shards)
        return self._run(in_parts(samples, self.device, together), both, share)

    def slopes(self, samples: Sequence[Sample], along: Along, span: str) -> Slopes:
        """How much d changes with each step [D] at a site, at the tokens of a span, by one backward pass a prompt; its
        statements are those of `changed`."""
        parts = in_parts(samples, self.device)

        def product(engine: Intervenable, part: Sequence[Sample]) -> np.ndarray:
            found = engine.gradients(part, self.sites, span)
            rows = {site: values.double().cpu().numpy() for site, values in found.items()}
            return np.stack([rows[site] @ step for _, site, step in along]).astype(np.float32)

        place = self._place([asdict(one) for one, _, _ in along], [digest(step.tolist()) for *_, step in along], parts)
        values = slopes(self.engine, parts, product, place, self.reporter)
        return Slopes(tuple(one for one, *_ in along), values)

    def right(self, found: Outcomes) -> np.ndarray:
        """Which prompts are answered rightly without intervention [N] bool."""
        labels, _ = self.tested.of(found.uids)
        return (found.clean_d > 0) == (labels == 1)

    def sweep(self, both: Both, found: Outcomes, along: Slopes | None = None) -> Sweep:
        """A row for each prompt."""
        labels, groups = self.tested.of(found.uids)
        values = (found.clean_d, found.clean_p, found.d, found.p, found.kl)
        right = self.right(found)
        return Sweep(tuple(one for one, _ in both), found.uids, groups, labels, right, *values, slopes=along)

    def _run(self, parts: list[list[Sample]], both: Both, share: Share) -> Outcomes:
        found = self._place([asdict(one) for one, _ in both], [_content(one) for _, one in both], parts)
        return outcomes(self.engine, parts, [one for _, one in both], found, share, self.reporter)

    def _place(self, *parts: Any) -> PartPaths:
        """The folder of what these name, of this model and code."""
        *named, samples = parts
        uids = [[(one.uid, *one.picked.tokens) for one in part] for part in samples]
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
