"""Hooks that read states where they arise, pool them on the spot and leave. Knows tensors and modules, no model class.

A hook returns nothing, so the model computes what it would compute without it. The forward pass ends at the hook of
the last requested site: no later block runs, no logits are computed, no hidden state outlives its hook. On a CUDA
device nothing here waits: pooled rows are copied into pinned memory behind the computation, and `Pending.chunk` waits.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mllm_probe.errors import MllmProbeError, ModelError, PassError, first_line, is_out_of_memory
from mllm_probe.records.batches import Batch, Chunk, Reading
from mllm_probe.records.protocols import Extractable
from mllm_probe.records.sites import ANSWER, Key, Site

if TYPE_CHECKING:
    import torch

WIDENED = 16_000_000  # at most so many numbers are held as float32 beside the states for a mean
EXACT = "float32"
TOO_LITTLE = "memory does not suffice for a single sample; use a smaller model, fewer layers, or model.quantization=nf4"


class _Stop(Exception):
    """Raised inside the last hook to leave the model; caught in `launch` and nowhere else."""


class Pooling:
    """One reading, its indices moved to the states' device once for all sites of the tower."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._single = bool((np.diff(reading.segments) == 1).all())
        self._index: tuple[torch.Tensor, torch.Tensor] | None = None  # tokens and segments

    def __call__(self, states: "torch.Tensor") -> "torch.Tensor":
        """States [.., D] flattened to [B * L, D] -> means [T, D] in float32 over the segments of the reading."""
        import torch

        flat = states.reshape(-1, states.shape[-1])
        if len(flat) != self._reading.among:
            raise ModelError(
                f"a site has {len(flat)} tokens where {self._reading.among} were expected, so its rows cannot be "
                "assigned; layers.towers=[lm] leaves the picture towers out"
            )
        if self._index is None or self._index[0].device != flat.device:  # towers may lie on several cards
            tokens, segments = map(torch.from_numpy, (self._reading.tokens, self._reading.segments))
            self._index = tokens.to(flat.device, non_blocking=True), segments.to(flat.device, non_blocking=True)
        return flat[self._index[0]].float() if self._single else _means(flat, *self._index)


def _means(flat: "torch.Tensor", tokens: "torch.Tensor", segments: "torch.Tensor") -> "torch.Tensor":
    """One kernel for all segments; on every device it adds the tokens of a segment one by one, in their order."""
    import torch
    from torch.nn.functional import embedding_bag

    width = flat.shape[1] if flat.dtype == torch.float32 else max(1, WIDENED // len(flat))
    parts = [
        embedding_bag(tokens, part.float(), segments, mode="mean", include_last_offset=True)
        for part in torch.split(flat, width, dim=1)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


@dataclass(frozen=True)
class Pending:
    """Values on their way to the CPU; `ready` waits for them."""

    batch: Batch
    keys: tuple[Key, ...]
    values: Mapping[Key, "torch.Tensor"]
    event: Any
    model: Extractable

    def chunk(self) -> Chunk:
        """Wait, check that all is there and finite. Raises ModelError."""
        if self.event is not None:
            self.event.synchronize()
        _check(self.values, self.keys, self.batch, self.model)
        rows = {key: self.batch.readings[key.site.tower, key.position].rows for key in self.keys}
        return Chunk(self.batch.uids, self.values, rows)


def read_states(model: Extractable, batch: Batch, keys: Sequence[Key], dtype: "torch.dtype") -> Chunk:
    """One forward pass -> the chunk of these keys in `dtype` on the CPU, checked finite. Raises ModelError."""
    return launch(model, batch, keys, dtype).chunk()


def launch(model: Extractable, batch: Batch, keys: Sequence[Key], dtype: "torch.dtype") -> Pending:
    """Start one forward pass; on a CPU it is over on return."""
    import torch

    by_site: dict[Site, list[Key]] = {}
    for key in keys:
        by_site.setdefault(key.site, []).append(key)
    poolings = {name: Pooling(reading) for name, reading in batch.readings.items()}
    values: dict[Key, torch.Tensor] = {}
    last = max(by_site, key=model.anatomy.sites().index)

    def receive(site: Site, states: "torch.Tensor") -> None:
        for key in by_site[site]:
            pooled = poolings[site.tower, key.position](states)
            if key.position.startswith(ANSWER):
                pooled = model.answers(key, pooled)
            pooled = pooled.to(dtype)
            values[key] = _to_pinned(pooled) if pooled.is_cuda else pooled.clone()
        if site == last:
            raise _Stop

    with torch.inference_mode(), _hooked(model, by_site, receive), suppress(_Stop), _told(batch):
        model.forward(batch)
    pinned = any(value.is_pinned() for value in values.values()) if torch.cuda.is_available() else False
    return Pending(batch, tuple(keys), values, _event() if pinned else None, model)


@contextmanager
def _told(batch: Batch) -> Iterator[None]:
    """A model raises anything; a sentence names the prompts it read. Raises PassError."""
    try:
        yield
    except (MllmProbeError, _Stop):
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise
        first, more = batch.names[0] if batch.names else batch.uids[0], len(set(batch.names)) - 1
        raise PassError(
            f"the model cannot read the prompt about {first}{f' or about {more} others' if more > 0 else ''} "
            f"({type(error).__name__}: {first_line(error)})"
        ) from error


def _to_pinned(values: "torch.Tensor") -> "torch.Tensor":
    import torch

    return torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)


def _event() -> Any:
    import torch

    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event


def _first_tensor(value: Any) -> "torch.Tensor":
    """Blocks return a tensor or a tuple that begins with it, depending on model and release."""
    return value[0] if isinstance(value, tuple | list) else value


@contextmanager
def _hooked(model: Extractable, sites: Mapping[Site, Any], receive: Any) -> Iterator[None]:
    """One hook per site, removed whatever happens."""
    handles = []
    try:
        for site in sites:
            module, output = model.module(site)
            if output:
                handles.append(
                    module.register_forward_hook(lambda _m, _a, out, site=site: receive(site, _first_tensor(out)))
                )
            else:
                handles.append(
                    module.register_forward_pre_hook(
                        lambda _m, args, kwargs, site=site: receive(site, args[0] if args else kwargs["hidden_states"]),
                        with_kwargs=True,
                    )
                )
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check(values: Mapping[Key, "torch.Tensor"], keys: Sequence[Key], batch: Batch, model: Extractable) -> None:
    import torch

    silent = [str(key) for key in keys if key not in values]
    if silent:
        raise ModelError(f"no state arrived at {', '.join(silent)}: the forward pass of the model does not reach it")
    for key in keys:
        finite = torch.isfinite(values[key]).all(dim=1)
        if not bool(finite.all()):
            row = int((~finite).nonzero()[0])
            rows = batch.readings[key.site.tower, key.position].rows
            uid = batch.uids[int((rows <= row).sum()) - 1]
            raise ModelError(f"{key} of sample {uid} is not finite; {_finer(values[key].dtype, model)}")


def _finer(stored: "torch.dtype", model: Extractable) -> str:
    """What to try, by where numbers can still have more room."""
    kind, computed = str(stored).removeprefix("torch."), model.provenance().get("dtype")
    if kind != EXACT:
        return f"it is stored in {kind}, so try extract.dtype={EXACT}"
    if computed != EXACT:
        return f"the model computes in {computed}, so try model.dtype={EXACT}"
    return f"all is {EXACT} already, so weights or settings of the checkpoint are at fault; fetch it again"
