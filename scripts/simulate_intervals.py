"""What intervals over pictures cover, and how long they are: simulated decisions, the true value known.

    python scripts/simulate_intervals.py                # shares, differences, losses, 4,000 draws a cell: 5 minutes
    python scripts/simulate_intervals.py --draws 200    # some seconds

Shares: a picture's chance of a right decision is drawn from a beta distribution around the true accuracy, so that two
decisions of a picture have the intraclass correlation `icc`. Differences: a decision is right for the first of two
layers only, for the second only, or for both or neither; the chances of the three are drawn for each picture from a
Dirichlet distribution with the same correlation (`own`), or the share that differs is, and its halves are not (`rate`).
Their decisions have a correlation of 0.5; `lead` is the first one's lead in accuracy. Averaged: each of five seeds
agrees with the others about half of the decisions. Lengths are beside those of Clopper and Pearson's interval on the
true effective number of decisions, N / (1 + (decisions a picture - 1) icc), around the same estimates; for differences
of both shares' ones, joined. Losses: see `loss_sample`; length is the median of log(high / low), of 1 - r2.
Prints tables in Markdown. Letters: R draws, G pictures, m decisions a picture.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
from scipy.stats import beta, norm
from scipy.stats import t as student

from mllm_probe.stats.bootstrap import Resamples, interval
from mllm_probe.stats.intervals import gap_limits, of, share_limits

ICCS, PICTURES, DECISIONS, ACCURACIES = (0.0, 0.1, 0.3), (10, 20, 40, 150), (1, 4, 40), (0.5, 0.8, 0.95, 0.99)
LEADS, SEEDS, PHI = (0.0, 0.1), 5, 0.5
# R2; the mean absolute error; the distance of two normals, whose AUROC is 0.76, 0.92 and 0.99
LOSSES = (("r2", 0.0), ("r2", 0.5), ("r2", 0.9), ("mae", 0.5), ("nll", 1.0), ("nll", 2.0), ("nll", 3.3))
FEW = (10, 15, 30, 60)
Ends = tuple[np.ndarray, np.ndarray]
Limits = Callable[[np.ndarray, int], Ends]


@dataclass(frozen=True)
class Cell:
    """One row of a table: what was simulated."""

    icc: float
    pictures: int
    decisions: int
    accuracy: float
    lead: float = 0.0

    @property
    def effective(self) -> float:
        return self.pictures * self.decisions / (1 + (self.decisions - 1) * self.icc)

    def rng(self) -> np.random.Generator:
        return np.random.default_rng([round(1000 * one) for one in vars(self).values()])


@dataclass(frozen=True)
class Found:
    """How often the interval held the true value, and its mean length over that of the exact one."""

    cell: Cell
    coverage: float
    length: float

    def short(self, draws: int) -> bool:
        """Is the coverage below what is asked by more than two Monte Carlo errors?"""
        asked = 0.935 if self.cell.icc <= 0.1 else 0.92
        return self.coverage < asked - 2 * np.sqrt(asked * (1 - asked) / draws)


def cells(leads: tuple[float, ...] = (0.0,)) -> Iterator[Cell]:
    """One decision a picture has no correlation within it."""
    for lead, icc, g, m, p in product(leads, ICCS, PICTURES, DECISIONS, ACCURACIES):
        if not (m == 1 and icc):
            yield Cell(icc, g, m, p, lead)


def right(cell: Cell, draws: int) -> np.ndarray:
    """Right decisions by picture [R, G]."""
    rng, shape = cell.rng(), (draws, cell.pictures)
    return rng.binomial(cell.decisions, _chances(cell, rng, shape)).astype(float)


def right_over_seeds(cell: Cell, draws: int) -> np.ndarray:
    """The same, the mean over seeds: about half of a picture's decisions all seeds say the same."""
    rng, shape = cell.rng(), (draws, cell.pictures)
    chance = _chances(cell, rng, shape)
    alike = rng.binomial(cell.decisions, 0.5, shape)
    return rng.binomial(alike, chance) + rng.binomial((cell.decisions - alike) * SEEDS, chance) / SEEDS


def _chances(cell: Cell, rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    if not cell.icc:
        return np.full(shape, cell.accuracy)
    spread = (1 - cell.icc) / cell.icc
    return rng.beta(cell.accuracy * spread, (1 - cell.accuracy) * spread, shape)


def split(cell: Cell) -> tuple[float, float]:
    """True shares of the decisions that only the first, and only the second, has right."""
    a, b = cell.accuracy, cell.accuracy - cell.lead
    both = min(a * b + PHI * np.sqrt(a * (1 - a) * b * (1 - b)), b)
    return a - both, b - both


def apart(cell: Cell, draws: int, how: str) -> np.ndarray:
    """Decisions that only the first, and only the second, has right, by picture [2, R, G]."""
    rng, shape, (plus, minus) = cell.rng(), (draws, cell.pictures), split(cell)
    share = plus + minus
    if not cell.icc:
        chances = np.broadcast_to([plus, minus, 1 - share], (*shape, 3))
    elif how == "own":
        drawn = rng.gamma(np.maximum([plus, minus, 1 - share], 1e-12) * (1 - cell.icc) / cell.icc, size=(*shape, 3))
        chances = drawn / drawn.sum(axis=-1, keepdims=True)
    else:
        spread = (1 - cell.icc) / cell.icc
        differ = rng.beta(share * spread, (1 - share) * spread, shape)
        chances = np.stack([differ * plus / share, differ * minus / share, 1 - differ], axis=-1)
    return np.moveaxis(rng.multinomial(cell.decisions, chances)[..., :2].astype(float), -1, 0)


def exact(value: np.ndarray, n: float) -> Ends:
    """Clopper and Pearson's ends for n decisions, independent ones."""
    k = value * n
    low, high = beta.ppf(0.025, k, n - k + 1), beta.ppf(0.975, k + 1, n - k)
    return np.where(k > 0, low, 0), np.where(k < n, high, 1)


def tool(sums: np.ndarray, decisions: int) -> Ends:
    return share_limits(sums, np.full(sums.shape[-1], float(decisions)))


def fewer(sums: np.ndarray, decisions: int) -> Ends:
    """The rule that takes at most G decisions where fewer than min(15, G / 2) pictures hold an error, or a success."""
    pictures = sums.shape[-1]
    value = sums.mean(axis=-1) / decisions
    variance = sums.var(axis=-1, ddof=1) / pictures / decisions**2
    n = value * (1 - value) / np.where(variance > 0, variance, 1e-300)
    n = np.clip(n * (norm.ppf(0.975) / student.ppf(0.975, pictures - 1)) ** 2, 1, pictures * decisions)
    n = np.where(variance > 0, n, pictures * decisions)
    held = np.minimum((sums < decisions).sum(axis=-1), (sums > 0).sum(axis=-1))
    n = np.where(held < min(15, pictures / 2), np.minimum(n, pictures), n)
    return exact(value, n)  # type: ignore[arg-type]


def percentiles(sums: np.ndarray, decisions: int, expand: bool = False) -> Ends:
    """2,000 draws of pictures for each sample; `expand` as `bootstrap.interval` does it."""
    pictures, rng = sums.shape[-1], np.random.default_rng(0)
    counts = rng.multinomial(pictures, np.full(pictures, 1 / pictures), size=2000).astype(float)
    means = sums @ counts.T / (pictures * decisions)
    ends = interval(means, pictures if expand else 10**9)
    return ends[:, 0], ends[:, 1]


def shares(draws: int, limits: Limits = tool, sample: Callable[[Cell, int], np.ndarray] = right) -> list[Found]:
    found = []
    for cell in cells():
        sums = sample(cell, draws)
        value = sums.sum(axis=-1) / (cell.pictures * cell.decisions)
        found.append(_found(cell, cell.accuracy, limits(sums, cell.decisions), exact(value, cell.effective)))
    return found


def differences(draws: int, how: str) -> list[Found]:
    found = []
    for cell in cells(LEADS):
        if how == "own" or cell.icc:
            plus, minus = apart(cell, draws, how)
            sizes = np.full(cell.pictures, float(cell.decisions))
            shares = [side.sum(axis=-1) / sizes.sum() for side in (plus, minus)]
            sides = [(one, *exact(one, cell.effective)) for one in shares]
            (a, a_low, a_high), (b, b_low, b_high) = sides
            ideal = a - b - np.hypot(a - a_low, b_high - b), a - b + np.hypot(a_high - a, b - b_low)
            true = split(cell)[0] - split(cell)[1]
            found.append(_found(cell, true, gap_limits(plus, minus, sizes), ideal))
    return found


def loss_sample(metric: str, setting: float, shape: tuple[int, ...], rng: np.random.Generator) -> Ends:
    """Predictions and labels [.., G, m]: numbers of variance 1 with a true R2, or logits of a calibrated probe.

    Normal scores, which correlate by 0.3 within a picture; a picture has one label.
    """
    signal, noise = (
        np.sqrt(0.3) * rng.normal(size=(*shape[:-1], 1)) + np.sqrt(0.7) * rng.normal(size=shape)
        if shape[-1] > 1
        else rng.normal(size=shape)
        for _ in range(2)
    )
    if metric != "nll":
        return np.sqrt(setting) * signal, np.sqrt(setting) * signal + np.sqrt(1 - setting) * noise
    y = np.broadcast_to(rng.integers(0, 2, (*shape[:-1], 1)), shape)
    return setting * (noise + setting * (y - 0.5)), y


def loss_truth(metric: str, setting: float) -> float:
    """Of r2 as set, of mae and nll by their integrals over a normal score."""
    if metric == "r2":
        return setting
    z = norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    if metric == "mae":
        return float(np.sqrt(1 - setting) * np.abs(z).mean())
    return float(np.logaddexp(0, -setting * (z + setting / 2)).mean())


def loss_coverage(metric: str, setting: float, pictures: int, decisions: int, draws: int) -> tuple[float, float]:
    """How often the tool's interval holds the true value, and the median of log(high / low) of the loss."""
    rng, held = np.random.default_rng([pictures, decisions]), Resamples(np.repeat(np.arange(pictures), decisions), 1)
    predicted, y = loss_sample(metric, setting, (draws, pictures, decisions), rng)
    kind, ends = "binary" if metric == "nll" else "number", np.empty((draws, 2))
    for i, (one, label) in enumerate(zip(predicted, y, strict=True)):
        found = of(metric, one.reshape(1, -1), label.reshape(-1), held, kind)
        ends[i] = found.low, found.high
    true, loss = loss_truth(metric, setting), 1 - ends[:, ::-1] if metric == "r2" else ends
    return float(np.mean((ends[:, 0] <= true) & (true <= ends[:, 1]))), float(
        np.median(np.log(loss[:, 1] / loss[:, 0]))
    )


def losses(draws: int) -> Iterator[str]:
    yield "| measure | set to | decisions | " + " | ".join(f"{g} pictures" for g in FEW) + " |"
    yield "|" + "---|" * (3 + len(FEW))
    for (metric, setting), m in product(LOSSES, (1, 4)):
        found = (loss_coverage(metric, setting, g, m, draws) for g in FEW)
        said = " | ".join(f"{100 * coverage:.1f} ({length:.2f})" for coverage, length in found)
        yield f"| {metric} | {setting} | {m} | {said} |"


def _found(cell: Cell, true: float, ends: Ends, ideal: Ends) -> Found:
    covered = (ends[0] <= true + 1e-12) & (true - 1e-12 <= ends[1])
    return Found(cell, float(covered.mean()), float((ends[1] - ends[0]).mean() / (ideal[1] - ideal[0]).mean()))


def table(found: list[Found]) -> Iterator[str]:
    """A row for each correlation, number of pictures and of decisions; coverage and, behind it, length by accuracy."""
    rows: dict[tuple[float, ...], list[Found]] = {}
    for one in found:
        rows.setdefault((one.cell.lead, one.cell.icc, one.cell.pictures, one.cell.decisions), []).append(one)
    yield "| lead | icc | pictures | decisions | " + " | ".join(map(str, ACCURACIES)) + " |"
    yield "|" + "---|" * (4 + len(ACCURACIES))
    for (lead, icc, pictures, decisions), row in rows.items():
        said = " | ".join(f"{100 * one.coverage:.1f} ({one.length:.2f})" for one in row)
        yield f"| {lead} | {icc} | {pictures} | {decisions} | {said} |"


def summary(name: str, found: list[Found], draws: int) -> str:
    coverage, middle = [one.coverage for one in found], [one.length for one in found if one.cell.accuracy <= 0.8]
    ends = [one.length for one in found if one.cell.accuracy > 0.8]
    return (
        f"| {name} | {len(found)} | {100 * min(coverage):.1f} | {sum(one.short(draws) for one in found)} | "
        f"{sum(c >= 0.935 for c in coverage)} | {max(middle):.2f} | {np.mean(ends):.2f} (most {max(ends):.2f}) |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Coverage of intervals over pictures.")
    parser.add_argument("--draws", type=int, default=4000, help="samples a cell (default: %(default)s)")
    parser.add_argument("--cells", action="store_true", help="a table of every cell of the tool's intervals, too")
    parser.add_argument("--losses", action="store_true", help="only r2, mae and nll: a minute")
    given = parser.parse_args()
    for line in losses(given.draws):
        print(line, flush=True)
    if given.losses:
        return
    ours: dict[str, Callable[[int], list[Found]]] = {
        "share": shares,
        "share, mean of 5 seeds": partial(shares, sample=right_over_seeds),
        "difference, own": partial(differences, how="own"),
        "difference, rate": partial(differences, how="rate"),
    }
    others: dict[str, Callable[[int], list[Found]]] = {
        "share, min(15, G / 2) pictures": partial(shares, limits=fewer),
        "share, percentiles of draws": partial(shares, limits=percentiles),
        "share, expanded percentiles": partial(shares, limits=partial(percentiles, expand=True)),
    }
    print("| interval | cells | least coverage | short | >= 93.5 % | longest to 0.8 | mean beyond |")
    print("|" + "---|" * 7)
    found = {}
    for name, simulated in (ours | others).items():
        found[name] = simulated(given.draws)
        print(summary(name, found[name], given.draws), flush=True)
    if given.cells:
        for name in ours:
            print("", f"{name}: coverage in % and (length)", "", *table(found[name]), sep="\n")


if __name__ == "__main__":
    main()
