"""What an integration must beat before its gain may be put down to its layers: the same width without other layers, and
other layers at the same width.

    final_layer         V_L alone, always there; the paper's baseline
    repeated            V_L as often as the integration has parts: the width, nothing else
    random_relu         V_L beside random non-linear features of itself: the width and new columns, no other layer
    pca                 the integration reduced to the width of one layer
    random_layers_1 ... other layers in the places of its parts, drawn by seed
    best_layer          the best single layer up to V_L on validation
    all_layers          every layer up to V_L side by side

Those that need a fit (random_relu, pca) are in `derived`. Knows no tensor.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb

import numpy as np

from mllm_probe.errors import ConfigError, choices
from mllm_probe.features.recipes import MLP, Recipe

FINAL = "final_layer"
CONTROLS = REPEATED, RELU, PCA, RANDOM_LAYERS, BEST, ALL = (
    "repeated",
    "random_relu",
    "pca",
    "random_layers",
    "best_layer",
    "all_layers",
)
ORDER = (FINAL, *CONTROLS)
WIDTH = (REPEATED, RELU)  # as wide, and no other layer


def check_controls(names: Sequence[str], features: str) -> None:
    """Raises ConfigError."""
    for name in names:
        if name not in CONTROLS:
            raise ConfigError(f"features.{features}.controls names '{name}'; {choices(str(name), CONTROLS)}")


@dataclass(frozen=True)
class Arms:
    """An integration and the names of its `controls`; `others` are those that only take other layers, None where there
    is no such control of it."""

    own: Recipe
    others: Mapping[str, Recipe | None]
    controls: tuple[str, ...]

    @classmethod
    def of(cls, own: Recipe, controls: Sequence[str], sets: int, seed: int) -> "Arms":
        others = _others(own, controls, sets, seed)
        wanted = (*others, *(name for name in (RELU, PCA, BEST) if name in controls))
        return cls(own, others, tuple(sorted(wanted, key=lambda name: ORDER.index(name.rstrip("_0123456789")))))

    @property
    def layers(self) -> tuple[int, ...]:
        """All that are read, of the integration and of its controls."""
        below = range(self.own.final) if BEST in self.controls else ()
        read = (self.own, *(other for other in self.others.values() if other))
        return tuple(sorted({*below, *(layer for one in read for layer in one.layers)}))


def _others(own: Recipe, controls: Sequence[str], sets: int, seed: int) -> dict[str, Recipe | None]:
    found: dict[str, Recipe | None] = {FINAL: Recipe(MLP, own.final)}
    everything = tuple((layer,) for layer in range(own.final))
    if REPEATED in controls:
        found[REPEATED] = replace(own, groups=((own.final,),) * len(own.groups))
    if RANDOM_LAYERS in controls:
        found |= {f"{RANDOM_LAYERS}_{i + 1}": other for i, other in enumerate(_drawn(own, sets, seed))}
    if ALL in controls:
        found[ALL] = None if set(own.groups) == set(everything) else replace(own, groups=everything)
    return found


def _drawn(own: Recipe, sets: int, seed: int) -> list[Recipe]:
    """As many single layers as it has groups, each set once and its own never: fewer where a tower has no more."""
    size, generator = len(own.groups), np.random.default_rng(seed)
    seen = {tuple(sorted(own.groups))}
    own_is_one = all(len(group) == 1 and group[0] < own.final for group in own.groups)
    wanted = min(sets, comb(own.final, size) - own_is_one)
    drawn: list[Recipe] = []
    while len(drawn) < wanted:
        groups = tuple((int(layer),) for layer in sorted(generator.choice(own.final, size, replace=False)))
        if groups not in seen:
            seen.add(groups)
            drawn.append(replace(own, groups=groups))
    return drawn
