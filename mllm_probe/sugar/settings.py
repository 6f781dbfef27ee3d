"""Settings of Sugar's tuning, and the arms that are compared; docs/sugar.md compares it with the paper."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from mllm_probe.config.tune import AVERAGE, LabelSettings
from mllm_probe.errors import ConfigError, choices
from mllm_probe.models.interleaved import LAST, MEAN, READOUTS
from mllm_probe.models.loading.adapters import need_peft

HEADS = MLP, LINEAR = "mlp", "linear"
ARMS: Mapping[str, Mapping[str, Any]] = {  # the settings of the target that each sets
    "lg_ld": {},
    "lg": {"structured": False},
    "ld": {"lm_weight": 0.0},
    "permuted": {"permuted": True},
    "average": {},
    "joint_only": {},
    "last_token": {"image_readout": LAST},
}
LABELLED: Mapping[str, Mapping[str, Any]] = {"average": {"kernel": AVERAGE}, "joint_only": {"joint_only": True}}


@dataclass(frozen=True)
class SugarSettings:
    """`arm` names a variant, see ARMS: without L_d (lg), without L_g (ld), with the labels of other prefixes
    (permuted), of slices on average (average), of one encoder (joint_only), with the last token for a picture.

    `documents` of up to `pictures` pictures are drawn by `seed`, and `held_out` ones from the test pictures; a step
    takes `ends` slice ends of each. `image_readout`: a picture ends with the mean of its tokens, or with the last.
    `head` mlp is hidden -> hidden -> `width` with GELU. `rank`, `lora_alpha` and `dropout` are LoRA's; `modules` are
    trained instead of W_q and W_v. Raises ConfigError, ModelError.
    """

    arm: str = "lg_ld"
    alpha: float = 1.0
    lm_weight: float = 1.0
    documents: int = 2000
    held_out: int = 200
    pictures: int = 2
    seed: int = 0
    ends: int = 3
    image_readout: str = MEAN
    head: str = MLP
    width: int = 1024
    rank: int = 128
    lora_alpha: int = 256
    dropout: float = 0.0
    modules: Sequence[str] | None = None
    structured: bool = True
    permuted: bool = False
    labels: LabelSettings = field(default_factory=LabelSettings)

    def __post_init__(self) -> None:
        for name, allowed in (("arm", ARMS), ("image_readout", READOUTS), ("head", HEADS)):
            if (value := getattr(self, name)) not in allowed:
                raise ConfigError(f"target.{name}={value} is unknown; {choices(value, allowed)}")
        for name in ("documents", "held_out", "pictures", "ends", "width", "rank", "lora_alpha"):
            if (count := getattr(self, name)) < 1:
                raise ConfigError(f"target.{name}={count} must be 1 or more")
        for name in ("alpha", "lm_weight"):
            if not (weight := getattr(self, name)) >= 0:
                raise ConfigError(f"target.{name}={weight} must be 0 or more, because it weighs a loss")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"target.dropout={self.dropout} must be at least 0 and below 1")
        if not self.lm_weight and not self.alpha:
            raise ConfigError("target.lm_weight=0 and target.alpha=0 leave nothing to learn; raise one of them")
        need_peft()

    @property
    def resolved(self) -> Self:
        """With what the arm sets. Raises ConfigError."""
        labels = replace(self.labels, **LABELLED.get(self.arm, {}))
        return replace(self, labels=labels, **ARMS[self.arm])

    @property
    def linear(self) -> bool:
        return self.head == LINEAR
