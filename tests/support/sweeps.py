"""Sweeps of interventions made by hand: what each statement answers, noise and planted effects."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from mllm_probe.records.interventions import Condition
from mllm_probe.results.effects import Slopes, Sweep

NAMED = {
    "run": "r",
    "cache": "c",
    "model": "mini",
    "revision": "",
    "quantization": "nf4",
    "dataset": "scenes",
    "task": "entailment",
}
EDGES = ("image->statement", "image->last", "statement->last")
LAYERS = 8
Plant = Callable[[Condition], float]  # nats that a condition takes from the right answer


def nothing(_: Condition) -> float:
    return 0.0


def windows(edges: Sequence[str] = EDGES, layers: int = LAYERS, draws: int = 10) -> list[Condition]:
    """Every edge around every block, three blocks wide, and its random edges."""
    found = []
    for edge in edges:
        for layer in range(1, layers + 1):
            one = Condition("knockout", edge, "", max(1, layer - 1), min(layers, layer + 1), layer, layer / layers)
            found += [one, *(replace(one, control="random", draw=draw) for draw in range(1, draws + 1))]
    return found


def sweep_of(
    conditions: Sequence[Condition],
    plant: Plant = nothing,
    pictures: int = 20,
    each: int = 4,
    seed: int = 0,
    **more: object,
) -> Sweep:
    """Noise that statements of a picture share, half of it the same under every condition; `plant` moves margins."""
    rng = np.random.default_rng(seed)
    n, c = pictures * each, len(conditions)
    labels = rng.integers(0, 2, n)
    towards = np.where(labels == 1, 1.0, -1.0)
    margin = rng.normal(1.0, 1.0, n)
    of_picture = np.repeat(rng.normal(0, 0.3, (c, pictures)), each, axis=1)
    moved = (
        margin
        + of_picture
        + rng.normal(0, 0.3, (c, n))
        - np.array([[plant(one)] for one in conditions] or np.zeros((0, 1)))
    )
    clean_p = rng.uniform(0.3, 0.9, n)
    p = np.clip(clean_p + (moved - margin) / 10, 0.01, 1)
    made = Sweep(
        tuple(conditions),
        tuple(f"u{i}" for i in range(n)),
        np.repeat([f"g{i}" for i in range(pictures)], each),
        labels,
        margin > 0,
        (towards * margin).astype(np.float32),
        clean_p.astype(np.float32),
        (towards * moved).astype(np.float32),
        p.astype(np.float32),
        np.abs(rng.normal(0, 0.1, (c, n))).astype(np.float32),
    )
    return replace(made, **more)  # type: ignore[arg-type]


def patches(layers: int = LAYERS, spans: Sequence[str] = ("image", "last")) -> list[Condition]:
    return [
        Condition("patching", span, f"lm.{layer:02d}", layer, layer, layer, layer / layers, direction=way)
        for span in spans
        for way in ("denoise", "noise")
        for layer in range(layers + 1)
    ]


def patched(share: Callable[[Condition], float], pictures: int = 20, each: int = 2, seed: int = 0) -> Sweep:
    """Pairs with margins near 2 and -2; each condition moves the prompt it changes by a share of the way."""
    rng = np.random.default_rng(seed)
    conditions = patches()
    n = pictures * each
    labels = rng.integers(0, 2, n)
    towards = np.where(labels == 1, 1.0, -1.0)
    clean, other = rng.normal(2, 0.5, n), rng.normal(-2, 0.5, n)
    rows = []
    for one in conditions:
        start, end = (other, clean) if one.direction == "denoise" else (clean, other)
        rows.append(start + share(one) * (end - start) + rng.normal(0, 0.3, n))
    d = (towards * np.stack(rows)).astype(np.float32)
    return Sweep(
        tuple(conditions),
        tuple(f"u{i}" for i in range(n)),
        np.repeat([f"g{i}" for i in range(pictures)], each),
        labels,
        np.ones(n, bool),
        (towards * clean).astype(np.float32),
        np.full(n, 0.8, np.float32),
        d,
        np.full_like(d, 0.5),
        np.zeros_like(d),
        (towards * other).astype(np.float32),
    )


def steered(
    size: Callable[[Condition], float], draws: int = 100, pictures: int = 20, each: int = 4, seed: int = 0
) -> Sweep:
    """Slopes of two directions and of random ones, which are alike in neighbouring layers; no full pass."""
    rng = np.random.default_rng(seed)
    places = [(f"lm.{layer:02d}", layer) for layer in range(LAYERS + 1)]
    conditions, means = [], []
    shared = rng.normal(0, 0.2, draws + 3)
    for site, layer in places:
        same = {"site": site, "first": layer, "last": layer, "layer": layer, "depth": layer / LAYERS}
        at = shared + rng.normal(0, 0.1, draws + 3)
        for k, what in enumerate(("class_mean", "pattern")):
            conditions.append(Condition("steering", what, **same))  # type: ignore[arg-type]
            means.append(size(conditions[-1]) + at[k])
        conditions.append(Condition("steering", "class_mean", control="control_task", **same))  # type: ignore[arg-type]
        means.append(at[2])
        for draw in range(draws):
            conditions.append(Condition("steering", "random", control="random", draw=draw, **same))  # type: ignore[arg-type]
            means.append(at[3 + draw])
    base = sweep_of([], pictures=pictures, each=each, seed=seed)
    values = np.array(means)[:, None] + rng.normal(0, 0.1, (len(means), pictures * each))
    return replace(base, slopes=Slopes(tuple(conditions), values.astype(np.float32)))


def erased(plant: Plant, pictures: int = 30, each: int = 4, seed: int = 0) -> Sweep:
    """Erasures at the statement and at last, each with ten random ones."""
    conditions = []
    for span in ("statement", "last"):
        for layer in range(LAYERS + 1):
            one = Condition("erasure", span, f"lm.{layer:02d}", layer, layer, layer, layer / LAYERS)
            conditions += [one, *(replace(one, control="random", draw=draw) for draw in range(10))]
    return sweep_of(conditions, plant, pictures, each, seed)
