"""How fast a layer's probes are fitted, against a scikit-learn loop that reaches the same objective.

Every layer has 5 strengths x 5 seeds x (real and control labels) = 50 problems, each with its own training rows and
standardisation. Features are drawn: a spectrum that falls as 1 / k (as that of real activations roughly does), rotated,
with unequal scales and means. scikit-learn fits a stratified part of the problems, `--fits` in all; the whole loop is
extrapolated from it. Each of its fits counts with the loosest of four tolerances that reaches our objective to 1e-6,
and the time spent on trying the others does not count. Both sides standardise and predict all rows within the clock.

    OMP_NUM_THREADS=1 python scripts/bench_probes.py                     # 33 layers, N = 4,000, D = 1,024 and 4,096
    python scripts/bench_probes.py --device cuda --width 4096
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from scipy.fft import dct

from mllm_probe.probes.logistic import Logistic
from mllm_probe.probes.solving.linear import LinearFit, logits_of
from mllm_probe.records.problems import Compute, LayerData, Problem
from mllm_probe.stats.bootstrap import Resamples, interval
from mllm_probe.stats.measures import METRICS

LAMBDAS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
SEEDS = 5
TOLERANCES = (1e-4, 1e-5, 1e-6, 1e-7)
TEST, PER_PICTURE, DRAWS = 1000, 4, 2000


def draw_layer(n: int, width: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """Features [n, width] float32 and labels [n]; labels follow a noisy direction."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, width))
    signal = z @ (rng.normal(size=width) / np.arange(1, width + 1))
    x = z / np.sqrt(np.arange(1, width + 1))
    for _ in range(2):
        x = dct(x * rng.choice([-1, 1], width), norm="ortho", axis=1)
    x = x * np.exp(rng.normal(size=width) / 2) + 5 * rng.normal(size=width)
    y = (1.5 * signal / signal.std() + rng.logistic(size=n) > 0).astype(int)
    return torch.from_numpy(x).float(), y


def problems(y: np.ndarray) -> list[Problem]:
    """Real and control labels for each seed; four fifths of the rows train."""
    found = []
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        train = np.zeros(len(y), dtype=bool)
        train[rng.permutation(len(y))[: len(y) * 4 // 5]] = True
        found += [Problem(labels, train, ~train, seed=seed) for labels in (y, rng.integers(0, 2, len(y)))]
    return found


def ours(data: LayerData, asked: Sequence[Problem]) -> tuple[float, list[LinearFit], list[np.ndarray]]:
    start = time.perf_counter()
    fits = Logistic(LAMBDAS).fit(data, asked)
    logits = logits_of(fits, data)
    return time.perf_counter() - start, fits, logits


def scikit_learn(x: np.ndarray, problem: Problem, penalty: float, goal: float) -> dict[str, float]:
    """Seconds of the first tolerance whose objective is within 1e-6 of `goal`, or of the last one."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    seconds = excess = 0.0
    for tolerance in TOLERANCES:
        start = time.perf_counter()
        scaler = StandardScaler().fit(x[problem.train])
        z, y = scaler.transform(x[problem.train]), problem.y[problem.train]
        model = LogisticRegression(C=1 / (penalty * len(y)), tol=tolerance, max_iter=20_000).fit(z, y)
        model.decision_function(scaler.transform(x))
        seconds = time.perf_counter() - start
        margin = np.where(y > 0, 1, -1) * model.decision_function(z)
        objective = float(np.logaddexp(0, -margin).mean() + penalty / 2 * (model.coef_**2).sum())
        excess = objective / goal - 1
        if excess <= 1e-6:
            break
    return {"lambda": penalty, "seconds": seconds, "excess": excess, "tolerance": tolerance}


def compare(n: int, width: int, layers: int, fits: int, device: str) -> dict[str, Any]:
    """Our time for all layers, scikit-learn's for a stratified part of the first ones."""
    mine, theirs, converged, held_out = [], [], [], []
    strata = [(labels, penalty) for penalty in LAMBDAS for labels in (0, 1)]
    for layer in range(layers):
        rows, y = draw_layer(n + TEST, width, layer)
        asked = problems(y[:n])
        everyone = LayerData(rows[:n], name=f"layer {layer}", compute=Compute(device))
        seconds, found, _ = ours(everyone, asked)
        mine.append(seconds)
        converged += [fit.facts["converged"] for fit in found]
        held_out.append([logits[-TEST:] for logits in logits_of(found, LayerData(rows))])
        for labels, penalty in strata if layer * len(strata) < fits else ():
            problem = asked[labels + 2 * (layer % SEEDS)]
            (alone,) = Logistic((penalty,)).fit(everyone, [problem])
            theirs.append(scikit_learn(rows[:n].double().numpy(), problem, penalty, alone.facts["objective"]))
        print(f"  layer {layer}: {seconds:.2f} s", file=sys.stderr, flush=True)
    fit = float(np.mean([row["seconds"] for row in theirs]))
    whole = fit * len(LAMBDAS) * SEEDS * 2 * layers
    return {
        "n": n,
        "width": width,
        "layers": layers,
        "problems": len(LAMBDAS) * SEEDS * 2 * layers,
        "ours_s": sum(mine),
        "converged": float(np.mean(converged)),
        "scikit_learn_fit_s": fit,
        "scikit_learn_fits": len(theirs),
        "scikit_learn_excess": max(row["excess"] for row in theirs),
        "scikit_learn_s": whole,
        "ratio": whole / sum(mine),
        "bootstrap_s": bootstrap(np.asarray(held_out), layers),
    }


def bootstrap(logits: np.ndarray, layers: int) -> float:
    """Intervals of every binary measure for logits [layers, seeds x (real, control), test rows]."""
    y = np.random.default_rng(0).integers(0, 2, TEST)
    start = time.perf_counter()
    resamples = Resamples(np.arange(TEST) // PER_PICTURE, DRAWS)
    for metric in METRICS["binary"]:
        for labels in (0, 1):
            interval(resamples.means(metric, logits[:, labels::2], y), resamples.size)
    return time.perf_counter() - start


def peak_memory(layers: int, n: int, width: int, out: Path) -> None:
    """Fit `layers` layers as a sweep does, each written before the next is drawn; print the peak in MB."""
    from mllm_probe.files.store_paths import PartPaths
    from mllm_probe.fitting.resume import LOGITS, Parts
    from mllm_probe.fitting.trials import Trial
    from mllm_probe.records.sites import Key

    parts = Parts(PartPaths(out / "parts"))
    for layer in range(layers):
        rows, y = draw_layer(n, width, layer)
        data, key = LayerData(rows), Key.parse(f"lm.{layer:02d}@last")

        def fitted(data: LayerData = data, key: Key = key, y: np.ndarray = y) -> list[Trial]:
            _, fits, logits = ours(data, problems(y))
            made = enumerate(zip(fits, logits, strict=True))
            return [Trial(key, "", "logistic", i, z.astype("f"), fit.facts, fit.arrays()) for i, (fit, z) in made]

        parts.get(str(key), fitted)
    parts.join(LOGITS, out / "all.safetensors", {})
    parts.clear()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def memory_of(layers: int, n: int, width: int, out: Path) -> float:
    """In a process of its own."""
    command = [sys.executable, __file__, "--peak", str(layers), "--n", str(n), "--width", str(width), "--out", str(out)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=4000, help="rows that train or validate")
    parser.add_argument("--width", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--layers", type=int, default=33)
    parser.add_argument("--fits", type=int, default=20, help="scikit-learn fits to time")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peak", type=int, help="only the peak memory of so many layers")
    parser.add_argument("--memory", action="store_true", help="compare peak memory of 4 layers and of all")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    warnings.filterwarnings("ignore", category=FutureWarning)
    if given.peak:
        peak_memory(given.peak, given.n, given.width[0], given.out)
        return
    report = [compare(given.n, width, given.layers, given.fits, given.device) for width in given.width]
    for row in report:
        print(
            f"N = {row['n']}, D = {row['width']}, {row['layers']} layers, {row['problems']} problems: "
            f"{row['ours_s']:.1f} s ({100 * row['converged']:.0f} % certified); scikit-learn "
            f"{row['scikit_learn_s']:.0f} s, extrapolated from {row['scikit_learn_fits']} fits of "
            f"{row['scikit_learn_fit_s']:.2f} s (objective above ours by at most {row['scikit_learn_excess']:.1e}): "
            f"{row['ratio']:.1f} x; bootstrap of all measures {row['bootstrap_s']:.1f} s"
        )
    if given.memory:
        few, many = (memory_of(layers, given.n, given.width[0], given.out) for layers in (4, given.layers))
        print(f"peak memory of 4 layers {few:.0f} MB, of {given.layers} {many:.0f} MB (D = {given.width[0]})")
    if given.json:
        given.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
