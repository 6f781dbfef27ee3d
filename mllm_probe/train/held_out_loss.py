"""How well a training did on the pictures that it has not seen."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from mllm_probe.stats.bootstrap import Resamples, interval
from mllm_probe.train.material import HeldOut

DRAWS, LEVEL = 2000, 0.95
KNOWN = {one.name for one in fields(HeldOut)}


def judged(rows: Sequence[HeldOut]) -> dict[str, Any]:
    """Nats a token over the test pictures, with an interval over pictures, and what else there is on average."""
    nats, tokens = np.asarray([row.loss for row in rows]), np.asarray([float(row.tokens) for row in rows])
    draws = Resamples(np.asarray([row.picture for row in rows]), DRAWS)
    low, high = interval((draws.ratios(nats[:, None]) / draws.ratios(tokens[:, None]))[:, 0], draws.size, LEVEL)
    more = {name: float(np.mean([vars(row)[name] for row in rows])) for name in vars(rows[0]) if name not in KNOWN}
    return {"held_out": nats.sum() / tokens.sum(), "low": float(low), "high": float(high), **more, "rows": len(rows)}
