"""Weights of a checkpoint as its files have them: nothing is drawn where they lack some. Knows no towers.

transformers draws at random what it does not find. Here such tensors are not-a-number instead, so that whatever depends
on them can be told from what does not, and no state made of them passes for one.

Shapes are looked at before a byte is read: transformers takes sizes of its own where a config names none, a model of
billions of weights, made until memory ends. The heads of the files are loaded alone, as tensors without values, so that
its own renaming of them counts.
"""

import copy
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from mllm_probe.errors import ModelError
from mllm_probe.models.loading.device import QUANTIZED_CLASSES
from mllm_probe.models.loading.whole import check_weights, tensors_of

WRAPPERS = ("base_model.model.", "module.", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
COUNTERS = "num_batches_tracked"  # of a batch norm in training; no state depends on it
STATE = ".quant_state.bitsandbytes__nf4"  # behind the name of a packed matrix: its true shape, among other things
BESIDE = re.compile(r"\.(absmax|quant_map|nested_absmax|nested_quant_map|SCB|weight_format)$")  # of what is packed


@dataclass(frozen=True)
class Lacking:
    """Names of the tensors that the files of `folder` do not have (`missing`), or have in another shape (`other`, with
    both shapes). `left` are names in the files without a place in the model, `wrapper` is what all began with."""

    folder: Path | None
    missing: tuple[str, ...] = ()
    other: tuple[tuple[str, str], ...] = ()
    left: tuple[str, ...] = ()
    wrapper: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.missing, *(name for name, _ in self.other))

    @property
    def error(self) -> ModelError:
        """What to raise where these are needed."""
        why = []
        if self.missing:
            why.append(f"{_counted(self.missing, 'weight', ' of the model')} {_are(self.missing)} not in the files")
        if self.other:
            name, shapes = self.other[0]
            have = "weights have" if len(self.other) > 1 else "weight has"
            why.append(f"{len(self.other)} {have} another shape than in config.json ({name}: {shapes})")
        if self.left:
            why.append(f"{_counted(self.left, 'tensor', ' in the files')} {_are(self.left)} of no weight of this model")
        return ModelError(f"{self.folder}: {', '.join(why)}; they are not filled at random, so {_mending(self.left)}")

    def check(self, states: torch.Tensor) -> None:
        """Raises ModelError where what is not-a-number has arrived in these states."""
        if self.names and bool(states.isnan().any()):
            raise self.error

    @property
    def remarks(self) -> list[str]:
        """What to say where nothing that is read needs them."""
        said, folder = [], self.folder
        if self.wrapper:
            said.append(f"{folder}: the names of the weights begin with '{self.wrapper}', which is removed")
        if self.names:
            found = f"{_counted(self.names, 'weight', ' of the model')} {_are(self.names)} not in the files"
            found += ", or not in the shape of config.json" if self.other else ""
            said.append(f"{folder}: {found}; nothing that is read depends on them")
        if self.left:
            found = f"{_counted(self.left, 'tensor', ' in the files')} {_are(self.left)} of no weight of this model"
            said.append(f"{folder}: {found} and left out")
        return said


WHOLE = Lacking(None)


def load_weights(
    kind: Any, folder: Path | None, config: Any = None, part: bool = False, **options: Any
) -> tuple[Any, Lacking]:
    """A model of class `kind` by `from_pretrained`, and what its files lack. It may be a `part` of what they hold.

    Weights that are lacking are not-a-number. Raises ModelError where a file is cut off, a pointer or not there, or
    the files hold blocks, or parts of blocks, that the model has no place for, and whatever transformers raises.
    """
    if folder is not None:
        check_weights(folder, needed=True)
    more = {} if config is None else {"config": config}
    model, told = kind.from_pretrained(
        folder, output_loading_info=True, ignore_mismatched_sizes=True, **more, **renaming(folder), **options
    )
    lacking = replace(find_lacking(model, folder, told), wrapper=_wrapper(folder))
    for name in lacking.names:
        _spoil(model, name)
    return model, replace(lacking, left=()) if part and not lacking.names else lacking


def renaming(folder: Path | None) -> dict[str, Any]:
    """What `from_pretrained` is told where a wrapper has put something before every name."""
    wrapper = _wrapper(folder)
    return {"key_mapping": {f"^{re.escape(wrapper)}": ""}} if wrapper else {}


def find_lacking(model: nn.Module, folder: Path | None, told: Any) -> Lacking:
    """From what a library tells of its loading. Raises ModelError for more blocks than the model has."""
    missing = sorted(name for name in told["missing_keys"] if not name.endswith(COUNTERS))
    mismatched = [*told["mismatched_keys"], *_misshapen(model)]
    other = sorted(
        (name, f"{list(there)} in the files, {list(here)} by config.json") for name, there, here in mismatched
    )
    left = sorted(told["unexpected_keys"])
    found = Lacking(folder, tuple(missing), tuple(other), tuple(left))
    lists = [f"{name}." for name, part in model.named_modules() if isinstance(part, nn.ModuleList) and len(part) > 1]
    inside = [name for name in left if name.startswith(tuple(lists))]
    if inside and any(name.startswith(tuple(lists)) for name in missing):
        raise found.error  # blocks under other names
    if inside:
        raise ModelError(
            f"{folder}: {_counted(inside, 'tensor', ' in the files')} {_are(inside)} of blocks, or parts of blocks, "
            "that config.json does not list, so it would not be the trained model; fix config.json"
        )
    return found


def _misshapen(model: nn.Module) -> list[tuple[str, Sequence[int], Sequence[int]]]:
    """What was quantised in the shape that the files have, whatever the shape of its place."""
    found = []
    for path, part in model.named_modules():
        if type(part).__name__ in QUANTIZED_CLASSES:
            weight: Any = part.weight
            there = getattr(getattr(weight, "quant_state", None), "shape", weight.shape)
            here: Any = (part.out_features, part.in_features)
            if tuple(there) != here:
                found.append((f"{path}.weight", there, here))
    return found


def _spoil(model: nn.Module, name: str) -> None:
    """Not-a-number in the place of a tensor; a matrix to be quantised has had nothing to be made of."""
    path, _, own = name.rpartition(".")
    owner: Any = model.get_submodule(path)
    value = getattr(owner, own)
    if own == "weight" and type(owner).__name__ in QUANTIZED_CLASSES:
        plain = nn.Linear(owner.in_features, owner.out_features, owner.bias is not None, value.device, torch.float32)
        plain.to(value.dtype if value.is_floating_point() else None)
        model.set_submodule(path, plain)
        value = plain.weight
    if value.is_floating_point():
        value.data.fill_(torch.nan)


def arrives(places: Sequence[tuple[nn.Module, bool]], forward: Callable[[], None]) -> bool:
    """Whether what is not-a-number reaches what a module gives (True) or is given (False), at any of these places."""
    seen: list[bool] = []

    def look(value: Any) -> None:
        states = value[0] if isinstance(value, tuple | list) else value
        seen.append(bool(states.isnan().any()))

    handles = [
        part.register_forward_hook(lambda _part, _given, out: look(out))
        if given_back
        else part.register_forward_pre_hook(
            lambda _part, args, more: look(args or more["hidden_states"]), with_kwargs=True
        )
        for part, given_back in places
    ]
    try:
        with torch.inference_mode():
            forward()
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError):
        return True  # not even a pass is possible without them
    finally:
        for handle in handles:
            handle.remove()
    return any(seen)


def _wrapper(folder: Path | None) -> str:
    """What a wrapper (torch.compile, distributed training, peft) has put before the name of every tensor."""
    names = [] if folder is None else list(tensors_of(folder))
    found = ""
    while step := next((one for one in WRAPPERS if names and all(name.startswith(one) for name in names)), ""):
        names, found = [name.removeprefix(step) for name in names], found + step
    return found


def _mending(left: Sequence[str]) -> str:
    if any("mm_projector" in name for name in left):
        return "take the checkpoint in transformers' own names (these are those of the LLaVA authors' code)"
    return "fetch or save the checkpoint again, whole and with the config.json that belongs to it"


def _counted(names: Sequence[str], what: str, of: str) -> str:
    return f"{len(names)} {what}{'s' * (len(names) > 1)}{of} ({names[0]}{' the first' * (len(names) > 1)})"


def _are(names: Sequence[str]) -> str:
    return "are" if len(names) > 1 else "is"


def check_shapes(model: Any, folder: Path) -> None:
    """`model`: of the config's class, on the meta device. Raises ModelError where a tensor has another shape in the
    files, where these hold blocks that the model has no place for, or where most of its weights are not there."""
    there = _shapes(folder)
    if not there:
        return
    config = copy.deepcopy(model.config)
    config.__dict__.pop("quantization_config", None)
    found, told = type(model).from_pretrained(
        None,
        config=config,
        state_dict={name: torch.empty(shape, device="meta") for name, shape in there.items()},
        device_map={"": "meta"},
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **renaming(folder),
    )
    lacking = find_lacking(found, folder, told)
    sizes = {name: value.numel() for name, value in found.state_dict().items()}
    unfilled = sum(sizes.get(name, 0) for name in lacking.names)
    if lacking.other or unfilled > sum(sizes.values()) / 2:
        raise lacking.error


def _shapes(folder: Path) -> dict[str, list[int]]:
    """{name: shape} of all weights in the files, of packed ones as they were before."""
    told = tensors_of(folder)
    shapes = {name: entry["shape"] for name, (_, entry) in told.items() if not BESIDE.search(name)}
    for name in [name for name in shapes if name.endswith(STATE)]:
        with safe_open(told[name][0], "np") as file:
            state = json.loads(bytes(file.get_tensor(name)))
        del shapes[name]
        shapes[name.removesuffix(STATE)] = state["shape"]
    return shapes
