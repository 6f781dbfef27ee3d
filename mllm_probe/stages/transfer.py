"""Probes trained on one layer and tested on another. Reads each layer once a side and keeps the decisions alone."""

from collections.abc import Callable, Sequence

import numpy as np

from mllm_probe.cache.coverage import Coverage
from mllm_probe.geometry.rows import is_constant
from mllm_probe.geometry.similarity import NULL_LEVEL, Comparison
from mllm_probe.stages.bench import Bench
from mllm_probe.stages.prepare import Prepared
from mllm_probe.types import Key, LayerData

Logits = Callable[[LayerData], np.ndarray]


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
    over sweep.seeds; and the number of test decisions T. Raises what the probe raises.

    nan where the widths differ or a layer is constant. For the null the test decisions exchange their labels. `tick`
    is called after each layer of either side. Takes 4 A B T bytes.
    """
    bench = Bench(ready)
    test = bench.split_of[ready.config.sweep.seeds[0]] == "test"  # the same pictures for every seed
    trained = []
    for key in a:
        trained.append(_trained(ready, bench, bench.layer(key, coverage)))
        tick()
    signs = np.full((len(a), len(b), int(test.sum())), np.nan, dtype=np.float32)
    for column, key in enumerate(b):
        data = bench.layer(key, coverage)
        for row, (width, fits) in enumerate(trained):
            if fits and width == data.values.shape[1] and not is_constant(data.values):
                signs[row, column] = np.mean([np.sign(logits(data)[test]) for logits in fits], axis=0)
        tick()
    return _scored(signs, np.where(bench.y[test] > 0, 1.0, -1.0), permutations, seed), int(test.sum())


def _trained(ready: Prepared, bench: Bench, data: LayerData) -> tuple[int, list[Logits]]:
    """The width of a layer and one frozen probe a seed; none for a constant layer."""
    seeds = [] if is_constant(data.values) else ready.config.sweep.seeds
    return data.values.shape[1], [_fit(ready, data, bench.split_of[seed], seed) for seed in seeds]


def _fit(ready: Prepared, data: LayerData, split: np.ndarray, seed: int) -> Logits:
    """The only place that calls the probe."""
    train, val = split == "train", split == "val"
    fit = ready.probe.fit(data.values[train], data.y[train], data.values[val], data.y[val], seed)
    return lambda layer: fit(layer.values)


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
