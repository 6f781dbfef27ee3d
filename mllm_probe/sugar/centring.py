"""States of one layer made comparable: centred by those of the training split, per modality, then of unit length.

Raw states of one modality share a large common part, so that the cosines of all pairs are alike. Chow et al. 2024 train
a head that brings both modalities together; here the states stay as they are, or a linear map is fitted. Knows neither
files nor models. Letters: N rows, D width, T texts, K components.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mllm_probe.errors import ProbeError

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)


@dataclass(frozen=True)
class Centring:
    """`mean` [D] and the orthonormal `components` [K, D] to be taken out."""

    mean: np.ndarray
    components: np.ndarray

    @classmethod
    def of(cls, train: np.ndarray, remove: int = 0) -> "Centring":
        """Of training rows [N, D] alone; the components are the `remove` largest (Mu and Viswanath 2018).

        Raises ProbeError where there are too few rows to find them.
        """
        if len(train) < 2 or remove >= min(train.shape):
            raise ProbeError(
                f"{len(train)} training rows of width {train.shape[1]} cannot be centred with "
                f"align.remove_components={remove}; take more pictures or remove fewer"
            )
        mean = train.mean(axis=0)
        components = (
            np.linalg.svd(train - mean, full_matrices=False)[2][:remove] if remove else np.empty((0, len(mean)))
        )
        return cls(mean, components)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """[N, D] without the mean and the components."""
        centred = rows - self.mean
        return centred - centred @ self.components.T @ self.components


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows [N, D] of length 1. Raises ProbeError for rows of zeros, which point nowhere."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    if zeros := int((length <= 1e-12 * max(float(length.max()), 1e-300)).sum()):
        raise ProbeError(f"{zeros} of {len(rows)} states are zero once they are centred, and have no direction")
    return rows / length


@dataclass(frozen=True)
class States:
    """One layer's states of pictures [N, D] and of texts [T, D]."""

    pictures: np.ndarray
    texts: np.ndarray


@dataclass(frozen=True)
class Cosines:
    """Between pictures and texts [N, T], and within each kind [N, N] and [T, T]."""

    across: np.ndarray
    pictures: np.ndarray
    texts: np.ndarray

    @classmethod
    def of(cls, states: States) -> "Cosines":
        """Raises ProbeError for states without a direction."""
        pictures, texts = unit(states.pictures), unit(states.texts)
        return cls(pictures @ texts.T, pictures @ pictures.T, texts @ texts.T)


def centred(states: Mapping[str, States], remove: int = 0) -> dict[str, States]:
    """{split: states} by what the split `train` holds, and nothing else. Raises ProbeError."""
    train = states["train"]
    pictures, texts = Centring.of(train.pictures, remove), Centring.of(train.texts, remove)
    return {split: States(pictures(one.pictures), texts(one.texts)) for split, one in states.items()}


def mapped(states: Mapping[str, States], own: Mapping[str, np.ndarray]) -> tuple[dict[str, States], float]:
    """{split: centred states}, the pictures' carried to where their captions are, and the strength of the ridge.

    The linear map is fitted to the training pictures and the means of their captions; `own` {split: [N, T]} holds the
    weights of these means. Of STRENGTHS, shares of the mean variance, validation takes the one that brings pictures
    closest to their captions. Raises ProbeError.
    """
    train = states["train"].pictures
    left, values, right = np.linalg.svd(train, full_matrices=False)
    wanted = left.T @ (own["train"] @ states["train"].texts)
    found = {}
    for strength in STRENGTHS:
        shrunk = values / (values**2 + strength * (values**2).sum() / train.shape[1])
        carried = {
            split: States(one.pictures @ right.T @ (shrunk[:, None] * wanted), one.texts)
            for split, one in states.items()
        }
        found[float((Cosines.of(carried["val"]).across * own["val"]).sum())] = carried, strength
    return found[max(found)]
