"""What all fits of one sweep share: labels, controls, splits, and how a key's rows meet them. Knows no statistic."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from mllm_probe.cache.coverage import Coverage
from mllm_probe.probes.linear import logits_of
from mllm_probe.protocols import Fit, Probe
from mllm_probe.settings import CONTROL_TASK, PERMUTED
from mllm_probe.stages.prepared import Prepared
from mllm_probe.types import Compute, Key, LayerData, Problem, digest


@dataclass(frozen=True)
class Trial:
    """One probe fitted with one seed: float32 logits for all N decisions, what the fit says of itself, its arrays.

    `features`: "single" for the rows of one key, "words", "none", or what else was done to them (see analyses).
    """

    key: Key | None
    control: str
    probe: str
    seed: int
    logits: np.ndarray
    facts: Mapping[str, float]
    arrays: Mapping[str, np.ndarray]
    features: str = "single"

    @classmethod
    def blank(cls, key: Key | None, control: str, seed: int, features: str = "single") -> "Trial":
        """Not fitted yet."""
        return cls(key, control, "", seed, np.zeros(0), {}, {}, features)

    @property
    def name(self) -> str:
        """`lm.07@last/logistic/seed0`; control and features stand before the seed, a baseline has no key."""
        middle = "".join(
            f"{part}/" for part in (self.control, self.features) if self.key and part not in ("", "single")
        )
        return f"{self.key or self.control or 'none'}/{self.probe}/{middle}seed{self.seed}"


def fitted(probe: Probe, data: LayerData, problems: Sequence[Problem], blanks: Sequence[Trial]) -> list[Trial]:
    """The blank trials with what the probe made of their problems."""
    fits = probe.fit(data, problems)
    return [
        replace(blank, probe=probe.name, logits=z.astype(np.float32), facts=_facts(probe, fit), arrays=fit.arrays())
        for blank, fit, z in zip(blanks, fits, logits_of(fits, data), strict=True)
    ]


def _facts(probe: Probe, fit: Fit) -> dict[str, float]:
    return {**fit.facts, "log_odds": float(probe.log_odds)}


class Bench:
    """Labels, groups and splits of one experiment."""

    def __init__(self, ready: Prepared) -> None:
        self.ready = ready
        decisions = ready.examples.decisions
        self.samples = {sample.uid: sample for sample in ready.examples.samples}
        self.kind = ready.examples.kind
        self.y = np.asarray([decision.label for decision in decisions], float if self.kind == "number" else int)
        self.groups = np.asarray([decision.group for decision in decisions])
        self.seeds = tuple(ready.config.sweep.seeds)
        self.splits = {seed: ready.folds.splits(ready.examples.folds, seed) for seed in self.seeds}
        self.split_of = {
            seed: np.asarray([split[group] for group in self.groups]) for seed, split in self.splits.items()
        }
        self.test = self.split_of[self.seeds[0]] == "test"
        self.controls = ("", *self._controls())

    @cached_property
    def pictures(self) -> dict[tuple[int, str], int]:
        """{(seed, split): how many pictures it holds}, of those that are asked about."""
        return {
            (seed, name): len(np.unique(self.groups[split == name]))
            for seed, split in self.split_of.items()
            for name in ("train", "val", "test")
        }

    @property
    def texts(self) -> list[str]:
        return [self.samples[decision.sample].text for decision in self.ready.examples.decisions]

    def _controls(self) -> tuple[str, ...]:
        """Those asked for that this experiment can have; `left_out` says which it cannot."""
        wanted = [name for name in (CONTROL_TASK, PERMUTED) if name in self.ready.controls]
        return tuple(name for name in wanted if name != CONTROL_TASK or self.control_labels is not None)

    @property
    def left_out(self) -> str | None:
        """Why there is no control task although one was asked for."""
        if CONTROL_TASK not in self.ready.controls or self.control_labels is not None:
            return None
        return (
            f"no control task: its labels go by type, and the {len(self.y)} decisions of task="
            f"{self.ready.task.name} have {len(set(self._types))} types, of which every split needs two labels"
        )

    @property
    def _types(self) -> list[str | None]:
        return [decision.type for decision in self.ready.examples.decisions]

    @cached_property
    def control_labels(self) -> np.ndarray | None:
        """One label for each type of decision, so that all rows have about the real labels' distribution (Hewitt and
        Liang 2019 draw them; a frequent type then decides how lopsided the labels are).

        None where decisions have no types, or too few for two labels in every split.
        """
        counts = Counter(self._types)
        if None in counts or len(counts) < 2:
            return None
        names = sorted(counts, key=digest)
        ends = np.cumsum([counts[name] for name in names])
        place = (ends - np.asarray([counts[name] for name in names]) / 2).astype(int)
        label = dict(zip(names, np.sort(self.y)[place], strict=True))
        found = self._opposed(np.asarray([label[name] for name in self._types]))
        told = [
            np.unique(found[split == name]) for split in self.split_of.values() for name in ("train", "val", "test")
        ]
        return found if min(map(len, told)) > 1 else None

    def _opposed(self, y: np.ndarray) -> np.ndarray:
        """The halves of a contrast pair have opposite labels, whatever they are: those of the + row decide."""
        decisions = self.ready.examples.decisions
        plus = {decision.pair: y[i] for i, decision in enumerate(decisions) if decision.side > 0}
        return np.asarray([1 - plus[d.pair] if d.side < 0 else y[i] for i, d in enumerate(decisions)])

    def truth(self, control: str) -> np.ndarray:
        """The labels that a control is scored on [N]: its own, except where it was trained on shuffled real ones."""
        if control == CONTROL_TASK:
            assert self.control_labels is not None
            return self.control_labels
        return self.y

    def problem(self, control: str, seed: int) -> Problem:
        """Labels of test rows are blanked: no probe sees them."""
        split = self.split_of[seed]
        y, seen = self.truth(control).copy(), split != "test"
        if control == PERMUTED:
            y[seen] = np.random.default_rng(seed).permutation(y[seen])
            y = self._opposed(y)
        y[~seen] = 0
        return Problem(y, split == "train", split == "val", self.kind, seed=seed)

    @property
    def compute(self) -> Compute:
        from mllm_probe.models.device import pick_device

        config = self.ready.config
        return Compute(pick_device(config.device), int(config.sweep.max_memory_gb * 1e9))

    def layer(self, key: Key, coverage: Coverage) -> LayerData:
        """The rows of all decisions at one key; those of token positions are ragged."""
        rows, bounds = self.ready.store.rows(key, list(self.samples), coverage)
        decisions, own, extra = self.ready.examples.decisions, self._own, self._contrast
        if key.position.startswith("tokens:"):
            spans = [np.arange(bounds[i], bounds[i + 1]) for i in own]
            ends = np.cumsum([0, *(len(span) for span in spans)])
            return LayerData(rows.take(np.concatenate(spans)), ends, **extra, name=str(key), compute=self.compute)
        shift = [self._offset(key, decision.sample, decision.mark) for decision in decisions]
        return LayerData(rows.take(bounds[own] + shift), **extra, name=str(key), compute=self.compute)

    def _offset(self, key: Key, sample: str, mark: str | None) -> int:
        """Which of a sample's rows is this decision's own: its mark's place among the marks the position reads."""
        family = key.position.partition(":")[2]
        marks = [name for name in self.samples[sample].marks if name.partition(":")[0] == family]
        return marks.index(mark) if mark in marks else 0

    @cached_property
    def _own(self) -> np.ndarray:
        """Which sample each decision is about [N]."""
        number = {uid: i for i, uid in enumerate(self.samples)}
        return np.asarray([number[decision.sample] for decision in self.ready.examples.decisions])

    @cached_property
    def _contrast(self) -> dict[str, Any]:
        """Contrast pairs, where decisions say which half they are."""
        decisions = self.ready.examples.decisions
        if not any(decision.side for decision in decisions):
            return {}
        names = {pair: i for i, pair in enumerate(dict.fromkeys(d.pair for d in decisions if d.side))}
        pairs = np.asarray([names[d.pair] if d.side else -1 for d in decisions])
        return {"pairs": pairs, "sides": np.asarray([d.side for d in decisions])}

    def trials(
        self, key: Key | None, data: LayerData, controls: Sequence[str] = ("",), features: str = "single"
    ) -> list[Trial]:
        """All controls and seeds of a key in one call, so that the probe can share work among them."""
        places = [(control, seed) for control in controls for seed in self.seeds]
        problems = [self.problem(*place) for place in places]
        return fitted(self.ready.probe, data, problems, [Trial.blank(key, *place, features) for place in places])
