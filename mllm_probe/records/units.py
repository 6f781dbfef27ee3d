"""How a measure and a difference of it are written for people: percent and points, nats, or a plain number.

Knows the names of measures and none of their formulas.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """`scale` times a value is shown with `digits` behind the point; `of` and `gap` follow a value and a difference."""

    scale: int
    digits: int
    of: str
    gap: str


PERCENT, PLAIN, NATS = Unit(100, 1, " %", " points"), Unit(1, 3, "", ""), Unit(1, 3, " nats", " nats")
UNITS = dict.fromkeys(("accuracy", "balanced_accuracy", "f1", "ece", "yes_rate", "recall"), PERCENT) | {"nll": NATS}
UNITS |= dict.fromkeys(("local", "elsewhere", "unrelated"), PERCENT)  # of lenses
UNITS |= dict.fromkeys(("margin", "d", "kl"), NATS) | {"flips": PERCENT}  # of interventions, with
UNITS |= {"restored": Unit(100, 1, " %", " %"), "accuracy_loss": Unit(100, 1, " points", " points")}  # what has no ends
UNITS |= {"p_change": Unit(1, 1, " %", " %"), "slope": Unit(1, 3, " nats a unit", " nats a unit")}
NAMES = {
    "auroc": "AUROC",
    "balanced_accuracy": "balanced accuracy",
    "average_precision": "average precision",
    "nll": "log loss",
    "r2": "R2",
    "ece": "calibration error",
    "f1": "F1",
    "mae": "mean absolute error",
    "yes_rate": "share of yes",
    "spearman": "Spearman's rank correlation",
    "margin": "change of the right answer's margin",
    "p_change": "change of the answer's probability",
    "flips": "answers that change",
    "restored": "difference restored",
    "d": "change of the answer's log-odds",
    "kl": "divergence of other tokens",
    "accuracy_loss": "answers lost",
    "presence_auroc": "AUROC of what is in the picture",
}


def unit(metric: str) -> Unit:
    """Of a measure; one without an entry is a plain number."""
    return UNITS.get(metric, PLAIN)


def named(metric: str) -> str:
    """`balanced accuracy`, `AUROC`."""
    return NAMES.get(metric, metric.replace("_", " "))


def headed(metric: str) -> str:
    """The head of a column of such values: `accuracy in %`, `log loss in nats`, `AUROC`."""
    of = unit(metric).of.strip()
    return f"{named(metric)} in {of}" if of else named(metric)


def number(value: float, metric: str, sign: bool = False) -> str:
    """The bare number, with its sign where it is a difference; what rounds to nothing has no minus."""
    one = unit(metric)
    return f"{one.scale * value:{'+' if sign else ''}z.{one.digits}f}"


def bounds(low: float | None, high: float | None, metric: str) -> str:
    """`[91.0, 95.0]`, empty where there is no interval."""
    if low is None or high is None or low != low:
        return ""
    return f"[{number(low, metric)}, {number(high, metric)}]"


def bare(value: float, low: float | None, high: float | None, metric: str) -> str:
    """`93.0 [91.0, 95.0]`, for a column whose head tells the unit."""
    return f"{number(value, metric)} {bounds(low, high, metric)}".rstrip()


def value(value: float, low: float | None, high: float | None, metric: str) -> str:
    """`93.0 % [91.0, 95.0]`, `0.420 [0.310, 0.530]`."""
    return f"{number(value, metric)}{unit(metric).of} {bounds(low, high, metric)}".rstrip()


def gap(value: float, low: float | None, high: float | None, metric: str) -> str:
    """A difference with its sign: `+5.2 points [4.3, 6.1]`."""
    return f"{number(value, metric, sign=True)}{unit(metric).gap} {bounds(low, high, metric)}".rstrip()


def tied(text: str) -> str:
    """For pages: a value that is not broken across two lines."""
    return text.replace(" ", "\u00a0")


def amount(value: float | None, metric: str) -> str:
    """A difference without a sign, as short as it is: `1 point`, `0.01`; empty where it is not known."""
    if value is None or value != value:
        return ""
    one = unit(metric)
    shown = f"{one.scale * value:.3g}"
    return f"{shown}{one.gap.removesuffix('s') if shown == '1' else one.gap}"
