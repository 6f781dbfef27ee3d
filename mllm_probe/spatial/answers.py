"""What a probe says of tokens, for all that is asked of the same rows. Knows no label."""

from collections.abc import Sequence
from itertools import islice

import numpy as np

from mllm_probe.probes.solving.linear import logits_of
from mllm_probe.records.problems import LayerData, Problem
from mllm_probe.records.protocols import Probe


def answers(probe: Probe, data: LayerData, *asked: Sequence[Problem]) -> list[list[np.ndarray]]:
    """Logits [T, C] of all rows for each problem; all are fitted in one call, so that they share the work. Raises
    ProbeError."""
    logits = iter(logits_of(probe.fit(data, [problem for some in asked for problem in some]), data))
    return [[found.reshape(len(data), -1) for found in islice(logits, len(some))] for some in asked]
