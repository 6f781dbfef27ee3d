"""`features=single|sti|sci|dci|concat`: what a user may set of each, and the layers it takes of a vision tower.

`final`, V_L, is by default what the model's own connector reads, and the last block but one where its checkpoint does
not say, as in the paper. Knows the number of blocks and no tensor; the formulas are in `recipes`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mllm_probe.errors import ConfigError
from mllm_probe.features.controls import CONTROLS, Arms, check_controls
from mllm_probe.features.recipes import DCI, POOLED, SCI, STI, Recipe, recipe


@dataclass(frozen=True)
class _Integrated:
    """`controls` go beside it, see `mllm_probe.features.controls`; `random_sets` of layers are drawn by `seed`. `name`
    is its place under `features`."""

    name: str = ""
    final: int | None = None
    controls: Sequence[str] = CONTROLS
    random_sets: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        check_controls(self.controls, self.name)
        self._at_least("random_sets", 0)
        self._at_least("seed", 0)

    def arms(self, blocks: int, final: int | None) -> Arms:
        """Of a tower of so many blocks (0: there is none) whose layer `final` goes to the model's connector (None:
        unknown). Raises ConfigError."""
        if not blocks:
            raise ConfigError(f"features={self.name} reads a vision tower, which this model lacks; set features=single")
        chosen = self.final if self.final is not None else blocks - 1 if final is None else final
        if not 1 <= chosen <= blocks:
            raise ConfigError(
                f"features.{self.name}.final={chosen} must be a layer of the vision tower, from 1 to {blocks}"
            )
        return Arms.of(self.recipe(chosen), self.controls, self.random_sets, self.seed)

    def recipe(self, final: int) -> Recipe:
        """Which layers up to the final one it takes, and how. Raises ConfigError."""
        raise NotImplementedError

    def _sparse(self, kind: str, final: int, layers: Sequence[int] | None, pooled: int = POOLED) -> Recipe:
        """The layers chosen, or a third and two thirds of the way to the final one."""
        if layers is not None:
            self._check(layers, final)
        made = recipe(kind, final, layers, pooled=pooled)
        if layers is None and len(made.groups) < 2:
            raise ConfigError(
                f"features={self.name} takes layers a third and two thirds of the way to the final one, which is "
                f"{final} here and must be 2 or more for that; choose some, as in features.{self.name}.layers=[0]"
            )
        return made

    def _check(self, layers: Sequence[int], final: int) -> None:
        within = all(type(layer) is int and 0 <= layer < final for layer in layers)
        if not within or not layers or len(set(layers)) < len(layers):
            raise ConfigError(
                f"features.{self.name}.layers={list(layers)} must hold layers of the vision tower below the final one, "
                f"from 0 to {final - 1}, each once"
            )

    def _at_least(self, setting: str, least: int) -> None:
        if (value := getattr(self, setting)) < least:
            raise ConfigError(f"features.{self.name}.{setting}={value} must be {least} or more")


@dataclass(frozen=True)
class Sti(_Integrated):
    """Sparse token integration of `layers` (null = by proportion), `pooled` neighbouring tokens averaged to one."""

    layers: Sequence[int] | None = None
    pooled: int = POOLED

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least("pooled", 1)

    def recipe(self, final: int) -> Recipe:
        return self._sparse(STI, final, self.layers, self.pooled)


@dataclass(frozen=True)
class Sci(_Integrated):
    """Sparse channel integration of `layers` (null = by proportion)."""

    layers: Sequence[int] | None = None

    def recipe(self, final: int) -> Recipe:
        return self._sparse(SCI, final, self.layers)


@dataclass(frozen=True)
class Dci(_Integrated):
    """Dense channel integration over `groups` runs of equally many layers, or over `layers` [[first, last], ...]."""

    groups: int = 2
    layers: Sequence[Sequence[int]] | None = None

    def recipe(self, final: int) -> Recipe:
        if self.layers is not None:
            return Recipe(DCI, final, tuple(self._run(run, final) for run in self.layers))
        if not 1 <= self.groups <= final + 1:
            raise ConfigError(
                f"features.{self.name}.groups={self.groups} must be between 1 and {final + 1}, the layers from 0 to "
                f"{final}; features.{self.name}.layers=[[first,last],...] names each group"
            )
        return recipe(DCI, final, groups=self.groups)

    def _run(self, run: Sequence[int], final: int) -> tuple[int, ...]:
        pair = isinstance(run, list) and len(run) == 2 and all(type(end) is int for end in run)
        if not pair or not 0 <= run[0] <= run[1] <= final:
            raise ConfigError(
                f"features.{self.name}.layers holds {run}, and must hold [first,last] of each group, from 0 to {final}"
            )
        return tuple(range(run[0], run[1] + 1))


@dataclass(frozen=True)
class Concat(_Integrated):
    """`layers` (null = all below the final one) side by side with it."""

    layers: Sequence[int] | None = None

    def recipe(self, final: int) -> Recipe:
        return self._sparse(SCI, final, list(range(final)) if self.layers is None else self.layers)
