"""features.png and features.pdf: a panel of the single layers, then one for each integration beside what it is held
against; bars begin at the floor, what a probe scores that reads nothing.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mllm_probe.features.controls import FINAL, WIDTH
from mllm_probe.report.figures.layers import held_out, legend_below
from mllm_probe.report.figures.style import ALONE, DASHES, OTHER, OWN, SHOWN, SINGLE, WIDE, wrapped
from mllm_probe.report.figures.style import FEATURES as COLOUR
from mllm_probe.report.tables.integrations import integrations
from mllm_probe.results.selection import headline, real

if TYPE_CHECKING:
    import pandas as pd

KIND = {FINAL: ALONE, **dict.fromkeys(WIDTH, WIDE), **dict.fromkeys(DASHES, SHOWN)}  # all others read other layers
PANEL, BAR, FEWEST = 3.1, 0.34, 6  # inches; bars that a panel has room for


def features_figure(scores: "pd.DataFrame", summary: Mapping[str, Any]) -> Any:
    """One row of panels a position, a dashed line at the score of the final layer alone."""
    from matplotlib.figure import Figure

    rows = headline(scores)
    bars, floor = _bars(rows), float(rows[rows.probe == "majority"].value.iloc[0])
    names, read = list(dict.fromkeys(bars.features)), list(dict.fromkeys(integrations(rows).position))
    widths = [max(FEWEST, bars[bars.features == name].bar.nunique()) for name in names]
    figure = Figure(figsize=(1.6 + BAR * sum(widths), 1.4 + PANEL * len(read)), layout="constrained")
    panels = figure.subplots(len(read), len(names), squeeze=False, sharey=True, width_ratios=widths)
    told = {(entry["features"], entry["position"]): entry["layers"] for entry in summary.get("integrations", ())}
    for position, row in zip(read, panels, strict=True):
        here = bars[bars.position == position]
        for name, width, panel in zip(names, widths, row, strict=True):
            _draw(panel, here[here.features == name], floor)
            final = here[here.control == FINAL].value.iloc[0]
            panel.axhline(final, color=COLOUR[ALONE], linewidth=0.9, linestyle=(0, (4, 2)))
            panel.set_title(wrapped(f"{name}: {told.get((name, position), position)}", BAR * width, 9.5), fontsize=9.5)
        row[0].set_ylabel(held_out(scores), fontsize=9)
    panels[0, 0].set_ylim(bottom=min(floor, bars.low.min()))
    first = scores.iloc[0]
    said = f"What several layers of {first.model} ({first.quantization}) read together: {first.task} on {first.dataset}"
    figure.suptitle(said, fontsize=11)
    legend_below(figure, list(panels.flat))
    return figure


def _bars(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Single layers, integrations and controls with the name and the colour of their bar; random sets share one."""
    import pandas as pd

    layers, made = real(rows), integrations(rows)
    layers = layers[(layers.tower == "vision") & (layers.part == "block") & layers.position.isin(made.position)]
    layers = layers.assign(bar=layers.layer.map("{:.0f}".format), kind=SINGLE)
    bar = made.control.str.replace(r"_\d+$", "", regex=True)
    kind = bar.map(KIND).fillna(OTHER).where(bar != "", OWN)
    return pd.concat([layers, made.assign(bar=bar.where(bar != "", made.features), kind=kind)])


def _draw(panel: Any, bars: "pd.DataFrame", floor: float) -> None:
    """A bar of several sets stands at their mean and has a dot for each."""
    names = list(dict.fromkeys(bars.bar))
    for x, name in enumerate(names):
        one = bars[bars.bar == name]
        kind = one.kind.iloc[0]
        panel.bar(x, one.value.mean() - floor, bottom=floor, width=0.72, color=COLOUR[kind], label=kind)
        if len(one) > 1:
            panel.plot([x] * len(one), one.value, "o", color="0.2", markersize=2.5)
        else:
            panel.plot([x, x], [one.low.iloc[0], one.high.iloc[0]], color="0.2", linewidth=1.1)
    panel.set_xticks(range(len(names)), [name.replace("_", " ") for name in names], fontsize=8)
    panel.tick_params(axis="x", rotation=90 if len(max(names, key=len)) > 2 else 0)
    panel.grid(axis="y", color="0.92")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
