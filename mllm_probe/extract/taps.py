"""Hooks that read states where they arise, pool them on the spot and leave. Knows tensors and modules, no model class.

A hook returns nothing, so the model computes what it would compute without it. The forward pass ends at the hook of
the last requested site: no later block runs, no logits are computed, no hidden state outlives its hook.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from mllm_probe.errors import ModelError
from mllm_probe.protocols import Extractable
from mllm_probe.types import Batch, Chunk, Key, Reading, Site

if TYPE_CHECKING:
    import torch


class _Stop(Exception):
    """Raised inside the last hook to leave the model; caught in `read_states` and nowhere else."""


def pool(states: "torch.Tensor", reading: Reading) -> "torch.Tensor":
    """States [.., D] flattened to [B * L, D] -> means [T, D] in float32 over the segments of the reading."""
    import torch

    flat = states.reshape(-1, states.shape[-1])
    if len(flat) != reading.among:
        raise ModelError(
            f"a site has {len(flat)} tokens where {reading.among} were expected, so its rows cannot be told apart; "
            "layers.towers=[lm] leaves the picture towers out"
        )
    picked = flat[torch.from_numpy(reading.tokens).to(flat.device)].float()
    lengths = torch.from_numpy(reading.segments[1:] - reading.segments[:-1]).to(flat.device)
    if bool((lengths == 1).all()):
        return picked
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=flat.device), lengths)
    sums = picked.new_zeros(len(lengths), picked.shape[1]).index_add_(0, owner, picked)
    return sums / lengths[:, None]


def read_states(model: Extractable, batch: Batch, keys: Sequence[Key], dtype: "torch.dtype") -> Chunk:
    """One forward pass -> the chunk of these keys in `dtype` on the CPU, checked finite. Raises ModelError."""
    import torch

    by_site: dict[Site, list[Key]] = {}
    for key in keys:
        by_site.setdefault(key.site, []).append(key)
    values: dict[Key, torch.Tensor] = {}
    last = max(by_site, key=model.anatomy.sites().index)

    def receive(site: Site, states: "torch.Tensor") -> None:
        for key in by_site[site]:
            pooled = pool(states, batch.readings[site.tower, key.position])
            values[key] = pooled.to(dtype).cpu()
        if site == last:
            raise _Stop

    with torch.inference_mode(), _hooked(model, by_site, receive), suppress(_Stop):
        model.forward(batch)
    _check(values, keys, batch)
    return Chunk(batch.uids, values, {key: batch.readings[key.site.tower, key.position].rows for key in keys})


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


def _check(values: Mapping[Key, "torch.Tensor"], keys: Sequence[Key], batch: Batch) -> None:
    import torch

    silent = [str(key) for key in keys if key not in values]
    if silent:
        raise ModelError(f"no state arrived at {', '.join(silent)}: the model did not pass there in its forward")
    for key in keys:
        finite = torch.isfinite(values[key]).all(dim=1)
        if not bool(finite.all()):
            row = int((~finite).nonzero()[0])
            rows = batch.readings[key.site.tower, key.position].rows
            uid = batch.uids[int((rows <= row).sum()) - 1]
            raise ModelError(f"{key} of sample {uid} is not finite in {values[key].dtype}; try extract.dtype=float32")
