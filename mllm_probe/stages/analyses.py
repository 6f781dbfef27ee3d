"""Analyses that fit further probes on a key: the online code, conditional information, erasure.

Each makes trials of its own (kept like all others) and turns them into rows of scores.csv.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from mllm_probe.errors import ConfigError
from mllm_probe.probes.leace import Erased, Leace
from mllm_probe.settings import CONTROL_TASK, ERASURE, MDL, V_INFORMATION
from mllm_probe.stages.bench import Bench, Trial, fitted
from mllm_probe.stages.parts import Parts
from mllm_probe.stages.scoring import Scoring
from mllm_probe.stats.coding import Blocks, blocks, loss_curve, online_code
from mllm_probe.stats.information import information, surprisal
from mllm_probe.types import Key, LayerData, Problem, Rows, Score

HELD_BACK = 0.2  # of the rows sent so far choose the strength for the next block
ONLINE = "online"

Load = Callable[[Key], LayerData]


def check_analyses(wanted: Sequence[str], kind: str, keys: Sequence[Key], baseline: str) -> None:
    """Raises ConfigError before anything is fitted."""
    for name in wanted:
        if name != ERASURE and kind not in ("binary", "classes"):
            raise ConfigError(f"sweep.analyses={name} counts bits of labels, and the target is of kind {kind}")
    if V_INFORMATION in wanted and baseline not in map(str, keys):
        raise ConfigError(
            f"sweep.baseline={baseline} is not among the keys that are read, such as {keys[0]}; add its tower to "
            "layers.towers and its position to extract.positions, or name another key"
        )


class Analyses:
    """What `sweep.analyses` asks for, key by key."""

    def __init__(self, scoring: Scoring, parts: Parts, load: Load) -> None:
        self._scoring, self._parts, self._load = scoring, parts, load
        self._bench = scoring.bench
        self._config = self._bench.ready.config.sweep

    def rows(self, key: Key, data: Callable[[], LayerData], real: Sequence[Trial]) -> list[Score]:
        """`data` loads the key's rows where a part is not there yet; `real` are its trials with the real labels."""
        makers: Mapping[str, Callable[[], Iterator[Score]]] = {
            MDL: lambda: self._mdl(key, data),
            V_INFORMATION: lambda: self._information(key, data, real[0]),
            ERASURE: lambda: self._erasure(key, data),
        }
        return [row for name in dict.fromkeys(self._config.analyses) for row in makers[name]()]

    @cached_property
    def _sending(self) -> "Sending":
        return Sending(self._bench)

    def _mdl(self, key: Key, data: Callable[[], LayerData]) -> Iterator[Score]:
        """The online code of the real labels and of the control task, over all rows that are not held out."""
        sending, bench = self._sending, self._bench
        controls = [control for control in ("", CONTROL_TASK) if control in bench.controls]
        blanks = [
            Trial.blank(key, control, bench.seeds[0], f"first {known}")
            for control in controls
            for known in sending.ends
        ]
        problems = [sending.problem(control, known) for control in controls for known in sending.ends]
        trials = self._parts.get(f"{key}.mdl", lambda: fitted(bench.ready.probe, data(), problems, blanks))
        for control, same in zip(controls, np.split(np.asarray(trials, object), len(controls)), strict=True):
            yield from sending.scores(self._scoring, control, list(same))

    def _information(self, key: Key, data: Callable[[], LayerData], real: Trial) -> Iterator[Score]:
        """What a layer adds to the baseline key: bits, from one probe on the baseline and one on both together."""
        bench, base = self._bench, Key.parse(self._config.baseline)
        if key == base:
            return
        before = self._parts.get(str(base), lambda: bench.trials(base, self._load(base), bench.controls))
        before = [trial for trial in before if not trial.control]
        features = f"with {base}"

        def joint() -> list[Trial]:
            own, other = data(), self._load(base)
            return bench.trials(key, replace(own, rows=Beside(other.rows, own.rows)), features=features)

        after = self._parts.get(f"{key}.with", joint)
        test = bench.test
        found = information(
            np.stack([trial.logits[test] for trial in before]),
            np.stack([trial.logits[test] for trial in after]),
            bench.y[test],
            self._scoring.resamples,
            bench.kind,
            self._scoring.level,
        )
        row = self._scoring.final(after, "v_information", found.bits)
        yield replace(row, low=found.low, high=found.high, ci_level=self._scoring.level)

    def _erasure(self, key: Key, data: Callable[[], LayerData]) -> Iterator[Score]:
        """The same probe after LEACE has taken the label out of the layer: chance, if the probe read it linearly."""
        bench = self._bench

        def erased() -> Iterator[Trial]:
            for seed in bench.seeds:
                own, problem = data(), bench.problem("", seed)
                bare = replace(own, rows=Erased(own.rows, Leace().fit(own, problem)))
                yield from fitted(bench.ready.probe, bare, [problem], [Trial.blank(key, "", seed, "leace")])

        yield from self._scoring.scores(self._parts.get(f"{key}.leace", lambda: list(erased())))


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
    """The order in which labels are sent, and what each prefix of it trains."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._open = np.flatnonzero(~bench.test)
        self.blocks: Blocks = blocks(bench.groups[self._open], bench.seeds[0])
        self.classes = int(bench.y.max()) + 1

    @property
    def ends(self) -> list[int]:
        return self.blocks.ends.tolist()

    def problem(self, control: str, known: int) -> Problem:
        """The first `known` rows; the last pictures among them validate."""
        bench = self._bench
        rows = self._open[self.blocks.order[:known]]
        held = np.isin(bench.groups[rows], bench.groups[rows[int(known * (1 - HELD_BACK)) :]])
        y, train, val = np.zeros_like(bench.y), *np.zeros((2, len(bench.y)), dtype=bool)
        y[rows], train[rows[~held]], val[rows[held]] = bench.truth(control)[rows], True, True
        return Problem(y, train, val, bench.kind, seed=bench.seeds[0])

    def scores(self, scoring: Scoring, control: str, trials: Sequence[Trial]) -> Iterator[Score]:
        """codelength, compression and model_bits of all rows, and block_nll against n_train: the loss-data curve."""
        bench, order = self._bench, self._open[self.blocks.order]
        truth = bench.truth(control)
        bits = [surprisal(trial.logits[order], truth[order], bench.kind) for trial in trials]
        steps = zip(bits[:-1], self.ends[:-1], self.ends[1:], strict=True)
        losses = np.asarray([one[known:after].sum() for one, known, after in steps])
        code = online_code(losses, self.blocks.ends, self.classes, float(bits[-1].sum()))
        rows = {"codelength": code.bits, "compression": code.compression, "model_bits": code.model_bits}
        whole: dict[str, Any] = {
            "split": ONLINE,
            "n": len(order),
            "n_groups": len(np.unique(bench.groups[order])),
            "n_train": len(order),
        }
        for metric, value in rows.items():
            yield replace(scoring.final(trials[-1:], metric, value), features="single", **whole)
        known, curve = loss_curve(losses, self.blocks.ends, self.classes)
        for n_train, after, value in zip(known[1:], self.ends[1:], curve[1:], strict=True):
            size: dict[str, Any] = {**whole, "n_train": int(n_train), "n": int(after - n_train)}
            yield replace(scoring.final(trials[-1:], "block_bits", float(value)), features="single", **size)
