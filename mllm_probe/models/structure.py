"""Where the blocks of a model are, found by what the modules are and not by a path that the next release moves.

A tower is a list of like blocks: the one beside the token embeddings is the language model, the one inside a model
whose main input is pixels is the vision tower. What stands between the two is the connector, perhaps behind a Q-Former.
A model that turns pictures into words of its own has the language model alone. Loads no weights.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from mllm_probe.errors import ModelError
from mllm_probe.sites import INSIDE, Anatomy, Site

LATER_TOKENS_SEEN = ("paligemma",)  # model types whose picture tokens attend to the text behind them
NAMES = {  # what families call the parts of a block, the first that is there
    "attn": ("self_attn", "self_attention", "attention", "attn", "cross_attn"),
    "mlp": ("mlp", "feed_forward", "ffn", "fc2"),
}


@dataclass(frozen=True)
class Structure:
    """Module names: the block lists {tower: name}, the final norm, and the whole of each tower {tower: name}."""

    blocks: dict[str, str]
    norm: str
    whole: dict[str, str]
    anatomy: Anatomy

    def module(self, model: nn.Module, site: Site) -> tuple[nn.Module, bool]:
        """The module to hook and whether its output is the state (False: its input is)."""
        if site.tower == "connector":
            return model.get_submodule(self.whole["connector"]), True
        if site.part == "norm":
            return model.get_submodule(self.norm), True
        block = model.get_submodule(f"{self.blocks[site.tower]}.{max(site.layer - 1, 0)}")
        if site.part in INSIDE:
            return block.get_submodule(_inner(block, site.part) or ""), True
        return block, site.layer > 0


def find_structure(model: PreTrainedModel) -> Structure:
    """Find the towers of a multimodal model, on the meta device or with weights. Raises ModelError."""
    lists = _block_lists(model)
    lm = _nearest(lists, _name_of(model, model.get_input_embeddings()))
    if lm is None:
        raise _unfound(model, "language", lists)
    owners = {name: _enclosing(model, name) for name in lists if name != lm}
    vision = next((name for name, owner in owners.items() if _takes_pixels(model.get_submodule(owner))), None)
    blocks, whole = {"lm": lm}, {"lm": lm}
    if vision is not None:
        blocks["vision"], whole["vision"] = vision, owners[vision]
        for name, owner in owners.items():
            if "qformer" in type(model.get_submodule(owner)).__name__.lower():
                blocks["qformer"], whole["qformer"] = name, owner
        whole["connector"] = _connector(model, lm.rpartition(".")[0], whole)
    elif not any(isinstance(part, PreTrainedModel) and _takes_pixels(part) for _, part in model.named_modules()):
        raise _unfound(model, "vision", lists)
    return Structure(blocks, _norm_beside(model, lm.rpartition(".")[0]), whole, _anatomy(model, blocks, whole))


def _unfound(model: nn.Module, tower: str, lists: list[str]) -> ModelError:
    return ModelError(
        f"{type(model).__name__} has no {tower} tower to be found by structure "
        f"(block lists seen: {', '.join(lists) or 'none'}); a multimodal checkpoint is needed"
    )


def _block_lists(model: nn.Module) -> list[str]:
    """Names of lists of two or more modules that all hold attention of their own; lists inside a block left out."""
    found: list[str] = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or len(module) < 2 or not all(map(_attends, module)):
            continue
        if not any(name.startswith(outer + ".") for outer in found):
            found.append(name)
    return found


def _attends(block: nn.Module) -> bool:
    return any(
        ("attn" in name or "attention" in name) and not isinstance(child, nn.ModuleList)
        for name, child in block.named_children()
    )


def _inner(block: nn.Module, part: str) -> str | None:
    """The name of a block's attention or mlp; none where these add the residual themselves, as in BERT's blocks."""
    children = dict(block.named_children())
    return next((name for name in NAMES[part] if name in children), None) if _width(block) else None


def _is_blocks(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleList) or not any(True for _ in module.parameters())


def parameters_of(model: nn.Module, structure: Structure) -> dict[str, int]:
    """{tower: number of weights}, the rest (embeddings, output head) under `rest`."""
    whole = structure.whole
    counts = {name: sum(p.numel() for p in model.get_submodule(path).parameters()) for name, path in whole.items()}
    if whole.get("connector", "").startswith(f"{whole.get('vision')}."):
        counts["vision"] -= counts["connector"]
    rest = sum(p.numel() for p in model.parameters()) - sum(counts.values())
    return {**counts, "rest": rest}


def _name_of(model: nn.Module, wanted: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is wanted)


def _shared(a: str, b: str) -> int:
    parts = list(zip(a.split("."), b.split("."), strict=False))
    return next((i for i, (x, y) in enumerate(parts) if x != y), len(parts))


def _nearest(lists: list[str], embeddings: str) -> str | None:
    return max(lists, key=lambda name: _shared(name, embeddings), default=None)


def _enclosing(model: nn.Module, name: str) -> str:
    """The innermost model (with a config of its own) around a module."""
    while name:
        name = name.rpartition(".")[0]
        if name and isinstance(model.get_submodule(name), PreTrainedModel):
            return name
    return ""


def _takes_pixels(module: nn.Module) -> bool:
    """By its own word, or because it begins with a convolution that cuts patches."""
    named = getattr(module, "main_input_name", None) == "pixel_values"
    return named or any(isinstance(part, nn.Conv2d | nn.Conv3d) for part in module.modules())


def _norm_beside(model: nn.Module, owner: str) -> str:
    for child, module in model.get_submodule(owner).named_children():
        if type(module).__name__.endswith("Norm"):
            return f"{owner}.{child}"
    raise ModelError(f"no final norm beside the blocks of {owner} in {type(model).__name__}")


def _connector(model: nn.Module, lm: str, whole: dict[str, str]) -> str:
    """The one child with weights, beside the towers, of the module that holds them; or what ends the vision tower."""
    vision = whole["vision"]
    holder = ".".join(lm.split(".")[: _shared(lm, vision)])
    inside = {name.removeprefix(holder + ".").split(".")[0] for name in (lm, *whole.values())}
    beside = [
        name
        for name, module in model.get_submodule(holder).named_children()
        if name not in inside and any(True for _ in module.parameters())
    ]
    if not beside:  # Qwen's merger closes the vision model itself
        closing = [f"{vision}.{name}" for name, _ in model.get_submodule(vision).named_children()]
        beside = [name.removeprefix(holder + ".") for name in closing if not _is_blocks(model.get_submodule(name))][-1:]
    if len(beside) != 1:
        raise ModelError(f"{type(model).__name__}: one connector is expected beside {lm} and {vision}, found {beside}")
    return f"{holder}.{beside[0]}" if holder else beside[0]


def _anatomy(model: PreTrainedModel, lists: dict[str, str], whole: dict[str, str]) -> Anatomy:
    text = model.config.get_text_config()
    blocks = {tower: list(model.get_submodule(path)) for tower, path in lists.items()}
    widths = {tower: _width(own[0]) or _config(model, whole[tower]).hidden_size for tower, own in blocks.items()}
    if "connector" in whole:
        widths["connector"] = widths["lm"]
    inside = {
        tower: tuple(p for p in INSIDE if all(_inner(block, p) for block in own)) for tower, own in blocks.items()
    }
    return Anatomy(
        blocks={tower: len(own) for tower, own in blocks.items()},
        widths=widths,
        causal=model.config.model_type not in LATER_TOKENS_SEEN,
        max_tokens=getattr(text, "max_position_embeddings", 2**31),
        inside=inside,
        informed=("qformer", "connector") if _is_told(model, whole) else (),
        crossed=any("cross" in name for block in blocks["lm"] for name, _ in block.named_children()),
    )


def _is_told(model: nn.Module, whole: dict[str, str]) -> bool:
    """Whether the Q-Former reads the text: then it has embeddings for it."""
    return "qformer" in whole and any(
        isinstance(p, nn.Embedding) for p in model.get_submodule(whole["qformer"]).modules()
    )


def _width(block: nn.Module) -> int | None:
    """Of the residual stream, by the norms beside the parts of a block."""
    norms = [child for child in block.children() if type(child).__name__.endswith("Norm")]
    weights = [weight for norm in norms for weight in norm.parameters()]
    return weights[0].shape[0] if weights else None


def _config(model: nn.Module, name: str) -> Any:
    owner = name if isinstance(model.get_submodule(name), PreTrainedModel) else _enclosing(model, name)
    return model.get_submodule(owner).config
