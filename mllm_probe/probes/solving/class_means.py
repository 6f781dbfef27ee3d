"""Means and spread of the two classes of binary problems, for probes that compare them. Fits nothing.

Letters in shapes: P problems, D width, n rows in use.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mllm_probe.probes.solving.standardised import Features
from mllm_probe.records.problems import Problem


@dataclass(frozen=True)
class Contrast:
    """Of the training rows of P problems, in raw units and float64, each [P, D] unless said.

    `mean` and `scale` of all (`scale` is infinite where a column is constant), `delta` = the mean of label 1 less that
    of label 0 (0 in a constant column), `middle` = halfway between these means, `within` = the variance inside the
    classes, weighted by their shares; `share` [P] is that of label 1.
    """

    mean: torch.Tensor
    scale: torch.Tensor
    delta: torch.Tensor
    middle: torch.Tensor
    within: torch.Tensor
    share: torch.Tensor

    @classmethod
    def of(cls, features: Features, problems: Sequence[Problem]) -> "Contrast":
        """One pass over the rows for all problems."""
        train = np.stack([p.train for p in problems])
        one = train & np.stack([p.y > 0 for p in problems])
        splits = torch.from_numpy(np.concatenate([train, one, train & ~one])[:, features.used]).to(features.device)
        means, scales = (part.reshape(3, len(problems), -1) for part in features.splits(splits))
        counts = splits.double().sum(1).reshape(3, -1)
        share = counts[1] / counts[0]
        spread = scales.nan_to_num(posinf=0.0).square()
        delta = torch.where(scales[0].isinf(), 0.0, means[1] - means[2])
        within = share[:, None] * spread[1] + (1 - share)[:, None] * spread[2]
        return cls(means[0], scales[0], delta, (means[1] + means[2]) / 2, within, share)
