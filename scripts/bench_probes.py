"""How fast a layer's probes are fitted, against a scikit-learn loop that reaches the same objective.

Every layer has 5 strengths x 3 or 5 seeds x (real and control labels), each seed with its own training rows and
standardisation. Features are drawn: a spectrum that falls as 1 / k (as that of real activations roughly does), rotated,
with unequal scales and means. scikit-learn fits a stratified part of the problems, `--fits` in all; the whole loop is
extrapolated from it, at its own tolerance and at equal precision: the loosest of four tolerances that reaches our
objective to 1e-6, where the time spent on trying the others does not count. Both sides standardise and predict all
rows; all figures are CPU seconds of this process. The floor is the products that were made (rows of X'X, of X and of
its eigenbasis), counted, at the rate of a large float32 product in the same run; float64 counts twice.

    OMP_NUM_THREADS=1 python scripts/bench_probes.py                  # 33 layers, N = 4,000, D = 128, 1,024, 4,096
    OMP_NUM_THREADS=1 python scripts/bench_probes.py --classes 3 300  # softmax instead, at D = 128
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
from mllm_probe.probes.solving.standardised import Basis, Features
from mllm_probe.records.problems import Compute, LayerData, Problem
from mllm_probe.stats.bootstrap import Resamples, interval
from mllm_probe.stats.measures import METRICS

LAMBDAS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
SEEDS = (3, 5)
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


def problems(y: np.ndarray, seeds: int = 5) -> list[Problem]:
    """Real and control labels for each seed; four fifths of the rows train."""
    found = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        train = np.zeros(len(y), dtype=bool)
        train[rng.permutation(len(y))[: len(y) * 4 // 5]] = True
        found += [Problem(labels, train, ~train, seed=seed) for labels in (y, rng.integers(0, 2, len(y)))]
    return found


def ours(data: LayerData, asked: Sequence[Problem]) -> tuple[float, list[LinearFit], list[np.ndarray]]:
    start = time.process_time()
    fits = Logistic(LAMBDAS).fit(data, asked)
    logits = logits_of(fits, data)
    return time.process_time() - start, fits, logits


class Products:
    """Counts the multiplications and additions of all products with the features, while it is entered."""

    def __enter__(self) -> "Products":
        self.flops, self._before = 0.0, {name: getattr(Features, name) for name in ("times", "back", "covariance")}
        self._solve = Basis.solve

        def counted(name: str) -> Any:
            def product(features: Features, *given: Any) -> torch.Tensor:
                rows = len(given[0]) if name != "covariance" else features.width
                double = 2 if name != "covariance" and given[0].dtype is torch.float64 else 1
                self.flops += 2.0 * features.n * features.width * rows * double
                return self._before[name](features, *given)  # type: ignore[no-any-return]

            return product

        def solved(basis: Basis, v: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
            self.flops += 4.0 * v.numel() * len(basis.axes)
            return self._solve(basis, v, *given)

        for name in self._before:
            setattr(Features, name, counted(name))
        Basis.solve = solved  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        for name, method in self._before.items():
            setattr(Features, name, method)
        Basis.solve = self._solve  # type: ignore[method-assign]


def rate(size: int = 2048) -> float:
    """Multiplications and additions a second of a float32 product."""
    x, best = torch.randn(size, size), np.inf
    for _ in range(5):
        start = time.process_time()
        x @ x
        best = min(best, time.process_time() - start)
    return 2 * size**3 / best


def scikit_learn(x: np.ndarray, problem: Problem, penalty: float, goal: float) -> dict[str, float]:
    """CPU seconds of the first tolerance, and of the first whose objective is within 1e-6 of `goal`, or the last."""
    from scipy.special import logsumexp
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    spent, excess = [], 0.0
    for tolerance in TOLERANCES:
        start = time.process_time()
        scaler = StandardScaler().fit(x[problem.train])
        z, y = scaler.transform(x[problem.train]), problem.y[problem.train]
        model = LogisticRegression(C=1 / (penalty * len(y)), tol=tolerance, max_iter=20_000).fit(z, y)
        model.decision_function(scaler.transform(x))
        spent.append(time.process_time() - start)
        logits = model.decision_function(z)
        logits = logits if logits.ndim > 1 else np.stack([0 * logits, logits], 1)
        loss = float((logsumexp(logits, axis=1) - logits[np.arange(len(y)), y]).mean())
        excess = (loss + penalty / 2 * float((model.coef_**2).sum())) / goal - 1
        if excess <= 1e-6:
            break
    return {"lambda": penalty, "default": spent[0], "equal": spent[-1], "excess": excess, "tolerance": tolerance}


def compare(n: int, width: int, layers: int, fits: int, device: str) -> list[dict[str, Any]]:
    """Our time for all layers, scikit-learn's for a stratified part of the first ones; a row for 3 and for 5 seeds."""
    theirs, held_out = [], []
    mine: dict[int, list[float]] = {seeds: [] for seeds in SEEDS}
    converged, flops = dict.fromkeys(SEEDS, 1.0), dict.fromkeys(SEEDS, 0.0)
    strata = [(labels, penalty) for penalty in LAMBDAS for labels in (0, 1)]
    for layer in range(layers):
        rows, y = draw_layer(n + TEST, width, layer)
        everyone = LayerData(rows[:n], name=f"layer {layer}", compute=Compute(device))
        for seeds in SEEDS:
            asked = problems(y[:n], seeds)
            with Products() as counted:
                seconds, found, _ = ours(everyone, asked)
            mine[seeds].append(seconds)
            flops[seeds] += counted.flops
            converged[seeds] = min(converged[seeds], *(fit.facts["converged"] for fit in found))
        held_out.append([logits[-TEST:] for logits in logits_of(found, LayerData(rows))])
        for labels, penalty in strata if layer * len(strata) < fits else ():
            problem = asked[labels + 2 * (layer % min(SEEDS))]
            (alone,) = Logistic((penalty,)).fit(everyone, [problem])
            theirs.append(scikit_learn(rows[:n].double().numpy(), problem, penalty, alone.facts["objective"]))
        print(f"  layer {layer}: {seconds:.2f} s", file=sys.stderr, flush=True)
    each, speed, drawn = len(LAMBDAS) * 2 * layers, rate(), bootstrap(np.asarray(held_out), layers)
    loops = {name: float(np.mean([row[name] for row in theirs])) * each for name in ("default", "equal")}
    return [
        {
            "n": n,
            "width": width,
            "layers": layers,
            "seeds": seeds,
            "problems": each * seeds,
            "ours_s": sum(mine[seeds]),
            "floor_s": flops[seeds] / speed,
            "certified": converged[seeds],
            "scikit_learn_fits": len(theirs),
            "scikit_learn_excess": max(row["excess"] for row in theirs),
            "scikit_learn_s": {name: loop * seeds for name, loop in loops.items()},
            "ratio": {name: loop * seeds / sum(mine[seeds]) for name, loop in loops.items()},
            "bootstrap_s": drawn,
        }
        for seeds in SEEDS
    ]


def softmax(n: int, width: int, classes: int) -> list[dict[str, Any]]:
    """One problem of so many classes, all strengths: labels of noise, and labels that the features tell."""
    rows, _ = draw_layer(n, width, 0)
    x, rng = rows.double().numpy(), np.random.default_rng(0)
    told = (x - x.mean(0)) / x.std(0) @ rng.normal(size=(width, classes)) * 2 / np.sqrt(width)
    report = []
    for name, score in (("noise", 0.0), ("told", told)):
        y = np.unique((score + rng.gumbel(size=(n, classes))).argmax(1), return_inverse=True)[1]
        train = rng.random(n) < 0.8
        train[np.unique(y, return_index=True)[1]] = True
        problem = Problem(y, train, ~train, "classes")
        seconds, (fit,), _ = ours(LayerData(rows), [problem])
        theirs = 0.0
        for penalty in LAMBDAS:
            (alone,) = Logistic((penalty,)).fit(LayerData(rows), [problem])
            theirs += scikit_learn(x, problem, penalty, alone.facts["objective"])["equal"]
        row = {"n": n, "width": width, "classes": int(y.max()) + 1, "labels": name, "chosen": fit.facts["lambda"]}
        report.append(row | {"ours_s": seconds, "scikit_learn_s": theirs, "ratio": seconds / theirs})
    return report


def bootstrap(logits: np.ndarray, layers: int) -> float:
    """Intervals of every binary measure for logits [layers, seeds x (real, control), test rows]."""
    y = np.random.default_rng(0).integers(0, 2, TEST)
    start = time.process_time()
    resamples = Resamples(np.arange(TEST) // PER_PICTURE, DRAWS)
    for metric in METRICS["binary"]:
        for labels in (0, 1):
            interval(resamples.means(metric, logits[:, labels::2], y), resamples.size)
    return time.process_time() - start


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
    parser.add_argument("--width", type=int, nargs="+", default=[128, 1024, 4096])
    parser.add_argument("--layers", type=int, default=33)
    parser.add_argument("--classes", type=int, nargs="+", help="softmax problems of so many classes instead")
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
    few, labels = draw_layer(200, 8, 0)
    ours(LayerData(few), problems(labels))  # what is loaded and compiled at first use is no one's time
    if given.classes:
        report = [row for classes in given.classes for row in softmax(given.n, given.width[0], classes)]
        for row in report:
            print(
                f"N = {row['n']}, D = {row['width']}, {row['classes']} classes, labels {row['labels']}: "
                f"{row['ours_s']:.2f} s, strength {row['chosen']:g}; scikit-learn at equal precision "
                f"{row['scikit_learn_s']:.2f} s: {row['ratio']:.2f} of it"
            )
    else:
        report = [
            row for width in given.width for row in compare(given.n, width, given.layers, given.fits, given.device)
        ]
        for row in report:
            ratio, loop = row["ratio"], row["scikit_learn_s"]
            print(
                f"N = {row['n']}, D = {row['width']}, {row['layers']} layers x {row['seeds']} seeds, "
                f"{row['problems']} problems: {row['ours_s']:.2f} s ({100 * row['certified']:.0f} % certified, floor "
                f"{row['floor_s']:.2f} s); scikit-learn, extrapolated from {row['scikit_learn_fits']} fits, "
                f"{loop['default']:.0f} s by default ({ratio['default']:.1f} x), {loop['equal']:.0f} s at equal "
                f"precision ({ratio['equal']:.1f} x; objective above ours by at most "
                f"{row['scikit_learn_excess']:.1e}); bootstrap {row['bootstrap_s']:.1f} s"
            )
    if given.memory:
        few, many = (memory_of(layers, given.n, given.width[0], given.out) for layers in (4, given.layers))
        print(f"peak memory of 4 layers {few:.0f} MB, of {given.layers} {many:.0f} MB (D = {given.width[0]})")
    if given.json:
        given.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
