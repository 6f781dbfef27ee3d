"""Erasure: what every linear probe could read of a label is taken out of the states of a site; is it missed?

LEACE (Belrose et al. 2023, arXiv 2306.03819), fitted on training rows, see mllm_probe.probes.leace. Knows no model;
erasers are given.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mllm_probe.errors import ConfigError
from mllm_probe.interventions.conditions import READ_AT, at_site, changeable, check_read, check_sites
from mllm_probe.interventions.kinds import Sweepable
from mllm_probe.records.interventions import ERASE, Condition, Intervention
from mllm_probe.records.sites import Anatomy, Site
from mllm_probe.results.effects import Sweep

if TYPE_CHECKING:
    from mllm_probe.interventions.workbench import Measuring
    from mllm_probe.probes.directions import Erasers


@dataclass(frozen=True)
class Erasure(Sweepable):
    """The label is erased by LEACE from the states at the tokens of `span`, last or statement, after each layer.

    The loss of right answers is compared with that of `random_draws` erasures of equal rank: each takes away one random
    direction whole, drawn from the covariance of training states of one label.
    """

    span: str = "last"
    random_draws: int = 10
    name: ClassVar[str] = "erasure"

    def __post_init__(self) -> None:
        check_read(self.span)
        if self.random_draws < 1:
            raise ConfigError(f"intervention.random_draws={self.random_draws} must be 1 or more")

    @property
    def spans(self) -> tuple[str, ...]:
        return (self.span,)

    @property
    def position(self) -> str:
        """Where the rows are read that erasers are fitted on."""
        return READ_AT[self.span]

    def conditions(
        self, anatomy: Anatomy, erasers: Mapping[Site, "Erasers"]
    ) -> Iterator[tuple[Condition, Intervention]]:
        """The erasure at every site, then its random draws; a site whose states are all equal is left out. Raises
        ConfigError."""
        check_sites(list(erasers), anatomy)
        for site in changeable(erasers):
            each = (erasers[site].label, *erasers[site].random)
            for draw, eraser in enumerate(each if erasers[site].random else ()):
                more = {"control": "random", "draw": draw} if draw else {}
                found = at_site(self.name, self.span, site, anatomy, **more)
                yield found, Intervention(ERASE, self.span, site, payload=eraser)

    def measured(self, own: "Measuring") -> tuple[Sweep, dict[str, Any]]:
        """Of all prompts."""
        both = list(self.conditions(own.experiment.anatomy, own.erasers(self.position, self.random_draws)))
        own.tell(own.tested.samples, both)
        found = own.changed(own.tested.samples, both)
        return own.sweep(both, found), {"prompts": len(found.uids)}
