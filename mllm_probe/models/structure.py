"""Where the blocks of a model are, found by what the modules are and not by a path that the next release moves.

A tower is a list of like blocks: the one beside the token embeddings is the language model, the one inside a model
whose main input is pixels is the vision tower. What stands between the two is the connector. Loads no weights.
"""

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from mllm_probe.errors import ModelError
from mllm_probe.types import Anatomy, Site

LATER_TOKENS_SEEN = ("paligemma",)  # model types whose picture tokens attend to the text behind them


@dataclass(frozen=True)
class Structure:
    """Module names: the block lists {tower: name}, the final norm, the connector and the vision model."""

    blocks: dict[str, str]
    norm: str
    connector: str
    vision: str
    anatomy: Anatomy

    def module(self, model: nn.Module, site: Site) -> tuple[nn.Module, bool]:
        """The module to hook and whether its output is the state (False: its input is)."""
        if site.tower == "connector":
            return model.get_submodule(self.connector), True
        if site.part == "norm":
            return model.get_submodule(self.norm), True
        name = f"{self.blocks[site.tower]}.{max(site.layer - 1, 0)}"
        return model.get_submodule(name), site.layer > 0

    def tower(self, name: str) -> str:
        """The module name that holds a whole tower, as quantisation names it."""
        return {"vision": self.vision, "connector": self.connector, "lm": self.blocks["lm"]}[name]


def find_structure(model: PreTrainedModel) -> Structure:
    """Find the towers of a multimodal model, on the meta device or with weights. Raises ModelError."""
    embeddings = _name_of(model, model.get_input_embeddings())
    lists = _block_lists(model)
    lm = _nearest(lists, embeddings)
    pixels = {name: _enclosing(model, name) for name in lists if name != lm}
    vision = next((name for name, owner in pixels.items() if _takes_pixels(model.get_submodule(owner))), None)
    if lm is None or vision is None:
        raise ModelError(
            f"{type(model).__name__} has no {'language' if lm is None else 'vision'} tower to be found by structure "
            f"(block lists seen: {', '.join(lists) or 'none'}); a multimodal checkpoint is needed"
        )
    owner = lm.rpartition(".")[0]
    connector = _connector(model, owner, pixels[vision])
    return Structure(
        {"vision": vision, "lm": lm}, _norm_beside(model, owner), connector, pixels[vision], _anatomy(model, vision, lm)
    )


def _block_lists(model: nn.Module) -> list[str]:
    """Names of lists of two or more modules of one class that hold attention; lists inside a block left out."""
    found: list[str] = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or len(module) < 2 or len({type(block) for block in module}) > 1:
            continue
        attends = any("attn" in child or "attention" in child for child, _ in module[0].named_modules())
        if attends and not any(name.startswith(outer + ".") for outer in found):
            found.append(name)
    return found


def _is_blocks(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleList) or not any(True for _ in module.parameters())


def parameters_of(model: nn.Module, structure: Structure) -> dict[str, int]:
    """{tower: number of weights}, the rest (embeddings, output head) under `rest`."""
    towers = {name: structure.tower(name) for name in ("vision", "connector", "lm")}
    counts = {name: sum(p.numel() for p in model.get_submodule(path).parameters()) for name, path in towers.items()}
    if towers["connector"].startswith(towers["vision"] + "."):
        counts["vision"] -= counts["connector"]
    return {**counts, "rest": sum(p.numel() for p in model.parameters()) - sum(counts.values())}


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


def _connector(model: nn.Module, lm: str, vision: str) -> str:
    """The one child with weights, beside the towers, of the module that holds both; or what ends the vision tower."""
    holder = ".".join(lm.split(".")[: _shared(lm, vision)])
    inside = {name.removeprefix(holder + ".").split(".")[0] for name in (lm, vision)}
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


def _anatomy(model: PreTrainedModel, vision: str, lm: str) -> Anatomy:
    text, image = model.config.get_text_config(), model.get_submodule(_enclosing(model, vision)).config
    blocks = {name: len(model.get_submodule(path)) for name, path in (("vision", vision), ("lm", lm))}
    widths = {"vision": image.hidden_size, "connector": text.hidden_size, "lm": text.hidden_size}
    causal = model.config.model_type not in LATER_TOKENS_SEEN
    return Anatomy(blocks, widths, causal, getattr(text, "max_position_embeddings", 2**31))
