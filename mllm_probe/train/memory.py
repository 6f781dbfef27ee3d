"""What a training takes of a device's memory, by formula, before a weight is loaded. Rough: it knows no allocator."""

from dataclasses import dataclass

GB = 1e9
MOVING_BYTES = 16  # of a parameter that is trained: float32 value, gradient and AdamW's two moments
LOGIT_BYTES = 12  # of a logit: in the model's dtype, in float32, and its gradient


@dataclass(frozen=True)
class Shape:
    """Of a language model: blocks, their hidden width, that of their mlp, the vocabulary, and bytes of a value."""

    blocks: int
    hidden: int
    intermediate: int
    vocabulary: int
    width: int


@dataclass(frozen=True)
class Memory:
    """Bytes of the weights, of what is trained, and of the states that a micro-batch keeps for its gradients."""

    weights: float
    moving: float
    states: float

    @property
    def total(self) -> float:
        return self.weights + self.moving + self.states

    def __str__(self) -> str:
        parts = (self.weights, self.moving, self.states)
        weights, moving, states = (f"{part / GB:.3g} GB" for part in parts)
        return f"about {self.total / GB:.3g} GB ({weights} of weights, {moving} of what is trained, {states} of states)"


def training_memory(weights: float, moving: int, shape: Shape, rank: int, tokens: int, learnt: int) -> Memory:
    """`moving` parameters are trained; a micro-batch has `tokens`, of which `learnt` are predicted.

    A block with updates of W_q and W_v keeps, of a token, three values of the mlp's width (gate, its activation, up)
    and the four of attention (query, key, value, result); in float32 what both norms read, what both updates read (once
    if the model itself is in float32) and what is between their matrices. Frozen matrices keep nothing.
    """
    read = 4 * shape.hidden * (3 if shape.width == 4 else 4)
    block = shape.width * (3 * shape.intermediate + 4 * shape.hidden) + read + 4 * 2 * rank
    states = tokens * block * shape.blocks + learnt * shape.vocabulary * LOGIT_BYTES
    return Memory(weights, moving * MOVING_BYTES, states)
