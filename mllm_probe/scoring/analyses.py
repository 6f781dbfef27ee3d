"""Analyses that fit further probes on a key: the online code, conditional information, erasure.

Each makes trials of its own (kept like all others) and turns them into rows of scores.csv.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mllm_probe.config.sweep import CONTROL_TASK, ERASURE, MDL, V_INFORMATION
from mllm_probe.errors import ConfigError, ProbeError
from mllm_probe.experiment.experiment import Experiment
from mllm_probe.fitting.readout import Readout
from mllm_probe.fitting.resume import Parts
from mllm_probe.fitting.trials import Asked, Fitted, Probing, Trial
from mllm_probe.records.problems import Problem, Rows
from mllm_probe.records.score import Score
from mllm_probe.records.sites import Key
from mllm_probe.scoring.aggregate import Scoring

HELD_BACK = 0.2  # of the rows sent so far choose the strength for the next block
ONLINE = "online"
ERASED, REREAD, EDIT_RATIO = "leace", "leace_reread", "edit_ratio"

Load = Callable[[Key], Readout]


def check_wishes(experiment: Experiment) -> None:
    """Raises ConfigError for analyses that the probe and the keys alone rule out."""
    sweep, probe = experiment.sweep, experiment.probe
    for name in sweep.analyses:
        if name != ERASURE and not probe.log_odds:
            raise ConfigError(
                f"sweep.analyses={name} counts bits, and the output of probe={probe.name} is no log-odds; choose "
                "probe=logistic or mlp"
            )
        if name != MDL and probe.reads != "vector":
            raise ConfigError(
                f"sweep.analyses={name} needs a probe of one row a decision, which probe={probe.name} is not"
            )
    if V_INFORMATION in sweep.analyses and sweep.baseline not in map(str, experiment.keys):
        raise ConfigError(
            f"sweep.baseline={sweep.baseline} is not among the keys that are read, such as {experiment.keys[0]}; add "
            "its tower to layers.towers and its position to extract.positions, or name another key"
        )


def check_analyses(experiment: Experiment) -> None:
    """Raises ConfigError or ProbeError for what cannot be analysed, before anything is extracted for it."""
    sweep, kind = experiment.sweep, experiment.examples.kind
    for name in sweep.analyses:
        if name != ERASURE and kind not in ("binary", "classes"):
            raise ConfigError(f"sweep.analyses={name} counts bits of labels, and the target is of kind {kind}")
    if MDL in sweep.analyses:
        Sending(Probing(experiment))
    if ERASURE in sweep.analyses:
        probing = Probing(experiment)
        for seed in probing.seeds:
            erasing(probing, seed)


class Analyses:
    """What `sweep.analyses` asks for, key by key."""

    def __init__(self, scoring: Scoring, parts: Parts, load: Load) -> None:
        self._scoring, self._parts, self._load = scoring, parts, load
        self._probing = scoring.probing
        self._config = self._probing.experiment.sweep

    def rows(self, key: Key, data: Callable[[], Readout]) -> list[Score]:
        """`data` loads the key's rows where a part is not there yet."""
        makers: Mapping[str, Callable[[], Iterator[Score]]] = {
            MDL: lambda: self._mdl(key, data),
            V_INFORMATION: lambda: self._information(key, data),
            ERASURE: lambda: self._erasure(key, data),
        }
        wanted = dict.fromkeys(self._config.analyses)
        if not wanted or not data().plain:
            return []
        return [row for name in wanted for row in makers[name]()]

    @cached_property
    def _sending(self) -> "Sending":
        return Sending(self._probing)

    def _mdl(self, key: Key, data: Callable[[], Readout]) -> Iterator[Score]:
        """The online code of the real labels and of the control task, over all rows that are not held out."""
        sending, probing = self._sending, self._probing
        places = [(control, known) for control in sending.controls for known in sending.ends.tolist()]
        blanks = [Trial.blank(key, control, probing.seeds[0], f"first {known}") for control, known in places]
        problems = [sending.problem(*place) for place in places]
        trials = self._parts.get(f"{key}.mdl", lambda: probing.fitted(data(), problems, blanks))
        for i, control in enumerate(sending.controls):
            yield from sending.scores(
                self._scoring, control, trials[i * len(sending.ends) : (i + 1) * len(sending.ends)]
            )

    def _information(self, key: Key, data: Callable[[], Readout]) -> Iterator[Score]:
        """What a layer adds to the baseline key: bits, from one probe on the baseline and one on both together."""
        from mllm_probe.stats.information import information

        probing, base = self._probing, Key.parse(self._config.baseline)
        if key == base:
            return
        before = self._parts.get(str(base), lambda: probing.trials(base, self._load(base), probing.controls))
        before = [trial for trial in before if not trial.control]
        features = f"with {base}"

        def joint() -> list[Trial]:
            own, other = data(), self._load(base)
            both = replace(own.data, rows=Beside(other.data.rows, own.data.rows))
            return probing.trials(key, replace(own, data=both), features=features)

        after = self._parts.get(f"{key}.with", joint)
        test = probing.test
        found = information(
            np.stack([trial.logits[test] for trial in before]),
            np.stack([trial.logits[test] for trial in after]),
            probing.y[test],
            self._scoring.draws(test),
            probing.kind,
            self._scoring.level,
        )
        row = self._scoring.final(after, "v_information", found.bits)
        yield replace(row, low=found.low, high=found.high, ci_level=self._scoring.level)

    def _erasure(self, key: Key, data: Callable[[], Readout]) -> Iterator[Score]:
        """What is read after LEACE has taken the label out, on pictures that it was not fitted to: by a probe trained
        on such erased rows, and by the probe of the layer as it was. The size of the edit is a row beside them."""
        trials = self._parts.get(f"{key}.leace", lambda: self._kept(key, data()))
        fresh, old = ([trial for trial in trials if trial.features == name] for name in (ERASED, REREAD))
        sizes = {seed: [int(half.train.sum()) for half in erasing(self._probing, seed)] for seed in self._probing.seeds}
        first = sizes[self._probing.seeds[0]]
        for row in self._scoring.scores(fresh):
            yield replace(row, n_train=first[1] if row.seed == "all" else sizes[int(row.seed)][1])
        yield from self._scoring.scores(old)
        ratio = self._scoring.final(fresh, EDIT_RATIO, float(np.mean([trial.facts[EDIT_RATIO] for trial in fresh])))
        pictures = self._probing.pictures(erasing(self._probing, self._probing.seeds[0])[0].train)
        yield replace(ratio, split="train", n=first[0], n_groups=pictures, n_train=first[0])

    def _kept(self, key: Key, own: Readout) -> list[Trial]:
        probing = self._probing
        problems = [one for seed in probing.seeds for one in (*erasing(probing, seed), probing.problem("", seed))]
        blanks = [Trial.blank(key, "", seed, ERASED) for seed in probing.seeds]
        asked = Asked(probing.experiment.probe, own, problems, blanks)
        return probing.kept(asked, lambda: list(self._erased(key, own)))

    def _erased(self, key: Key, own: Readout) -> Iterator[Trial]:
        from mllm_probe.probes.leace import Erased, Leace

        probing = self._probing
        for seed in probing.seeds:
            taught, unseen = erasing(probing, seed)
            eraser = Leace().fit(own.data, taught)
            bare = replace(own, data=replace(own.data, rows=Erased(own.data.rows, eraser)))
            (fresh,) = Asked(probing.experiment.probe, bare, [unseen], [Trial.blank(key, "", seed, ERASED)]).fitted()
            kept = {f"eraser.{name}": array for name, array in eraser.arrays().items()}
            facts = {**fresh.facts, EDIT_RATIO: eraser.facts[EDIT_RATIO]}
            yield replace(fresh, arrays={**fresh.arrays, **kept}, facts=facts)
            before = Fitted.on(probing.experiment.probe, own, [probing.problem("", seed)])
            yield from before.trials(bare, [Trial.blank(key, "", seed, REREAD)])


def erasing(probing: Probing, seed: int) -> tuple[Problem, Problem]:
    """The problem that the eraser is fitted to and that of the fresh probe: half of the training pictures each.

    Raises ProbeError where a half lacks a label.
    """
    whole = probing.problem("", seed)
    pictures = np.random.default_rng(seed).permutation(np.unique(probing.groups[whole.train]))
    mine = np.isin(probing.groups, pictures[: len(pictures) // 2])
    halves = replace(whole, train=whole.train & mine), replace(whole, train=whole.train & ~mine)
    labels = len(np.unique(whole.y[whole.train]))
    if whole.kind != "number" and any(len(np.unique(half.y[half.train])) < labels for half in halves):
        raise ProbeError(
            f"sweep.analyses={ERASURE} fits the eraser to half of the {len(pictures)} training pictures and the probe "
            f"to the others, and a half of seed {seed} lacks a label; take more pictures (data.n)"
        )
    return halves


@dataclass(frozen=True)
class Beside:
    """Two keys as one: the columns of `a`, then those of `b`."""

    a: Rows
    b: Rows

    @property
    def shape(self) -> tuple[int, int]:
        return self.a.shape[0], self.a.shape[1] + self.b.shape[1]

    def __getitem__(self, rows: slice):  # type: ignore[no-untyped-def]
        import torch

        return torch.cat([self.a[rows], self.b[rows]], dim=1)


class Sending:
    """The order in which labels are sent, and what each prefix of it trains.

    A prefix that lacks a label in training teaches nothing: such blocks are sent uniformly with the first. Raises
    ProbeError where no two blocks are left.
    """

    def __init__(self, probing: Probing) -> None:
        from mllm_probe.stats.coding import blocks

        self._probing = probing
        self._open = np.flatnonzero(np.isin(probing.split_of[probing.seeds[0]], ("train", "val")))
        found = blocks(probing.groups[self._open], probing.seeds[0])
        self.order, self.classes = self._open[found.order], len(np.unique(probing.y))
        self.controls = [control for control in ("", CONTROL_TASK) if control in probing.controls]
        short = [i for i, known in enumerate(found.ends.tolist()) if not self._teaches(known)]
        self.ends: np.ndarray = found.ends[max(short, default=-1) + 1 :]
        if len(self.ends) < 2:
            raise ProbeError(
                f"sweep.analyses=mdl needs two blocks that hold every label, and {len(self.order)} rows make "
                f"{len(self.ends)}; take more pictures (data.n)"
            )

    def _teaches(self, known: int) -> bool:
        problems = [self.problem(control, known) for control in self.controls]
        return all(len(np.unique(p.y[p.train])) == self.classes and p.val.any() for p in problems)

    def problem(self, control: str, known: int) -> Problem:
        """The first `known` rows; the last pictures among them validate."""
        probing, rows = self._probing, self.order[:known]
        held = np.isin(probing.groups[rows], probing.groups[rows[int(known * (1 - HELD_BACK)) :]])
        y, train, val = np.zeros_like(probing.y), *np.zeros((2, len(probing.y)), dtype=bool)
        y[rows], train[rows[~held]], val[rows[held]] = probing.truth(control)[rows], True, True
        return Problem(y, train, val, probing.kind, seed=probing.seeds[0])

    def scores(self, scoring: Scoring, control: str, trials: Sequence[Trial]) -> Iterator[Score]:
        """Totals of all rows, and block_bits against n_train: the loss-data curve."""
        from mllm_probe.stats.coding import online_code, surplus
        from mllm_probe.stats.information import surprisal

        probing, order = self._probing, self.order
        truth = probing.truth(control)
        bits = [surprisal(trial.logits[order], truth[order], probing.kind) for trial in trials]
        spans = list(zip(self.ends[:-1].tolist(), self.ends[1:].tolist(), strict=True))
        losses = np.asarray([one[known:after].sum() for one, (known, after) in zip(bits[:-1], spans, strict=True)])
        code = online_code(losses, self.ends, self.classes, float(bits[-1].sum()))
        beyond = surplus(losses, self.ends, self.classes, probing.experiment.sweep.enough_bits)
        totals = {
            "codelength": code.bits,
            "compression": code.compression,
            "model_bits": code.model_bits,
            "surplus_bits": beyond.bits,
            "sample_complexity": float("nan") if beyond.rows is None else float(beyond.rows),
        }
        for metric, value in totals.items():
            yield self._row(scoring.final(trials, metric, value), order, len(order))
        for trial, (known, after), loss in zip(trials[:-1], spans, losses, strict=True):
            row = scoring.final([trial], "block_bits", float(loss / (after - known)))
            yield self._row(row, order[known:after], known)

    def _row(self, row: Score, rows: np.ndarray, n_train: int) -> Score:
        groups = len(np.unique(self._probing.groups[rows]))
        return replace(row, features="single", split=ONLINE, n=len(rows), n_groups=groups, n_train=n_train)
