"""Groups of pairs: pairs that share a picture, or are joined by others that do, are one group. Knows names only."""

import numpy as np

from mllm_probe.errors import ProbeError


def linked(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The pictures of pairs [N], [N] -> the group of each pair [N], named after its picture that sorts first.

    Pictures are joined by pairs, and all that is joined is one group, so that no picture is in two of them and groups
    may be resampled. Raises ProbeError for shapes.
    """
    if np.shape(first) != np.shape(second) or np.ndim(first) != 1:
        raise ProbeError(f"pictures of shapes {np.shape(first)} and {np.shape(second)} must be two of each of N pairs")
    over: dict[str, str] = {}

    def top(name: str) -> str:
        while over.setdefault(name, name) != name:
            over[name] = over[over[name]]
            name = over[name]
        return name

    for one, other in zip(map(str, first), map(str, second), strict=True):
        low, high = sorted((top(one), top(other)))
        over[high] = low
    return np.asarray([top(str(one)) for one in first])
