"""What a user may set, group by group: the fields are the keys of the YAML files under conf/.

Plain dataclasses that OmegaConf fills and checks. Knows nothing of Hydra, torch or the objects built from it.
"""

from dataclasses import dataclass, field
from typing import Any

from mllm_probe.files.model_names import called

QUANTIZATIONS = ("none", "int8", "nf4")
WEIGHTS = ("pretrained", "random")
ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flex_attention")
DTYPES = ("float32", "bfloat16", "float16")
REFERENCES = UNQUANTIZED, BASE = "unquantized", "base"
DEVICES = ("auto", "cpu", "cuda")
CHATS = AUTO, OFF, PLAIN = "auto", "off", "plain"
PADDING_SIDES = ("right", "left")
PREFIXES = ("auto", "off")
PLACEMENTS = ONE, SPREAD, OFFLOAD = "one", "spread", "offload"
CONTROLS = (
    CONTROL_TASK,
    PERMUTED,
    TEXT_ONLY,
    BLANK,
    SHUFFLED,
    RANDOM,
    VISION_ONLY,
    CONNECTOR_ONLY,
) = (
    "control_task",
    "permuted",
    "text_only",
    "blank_picture",
    "shuffled_picture",
    "random_weights",
    "vision_only",
    "connector_only",
)
UNITS = ("picture", "row")
GUARDS = ("stop", "note")
METRICS = ("auto", "accuracy", "balanced_accuracy", "auroc", "average_precision", "nll", "r2")
ANALYSES = MDL, V_INFORMATION, ERASURE = "mdl", "v_information", "erasure"


def draws_of(control: str, n: int) -> tuple[str, ...]:
    """What the results call each of `n` draws of a control: its name, then name_2 and so on."""
    return (control, *(f"{control}_{i}" for i in range(2, n + 1)))


def drawn_from(name: str) -> str:
    """The control that a name in the results is a draw of."""
    base, _, number = name.rpartition("_")
    return base if base in CONTROLS and number.isdigit() else name


@dataclass
class BlockSettings:
    """Module names of the parts of a model that structure does not find: lists of blocks, and the connector."""

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
    """Where a checkpoint is: the first of `path`, `bundled` and `hub_id` that is given leads to it.

    `revision` is a branch, tag or commit of the hub (null = the newest), `download_gb` what is said before a fetch.
    """

    bundled: str | None = None
    path: str | None = None
    hub_id: str | None = None
    revision: str | None = None
    download_gb: float | None = None


@dataclass
class ModelSettings(CheckpointSettings):
    """Where a multimodal model is and how it is loaded, with the low-rank `adapter` in a folder (null: none).

    Results call it `name` (null: by its hub id, its folder, or its base and what was trained). `weights` random are
    drawn from `seed`, not read. `quantization` is that of the weights of the towers in `quantize`; all else is in
    `dtype`, as is what is computed. `attn` is transformers' attention.
    `placement` one puts it on one device, spread over all cards; offload leaves in the memory of the CPU what does not
    fit on them. `processor` holds settings of its picture processor that are to be others ({max_pixels: 401408}).
    `blocks` are found by structure; those named here take the place of those found. Code that a checkpoint brings
    itself runs with `trust_remote_code` only.
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
    placement: str = "one"
    processor: Any = None
    blocks: BlockSettings = field(default_factory=BlockSettings)

    @property
    def label(self) -> str:
        """What the results call the model (see model_names), and whether its weights are random."""
        name = called(self.name, self.path, self.bundled, self.hub_id, self.adapter)
        return name if self.weights == "pretrained" else f"{name}-random"

    @property
    def precision(self) -> str:
        """What the results call the quantisation."""
        return self.quantization if self.quantize else "none"


@dataclass
class PromptSettings:
    """How a sample's text becomes a prompt: `chat` auto = the checkpoint's own template where it has one, off = the
    picture, a new line, the text; plain = the same without the new line, as connectors are trained. `system` is the
    system message (null = none is given); with `generation_prompt` the prompt ends where an answer would begin."""

    chat: str = "auto"
    system: str | None = None
    generation_prompt: bool = True


@dataclass
class LayerSettings:
    """Which sites: `towers` (null = all there are), then layers `range` (both ends included, null = all) in steps of
    `stride` from its start, and of each the `parts`: what the block returns, what its attention or its mlp adds.
    `middle` takes the middle third of a tower's blocks, `norm` the state behind the final norm as well."""

    towers: list[str] | None = None
    parts: list[str] = field(default_factory=lambda: ["block"])
    range: list[int] | None = None
    middle: bool = False
    stride: int = 1
    norm: bool = True


@dataclass
class DataSettings:
    """Which pictures of the data set: `n` of them (null = all), drawn by `seed`. What cannot be used ends the run with
    `on_bad_row` stop, and is left out and named with skip. Picture files that are `links` to files outside the data
    set's folder are followed, or with refuse cannot be used."""

    n: int | None = None
    seed: int = 0
    on_bad_row: str = "stop"
    links: str = "follow"


@dataclass
class SplitSettings:
    """Shares of pictures: `test`, and `val` of the `blocks` that the others are cut into, see mllm_probe.tasks.folds.

    `unit` picture keeps a picture on one side, `near_duplicates` together with those that look the same; unit row does
    not, and leaks. `file` is a CSV of picture,split that takes the place of the shares.
    """

    test: float = 0.25
    val: float = 0.2
    blocks: int = 10
    unit: str = "picture"
    near_duplicates: bool = True
    file: str | None = None


@dataclass
class ExtractSettings:
    """What is read, and how the work is cut up.

    `positions` are where a prompt is read; states are stored in `dtype`, null = the model's own. `micro_batch` prompts
    go through the model at once, or as many tokens where `prefix` auto lets the statements about a picture share it;
    null = what suits the device. `workers` threads prepare pictures ahead. This process is number `shard` of
    `num_shards`; `gpus` starts as many processes here. Processes that need the same share the shards out; one that
    finds only shards that others fill waits for `wait_s` seconds. `answers` are words for the labels, by
    their names ({yes: Yes, no: No}; a list where it is plain which is meant), whose log-odds are the model's own answer
    (null: it has none). Prompts of a batch are padded on `padding_side`. More than `max_disk_gb` is refused.
    """

    positions: list[str] = field(default_factory=lambda: ["last"])
    answers: Any = None
    micro_batch: int | None = None
    dtype: str | None = None
    padding_side: str = "right"
    prefix: str = "auto"
    workers: int = 2
    shard: int = 0
    num_shards: int = 1
    gpus: int = 1
    wait_s: float = 120.0
    max_disk_gb: float = 100.0


@dataclass
class SweepSettings:
    """`seeds` redraw train and validation; `draws` of the bootstrap give intervals of width `ci_level`; tests and what
    may be the best stand at 0.05 whatever it is.

    `metric` is the measure that selects layers, is tested and is shown. auto: R squared of numbers; balanced accuracy
    where the commonest training label holds more than 1/C + 0.1 of the rows (of two labels 60 %), else accuracy.
    `analyses` cost further fits. `permutations` of the held-out labels test the whole sweep at once; layers count as
    alike when they differ by less than `margin` (0.01 = one point). `baseline` is the key that v_information is given
    beside each layer; `enough_bits` a decision is the loss at which mdl counts a label as learnt. Features of more than
    `max_memory_gb` are read from the cache for every product.
    """

    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    draws: int = 2000
    ci_level: float = 0.95
    metric: str = "auto"
    analyses: list[str] = field(default_factory=list)
    permutations: int = 10_000
    margin: float = 0.01
    baseline: str = "connector@mean_image"
    enough_bits: float = 0.5
    max_memory_gb: float = 4.0


@dataclass
class GeometrySettings:
    """Which `measures` layers are compared by, see mllm_probe.geometry. Rows: a prompt each of `max_rows` pictures.

    `across` lists pairs of positions whose layers are compared with each other too. Values are clipped to `clip`
    standard deviations (null = off), mutual_knn counts `k` neighbours, svcca keeps at most `components` (null = all),
    and `permutations` shuffles of the rows give the null. `seed` draws rows and shuffles.
    """

    measures: list[str] = field(
        default_factory=lambda: ["cka", "svcca", "rsa", "mutual_knn", "transfer", "intrinsic_dimension", "entropy"]
    )
    across: list[list[str]] = field(default_factory=list)
    max_rows: int = 2000
    k: int = 10
    clip: float | None = 5.0
    components: int | None = 100
    permutations: int = 100
    seed: int = 0


@dataclass
class FidelitySettings:
    """What a model is held against: with `reference` unquantized the same one, not quantised, in `dtype` (null =
    model.dtype); with base the same one, quantised alike, without its adapter.
    CKA is taken of one prompt a picture, of at most `max_rows` drawn by `seed`, after `clip` as in GeometrySettings.
    """

    reference: str = "unquantized"
    dtype: str | None = None
    max_rows: int = 2000
    clip: float | None = 5.0
    seed: int = 0


@dataclass
class TrainSettings:
    """`steps` of `batch` examples each (steps null = `epochs` over all), `micro_batch` at a time.

    AdamW with `weight_decay` and `beta2`, gradients clipped to norm `clip` (null = not), the rate rising to `lr` over
    the share `warmup` of all steps, then falling as half a cosine to 0. The state is kept every `save_every` steps.
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


@dataclass
class CacheSettings:
    """What is believed of a file that was hashed before: all where its size, times and inode are the same with `trust`
    stat; where stretches of it are, too, with sample; nothing with content, which reads checkpoints and pictures whole.
    """

    trust: str = "sample"


@dataclass
class PathSettings:
    """`outputs` is the folder that everything is written below."""

    outputs: str = "outputs"
