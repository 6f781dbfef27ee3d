"""How many bits of the label a probe reads, over what a baseline reads already. Knows logits and labels, not layers.

Usable information (Xu et al. 2020) is the fall in a probe's cross-entropy. Its conditional form (Hewitt et al. 2021)
compares a probe on the baseline B alone with one on B and R together; per item it is the pointwise information of
Ethayarajh et al. 2022. Both probes must be of one family and judged on rows that neither was fitted on.
Letters: S seeds, N rows, C classes.
"""

from dataclasses import dataclass

import numpy as np

from mllm_probe.errors import ProbeError
from mllm_probe.stats.bootstrap import Resamples
from mllm_probe.stats.intervals import of_rows
from mllm_probe.stats.measures import rows_of
from mllm_probe.stats.sums import terms


@dataclass(frozen=True)
class Information:
    """Mean bits a row with its interval over pictures, and the pointwise bits of each row [N]."""

    bits: float
    low: float
    high: float
    pointwise: np.ndarray


def surprisal(logits: np.ndarray, y: np.ndarray, kind: str = "binary") -> np.ndarray:
    """-log2 p(y) of each row, in bits [N]: binary logits [N] or class logits [N, C]. Raises ProbeError as `measure`."""
    logits, y, _ = rows_of("nll", logits, y, kind)
    return terms("nll", kind, logits, y)[:, 0] / np.log(2)


def information(
    baseline: np.ndarray, joint: np.ndarray, y: np.ndarray, draws: Resamples, kind: str = "binary", level: float = 0.95
) -> Information:
    """I_V(R -> Y | B) = mean of log2 p(y | B, R) - log2 p(y | B), averaged over seeds; may be below 0 by overfitting.

    baseline, joint: logits [S, N] or [S, N, C] of held-out rows in the row order of `draws`; y [N]. With a baseline
    that sees nothing (the log-odds of the training labels) this is I_V(R -> Y). Raises ProbeError.
    """
    if len(y) != len(draws.member):
        raise ProbeError(f"{len(y)} labels do not fit the {len(draws.member)} rows of the draws")
    before, after = (np.mean([surprisal(one, y, kind) for one in logits], axis=0) for logits in (baseline, joint))
    pointwise = before - after
    between = of_rows(pointwise, draws, level)
    return Information(float(pointwise.mean()), between.low, between.high, pointwise)
