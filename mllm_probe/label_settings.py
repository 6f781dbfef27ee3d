"""What a user may set of Sugar's labels. Plain dataclasses, as in `settings`."""

from dataclasses import dataclass, field

from mllm_probe.settings import CheckpointSettings

ENCODERS = IMAGE, TEXT, JOINT = "image", "text", "joint"
POOLINGS = CLASS, MEAN, LAST, POOLER = "class", "mean", "last", "pooler"
KERNELS = GAK, AVERAGE = "gak", "average"
SINGLES = COSINE, KERNEL = "cosine", "kernel"


@dataclass
class EmbedderSettings(CheckpointSettings):
    """A frozen encoder of pictures or of sentences. `pooling` makes its last states one vector: the class token, the
    mean over patches or tokens, the last token (of a decoder), or what the model's own pooler gives."""

    pooling: str = CLASS


@dataclass
class LabelSettings:
    """The frozen encoders behind the structure matrix, and how it is made; see docs/sugar.md for what is the paper's.

    `image` and `text` compare slices of one kind, `joint` (a model of CLIP's class) slices of different kinds, or all
    with `joint_only`. `delta` null = the median distance of slices, a pair type each. `kernel` average takes the mean
    cosine of all pairs of slices in place of the alignment kernel, which is divided by both self-kernels if
    `normalised`. `single`: what two single slices have. `forced`: prefixes of one document have 1. `micro_batch`
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
