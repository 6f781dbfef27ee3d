"""Probes trained on one layer and tested on another. Reads each layer once a side and keeps the decisions alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from mllm_probe.cache.coverage import Coverage
from mllm_probe.errors import ConfigError
from mllm_probe.geometry.rows import is_constant
from mllm_probe.geometry.similarity import NULL_LEVEL, Comparison
from mllm_probe.probes.linear import logits_of
from mllm_probe.protocols import Fit
from mllm_probe.sites import Key
from mllm_probe.stages.bench import Bench
from mllm_probe.stages.prepared import Prepared
from mllm_probe.stages.readout import Source
from mllm_probe.types import LayerData


def transfer(
    ready: Prepared,
    coverage: Coverage,
    a: Sequence[Key],
    b: Sequence[Key],
    permutations: int,
    seed: int,
    tick: Callable[[], None],
) -> tuple[Comparison, int]:
    """Test accuracy [A, B] of the configured probe, trained on a layer of `a` and tested on one of `b`, as the mean
    over sweep.seeds; and the number of test decisions T. Raises what the probe raises, ConfigError for other labels
    than yes and no.

    nan where the widths differ or a layer is constant. For the null the test decisions exchange their labels. `tick`
    is called after each layer of either side. Takes 4 A B T bytes.
    """
    bench = Bench(ready)
    if bench.kind != "binary" or ready.probe.reads != "vector":
        raise ConfigError(
            f"geometry.measures=transfer needs labels of yes and no and a probe of one row a decision; task="
            f"{ready.task.name} has labels of kind {bench.kind}, probe={ready.probe.name} reads {ready.probe.reads}"
        )
    source, trained = Source(ready, coverage), []
    for key in a:
        trained.append(_trained(bench, _rows(source, key)))
        tick()
    signs = np.full((len(a), len(b), int(bench.test.sum())), np.nan, dtype=np.float32)
    for column, key in enumerate(b):
        data = _held_out(bench, _rows(source, key))
        fitting = [row for row, (width, fits) in enumerate(trained) if fits and width == data.width]
        if fitting and not is_constant(data.rows[:].double().numpy()):
            logits = logits_of([fit for row in fitting for fit in trained[row][1]], data)
            signs[fitting, column] = np.sign(logits).reshape(len(fitting), len(bench.seeds), -1).mean(axis=1)
        tick()
    return _scored(signs, np.where(bench.y[bench.test] > 0, 1.0, -1.0), permutations, seed), int(bench.test.sum())


def _trained(bench: Bench, data: LayerData) -> tuple[int, Sequence[Fit]]:
    """The width of a layer and one frozen probe a seed; none for a constant layer."""
    if is_constant(data.rows[:].double().numpy()):
        return data.width, []
    return data.width, bench.ready.probe.fit(data, [bench.problem("", seed) for seed in bench.seeds])


def _rows(source: Source, key: Key) -> LayerData:
    """Raises ConfigError where a decision reads no row."""
    readout = source.readout(key)
    if len(readout.who) < readout.total:
        raise ConfigError(
            f"geometry.measures=transfer needs a row for every decision, and {key} has {len(readout.who)} of "
            f"{readout.total}; leave {key.position} out of extract.positions"
        )
    return readout.data


def _held_out(bench: Bench, data: LayerData) -> LayerData:
    return replace(data, rows=data.rows[:][bench.test])


def _scored(signs: np.ndarray, y: np.ndarray, permutations: int, seed: int) -> Comparison:
    """Decisions [A, B, T] of -1, 0 (half right) or 1 and labels [T] of -1 or 1 -> accuracy and its null [A, B]."""
    rng = np.random.default_rng(seed)
    value = _accuracy(signs, y)
    if permutations == 0:
        return Comparison(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    null = np.stack([_accuracy(signs, rng.permutation(y)) for _ in range(permutations)])
    return Comparison(value, null.mean(axis=0), np.quantile(null, NULL_LEVEL, axis=0))


def _accuracy(signs: np.ndarray, y: np.ndarray) -> np.ndarray:
    return 0.5 + signs @ y / (2 * len(y))
