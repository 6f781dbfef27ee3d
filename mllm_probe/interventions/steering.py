"""Steering: states are moved along a direction by which a label can be read. Knows no model; directions are given.

h' = h + a s u with |u| = 1 and s the root mean square norm of the training states at that site (Marks and Tegmark
2023, arXiv 2310.06824; Li et al. 2023, arXiv 2306.03341). How much d changes with a, at a = 0, is s u . dd/dh, so one
backward pass a statement gives it for all directions, those of the null among them; some are run in full beside it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mllm_probe.errors import ConfigError, choices
from mllm_probe.interventions.conditions import READ_AT, at_site, changeable, check_read, check_sites
from mllm_probe.interventions.kinds import Sweepable
from mllm_probe.records.interventions import ADD, Condition, Intervention
from mllm_probe.records.sites import Anatomy, Site
from mllm_probe.results.effects import Sweep

if TYPE_CHECKING:
    import numpy as np

    from mllm_probe.interventions.workbench import Measuring
    from mllm_probe.probes.directions import Directions

UNITS = CLASS_MEAN, PATTERN, WEIGHTS, LEACE = "class_mean", "pattern", "weights", "leace"
CONTROL = "control_task"
LARGEST = {"float16": 65504.0, "bfloat16": 3.3895e38, "float32": 3.4028e38}


@dataclass(frozen=True)
class Steering(Sweepable):
    """`directions`: class_mean is the difference of the classes' means, weights those of the logistic probe, pattern
    what the states do as its logit rises (Haufe et al. 2014), leace what LEACE reads to erase the label.

    States at the tokens of `span` move by each of `strengths` times the norm of the training states. The slope of the
    answer is taken for all directions and for the null, `random_draws` random ones of the covariance of states of one
    label; those of `in_full` (null = all, and control_task, the control task's class_mean) are also run at every
    strength.
    """

    directions: Sequence[str] = UNITS
    strengths: Sequence[float] = (-1.0, -0.5, -0.25, -0.125, 0.0, 0.125, 0.25, 0.5, 1.0)
    span: str = "last"
    random_draws: int = 100
    in_full: Sequence[str] | None = None
    name: ClassVar[str] = "steering"

    def __post_init__(self) -> None:
        check_read(self.span)
        for direction in self.directions:
            if direction not in UNITS:
                raise ConfigError(
                    f"intervention.directions names '{direction}', which is unknown; {choices(direction, UNITS)}"
                )
        if not self.directions:
            raise ConfigError("intervention.directions is empty, so nothing would be steered; name at least one")
        for direction in self.in_full or ():
            if direction not in (allowed := (*self.directions, CONTROL)):
                raise ConfigError(
                    f"intervention.in_full names '{direction}', which is no direction here; "
                    f"{choices(direction, allowed)}"
                )
        if not self.strengths or not all(map(math.isfinite, self.strengths)):
            raise ConfigError(f"intervention.strengths={list(self.strengths)} must hold finite numbers")
        if self.random_draws < 19:
            raise ConfigError(
                f"intervention.random_draws={self.random_draws} must be 19 or more: fewer give no p of 0.05"
            )

    @property
    def spans(self) -> tuple[str, ...]:
        return (self.span,)

    @property
    def position(self) -> str:
        """Where the rows are read that directions are made of."""
        return READ_AT[self.span]

    def slopes(
        self, anatomy: Anatomy, directions: Mapping[Site, "Directions"]
    ) -> Iterator[tuple[Condition, Site, "np.ndarray"]]:
        """What is taken from gradients: a condition, its site, and s u [D] float64, whose product with dd/dh is the
        change of d per unit of strength. A site that has no such direction is left out. Raises ConfigError."""
        check_sites(list(directions), anatomy)
        for site in changeable(directions):
            found = directions[site]
            for name in self.directions:
                if name in found.units:
                    yield at_site(self.name, name, site, anatomy), site, found.scale * found.units[name]
            if found.control is not None:
                yield (
                    at_site(self.name, CLASS_MEAN, site, anatomy, control=CONTROL),
                    site,
                    found.scale * found.control,
                )
            for draw, unit in enumerate(found.random, 1):
                yield at_site(self.name, "random", site, anatomy, control="random", draw=draw), site, found.scale * unit

    def conditions(
        self, anatomy: Anatomy, directions: Mapping[Site, "Directions"], dtype: str
    ) -> Iterator[tuple[Condition, Intervention]]:
        """What is run in full: every direction of `in_full` at every site and strength. Raises ConfigError, also for
        strengths that overflow the model's dtype."""
        import torch

        check_sites(list(directions), anatomy)
        self.check_overflow(directions, dtype)
        for site in changeable(directions):
            found = directions[site]
            units = {**found.units, **({CONTROL: found.control} if found.control is not None else {})}
            for name in (*self.directions, CONTROL) if self.in_full is None else self.in_full:
                if name not in units:
                    continue
                more = {"control": CONTROL} if name == CONTROL else {}
                what = CLASS_MEAN if name == CONTROL else name
                step = torch.from_numpy(found.scale * units[name])
                for strength in self.strengths:
                    condition = at_site(self.name, what, site, anatomy, strength=strength, **more)
                    yield condition, Intervention(ADD, self.span, site, payload=(strength * step).float())

    def check_overflow(self, directions: Mapping[Site, "Directions"], dtype: str) -> None:
        """Raises ConfigError where a moved state could leave the range of the model's dtype."""
        most = max(map(abs, self.strengths))
        for site in changeable(directions):
            if (most + 1) * directions[site].scale > LARGEST[dtype]:
                raise ConfigError(
                    f"intervention.strengths holds {most:g}, which times the norm {directions[site].scale:.3g} of "
                    f"states at {site} overflows {dtype}; take weaker ones, or model.dtype=float32"
                )

    def measured(self, own: "Measuring") -> tuple[Sweep, dict[str, Any]]:
        """Of all prompts: slopes along all directions, and what is run in full."""
        made, anatomy = own.directions(self.position, self.random_draws), own.experiment.anatomy
        both = list(self.conditions(anatomy, made, own.experiment.model.dtype))
        along = list(self.slopes(anatomy, made))
        own.tell(own.tested.samples, both)
        slopes = own.slopes(own.tested.samples, along, self.span)
        found = own.changed(own.tested.samples, both)
        return own.sweep(both, found, slopes), {"prompts": len(found.uids)}
