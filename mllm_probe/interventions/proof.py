"""Before the first intervention: do tails give what whole prompts give? Asked of the loaded model, not of its name.

A few statements pass both ways, undisturbed and under an intervention of each kind.
"""

from collections.abc import Sequence

import numpy as np
import torch

from mllm_probe.errors import MllmProbeError, first_line
from mllm_probe.extraction.proof import AT_MOST, COMPANY, ROUNDING
from mllm_probe.records.interventions import ADD, CUT, Intervention
from mllm_probe.records.protocols import Intervenable
from mllm_probe.records.samples import Sample
from mllm_probe.records.sites import Site

REFUSALS = (MllmProbeError, RuntimeError, TypeError, ValueError, IndexError)


def disproved(tails: Intervenable, plain: Intervenable, samples: Sequence[Sample], dtype: str) -> str:
    """Why tails cannot be taken for whole prompts in a model that computes in `dtype`; "" where they can."""
    tried = _of_each_kind(tails)
    try:
        mine = last_states(tails, samples, tried)
    except REFUSALS as error:  # its forward takes no tails alone
        return f"its forward pass refuses tails ({first_line(error)})"
    theirs = last_states(plain, samples, tried)
    alone = torch.cat([last_states(plain, [sample], [])[0] for sample in samples])
    noise = _off(theirs[0], alone)  # what company in a pass changes by itself
    off, allowed = _off(mine, theirs), max(ROUNDING[dtype], min(COMPANY * noise, AT_MOST))
    return "" if off <= allowed else f"states of tails are {off:.1e} off, {allowed:.1e} is allowed"


def _off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest relative difference of a row."""
    return float(((found - wanted).norm(dim=-1) / wanted.norm(dim=-1)).max())


def _of_each_kind(tails: Intervenable) -> list[Intervention]:
    """A cut in the lower half, one drawn at random, and a push at the middle."""
    top, width = tails.anatomy.blocks["lm"], tails.anatomy.widths["lm"]
    half = max(1, top // 2)
    return [
        Intervention(CUT, "last", source="image", window=(1, half)),
        Intervention(CUT, "behind", source="image", window=(half, top), payload=0),
        Intervention(ADD, "last", site=Site("lm", half), payload=torch.linspace(-1, 1, width)),
    ]


def last_states(model: Intervenable, samples: Sequence[Sample], interventions: Sequence[Intervention]) -> torch.Tensor:
    """[1 + C, N, D] float32: behind the last block at the last tokens, first without intervention."""
    found: torch.Tensor | None = None
    for one in model.passes(samples, interventions):
        states = one.states.float().cpu()
        if found is None:
            found = states.new_full((1 + len(interventions), len(samples), states.shape[1]), np.nan)
        changed = np.zeros(len(one.rows), np.int64) if one.changed is None else one.changed + 1
        found[changed, one.rows] = states
    assert found is not None
    return found
