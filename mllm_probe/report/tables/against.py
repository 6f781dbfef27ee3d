"""Which row of tests.csv speaks of a layer against a control, where the control was drawn several times."""

from typing import TYPE_CHECKING, Any

from mllm_probe.config.sweep import drawn_from

if TYPE_CHECKING:
    import pandas as pd

SCEPTICAL = ("below", "", "by design", "above")  # the verdict that says least for the layer comes first


def against(tests: "pd.DataFrame", control: str, site: str, position: str) -> Any | None:
    """The row of a layer minus a control (`test` = control); of several draws the worst for the layer, None where the
    control was not read there.

    Worst is a draw that the layer lies below, then one it is not told apart from; of several the one with the least
    difference. So "above" means above every draw.
    """
    rows = tests[(tests.test == "control") & (tests.site == site) & (tests.position == position)]
    found = [row for row in rows.itertuples() if drawn_from(row.other) == control]
    return min(found, key=lambda row: (SCEPTICAL.index(row.verdict), row.value), default=None)
