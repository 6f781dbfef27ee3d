"""Before the first unit: do shared heads give this model's own states? Asked of the loaded model, not of its name.

A few samples pass through it alone, side by side, and packed. What packing changes must stay within the rounding of
the dtype, or within what mere company in a batch changes anyway. The same passes show whether picture tokens see the
text behind them, on which the row spaces rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mllm_probe.batches import Chunk
from mllm_probe.errors import ModelError
from mllm_probe.extract.taps import TOO_LITTLE, is_out_of_memory, read_states
from mllm_probe.protocols import Extractable
from mllm_probe.types import Key, Sample

ROUNDING = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 3e-3}  # relative, of a whole row
COMPANY = 4.0  # times what the company of others in a plain batch changes
BROKEN = 0.3  # more than that, and plain batches are no oracle


@dataclass(frozen=True)
class Proof:
    """`why` says why heads are not shared, empty where they are; `error` and `noise` are relative differences."""

    causal: bool
    why: str = ""
    error: float = 0.0
    noise: float = 0.0


def prove(model: Extractable, samples: Sequence[Sample], keys: Sequence[Key], longest: int) -> Proof:
    """`samples`: some neighbours with a common picture and some others; `longest`: tokens of the longest prompt."""
    sites = [key.site for key in keys if key.site.tower == "lm"]
    if not sites:
        return Proof(model.anatomy.causal)
    top = max(sites, key=model.anatomy.sites().index)
    asked = tuple(dict.fromkeys([*(Key(site, "last") for site in sites), Key(top, "last_image")]))
    alone = [_states(model, [sample], asked, shared=False) for sample in samples]
    noise = _difference(_states(model, samples, asked, shared=False), alone)
    if noise > BROKEN:
        raise ModelError(
            f"prompts change by {noise:.0%} when they stand in one batch, so padding reaches the states of this model; "
            "try extract.padding_side=left"
        )
    allowed = max(ROUNDING[model.provenance()["dtype"]], COMPANY * noise)
    causal = model.anatomy.causal and _blind(alone, samples, Key(top, "last_image"), allowed)
    if why := model.unshared(longest) if causal else "its picture tokens see the text behind them":
        return Proof(causal, why, noise=noise)
    try:
        error = _difference(_states(model, samples, asked, shared=True), alone)
    except (RuntimeError, TypeError, ValueError, IndexError) as problem:  # its forward takes no packed prompts
        return Proof(causal, f"its forward pass refuses packed prompts ({str(problem).splitlines()[0]})", noise=noise)
    good = error <= allowed
    return Proof(causal, "" if good else f"packed states are {error:.1e} off, {allowed:.1e} is allowed", error, noise)


def _states(model: Extractable, samples: Sequence[Sample], keys: Sequence[Key], shared: bool) -> Chunk:
    import torch

    batch = model.collate(samples, keys, shared)
    try:
        return read_states(model, batch, keys, torch.float32)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise ModelError(TOO_LITTLE) from error
        raise


def _difference(together: Chunk, alone: Sequence[Chunk]) -> float:
    """The largest relative difference of a row, over samples and keys."""
    return max(
        float((together.values[key][i] - one.values[key][0]).norm() / one.values[key][0].norm())
        for i, one in enumerate(alone)
        for key in together.values
    )


def _blind(alone: Sequence[Chunk], samples: Sequence[Sample], key: Key, allowed: float) -> bool:
    """Whether the last picture token is the same whatever text follows the picture."""
    first: dict[tuple[str, ...], Chunk] = {}
    for chunk, sample in zip(alone, samples, strict=True):
        other = first.setdefault(sample.digests, chunk).values[key][0]
        if float((chunk.values[key][0] - other).norm() / other.norm()) > allowed:
            return False
    return True
