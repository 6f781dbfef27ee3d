"""What a user may set of a model and of its prompts: the fields are the keys of the YAML files under conf/.

Plain dataclasses that OmegaConf fills and checks, as in all files of settings here. They know nothing of Hydra, torch
or the objects built from them.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mllm_probe.files.model_names import called

QUANTIZATIONS = ("none", "int8", "nf4")
WEIGHTS = ("pretrained", "random")
ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flex_attention")
DTYPES = ("float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda")
CHATS = AUTO, OFF, PLAIN = "auto", "off", "plain"
PLACEMENTS = ONE, SPREAD, OFFLOAD = "one", "spread", "offload"
KEEPS = KEEP_AUTO, KEEP, DROP = "auto", "true", "false"


@dataclass
class BlockSettings:
    """Module names of model parts that are not found by structure: lists of blocks, and the connector."""

    vision: str | None = None
    qformer: str | None = None
    connector: str | None = None
    lm: str | None = None

    @property
    def named(self) -> dict[str, str]:
        """{tower: module name} of those that the user names."""
        return {tower: name for tower, name in vars(self).items() if name is not None}


@dataclass
class CheckpointSettings:
    """Where a checkpoint is: the first given one of `path`, `bundled` and `hub_id`.

    `revision` is a branch, tag or commit of the hub (null = the newest), `download_gb` the size reported before a
    download.
    """

    bundled: str | None = None
    path: str | None = None
    hub_id: str | None = None
    revision: str | None = None
    download_gb: float | None = None


@dataclass
class ModelSettings(CheckpointSettings):
    """Where a multimodal model is and how it is loaded, with the low-rank `adapter` in a folder (null: none).

    `name` is its name in results (null: its hub id, its folder, or its base and its training). `weights` random are
    drawn from `seed`, not read. `quantization` applies to the weights of the towers in `quantize`; all else, and the
    computation, is in `dtype`. With `keep_dequantised` true a quantised matrix is kept in `dtype`, too, once it was
    used; auto does so on CPUs with four times that memory free. `attn` is transformers' attention. `placement` one uses
    one device, spread all cards; offload keeps what does not fit on them in the memory of the CPU. `processor` changes
    settings of its picture processor ({max_pixels: 401408}). `blocks` are found by structure; names given here replace
    them. `trust_remote_code` allows code in the checkpoint to run.
    """

    name: str | None = None
    adapter: str | None = None
    weights: str = "pretrained"
    seed: int = 0
    quantization: str = "nf4"
    quantize: list[str] = field(default_factory=lambda: ["lm"])
    dtype: str = "bfloat16"
    attn: str = "sdpa"
    trust_remote_code: bool = False
    keep_dequantised: str = "auto"
    placement: str = "one"
    processor: Any = None
    blocks: BlockSettings = field(default_factory=BlockSettings)

    @property
    def label(self) -> str:
        """What the results call the model (see model_names), and whether its weights are random."""
        name = called(self.name, self.path, self.bundled, self.hub_id, self.adapter)
        return name if self.weights == "pretrained" else f"{name}-random"

    @property
    def adapter_folder(self) -> Path | None:
        return None if self.adapter is None else Path(self.adapter).expanduser()

    @property
    def keeping(self) -> str:
        """`keep_dequantised` as it is typed; a plain true or false arrives with a capital letter."""
        return self.keep_dequantised.lower()

    @property
    def precision(self) -> str:
        """What the results call the quantisation."""
        return self.quantization if self.quantize else "none"


@dataclass
class PromptSettings:
    """How a sample's text becomes a prompt: `chat` auto = the checkpoint's own template if it has one, off = the
    picture, a new line, the text; plain = the same without the new line, as connectors are trained. `system` is the
    system message (null = none); with `generation_prompt` the prompt ends where an answer would begin."""

    chat: str = "auto"
    system: str | None = None
    generation_prompt: bool = True
