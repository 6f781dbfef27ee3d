"""How large figures and their letters are, for a screen or a column of a paper, and what colours mean in figures and in
the charts of pages. Knows no data.

On paper no figure has a title, since a caption says it; layers and studies are 3.3 inches wide in letters of 8 points.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

from mllm_probe.config.report import PAPER, SCREEN
from mllm_probe.config.sweep import (
    BLANK,
    CONNECTOR_ONLY,
    CONTROL_TASK,
    PERMUTED,
    RANDOM,
    SHUFFLED,
    TEXT_ONLY,
    VISION_ONLY,
)
from mllm_probe.records.score import COPY_CEILING, ZERO_SHOT

LETTER = 0.0078  # inches of a letter for each point, by the wider half of names
COLUMN, PAGE = 3.3, 7.0  # inches: a paper's column, and its page of two columns


@dataclass(frozen=True)
class Style:
    """Points of `title`, `text` (what stands along the axes), `small` (ticks, legend); `entry` inches of the legend;
    `margins` inches beside the panels, of which none is narrower than the share `least`; `norm` what n is called."""

    title: float
    text: float
    small: float
    entry: float
    margins: float
    least: float
    norm: str
    paper: bool


STYLES = {
    SCREEN: Style(11, 10, 8, 1.85, 2.4, 0.09, "after the final norm", paper=False),
    PAPER: Style(8, 8, 7, 1.5, 0.7, 0.26, "norm", paper=True),
}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
BLUE, ORANGE, GREEN, PINK, YELLOW, SKY = COLOURS
POSITIONS = dict(zip(("last", "mean_text", "mean_image", "last_image", "mean_all"), COLOURS, strict=False))
TASKS = {"entailment": BLUE, "objects": ORANGE, "count": GREEN, "pope": PINK}
READ = "#332288"  # a probe beside what interventions change
CHANCE, MODEL = "#8C8C8C", "#262626"  # what knows nothing; what the model itself says: zero-shot and the logit lens
DASHES: dict[str, tuple[str, Any]] = {  # colour and dashes of the controls with layers of their own
    TEXT_ONLY: ("#882255", (0, (5, 2))),
    BLANK: ("#999933", (0, (3, 2))),
    SHUFFLED: ("#332288", (0, (5, 2, 1, 2))),
    RANDOM: ("#A6761D", (0, (2, 2))),
}
OTHER_LABELS = {CONTROL_TASK: "#661100", PERMUTED: "#6699CC"}
FLOORS = {
    ZERO_SHOT: MODEL,
    "question_only": "#CC6677",
    VISION_ONLY: "#44AA99",
    CONNECTOR_ONLY: "#AA4499",
    COPY_CEILING: "#7F4CA5",
}
SIDES = {  # a probe of `fidelity`: (fitted on the states of, read on the states of)
    ("reference", "reference"): BLUE,
    ("model", "model"): ORANGE,
    ("reference", "model"): GREEN,
    ("model", "reference"): PINK,
}
STATES = {"relative_error": YELLOW, "fvu": SKY, "cosine": "#7F4CA5", "cka": "#999933"}
ARMS = {"lg_ld": BLUE, "lg": ORANGE, "ld": GREEN, "base": MODEL, "permuted": OTHER_LABELS[PERMUTED]}
LOSSES = {"loss": ARMS["lg_ld"], "lg": ARMS["lg"], "ld": ARMS["ld"]}
EFFECTS = {  # of edges, of spans, of directions
    "image->statement": BLUE,
    "image->last": ORANGE,
    "statement->last": GREEN,
    "object->statement": PINK,
    "rest->statement": YELLOW,
    "image->behind": SKY,
    "image->behind above": "#7F4CA5",
    "image": BLUE,
    "last": ORANGE,
    "statement": GREEN,
    "object": PINK,
    "rest": YELLOW,
    "class_mean": BLUE,
    "weights": ORANGE,
    "pattern": GREEN,
    "leace": PINK,
}
SINGLE, OWN, ALONE = "one layer", "integration", "the final layer alone"
WIDE, OTHER, SHOWN = "equal width, no other layers", "other layers", "another picture or model"
FEATURES = {SINGLE: GREEN, OWN: BLUE, ALONE: CHANCE, WIDE: YELLOW, OTHER: SKY, SHOWN: "#CCCCCC"}
READINGS = {"policy": BLUE, "random": CHANCE, "a_alone": ORANGE, "a_plus_c": GREEN}
TRAINED, DRAWN, UNSEEN, LISTED, TOP = "trained", "drawn", "unseen", "listed", "best"
PLAN = {TRAINED: "#4D4D4D", DRAWN: YELLOW, UNSEEN: "#FFFFFF", LISTED: BLUE, TOP: ORANGE}
ON_PAGE = {  # those that the dark or the light page would swallow
    MODEL: "#767676",
    "#332288": "#8878d8",
    "#882255": "#c65a93",
    "#661100": "#c8765f",
}


def wrapped(text: str, inches: float, size: float) -> str:
    """In lines that fit a width in letters of `size` points."""
    return fill(text, max(12, int(inches / (LETTER * size))))


def without_title(figure: Any) -> None:
    """What is not there takes no room."""
    figure.suptitle("").set_in_layout(False)


def _coloured(names: Sequence[str], known: Mapping[str, str], colours: Sequence[str] = COLOURS) -> dict[str, str]:
    """{name: its colour}: the same for a known one whatever else there is, then those that are left, in order."""
    found = {name: known[name] for name in names if name in known}
    left = [colour for colour in colours if colour not in found.values()] or list(colours)
    others = [name for name in names if name not in found]
    return found | {name: left[i % len(left)] for i, name in enumerate(others)}


def of_positions(positions: Sequence[str]) -> dict[str, str]:
    """{position: its colour}, known ones first."""
    return _coloured(positions, POSITIONS)


def of_tasks(tasks: Sequence[str]) -> dict[str, str]:
    return _coloured(tasks, TASKS)


def of_study(whole: str, local: str) -> tuple[str, str]:
    """Of its two tasks, which may have one name."""
    other = local if local != whole else f"{local} (local)"
    found = of_tasks([whole, other])
    return found[whole], found[other]


def of_arms(arms: Sequence[str]) -> dict[str, str]:
    """Of the trainings of a multirun."""
    return _coloured(arms, ARMS)


def of_effects(names: Sequence[str]) -> dict[str, str]:
    """Of what interventions change, known ones first."""
    return _coloured(names, EFFECTS, (SKY, "#7F4CA5", "#999933", *COLOURS))


def of_others(names: Sequence[str]) -> dict[str, str]:
    """Of what has no name of ours: runs, classes."""
    return _coloured(names, {})


def of_floor(name: str) -> str:
    """Of a line that has no layers, by its control or its probe."""
    return FLOORS.get(name, CHANCE)


def on_page(colour: str) -> str:
    """The same meaning on a page that may be dark or light."""
    return ON_PAGE.get(colour.upper() if colour.startswith("#") else colour, colour)
