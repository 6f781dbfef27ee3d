"""Probes trained on one layer and tested on another. Reads each layer once a side and keeps the decisions alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mllm_probe.cache.coverage import Coverage
from mllm_probe.errors import ConfigError
from mllm_probe.experiment.experiment import Experiment
from mllm_probe.fitting.readout import Source
from mllm_probe.fitting.trials import Probing
from mllm_probe.geometry.row_checks import is_constant
from mllm_probe.geometry.similarity import Comparison
from mllm_probe.probes.solving.linear import logits_of
from mllm_probe.records.problems import LayerData
from mllm_probe.records.protocols import Fit
from mllm_probe.records.sites import Key
from mllm_probe.stats.permutation import blocks, exchanged, moving_rows


@dataclass(frozen=True)
class Decided:
    """Test decisions [A, B, T] of -1, 0 (half right) or 1 by probes trained on A layers and read on B; nan: none.

    `y` [T] of -1 or 1; `groups` [T] of pictures and `order` [T] within them, see `stats.permutation`.
    """

    signs: np.ndarray
    y: np.ndarray
    groups: np.ndarray
    order: np.ndarray

    def compared(self, permutations: int, seed: int) -> Comparison:
        """Accuracies, and their null: pictures exchange the labels of their decisions. Raises ProbeError where no label
        can move."""
        if not permutations:
            return Comparison.of(self._accuracy(self.y), [])
        parts = blocks(self.groups, self.order)
        moving_rows(self.y, parts)
        draws = exchanged(parts, permutations, np.random.default_rng(seed))
        return Comparison.of(self._accuracy(self.y), [self._accuracy(self.y[draw]) for draw in draws])

    def _accuracy(self, y: np.ndarray) -> np.ndarray:
        return 0.5 + self.signs @ y / (2 * len(y))


def transfer(
    experiment: Experiment, coverage: Coverage, a: Sequence[Key], b: Sequence[Key], tick: Callable[[], None]
) -> Decided:
    """Decisions of the configured probe, trained on a layer of `a` and tested on one of `b`, the mean over sweep.seeds.

    None (nan) where the widths differ, a layer is constant, or categories have outputs of their own. `tick` is called
    after each layer of either side. Takes 4 A B T bytes. Raises what the probe raises, ConfigError for other labels
    than yes and no.
    """
    probing = Probing(experiment)
    if probing.kind != "binary" or experiment.probe.reads != "vector":
        raise ConfigError(
            f"geometry.measures=transfer needs labels of yes and no and a probe of one row a decision; task="
            f"{experiment.task.name} has labels of kind {probing.kind}, probe={experiment.probe.name} reads "
            f"{experiment.probe.reads}"
        )
    source, test = Source(experiment, coverage), probing.test
    trained: list[tuple[int, Sequence[Fit]]] = []
    for key in a:
        trained.append((0, []) if source.headed(key.position) else _trained(probing, _rows(source, key)))
        tick()
    signs = np.full((len(a), len(b), int(test.sum())), np.nan, dtype=np.float32)
    for column, key in enumerate(b):
        if source.headed(key.position):
            tick()
            continue
        data = _held_out(probing, _rows(source, key))
        fitting = [row for row, (width, fits) in enumerate(trained) if fits and width == data.width]
        if fitting and not is_constant(data.rows[:].double().numpy()):
            logits = logits_of([fit for row in fitting for fit in trained[row][1]], data)
            signs[fitting, column] = np.sign(logits).reshape(len(fitting), len(probing.seeds), -1).mean(axis=1)
        tick()
    return Decided(signs, np.where(probing.y[test] > 0, 1.0, -1.0), probing.groups[test], probing.uids[test])


def _trained(probing: Probing, data: LayerData) -> tuple[int, Sequence[Fit]]:
    """The width of a layer and one frozen probe a seed; none for a constant layer."""
    if is_constant(data.rows[:].double().numpy()):
        return data.width, []
    return data.width, probing.experiment.probe.fit(data, [probing.problem("", seed) for seed in probing.seeds])


def _rows(source: Source, key: Key) -> LayerData:
    """Raises ConfigError where a decision reads no row."""
    readout = source.readout(key)
    if len(readout.who) < readout.total:
        raise ConfigError(
            f"geometry.measures=transfer needs a row for every decision, and {key} has {len(readout.who)} of "
            f"{readout.total}; leave {key.position} out of extract.positions"
        )
    return readout.data


def _held_out(probing: Probing, data: LayerData) -> LayerData:
    return replace(data, rows=data.rows[:][probing.test])
