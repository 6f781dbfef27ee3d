"""The rows of chosen decisions, for probes that see a few decisions at a time. Knows no label.

Letters in shapes: N decisions, B chosen ones, t their rows together, D width.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from mllm_probe.errors import ProbeError
from mllm_probe.probes.solving.standardised import Features
from mllm_probe.records.problems import LayerData, Problem


class States:
    """Rows by decision: on the data's device where all fit `compute.memory`, else read where they are asked for.

    Raises ProbeError for a decision without rows.
    """

    def __init__(self, data: LayerData) -> None:
        total = data.rows.shape[0]
        self._data, self.device = data, data.compute.device
        bounds = np.arange(total + 1) if data.bounds is None else np.asarray(data.bounds)
        self.lengths = np.diff(bounds)
        if bounds[0] != 0 or bounds[-1] != total or (self.lengths < 1).any():
            empty = int((self.lengths < 1).sum())
            raise ProbeError(
                f"{data.name or 'the layer'}: {len(self.lengths)} decisions cut {total} rows into spans "
                f"{bounds[0]} to {bounds[-1]}, {empty} of them empty; every decision needs a row"
            )
        self._starts, self._stops = bounds[:-1], bounds[1:]
        size = total * data.width * data.rows[0:1].element_size()
        self._held = data.rows[0:total].to(self.device) if size <= data.compute.memory else None

    def take(self, decisions: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Their rows [t, D] in storage dtype, one decision after the other, and how many each has [B]."""
        lengths = self.lengths[decisions]
        if self._held is None:
            spans = zip(self._starts[decisions], self._stops[decisions], strict=True)
            rows = torch.cat([self._data.rows[int(start) : int(stop)] for start, stop in spans]).to(self.device)
        else:
            skipped = np.repeat(self._starts[decisions] - np.cumsum(lengths) + lengths, lengths)
            rows = self._held[torch.from_numpy(skipped + np.arange(len(skipped))).to(self.device)]
        return rows, torch.from_numpy(lengths).to(self.device)

    def means(self) -> torch.Tensor:
        """The mean of each decision's rows, [N, D] float64 on the CPU."""
        parts = []
        for decision in range(len(self.lengths)):
            rows, _ = self.take(np.asarray([decision]))
            parts.append(rows.double().mean(0).cpu())
        return torch.stack(parts)

    def moments(self, problems: Sequence[Problem]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Per problem the mean and deviation [D] float64 over its training rows (infinite where constant).

        Raises ProbeError where a value of training or validation is not finite.
        """
        splits, which = np.unique([p.train for p in problems], axis=0, return_inverse=True)
        used = np.any([p.train | p.val for p in problems], axis=0).repeat(self.lengths)
        lean = replace(self._data, compute=replace(self._data.compute, memory=0))
        features = Features(lean, used)
        rows = torch.from_numpy(splits.repeat(self.lengths, axis=1)[:, used])
        mean, scale = features.splits(rows.to(self.device))
        return [(mean[i], scale[i]) for i in which.reshape(-1).tolist()]


def standardised(rows: torch.Tensor, mean: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """(rows - mean) / scale in float32; the difference is taken in the rows' own dtype where that is wider."""
    dtype = torch.promote_types(rows.dtype, torch.float32)
    return ((rows.to(dtype) - mean.to(dtype)) / scale.to(dtype)).float()
