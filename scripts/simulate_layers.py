"""Does the set of layers that may be the best hold the best one, and how often is noise above chance?

    python scripts/simulate_layers.py                # 400 samples a row, 1,000 null sweeps: 15 minutes
    python scripts/simulate_layers.py --samples 20   # half a minute

A sample has 33 layers, each the mean of three seeds. A layer is right where its skill, what picture and decision
are worth to all layers, and its own luck add up to more than 0; the luck of a layer goes on in the next one (0.9) or is
its own (0). Null sweeps: votes as above on two true and two false statements a picture, labels drawn apart from them.
Prints tables in Markdown. Letters: N decisions.
"""

import argparse
from itertools import product

import numpy as np
from scipy.stats import norm

from mllm_probe.stats.bootstrap import Resamples
from mllm_probe.stats.peak import contenders
from mllm_probe.stats.permutation import max_t

LAYERS, BEST = 33, 20
DEPTH = np.arange(LAYERS)
FALL = np.where(DEPTH <= BEST, 0.01 * (BEST - DEPTH), 0.004 * (DEPTH - BEST))
CURVES = {
    "all at 0.8": np.full(LAYERS, 0.8),
    "all at 0.97": np.full(LAYERS, 0.97),
    "from 0.65 to 0.85 and back to 0.8": 0.85 - FALL,
    "17 layers at 0.8, 16 at 0.75": np.where(DEPTH < 16, 0.75, 0.8),
}


def sample(
    truth: np.ndarray, pictures: int, decisions: int, passed_on: float, rng: np.random.Generator, seeds: int = 3
) -> np.ndarray:
    """Shares of seeds that are right [33, N]."""
    n = pictures * decisions
    common = (np.repeat(rng.normal(size=pictures), decisions) + rng.normal(size=n)) / 2
    luck = [rng.normal(size=n)]
    for _ in range(LAYERS - 1):
        luck.append(passed_on * luck[-1] + np.sqrt(1 - passed_on**2) * rng.normal(size=n))
    skill = norm.ppf(truth)[:, None] + common + np.sqrt(0.45) * np.stack(luck)
    return np.mean([skill + np.sqrt(0.05) * rng.normal(size=skill.shape) > 0 for _ in range(seeds)], axis=0)


def held(curve: str, pictures: int, decisions: int, passed_on: float, samples: int) -> tuple[float, float]:
    """Share of samples whose set holds a best layer, each of them counted alike, and the mean size of the set."""
    truth, draws = CURVES[curve], Resamples(np.repeat(np.arange(pictures), decisions), 1000)
    best = np.flatnonzero(truth == truth.max())
    found, size = [], []
    for i in range(samples):
        rng = np.random.default_rng([i, pictures, decisions])
        layers = contenders(sample(truth, pictures, decisions, passed_on, rng), draws).layers
        found.append(np.isin(best, layers).mean())
        size.append(len(layers))
    return float(np.mean(found)), float(np.mean(size))


def alarms(pictures: int, sweeps: int) -> int:
    """Null sweeps in which some layer is above chance at 0.05."""
    groups, order, count = np.repeat(np.arange(pictures), 4), np.arange(4 * pictures), 0
    for i in range(sweeps):
        rng = np.random.default_rng([i, pictures])
        yes = sample(np.full(LAYERS, 0.5), pictures, 4, 0.9, rng)
        y = rng.permuted(np.tile([0, 0, 1, 1], (pictures, 1)), axis=1).ravel()
        found = max_t(np.stack([1 - yes, yes], axis=-1), y, groups, order, permutations=499, seed=i)
        count += found.p_adjusted.min() <= 0.05
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description="Coverage of the best-layer set, and alarms of null sweeps.")
    parser.add_argument("--samples", type=int, default=400, help="samples a row (default: %(default)s)")
    given = parser.parse_args()
    print("| curve | pictures | decisions each | luck passed on | holds the best | size |", "|" + "---|" * 6, sep="\n")
    for curve, pictures, decisions, passed_on in product(CURVES, (10, 20, 60), (1, 4), (0.9, 0.0)):
        share, size = held(curve, pictures, decisions, passed_on, given.samples)
        print(f"| {curve} | {pictures} | {decisions} | {passed_on} | {share:.3f} | {size:.1f} |", flush=True)
    for pictures in (10, 20, 60):
        sweeps = round(2.5 * given.samples)
        print(f"null sweeps with an alarm, {pictures} pictures: {alarms(pictures, sweeps)} of {sweeps}", flush=True)


if __name__ == "__main__":
    main()
