"""What a user may set of `tune`: the training, and the encoders for Sugar's labels."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from mllm_probe.config.model import CheckpointSettings, ModelSettings, PromptSettings
from mllm_probe.config.run import CacheSettings, DataSettings, PathSettings, SplitSettings


@dataclass
class TrainSettings:
    """`steps` of `batch` examples each (steps null = `epochs` over all), `micro_batch` at a time.

    AdamW with `weight_decay` and `beta2`, gradients clipped to norm `clip` (null = off), the rate rising to `lr` over
    the share `warmup` of all steps, then falling as half a cosine to 0. The state is saved every `save_every` steps.
    """

    steps: int | None = None
    epochs: float = 1.0
    batch: int = 256
    micro_batch: int = 8
    lr: float = 1e-3
    warmup: float = 0.03
    weight_decay: float = 0.0
    beta2: float = 0.999
    clip: float | None = 1.0
    seed: int = 0
    save_every: int = 50


ENCODERS = IMAGE, TEXT, JOINT = "image", "text", "joint"
POOLINGS = CLASS, MEAN, LAST, POOLER = "class", "mean", "last", "pooler"
KERNELS = GAK, AVERAGE = "gak", "average"
SINGLES = COSINE, KERNEL = "cosine", "kernel"


@dataclass
class EmbedderSettings(CheckpointSettings):
    """A frozen encoder of pictures or of sentences. `pooling` makes one vector of its last states: the class token, the
    mean over patches or tokens, the last token (of a decoder), or the output of the model's own pooler."""

    pooling: str = CLASS


@dataclass
class LabelSettings:
    """The frozen encoders behind the structure matrix, and how it is made; docs/sugar.md compares it with the paper.

    `image` and `text` compare slices of one kind, `joint` (a model of CLIP's class) slices of different kinds, or all
    with `joint_only`. `delta` null = the median distance of slices for each pair type. `kernel` average uses the mean
    cosine of all pairs of slices instead of the alignment kernel, which is divided by both self-kernels if
    `normalised`. `single`: the value for two single slices. `forced`: prefixes of one document have 1. `micro_batch`
    slices pass an encoder at once.
    """

    image: EmbedderSettings = field(default_factory=EmbedderSettings)
    text: EmbedderSettings = field(default_factory=EmbedderSettings)
    joint: CheckpointSettings = field(default_factory=CheckpointSettings)
    joint_only: bool = False
    delta: float | None = None
    kernel: str = GAK
    normalised: bool = True
    single: str = COSINE
    forced: bool = True
    micro_batch: int = 32


@dataclass
class TuneConfig:
    """`tune`: what is trained (`target`, a `_target_` node; `connector` and `labels` belong to one target each), on
    which captions, and the commands that run afterwards with the trained model: {name: command line}."""

    model: ModelSettings = field(default_factory=ModelSettings)
    dataset: Any = MISSING
    target: Any = MISSING
    connector: str = "dci"
    labels: LabelSettings = field(default_factory=LabelSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    prompt: PromptSettings = field(default_factory=lambda: PromptSettings(chat="off"))
    data: DataSettings = field(default_factory=DataSettings)
    splits: SplitSettings = field(default_factory=SplitSettings)
    after: dict[str, str] = field(default_factory=dict)
    cache: CacheSettings = field(default_factory=CacheSettings)
    paths: PathSettings = field(default_factory=PathSettings)
    device: str = "auto"
    plugins: list[str] = field(default_factory=list)
