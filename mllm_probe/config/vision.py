"""What a user may set of the vision commands. Plain dataclasses, as in `model`."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from mllm_probe.config.model import CheckpointSettings, ModelSettings
from mllm_probe.config.run import CacheSettings, DataSettings, PathSettings

VISION_MEASURES = C_PCK, A_LOGLIK, A_COS, CKA, MUTUAL_KNN, LOG_ME, LOG_ME_PUBLISHED, H_SCORE = (
    "c_pck",
    "a_loglik",
    "a_cos",
    "cka",
    "mutual_knn",
    "log_me",
    "log_me_published",
    "h_score",
)


@dataclass
class EncoderSettings(CheckpointSettings):
    """A frozen vision encoder: pictures are `size` pixels a side (null = its training size), and the patch features are
    its state `layer`: 0 = what enters the first block, k = output of block k, negative numbers from the top. The
    blocks of a U-Net are its up blocks. Null is the layer that Yang et al. (arXiv 2408.16357) read: -2 of a vision
    transformer, the first up block (1) of a U-Net, the last block (-1) of a diffusion transformer. A diffusion model
    sees pictures with the noise of `step` of its schedule, 0 the least; other encoders have no steps."""

    size: int | None = None
    layer: int | None = None
    step: int = 1


@dataclass
class PairSettings:
    """Pictures with keypoints, for the C score: none without `root`. `layout` is the layout of the files and `split`
    the split to read; a pair that cannot be used ends the run, or is left out with `on_bad_pair` skip."""

    root: str | None = None
    layout: str = "spair"
    split: str = "test"
    on_bad_pair: str = "stop"


@dataclass
class ScoreSettings:
    """Which `measures` of an encoder are computed (null = all whose data are given except log_me_published), and how;
    see docs/vision.md.

    Pictures are drawn into squares by `geometry` and scaled by `normalisation`; keypoints count as found by `match`
    within `alphas` of the object. `references` are the names in `mllms` that a_cos compares with (null = all except the
    representation itself). cka and mutual_knn (`k` neighbours) read caption states of the language model's layer
    `text_layer`, after `clip` as in GeometrySettings; `permutations` of the captions are their null. `micro_batch`
    pictures or captions pass at once. `draws` of the bootstrap, by `seed`, give intervals of width `ci_level`.
    """

    measures: list[str] | None = None
    geometry: str = "letterbox"
    normalisation: str = "own"
    match: str = "soft"
    alphas: list[float] = field(default_factory=lambda: [0.1, 0.05, 0.01])
    references: list[str] | None = None
    text_layer: int = -2
    clip: float | None = 5.0
    k: int = 10
    permutations: int = 100
    micro_batch: int = 8
    draws: int = 2000
    ci_level: float = 0.95
    seed: int = 0


@dataclass
class FitSettings:
    """Which table of vision representations the law is fitted to, see mllm_probe.vision.encoder_table.

    `table` null = the published one; rows without A or C are left out with `on_bad_row` skip. `representation`, `a` and
    `c` are columns; without a column `a`, each benchmark has its own, `a`_BENCHMARK. `benchmarks` null = all columns
    perf_BENCHMARK; `groups` are averaged. The random baseline is a mean over `draws` by `seed`.
    """

    table: str | None = None
    representation: str = "representation"
    a: str = "a_loglik"
    c: str = "c_pck010"
    benchmarks: list[str] | None = None
    groups: dict[str, list[str]] = field(
        default_factory=lambda: {
            "vision": ["mmbench", "mme", "okvqa", "seed"],
            "ocr": ["mmmu", "textvqa", "vizwiz", "scienceqa"],
        }
    )
    on_bad_row: str = "stop"
    draws: int = 1000
    seed: int = 0


@dataclass
class PolicySettings:
    """How many representations are fully trained, `budget`, and the `shortlist` of the law fitted to them.

    `trained` = those whose performance may be used; null = all that have a value, or, in a table without empty cells,
    none: a dry run. `trials` of the policy, drawn by `seed`, are simulated where all values are known.
    """

    budget: int = 4
    shortlist: int = 3
    trained: list[str] | None = None
    trials: int = 2000
    seed: int = 0


@dataclass
class VisionScoreConfig:
    """`vision score`: `representations` are encoders by name, or several joined by a plus sign (null = each alone).

    `mllms` {representation: folder, bundled name or hub id} are multimodal models whose connectors were trained on it,
    for the A scores; they are loaded with the settings of `model`, whose language model gives the states of the
    captions.
    """

    encoders: dict[str, EncoderSettings] = field(default_factory=dict)
    representations: list[str] | None = None
    mllms: dict[str, str] = field(default_factory=dict)
    model: ModelSettings = field(default_factory=ModelSettings)
    dataset: Any = MISSING
    data: DataSettings = field(default_factory=DataSettings)
    pairs: PairSettings = field(default_factory=PairSettings)
    score: ScoreSettings = field(default_factory=ScoreSettings)
    cache: CacheSettings = field(default_factory=CacheSettings)
    paths: PathSettings = field(default_factory=PathSettings)
    device: str = "auto"
    plugins: list[str] = field(default_factory=list)


@dataclass
class VisionFitConfig:
    """`vision fit`: a table of vision representations."""

    fit: FitSettings = field(default_factory=FitSettings)
    paths: PathSettings = field(default_factory=PathSettings)


@dataclass
class VisionPolicyConfig(VisionFitConfig):
    """`vision policy`: the same table, and how many of its rows are to be trained."""

    policy: PolicySettings = field(default_factory=PolicySettings)
