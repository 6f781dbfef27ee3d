"""Before the first unit: do shared heads give this model's own states? Asked of the loaded model, not of its name.

A few samples pass through it alone, side by side, and packed. What packing changes must stay within the rounding of
the dtype, or within what mere company in a batch changes anyway. The same passes show whether picture tokens see the
text behind them, on which the row spaces rest.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from mllm_probe.errors import ModelError, PassError, first_line, is_out_of_memory
from mllm_probe.extraction.taps import TOO_LITTLE, read_states
from mllm_probe.files.digests import Digests
from mllm_probe.files.jobs import code_here
from mllm_probe.records.batches import Chunk
from mllm_probe.records.protocols import Extractable
from mllm_probe.records.samples import Sample, digest
from mllm_probe.records.sites import Key, Site

ROUNDING = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 3e-3}  # relative, of a whole row
COMPANY = 4.0  # times what the company of others in a plain batch changes
AT_MOST = 0.05  # whatever company does
BROKEN = 0.3  # more than that, and plain batches are no oracle


@dataclass(frozen=True)
class Proof:
    """`why` says why heads are not shared, empty where they are; `error` and `noise` are relative differences."""

    causal: bool
    why: str = ""
    error: float = 0.0
    noise: float = 0.0


def prove(
    model: Extractable, samples: Sequence[Sample], keys: Sequence[Key], longest: int, top: int | None = None
) -> Proof:
    """`samples`: some neighbours with a common picture and some others; `longest`: tokens of the longest prompt; `top`:
    the highest block that can be read, where it is not the last."""
    sites = [key.site for key in keys if key.site.tower == "lm"]
    if not sites:
        return Proof(model.anatomy.causal)
    top = model.anatomy.blocks["lm"] if top is None else top
    seen = Key(Site("lm", top), "last_image")  # at the top, whatever is asked
    asked = tuple(dict.fromkeys([*(Key(site, "last") for site in sites), seen]))
    samples = [_twin(samples[0]), *samples]
    alone = [_alone(model, sample, asked) for sample in samples]
    together = _states(model, samples, asked, shared=False)
    noise = _difference(together, alone) if together else 0.0
    if noise > BROKEN:
        raise ModelError(
            f"prompts change by {noise:.0%} when they are in one batch, so padding changes the states of this model; "
            "try extract.padding_side=left"
        )
    allowed = max(ROUNDING[model.provenance()["dtype"]], min(COMPANY * noise, AT_MOST))
    causal = model.anatomy.causal and _blind(alone, samples, seen, allowed)
    if why := model.unshared(longest) if causal else "its picture tokens see the text after them":
        return Proof(causal, why, noise=noise)
    try:
        packed = _states(model, samples, asked, shared=True)
    except (
        PassError,
        RuntimeError,
        TypeError,
        ValueError,
        IndexError,
    ) as problem:  # its forward takes no packed prompts
        why = first_line(problem.__cause__ or problem)
        return Proof(causal, f"its forward pass refuses packed prompts ({why})", noise=noise)
    if packed is None:
        return Proof(causal, "memory ran out with a few packed prompts", noise=noise)
    error = _difference(packed, alone)
    good = error <= allowed
    return Proof(causal, "" if good else f"packed states are {error:.1e} off, {allowed:.1e} is allowed", error, noise)


def prove_once(
    memory: Digests,
    identity: str,
    model: Extractable,
    samples: Sequence[Sample],
    keys: Sequence[Key],
    longest: int,
    top: int | None = None,
) -> Proof:
    """The same, once for the weights and settings of an `identity`, these sites, this code and these versions, and for
    prompts of as many pictures and, within a factor of two, as many tokens.

    Only a proof without a failure is remembered: what went wrong may go well with more memory.
    """
    why, pictures = model.unshared(longest) or "", sorted({len(sample.images) for sample in samples})
    asked = sorted({str(key.site) for key in keys})
    machine = (model.provenance(), _instructions(), code_here())
    name = f"{digest(identity, machine, asked, top, why, pictures, longest.bit_length())}|proof"
    found = _recalled(memory.recalled(name))
    if found is None:
        found = prove(model, samples, keys, longest, top)
        if found.why == why:
            memory.keep(name, json.dumps(asdict(found)))
    return found


def _instructions() -> str:
    """Which instructions of a CPU torch computes with."""
    import torch

    return str(torch.backends.cpu.get_cpu_capability())


def _recalled(text: str | None) -> Proof | None:
    """None for anything but a proof."""
    try:
        found = Proof(**json.loads(text or "null"))
    except (TypeError, ValueError):
        return None
    kinds = (found.causal, bool), (found.why, str), (found.error, float), (found.noise, float)
    return found if all(type(value) is kind for value, kind in kinds) else None


def _twin(sample: Sample) -> Sample:
    """The same picture with another text behind it, for samples may have no picture in common."""
    return replace(sample, uid=f"{sample.uid}-twin", text=f"{sample.text} Or is it not?")


def _alone(model: Extractable, sample: Sample, keys: Sequence[Key]) -> Chunk:
    found = _states(model, [sample], keys, shared=False)
    if found is None:
        raise ModelError(TOO_LITTLE)
    return found


def _states(model: Extractable, samples: Sequence[Sample], keys: Sequence[Key], shared: bool) -> Chunk | None:
    """None where memory does not suffice for all of them at once."""
    import torch

    batch = model.collate(samples, keys, shared)
    try:
        return read_states(model, batch, keys, torch.float32)
    except RuntimeError as error:
        if is_out_of_memory(error):
            return None
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
