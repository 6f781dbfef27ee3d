"""Sugar's structure loss (Chow et al. 2024, section 3.3): cosines of a model's vectors against a label matrix.

The paper divides the sum over all pairs of n vectors by n, so its loss grows with n; here it is the mean over pairs of
two different vectors, n - 1 times smaller. Knows no model. n vectors, D width.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mllm_probe.errors import TrainError


def structure_errors(vectors: Tensor, labels: Tensor) -> Tensor:
    """Of each vector [n, D] the mean squared difference of its cosines with the others to its labels [n, n]: [n].

    Their mean is the loss L_d. The labels get no gradient. Raises TrainError for a single vector, and for zeros.
    """
    n = len(vectors)
    if n < 2:
        raise TrainError(f"{n} slice end gives no pair to compare; raise train.batch or target.ends")
    if zeros := int((vectors.detach().norm(dim=1) == 0).sum()):
        raise TrainError(
            f"{zeros} of {n} vectors after the retrieval head are zeros, which have no direction; lower train.lr"
        )
    unit = normalize(vectors, dim=1)
    others = ~torch.eye(n, dtype=torch.bool, device=vectors.device)
    return ((unit @ unit.T - labels.detach().to(unit)) ** 2 * others).sum(dim=1) / (n - 1)


def permuted(labels: Tensor, seed: int) -> Tensor:
    """The same matrix [n, n] about other prefixes: rows and columns in one order that the seed draws."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return labels[order][:, order]


def retrieval_head(hidden: int, width: int, linear: bool, seed: int) -> nn.Module:
    """Hidden states [n, hidden] -> vectors [n, width], float32, drawn by the seed: hidden -> hidden -> width with GELU,
    or one linear layer."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if linear:
            return nn.Linear(hidden, width)
        return nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, width))
