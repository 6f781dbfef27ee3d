"""Activation patching: the states of a prompt take the place of those of another that differs in its picture alone, or
in one word of its statement.

Knows no model; of labels only which of two prompts is the one whose statement is true.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from mllm_probe.errors import ConfigError, DataError, ProbeError, choices
from mllm_probe.interventions.conditions import at_site, changeable, check_sites
from mllm_probe.interventions.kinds import Sweepable
from mllm_probe.records.interventions import REPLACE, Condition, Intervention
from mllm_probe.records.samples import Examples, digest
from mllm_probe.records.sites import Anatomy, Site
from mllm_probe.records.spans import check_span
from mllm_probe.results.effects import DENOISE, NOISE, Sweep
from mllm_probe.stats.links import linked

if TYPE_CHECKING:
    from mllm_probe.interventions.workbench import Measuring

DIRECTIONS = DENOISE, NOISE
DIFFERENCES = PICTURE, WORD = "picture", "word"
NO_OTHER = "their text is false of no other picture"
NO_WORD = "no false statement about their picture differs in one word"
UNEQUAL = "their prompts have unequal numbers of tokens"
TAKEN = "their pictures are in other pairs"
CLOSE = "the model hardly tells them apart"


@dataclass(frozen=True)
class Pair:
    """Two samples that differ in the picture alone, or in one word: the statement of `clean` is true, that of `corrupt`
    false. `group` is the pair's own, since no picture is in two."""

    clean: str
    corrupt: str
    group: str


@dataclass(frozen=True)
class Pairs:
    """The pairs that are patched, and how many of the true statements have none, by the reason."""

    pairs: tuple[Pair, ...]
    dropped: Mapping[str, int] = field(default_factory=dict)

    @property
    def clean(self) -> tuple[str, ...]:
        return tuple(pair.clean for pair in self.pairs)

    @property
    def corrupt(self) -> tuple[str, ...]:
        return tuple(pair.corrupt for pair in self.pairs)

    def apart(self, d: Mapping[str, float], least: float) -> "Pairs":
        """Those whose clean prompt has a d [nats] that is at least so much higher than the corrupt one's: what is
        restored is a share of that difference. `d` is that of every sample without intervention."""
        kept = tuple(pair for pair in self.pairs if d[pair.clean] - d[pair.corrupt] >= least)
        lost = len(self.pairs) - len(kept)
        return replace(self, pairs=kept, dropped={**self.dropped, CLOSE: lost} if lost else self.dropped)


@dataclass(frozen=True)
class Patching(Sweepable):
    """After a block, or its attention or mlp (layers.parts), the states of a prompt at the tokens of each of `spans`
    are replaced by those of another. The two `differ` in the picture, their text is the same; or in one word of the
    statement, about the same picture.

    `directions`: denoise puts states of the prompt whose statement is true into the one whose is false, noise the
    reverse. The effect is the share of the difference of d between the two that this restores; pairs whose d differ
    by less than `min_gap` nats are left out.
    """

    spans: Sequence[str] = ("image", "statement", "last", "all")
    directions: Sequence[str] = DIRECTIONS
    min_gap: float = 1.0
    differ: str = PICTURE
    name: ClassVar[str] = "patching"

    def __post_init__(self) -> None:
        for span in self.spans:
            check_span(span, "intervention.spans")
        for direction in self.directions:
            if direction not in DIRECTIONS:
                raise ConfigError(
                    f"intervention.directions names '{direction}', which is unknown; {choices(direction, DIRECTIONS)}"
                )
        for setting, given in (("spans", self.spans), ("directions", self.directions)):
            if not given:
                raise ConfigError(f"intervention.{setting} is empty, so nothing would be patched; name at least one")
        if self.differ not in DIFFERENCES:
            raise ConfigError(f"intervention.differ={self.differ} is unknown; {choices(self.differ, DIFFERENCES)}")
        if not self.min_gap > 0:
            raise ConfigError(
                f"intervention.min_gap={self.min_gap} must be above 0: a share of no difference says nothing"
            )

    def conditions(
        self, anatomy: Anatomy, sites: Sequence[Site], pairs: Sequence[Pair]
    ) -> Iterator[tuple[Condition, Intervention]]:
        """Every span at every site of the language model in every direction; those of `denoise` change the corrupt
        samples of the pairs, those of `noise` the clean ones. Raises ConfigError."""
        check_sites(sites, anatomy)
        donors = {
            DENOISE: {pair.corrupt: pair.clean for pair in pairs},
            NOISE: {pair.clean: pair.corrupt for pair in pairs},
        }
        for direction in self.directions:
            for span in self.spans:
                for site in changeable(sites):
                    found = at_site(self.name, span, site, anatomy, direction=direction)
                    yield found, Intervention(REPLACE, span, site, payload=donors[direction])

    def measured(self, own: "Measuring") -> tuple[Sweep, dict[str, Any]]:
        """A row for each pair: of `denoise` the prompt whose statement is false is changed, of `noise` the true one."""
        import numpy as np

        pairs = self._pairs(own)
        samples = {one.uid: one for one in own.tested.samples}
        asked = [samples[uid] for pair in pairs.pairs for uid in (pair.clean, pair.corrupt)]
        both = list(self.conditions(own.experiment.anatomy, own.sites, pairs.pairs))
        own.tell(asked, both)
        found = own.changed(asked, both, [pair.group for pair in pairs.pairs for _ in range(2)])
        place = {uid: i for i, uid in enumerate(found.uids)}
        first, second = (np.asarray([place[uid] for uid in uids]) for uids in (pairs.clean, pairs.corrupt))
        rows = np.stack([second if one.direction == DENOISE else first for one, _ in both])
        d, p, kl = (np.take_along_axis(values, rows, axis=1) for values in (found.d, found.p, found.kl))
        (labels, groups), (_, others) = own.tested.of(pairs.clean), own.tested.of(pairs.corrupt)
        kept, before = np.ones(len(labels), dtype=bool), (found.clean_d[first], found.clean_p[first])
        return Sweep(
            tuple(one for one, _ in both),
            pairs.clean,
            linked(groups, others),
            labels,
            kept,
            *before,
            d,
            p,
            kl,
            other_d=found.clean_d[second],
        ), {"pairs": len(labels), "dropped": dict(pairs.dropped)}

    def _pairs(self, own: "Measuring") -> Pairs:
        """Those that the model tells apart. Raises ProbeError."""
        make = pairs_of if self.differ == PICTURE else word_pairs_of
        pairs = make(own.experiment.examples, own.lengths(own.tested.samples))
        uids = {*pairs.clean, *pairs.corrupt}
        clean = own.clean([one for one in own.tested.samples if one.uid in uids]) if uids else None
        d = {} if clean is None else dict(zip(clean.uids, clean.clean_d.tolist(), strict=True))
        pairs = pairs.apart(d, self.min_gap)
        if len(pairs.pairs) < own.least:
            why = "; ".join(f"{count} true statements: {reason}" for reason, count in pairs.dropped.items())
            raise ProbeError(
                f"{len(pairs.pairs)} pairs of prompts can be patched and intervene.least={own.least} are needed "
                f"({why}); take more pictures, or a lower intervention.min_gap"
            )
        return pairs


def pairs_of(examples: Examples, lengths: Mapping[str, int]) -> Pairs:
    """Pairs among the samples in `lengths` {uid: tokens of its prompt}, no picture in two of them.

    The two have the same text and equal numbers of tokens, and the groups of their pictures differ. Texts with few
    partners choose first, ties by digest, so the same examples give the same pairs. Raises DataError where labels are
    not yes and no.
    """
    asked = _asked(examples, lengths)
    sides: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for uid, one in sorted(asked.items(), key=lambda item: digest(item[0])):
        sides[one.text][one.label].append(uid)
    used: set[str] = set()
    found: list[Pair] = []
    dropped: Counter[str] = Counter()
    for text in sorted(sides, key=lambda text: (min(map(len, sides[text])), digest(text))):
        false, true = sides[text]
        equal: dict[int, deque[str]] = defaultdict(deque)
        for uid in false:
            equal[lengths[uid]].append(uid)
        for uid in true:
            other = None if asked[uid].group in used else _partner(uid, equal[lengths[uid]], asked, used)
            if other is None:
                dropped[_reason(uid, false, asked, lengths)] += 1
                continue
            used |= {asked[uid].group, asked[other].group}
            found.append(Pair(uid, other, digest(uid, other)))
    return Pairs(tuple(found), dict(dropped))


def word_pairs_of(examples: Examples, lengths: Mapping[str, int]) -> Pairs:
    """Pairs among the same samples about one picture, whose texts differ in one word and have equal numbers of tokens;
    one for each group of pictures, the first by digest. Raises DataError where labels are not yes and no."""
    asked = _asked(examples, lengths)
    about = {sample.uid: sample.digests for sample in examples.samples}
    false: dict[tuple[str, ...], list[str]] = defaultdict(list)
    ordered = sorted(asked, key=digest)
    for uid in ordered:
        if asked[uid].label == 0:
            false[about[uid]].append(uid)
    used: set[str] = set()
    found: list[Pair] = []
    dropped: Counter[str] = Counter()
    for uid in (one for one in ordered if asked[one].label == 1):
        others = [one for one in false[about[uid]] if _differing(asked[uid].text, asked[one].text) == 1]
        equal = [one for one in others if lengths[one] == lengths[uid]]
        if asked[uid].group in used or not equal:
            dropped[TAKEN if equal else UNEQUAL if others else NO_WORD] += 1
            continue
        used.add(asked[uid].group)
        found.append(Pair(uid, equal[0], digest(uid, equal[0])))
    return Pairs(tuple(found), dict(dropped))


def _differing(text: str, other: str) -> int:
    """How many words of two texts differ, place by place; all of them where their numbers do."""
    one, two = text.split(), other.split()
    return sum(a != b for a, b in zip(one, two, strict=True)) if len(one) == len(two) else max(len(one), len(two))


class _Asked(NamedTuple):
    text: str
    label: int
    group: str


def _asked(examples: Examples, lengths: Mapping[str, int]) -> dict[str, _Asked]:
    """Of each sample that asks one thing, in the task's own words. Raises DataError."""
    if examples.kind != "binary":
        raise DataError(f"patching pairs statements of yes and no, and the labels are of kind {examples.kind}")
    texts = {sample.uid: sample.text for sample in examples.samples if sample.uid in lengths}
    counts = Counter(decision.sample for decision in examples.decisions)
    return {
        one.sample: _Asked(texts[one.sample], int(one.label), one.group)
        for one in examples.decisions
        if one.sample in texts and counts[one.sample] == 1 and not (one.template or one.given or one.side)
    }


def _partner(uid: str, equal: deque[str], asked: Mapping[str, _Asked], used: set[str]) -> str | None:
    """The first false sample that may be paired with a true one; those that no pair can have any more are let go."""
    while equal and asked[equal[0]].group in used:
        equal.popleft()
    return next((one for one in equal if asked[one].group not in used and asked[one].group != asked[uid].group), None)


def _reason(uid: str, false: Sequence[str], asked: Mapping[str, _Asked], lengths: Mapping[str, int]) -> str:
    """Why a true sample has no partner."""
    others = [one for one in false if asked[one].group != asked[uid].group]
    if not others:
        return NO_OTHER
    return TAKEN if any(lengths[one] == lengths[uid] for one in others) else UNEQUAL
