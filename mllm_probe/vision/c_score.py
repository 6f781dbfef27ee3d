"""The C score: can a keypoint of one picture be found in another by its patch feature alone? (PCK)

Yang et al. (arXiv 2408.16357, section 3), whose released code follows Zhang et al. 2024 (GeoAware-SC): nothing is
trained, no mask and no flip is used. Everything happens in a square of CANVAS pixels a side, cut into P x P patches;
points are x and y in its pixels. Letters: K keypoints, P patches a side, D width, G pictures, R draws.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from mllm_probe.data.spair import Pair
from mllm_probe.errors import ConfigError, DataError, choices
from mllm_probe.stats.bootstrap import Resamples
from mllm_probe.stats.intervals import ENOUGH, SHOWN, Interval, of_drawn_share
from mllm_probe.vision.frames import Frame

CANVAS = 840  # pixels, as in the released code
WINDOW = 5  # patches on each side of the best one
TEMPERATURE = 0.02
STEP = 200  # draws at a time: 12,234 pairs then take 20 MB a side
OVER = PER_IMAGE, PER_KEYPOINT = "image", "keypoint"

Match = Callable[[np.ndarray], np.ndarray]


def hard_argmax(rows: np.ndarray) -> np.ndarray:
    """Similarities [K, P * P] of keypoints to all target patches -> the best patch [K, 2], column and row."""
    best = rows.argmax(axis=1)
    side = _side(rows)
    return np.stack([best % side, best // side], axis=1).astype(np.float64)


def soft_argmax(rows: np.ndarray, window: int = WINDOW, keeps_zeros: bool = False) -> np.ndarray:
    """The same as the mean over a softmax of the patches around the best one, [K, 2] float64.

    Patches more than `window` columns or rows away have no weight. `keeps_zeros` multiplies their similarities by zero
    instead, as the released code does: then each still weighs exp(0), which draws the point to the middle.
    """
    side = _side(rows)
    columns, lines = np.arange(side * side) % side, np.arange(side * side) // side
    best = hard_argmax(rows)
    near = np.abs(columns - best[:, :1]) <= window
    near &= np.abs(lines - best[:, 1:]) <= window
    kept = np.where(near, rows, 0.0 if keeps_zeros else -np.inf) / TEMPERATURE
    weights = np.exp(kept - kept.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights @ np.stack([columns, lines], axis=1)


def _side(rows: np.ndarray) -> int:
    return round(rows.shape[1] ** 0.5)


MATCHES: dict[str, Match] = {
    "soft": soft_argmax,
    "compat": partial(soft_argmax, keeps_zeros=True),
    "hard": hard_argmax,
}


def matcher(name: str) -> Match:
    """Raises ConfigError."""
    if name not in MATCHES:
        raise ConfigError(f"score.match={name} is unknown; {choices(name, MATCHES)}")
    return MATCHES[name]


def patch_of(points: np.ndarray, side: int) -> np.ndarray:
    """Points [K, 2] in the canvas -> the patches they lie in [K], counted row by row."""
    column, row = np.minimum(np.floor(points * side / CANVAS), side - 1).astype(int).T
    return side * row + column


def pixel_of(patches: np.ndarray, side: int) -> np.ndarray:
    """Columns and rows [K, 2], whole or not -> the middle of such a patch in the canvas [K, 2]."""
    return patches * (CANVAS / side) + CANVAS / side // 2


@dataclass(frozen=True)
class Matched:
    """One pair's keypoints found again: how far off each is [K], in pixels of the canvas, and the pair's `extent`."""

    pair: Pair
    errors: np.ndarray
    extent: float

    def correct(self, alpha: float) -> np.ndarray:
        """[K] bool; an error equal to the threshold is wrong."""
        return self.errors < alpha * self.extent


def find_keypoints(source: np.ndarray, target: np.ndarray, pair: Pair, match: Match) -> Matched:
    """Patch features [P * P, D] of both pictures, row by row -> where the source's keypoints are found in the target.

    Raises DataError where the pictures have other numbers of patches.
    """
    if source.shape != target.shape or _side(source.T) ** 2 != len(source):
        raise DataError(
            f"pair {pair.name}: features {source.shape} and {target.shape} are not two equal grids of patches"
        )
    frames = Frame(pair.source.size, CANVAS), Frame(pair.target.size, CANVAS)
    side = _side(source.T)
    asked = unit(source)[patch_of(frames[0].points(pair.source.points), side)]
    found = pixel_of(match(asked @ unit(target).T), side)
    errors = np.linalg.norm(found - frames[1].points(pair.target.points), axis=1)
    return Matched(pair, errors, pair.extent * frames[1].scale)


def unit(features: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-10)


def pck(found: Sequence[Matched], alpha: float, over: str = PER_IMAGE) -> float:
    """The share of correct keypoints at `alpha`: the mean over pairs of each one's share (per image, the C score), or
    over all keypoints alike."""
    shares, weights = _shares(found, alpha, over)
    return float(shares @ weights / weights.sum())


def pck_draws(found: Sequence[Matched], alpha: float, over: str, draws: int, seed: int) -> np.ndarray:
    """The same where pictures are drawn with replacement, [R]: a pair counts as often as both of its pictures together
    (Owen 2007, the pigeonhole bootstrap), since pairs that share a picture are not independent. nan where no pair was
    drawn."""
    shares, weights = _shares(found, alpha, over)
    resamples = Resamples(_sides(found).ravel(), draws, seed)
    member, counts = resamples.member.reshape(-1, 2), resamples.counts
    summed = []
    for start in range(0, draws, STEP):
        one, other = (counts[side, start : start + STEP] for side in member.T)
        summed.append(np.stack([shares * weights, weights]) @ (one * other))
    correct, total = np.concatenate(summed, axis=1)
    return np.divide(correct, total, out=np.full(draws, np.nan), where=total > 0)


def pck_interval(
    found: Sequence[Matched], alpha: float, over: str, draws: int, seed: int, level: float = 0.95
) -> Interval:
    """That of `pck`, from the variance of its draws; where fewer than 4 in 10 pictures, and fewer than 10, hold an
    error (or a correct keypoint), the keypoints are worth no more decisions than there are pictures or pairs."""
    shares, weights = _shares(found, alpha, over)
    sides = _sides(found)
    pictures, drawn = len(np.unique(sides)), pck_draws(found, alpha, over, draws, seed)
    held = min(len(np.unique(sides[kind])) for kind in (shares < 1, shares > 0))
    few = held < min(ENOUGH, SHOWN * pictures) or not np.nanvar(drawn) > 0
    most = min(pictures, len(found)) if few else None
    return of_drawn_share(pck(found, alpha, over), drawn, pictures, weights.sum(), most, level)


def _sides(found: Sequence[Matched]) -> np.ndarray:
    """The two pictures of each pair [.., 2]."""
    return np.asarray([[str(side.path) for side in (one.pair.source, one.pair.target)] for one in found])


def _shares(found: Sequence[Matched], alpha: float, over: str) -> tuple[np.ndarray, np.ndarray]:
    """Of each pair the share of correct keypoints, and what it weighs."""
    shares = np.asarray([one.correct(alpha).mean() for one in found])
    weights = np.asarray([len(one.errors) if over == PER_KEYPOINT else 1 for one in found], dtype=np.float64)
    return shares, weights
