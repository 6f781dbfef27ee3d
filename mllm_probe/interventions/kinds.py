"""What a kind of intervention is: a class of this shape in a file of its own, and a YAML in conf/intervention."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from mllm_probe.records.sites import Anatomy

if TYPE_CHECKING:
    from mllm_probe.interventions.workbench import Measuring
    from mllm_probe.results.effects import Sweep


class Sweepable(Protocol):
    """What `intervention` builds: a sweep of conditions. Whoever inherits needs `name`, `spans` and `measured`; the
    `kind` of its conditions says by which metrics they are scored (see mllm_probe.scoring.effect_measures). `cuts`:
    whether edges of attention are cut, so that attention must take a mask of them."""

    name: ClassVar[str]
    cuts: ClassVar[bool] = False

    @property
    def spans(self) -> Sequence[str]:
        """Those that the prompts must have."""
        ...

    @property
    def position(self) -> str | None:
        """Where rows of training pictures are read, of which something is fitted; None where nothing is."""
        return None

    def check(self, anatomy: Anatomy) -> None:
        """Raises ConfigError for what a model lacks; spans and parts of blocks are looked at for all kinds."""

    def measured(self, own: "Measuring") -> "tuple[Sweep, dict[str, Any]]":
        """The sweep, and counts for summary.json. Raises MllmProbeError."""
        ...
