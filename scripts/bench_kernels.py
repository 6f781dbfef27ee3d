"""Time the alignment kernel of all pairs of sequences against tslearn, in one run on one thread.

    OMP_NUM_THREADS=1 python scripts/bench_kernels.py

500 sequences of 2 to 8 slices, 64 wide; then of 32 and of 128 slices, fewer of them. tslearn is timed on a share of the
pairs, drawn at random, after it has compiled; both compute normalised kernels, all three with the pair's sigma.
"""

import argparse
import time
import warnings

import numpy as np
import torch

from mllm_probe.sugar.pairwise import Sequences, similarities

warnings.simplefilter("ignore")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=int, default=300, help="pairs that tslearn computes")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for count, low, high in ((500, 2, 8), (100, 32, 32), (24, 128, 128)):
        _row(count, low, high, args)


def _row(count: int, low: int, high: int, args: argparse.Namespace) -> None:
    from tslearn.metrics import gak

    rng = np.random.default_rng(0)
    values, lengths = rng.normal(size=(count, high, 64)), rng.integers(low, high + 1, count)
    sequences = Sequences(torch.from_numpy(values), torch.from_numpy(lengths))
    unit = [v[:n] / np.linalg.norm(v[:n], axis=1, keepdims=True) for v, n in zip(values, lengths, strict=True)]
    pairs = rng.integers(0, count, (args.share, 2))
    sigma = [0.7 * np.sqrt((lengths[i] + lengths[j]) / 2) for i, j in pairs]
    gak(unit[0], unit[1], sigma=1.0)
    ours, theirs = [], []
    for _ in range(args.repeats):
        started = time.perf_counter()
        found = similarities(sequences, 0.7, cosine=False)
        ours.append(time.perf_counter() - started)
        started = time.perf_counter()
        oracle = [gak(unit[i], unit[j], sigma=s) for (i, j), s in zip(pairs, sigma, strict=True)]
        theirs.append((time.perf_counter() - started) / len(pairs) * count * (count + 1) / 2)
    off = max(abs(found[i, j].item() - value) for (i, j), value in zip(pairs.tolist(), oracle, strict=True))
    ratio = np.median(theirs) / np.median(ours)
    print(
        f"{count} sequences of {low} to {high} slices: {np.median(ours):.2f} s, tslearn {np.median(theirs):.1f} s "
        f"({ratio:.1f} x); largest difference {off:.1e}"
    )


if __name__ == "__main__":
    main()
