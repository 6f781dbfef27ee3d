"""Where the blocks of a model are, found by what the modules are and not by a path that the next release moves.

A tower is a list of like blocks: the one beside the token embeddings is the language model, the one inside a model
whose main input is pixels is the vision tower. What stands between the two is the connector, perhaps behind a Q-Former.
A model that turns pictures into words of its own has the language model alone, and a vision tower without blocks of
attention is not read, but its connector is. What is found here the user may name instead. Loads no weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from mllm_probe.errors import ModelError
from mllm_probe.records.sites import INSIDE, Anatomy, Site

NOTHING: Mapping[str, str] = {}
LATER_TOKENS_SEEN = ("paligemma",)  # model types whose picture tokens attend to the text behind them
NAMES = {  # what families call the parts of a block, the first that is there
    "attn": ("self_attn", "self_attention", "attention", "attn", "cross_attn"),
    "mlp": ("mlp", "feed_forward", "ffn", "fc2"),
}


@dataclass(frozen=True)
class Structure:
    """Module names: the block lists {tower: name}, the final norm, the whole of each tower {tower: name}, and the
    matrices beside the towers (the output head, for one)."""

    blocks: dict[str, str]
    norm: str
    whole: dict[str, str]
    beside: tuple[str, ...]
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


def find_structure(model: PreTrainedModel, named: Mapping[str, str] = NOTHING) -> Structure:
    """Find the towers of a multimodal model, on the meta device or with weights. Raises ModelError.

    `named` {tower: module name} is what the user points to: lists of blocks, and the connector.
    """
    lists = _block_lists(model)
    for tower, name in named.items():
        _check_named(model, tower, name, lists)
    lm = named.get("lm") or _nearest(lists, _name_of(model, model.get_input_embeddings()))
    if lm is None:
        raise _unfound(model, "language", lists)
    blocks = {"lm": lm, **_picture_towers(model, lm, lists, named)}
    whole = {tower: lm if tower == "lm" else _around(model, name, lm) for tower, name in blocks.items()}
    if "vision" not in blocks and (blockless := _blockless(model, lm, lists)):
        whole["vision"] = blockless
    if connector := named.get("connector") or _connector(model, lm.rpartition(".")[0], whole, "vision" in blocks):
        whole["connector"] = connector
    matrices = (name for name, part in model.named_modules() if isinstance(part, nn.Linear))
    beside = tuple(name for name in matrices if not any(f"{name}.".startswith(f"{own}.") for own in whole.values()))
    return Structure(blocks, _norm_beside(model, lm.rpartition(".")[0]), whole, beside, _anatomy(model, blocks, whole))


def _picture_towers(model: nn.Module, lm: str, lists: list[str], named: Mapping[str, str]) -> dict[str, str]:
    """The block lists of the vision tower and behind it of a Q-Former, those found and in their place those named."""
    owners = {name: model.get_submodule(_around(model, name, lm)) for name in lists if name != lm}
    vision = named.get("vision") or next((name for name, owner in owners.items() if _takes_pixels(owner)), None)
    if vision is None:
        return {}
    formers = [name for name, owner in owners.items() if "qformer" in type(owner).__name__.lower()]
    qformer = named.get("qformer") or next(iter(formers), None)
    return {"vision": vision, **({"qformer": qformer} if qformer else {})}


def _blockless(model: nn.Module, lm: str, lists: list[str]) -> str | None:
    """A model beside the language model that takes pixels and has no blocks of attention."""
    pixels = [name for name, part in model.named_modules() if isinstance(part, PreTrainedModel) and _takes_pixels(part)]
    if not pixels:
        raise _unfound(model, "vision", lists)
    return next((name for name in pixels if name and not lm.startswith(f"{name}.")), None)


def _check_named(model: nn.Module, tower: str, name: str, lists: list[str]) -> None:
    """Raises ModelError where the module is not there, or is no list of blocks."""
    found = dict(model.named_modules()).get(name)
    if tower == "connector" and found is None:
        beside = [path for path, _ in model.named_modules() if path and path.count(".") < 2]
        raise ModelError(
            f"model.blocks.connector={name} is no module of {type(model).__name__}; it has {', '.join(beside)}"
        )
    if tower != "connector" and not (isinstance(found, nn.ModuleList | nn.Sequential) and len(found)):
        raise ModelError(
            f"model.blocks.{tower}={name} is no list of blocks in {type(model).__name__}; "
            f"block lists seen: {_seen(model, lists)}"
        )


def _seen(model: nn.Module, lists: list[str]) -> str:
    """The lists that attend, and behind them those of other modules, for a user to choose from."""
    found = [path for path, part in model.named_modules() if isinstance(part, nn.ModuleList) and len(part) > 1]
    outer = [path for path in found if not any(path.startswith(f"{other}.") for other in found)]
    return ", ".join(dict.fromkeys([*lists, *outer])) or "none"


def _unfound(model: nn.Module, tower: str, lists: list[str]) -> ModelError:
    return ModelError(
        f"{type(model).__name__} has no {tower} tower to be found by structure "
        f"(block lists seen: {_seen(model, lists)}); choose a multimodal checkpoint, or name the list with "
        f"model.blocks.{'lm' if tower == 'language' else tower}=NAME"
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


def attention_of(block: nn.Module) -> nn.Module:
    """A block's attention, or where no name tells it the whole block."""
    children = dict(block.named_children())
    return next((children[name] for name in NAMES["attn"] if name in children), block)


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


def _around(model: nn.Module, name: str, lm: str) -> str:
    """The whole of a tower: the innermost model around its blocks (and around that the one whose encoder it is, as in
    DINOv2), or all that stands beside the language model where that one holds both."""
    owner = _enclosing(model, name)
    while owner and _is_encoder_of(model, outer := _enclosing(model, owner), owner) and not lm.startswith(f"{outer}."):
        owner = outer
    return owner if owner and not lm.startswith(f"{owner}.") else ".".join(name.split(".")[: _shared(name, lm) + 1])


def _is_encoder_of(model: nn.Module, outer: str, inner: str) -> bool:
    return bool(outer) and type(model.get_submodule(outer).config) is type(model.get_submodule(inner).config)


def _takes_pixels(module: nn.Module) -> bool:
    """By its own word, or because it begins with a convolution that cuts patches."""
    named = getattr(module, "main_input_name", None) == "pixel_values"
    return named or any(isinstance(part, nn.Conv2d | nn.Conv3d) for part in module.modules())


def _norm_beside(model: nn.Module, owner: str) -> str:
    for child, module in model.get_submodule(owner).named_children():
        if type(module).__name__.endswith("Norm"):
            return f"{owner}.{child}".removeprefix(".")
    raise ModelError(f"no final norm next to the blocks of {owner or 'the language model'} in {type(model).__name__}")


def _connector(model: nn.Module, lm: str, whole: dict[str, str], needed: bool) -> str | None:
    """The one child with weights, beside the towers, of the module that holds them; or what ends the vision tower."""
    if "vision" not in whole:
        return None
    vision = whole["vision"]
    holder = ".".join(lm.split(".")[: _shared(lm, vision)])
    inside = {name.removeprefix(holder + ".").split(".")[0] for name in (lm, *whole.values())}
    beside = [
        name
        for name, module in model.get_submodule(holder).named_children()
        if name not in inside and any(True for _ in module.parameters())
    ]
    if not beside and needed:  # Qwen's merger closes the vision model itself
        closing = [f"{vision}.{name}" for name, _ in model.get_submodule(vision).named_children()]
        beside = [name.removeprefix(holder + ".") for name in closing if not _is_blocks(model.get_submodule(name))][-1:]
    if len(beside) == 1:
        return f"{holder}.{beside[0]}" if holder else beside[0]
    if needed:
        raise ModelError(
            f"{type(model).__name__}: one connector is expected next to {lm or 'the language model'} and {vision}, "
            f"found {beside}; name it with model.blocks.connector=NAME"
        )
    return None


def _anatomy(model: PreTrainedModel, lists: dict[str, str], whole: dict[str, str]) -> Anatomy:
    text = model.config.get_text_config()
    blocks = {tower: list(model.get_submodule(path)) for tower, path in lists.items()}
    widths = {tower: _width(own[0]) or _told_width(model, whole[tower]) for tower, own in blocks.items()}
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


def _told_width(model: nn.Module, name: str) -> int:
    owner = name if isinstance(model.get_submodule(name), PreTrainedModel) else _enclosing(model, name)
    config = model.get_submodule(owner).config
    if not isinstance(found := getattr(config, "hidden_size", None), int):
        raise ModelError(
            f"{type(model).__name__}: the width of the blocks in {name} is unknown: they have no norm and "
            f"{type(config).__name__} has no hidden_size"
        )
    return found
