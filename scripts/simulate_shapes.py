"""How often a curve is given a shape that it does not have, and how often the one that it has.

    python scripts/simulate_shapes.py --sims 4000

Row scores of nine layers are drawn with the means of each curve below (normal, a tenth of the variance shared by the
rows of a picture, half of it by neighbouring layers), all layers being above chance; `--decisions` draws right and
wrong answers instead, whose accuracy is 0.55 and 2.5 times the mean. Prints one JSON object of shares.
"""

import argparse
import json
from collections import Counter

import numpy as np
from scipy.stats import norm

from mllm_probe.stats import peak
from mllm_probe.stats.bootstrap import Resamples

LAYERS, PER_PICTURE = np.arange(9), 4
CURVES = {  # means of nine layers, in units of the score; the margin is 0.01
    "flat": 0.0 * LAYERS,
    "rising": 0.02 * LAYERS,
    "peak": -0.02 * np.abs(LAYERS - 4),
    "plateau from 3 to 6": -0.03 * ((LAYERS < 3) | (LAYERS > 6)),
    "as high at the top as inside": -0.03 * ~np.isin(LAYERS, [4, 8]),
    "as high at the bottom as inside": -0.03 * ~np.isin(LAYERS, [0, 4]),
    "as high at the top as one layer below": 0.02 * np.minimum(LAYERS, 7),
    "one layer, its neighbours a margin lower": -0.01 * (LAYERS != 4) - 0.02 * (np.abs(LAYERS - 4) > 1),
    "all layers a margin below one": -0.01 * (LAYERS != 4),
}


def drawn(mean: np.ndarray, pictures: int, decisions: bool, rng: np.random.Generator) -> np.ndarray:
    """Row scores [9, N] with a deviation of 0.05 a row, or decisions."""
    n = pictures * PER_PICTURE
    noise = rng.normal(size=(len(mean), n)) * np.sqrt(0.9) + np.repeat(
        rng.normal(size=(len(mean), pictures)), PER_PICTURE, axis=1
    ) * np.sqrt(0.1)
    for layer in range(1, len(mean)):
        noise[layer] = np.sqrt(0.5) * noise[layer - 1] + np.sqrt(0.5) * noise[layer]
    if decisions:
        return (noise < norm.ppf(0.55 + 2.5 * mean)[:, None]).astype(float)
    return mean[:, None] + 0.05 * noise


def words(mean: np.ndarray, pictures: int, decisions: bool, sims: int) -> dict[str, float]:
    """Share of each word over simulated runs."""
    found: Counter[str] = Counter()
    draws = Resamples(np.repeat(np.arange(pictures), PER_PICTURE), 500)
    for seed in range(sims):
        scores = drawn(mean, pictures, decisions, np.random.default_rng(seed))
        found[peak.shape(scores, draws, np.zeros(len(mean))).verdict] += 1
    return {word: round(count / sims, 4) for word, count in found.most_common()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sims", type=int, default=400)
    parser.add_argument("--pictures", type=int, nargs="+", default=[20, 60, 150])
    parser.add_argument("--curves", nargs="+", choices=CURVES, default=list(CURVES), metavar="CURVE")
    parser.add_argument("--decisions", action="store_true")
    given = parser.parse_args()
    table = {
        name: {n: words(CURVES[name], n, given.decisions, given.sims) for n in given.pictures} for name in given.curves
    }
    print(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
