"""Which colour means what, in figures and in the charts of a page alike: positions, controls, floors. Knows no data.

Positions have those of Okabe and Ito, controls and floors others, so that none is taken for a position; all are told
apart by most colour-blind people.
"""

from collections.abc import Sequence
from typing import Any

from mllm_probe.settings import (
    BLANK,
    CONNECTOR_ONLY,
    CONTROL_TASK,
    PERMUTED,
    RANDOM,
    SHUFFLED,
    TEXT_ONLY,
    VISION_ONLY,
)

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
KNOWN = ("last", "mean_text", "mean_image", "last_image", "mean_all")  # positions that have the first of them always
CHANCE, MODEL = "#8C8C8C", "#262626"  # what knows nothing; what the model itself says: zero-shot and the logit lens
LENS, ZERO_SHOT, COPY_CEILING = "logit_lens", "zero_shot", "copy_ceiling"
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
PAGE = {  # those that the dark or the light page would swallow
    MODEL: "#767676",
    "#332288": "#8878d8",
    "#882255": "#c65a93",
    "#661100": "#c8765f",
}


def of_positions(positions: Sequence[str]) -> dict[str, str]:
    """{position: its colour}: the same for a known one whatever else was read, then those that are left, in order."""
    found = {name: COLOURS[KNOWN.index(name)] for name in positions if name in KNOWN}
    left = [colour for colour in COLOURS if colour not in found.values()] or list(COLOURS)
    others = [name for name in positions if name not in found]
    return found | {name: left[i % len(left)] for i, name in enumerate(others)}


def of_floor(name: str) -> str:
    """Of a line that has no layers, by its control or its probe."""
    return FLOORS.get(name, CHANCE)


def on_page(colour: str) -> str:
    """The same meaning on a page that may be dark or light."""
    return PAGE.get(colour.upper() if colour.startswith("#") else colour, colour)
