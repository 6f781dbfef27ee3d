"""Erasure: every site with its eraser, and the random ones behind it."""

import numpy as np
import pytest

from mllm_probe.errors import ConfigError
from mllm_probe.interventions.erasure import Erasure
from mllm_probe.probes.directions import Erasers
from mllm_probe.probes.leace import Eraser
from mllm_probe.records.interventions import ERASE
from mllm_probe.records.sites import Anatomy, Site

ANATOMY = Anatomy({"vision": 3, "lm": 4}, {"vision": 4, "connector": 8, "lm": 3}, True, 99, {"lm": ("mlp",)})


def eraser(number: float) -> Eraser:
    return Eraser(np.full(3, number), np.eye(3)[:1], np.eye(3)[:1])


def test_every_site_has_its_eraser_and_the_random_ones() -> None:
    sites = (Site("lm", 2), Site("lm", 2, "mlp"), Site("lm", 4, "norm"))
    given = {site: Erasers(eraser(i), (eraser(i + 0.1), eraser(i + 0.2))) for i, site in enumerate(sites)}
    given[Site("lm", 0)] = Erasers(eraser(9), ())  # all states are equal there
    found = list(Erasure(span="statement").conditions(ANATOMY, given))
    assert [(c.site, c.control, c.draw, change.payload.mean[0]) for c, change in found] == [
        *(("lm.02", "", 0, 0.0), ("lm.02", "random", 1, 0.1), ("lm.02", "random", 2, 0.2)),
        *(("lm.02.mlp", "", 0, 1.0), ("lm.02.mlp", "random", 1, 1.1), ("lm.02.mlp", "random", 2, 1.2)),
    ]
    for condition, change in found:
        assert (change.kind, change.span, str(change.site)) == (ERASE, "statement", condition.site)
        assert (condition.kind, condition.what, condition.depth) == ("erasure", "statement", 0.5)


def test_wrong_settings_are_refused() -> None:
    assert Erasure().position == "last" and Erasure(span="statement").position == "tokens:text"
    with pytest.raises(ConfigError, match="intervention.span=behind is unknown; choose one of: last, statement"):
        Erasure(span="behind")
    with pytest.raises(ConfigError, match="intervention.random_draws=0 must be 1 or more"):
        Erasure(random_draws=0)
