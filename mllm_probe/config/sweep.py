"""What a user may set of probes, their controls, measures and analyses."""

from dataclasses import dataclass, field
from typing import Any

from mllm_probe.errors import ConfigError, choices

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


def chosen_controls(given: Any) -> tuple[str, ...]:
    """`all`, `none` or a list, as names. Raises ConfigError."""
    if given in ("all", "none"):
        return CONTROLS if given == "all" else ()
    if not isinstance(given, list):
        raise ConfigError(f"controls={given} must be all, none or a list; {choices(str(given), CONTROLS)}")
    for name in given:
        if name not in CONTROLS:
            raise ConfigError(f"controls names '{name}', which is unknown; {choices(str(name), CONTROLS)}")
    return tuple(name for name in CONTROLS if name in given)


@dataclass
class SweepSettings:
    """`seeds` redraw train and validation; `draws` of the bootstrap give intervals of width `ci_level`; it does not
    change tests and the set that may be the best, which use 0.05.

    `metric` is the measure that selects layers, is tested and is shown. auto: R squared for numbers; balanced accuracy
    if the most frequent training label has more than 1/C + 0.1 of the rows (with two labels 60 %), else accuracy.
    `analyses` need further fits. `permutations` of the held-out labels test the whole sweep at once; layers count as
    equal if they differ by less than `margin` (0.01 = one point). `baseline` is the key that v_information adds each
    layer to; `enough_bits` a decision is the loss at which mdl counts a label as learnt. Features of more than
    `max_memory_gb` are read from the cache for every product. `reuse` takes what an earlier sweep fitted to the same
    rows, labels and splits by the same probe and versions, and keeps what is fitted now.
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
    reuse: bool = True

    def check(self) -> None:
        """Raises ConfigError."""
        for name in self.analyses:
            if name not in ANALYSES:
                raise ConfigError(f"sweep.analyses names '{name}', which is unknown; {choices(name, ANALYSES)}")
        if self.metric not in METRICS:
            raise ConfigError(f"sweep.metric={self.metric} is unknown; {choices(self.metric, METRICS)}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"sweep.seeds={self.seeds} must hold at least one seed, each once")
