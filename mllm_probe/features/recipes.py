"""Dense Connector's three ways to join the layers of a vision tower (Yao et al. 2024, arXiv 2405.13800). Tensors only.

Layers are indices into a tower's hidden states: 0 is what its first block receives, k what block k returns. The paper
counts from the stem, so its layer p is state p - 1. Letters: B pictures, T tokens (class token left out), D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mllm_probe.errors import ConfigError, choices

if TYPE_CHECKING:
    import torch

KINDS = MLP, STI, SCI, DCI = "mlp", "sti", "sci", "dci"
POOLED = 8  # tokens of an earlier layer that STI averages to one
CLIP_LAST, SIGLIP_LAST = 23, 26  # the final states of the paper's two towers
PAPER_LAYERS = (7, 15)  # "8th and 16th", for both towers


@dataclass(frozen=True)
class Recipe:
    """`groups` of layers, each a tuple: single layers for STI and SCI, ranges for DCI, none for the plain MLP. `final`
    is V_L, which always comes first."""

    kind: str
    final: int
    groups: tuple[tuple[int, ...], ...] = ()
    pooled: int = POOLED

    @property
    def layers(self) -> tuple[int, ...]:
        """Every state that is read, in ascending order."""
        return tuple(sorted({self.final, *(layer for group in self.groups for layer in group)}))

    @property
    def width(self) -> int:
        """How many times D a token is wide."""
        return 1 if self.kind in (MLP, STI) else 1 + len(self.groups)

    def tokens(self, own: int) -> int:
        """Tokens of a picture whose layers have `own` each."""
        return own + (len(self.groups) * (own // self.pooled) if self.kind == STI else 0)


def recipe(kind: str, final: int, layers: Sequence[int] | None = None, groups: int = 2, pooled: int = POOLED) -> Recipe:
    """The paper's choice for a tower whose final state is `final`, by proportion where it is none of the paper's.

    `layers` other than these for STI and SCI. DCI cuts the states 0 .. final into `groups` of equal size, contiguous
    from the stem; what is left over at the top stays out. Raises ConfigError.
    """
    if kind not in KINDS:
        raise ConfigError(f"connector={kind} is unknown; {choices(kind, KINDS)}")
    if kind == MLP:
        return Recipe(kind, final)
    if kind == DCI:
        size = (final + 1) // groups
        if size < 1 or groups < 1:
            raise ConfigError(f"{final + 1} layers cannot be cut into {groups} groups; choose 1 to {final + 1}")
        return Recipe(kind, final, tuple(tuple(range(g * size, (g + 1) * size)) for g in range(groups)), pooled)
    chosen = tuple(layers) if layers is not None else _proportional(final)
    for layer in chosen:
        if not 0 <= layer < final:
            raise ConfigError(f"{kind} joins layers below the final one, 0 to {final - 1} here, and not {layer}")
    return Recipe(kind, final, tuple((layer,) for layer in chosen), pooled)


def _proportional(final: int) -> tuple[int, ...]:
    """A third and two thirds of the way, counted as the paper counts."""
    if final in (CLIP_LAST, SIGLIP_LAST):
        return PAPER_LAYERS
    return tuple(sorted({max(0, round((final + 1) * part / 3) - 1) for part in (1, 2)}))


def integrate(states: Mapping[int, "torch.Tensor"], recipe: Recipe) -> "torch.Tensor":
    """States [B, T, D] by layer -> [B, recipe.tokens(T), recipe.width x D], V_L first as in the released code.

    STI averages runs of `pooled` neighbours in raster order and lets a rest of fewer go; DCI takes the mean of a group.
    """
    import torch
    from torch.nn.functional import avg_pool1d

    final = states[recipe.final]
    if recipe.kind == STI:
        earlier = [states[layer].transpose(1, 2) for (layer,) in recipe.groups]
        return torch.cat([final, *(avg_pool1d(x, recipe.pooled).transpose(1, 2) for x in earlier)], dim=1)
    means = [torch.stack([states[layer] for layer in group]).mean(dim=0) for group in recipe.groups]
    return torch.cat([final, *means], dim=2)
