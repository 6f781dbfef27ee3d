"""The interactive curves and heat maps of report.html, as the plain data that plotly.js draws.

A chart is {"name", "data", "layout"}; colours of paper, ink and grid are the page's, which knows dark from light.
Numbers are those of the table, in the order of the table.
"""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from mllm_probe.files.paths import SIDES
from mllm_probe.records import units
from mllm_probe.records.score import LENS
from mllm_probe.report.figures.layers import TITLES, floor_name, telling
from mllm_probe.report.figures.style import (
    CHANCE,
    DASHES,
    MODEL,
    OTHER_LABELS,
    of_floor,
    of_others,
    of_positions,
    of_study,
    on_page,
)
from mllm_probe.results.selection import (
    at_depths,
    blocks,
    controls,
    floors,
    headline,
    headline_metric,
    many_of,
    outline,
    positions,
    real,
    words,
)

if TYPE_CHECKING:
    import pandas as pd

Chart = dict[str, Any]
BAND = 0.18  # opacity of an interval
LINES = {name: (colour, "dot") for name, (colour, _) in DASHES.items()} | {
    name: (colour, "dash") for name, colour in OTHER_LABELS.items()
}
HOVER = (
    "%{{x}}<br><b>%{{y:{0}}}</b> [%{{customdata[0]:{0}}}, %{{customdata[1]:{0}}}]<br>"
    "%{{customdata[2]}} decisions on %{{customdata[3]}} {1}"
)
FLOOR = "<b>%{{y:{0}}}</b>"
BOUNDED = f"{FLOOR} [%{{{{customdata[0]:{{0}}}}}}, %{{{{customdata[1]:{{0}}}}}}]"
SEQUENTIAL = "Cividis"  # read alike with and without colour vision


def shown_as(text: str) -> str:
    """A text that plotly.js shows letter by letter: it knows few entities, and takes what stands in %{} for a value."""
    return escape(text, quote=False).replace("%{", "%&#123;")


def layer_charts(scores: "pd.DataFrame") -> list[Chart]:
    """All positions together, then each position (and each probe, where there are several) with controls and floors,
    then the map of positions and layers; curves that can be no other are in the map alone."""
    every = real(rows := headline(scores))
    sites, among = telling(every), positions(every)
    read, probes = positions(sites), list(dict.fromkeys(sites.probe))
    metric, colour = headline_metric(scores), of_positions(among)
    found = []
    for probe in probes:
        own = sites[sites.probe == probe]
        named = f", {probe}" if len(probes) > 1 else ""
        lines = [trace for p in read for trace in _curve(own[own.position == p], p, colour[p])]
        found.append(_chart(f"all positions{named}", [*lines, *_floors(rows, own)], own, metric))
        for position in read:
            here = own[own.position == position]
            more = [*_controls(scores, rows, here, position), *_floors(rows, here)]
            found.append(_chart(f"{position}{named}", [*_curve(here, position, colour[position]), *more], here, metric))
        found.append(_map(f"map{named}", every[every.probe == probe], among[::-1], metric))
    return found


def class_chart(scores: "pd.DataFrame", position: str, names: Sequence[str]) -> list[Chart]:
    """The recall of these classes against layer at a position; none where a run kept none."""
    rows = scores[(scores.metric == "recall") & (scores.position == position) & (scores.control == "")]
    own = of_others(names)
    lines = [one for name in names for one in _curve(rows[rows.subset == f"label={name}"], name, own[name])]
    return [_chart(f"recall at {position}", lines, rows, "recall")] if lines else []


def _chart(name: str, data: list[Any], sites: "pd.DataFrame", metric: str) -> Chart:
    places = _ordered(sites)
    bounds = {"minallowed": -0.02, "maxallowed": 1.02} if units.unit(metric) == units.PERCENT else {}
    layout = {
        "xaxis": {
            "type": "category",
            "categoryorder": "array",
            "categoryarray": places,
            "title": {"text": "layer"},
            "tickangle": -45,
        },
        "yaxis": _axis(metric, sites) | bounds,
        "hovermode": "closest",
    }
    return {"name": name, "data": data, "layout": layout}


def _form(metric: str) -> str:
    """How plotly.js writes a value of a measure."""
    one = units.unit(metric)
    return f".{one.digits}%" if one == units.PERCENT else f".{one.digits}f"


def _axis(metric: str, *tables: "pd.DataFrame") -> dict[str, Any]:
    """Of values of a measure, or of several (""), on the groups of some tables."""
    ticks = {"tickformat": ".0%"} if units.unit(metric) == units.PERCENT else {}
    return {**ticks, "title": {"text": shown_as(f"{units.named(metric) or 'score'} on held-out {many_of(*tables)}")}}


def _ordered(sites: "pd.DataFrame") -> list[str]:
    """The places along the axis, tower by tower as the data passes them."""
    towers = [tower for tower in TITLES if tower in set(sites.tower)]
    return list(dict.fromkeys(_place(s) for t in towers for s in sites[sites.tower == t].site))


def _place(site: str) -> str:
    """What is inside a block stands at the block's own place."""
    return site.removesuffix(".attn").removesuffix(".mlp")


def _curve(rows: "pd.DataFrame", name: str, colour: str, dash: str = "solid", shown: bool = True) -> Iterator[Any]:
    """A line and its band for each tower, all switched by one entry of the legend; towers are not joined."""
    named: set[str] = set()
    for (_, part), line in rows.groupby(["tower", rows.part.replace("norm", "block")], sort=False):
        label = name if part == "block" else f"{name}, {part}"
        yield from _line(line, label, colour, dash if part == "block" else "dash", shown, label not in named)
        named.add(label)


def _line(rows: "pd.DataFrame", label: str, colour: str, dash: str, shown: bool, entry: bool) -> Iterator[Any]:
    x, colour = [_place(site) for site in rows.site], on_page(colour)
    same = {"legendgroup": label, "visible": True if shown else "legendonly", "type": "scatter"}
    line = {"color": colour, "dash": dash, "width": 2.4 if dash == "solid" else 1.6}
    hover = HOVER.format(_form(rows.metric.iloc[0]), shown_as(many_of(rows)))
    yield {
        **same,
        "name": shown_as(label),
        "showlegend": entry,
        "mode": "lines+markers",
        "x": x,
        "y": rows.value.tolist(),
        "customdata": [[row.low, row.high, int(row.n), int(row.n_groups)] for row in rows.itertuples()],
        "hovertemplate": f"{shown_as(label)}, {hover}<extra></extra>",
        "line": line,
        "marker": {"size": 6 if dash == "solid" else 4, "color": colour},
    }
    band = {**outline(x, rows), "mode": "lines", "line": {"width": 0}, "fill": "toself"}
    yield {**same, **band, "fillcolor": _faint(colour), "hoverinfo": "skip", "showlegend": False}


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{BAND})"


def _controls(scores: "pd.DataFrame", rows: "pd.DataFrame", here: "pd.DataFrame", position: str) -> Iterator[Any]:
    """Other inputs and weights, other labels, and the logit lens, at the sites of the real curve."""
    same = rows[(rows.position == position) & rows.site.isin(here.site)]
    labels = same[same.control.isin(list(OTHER_LABELS)) & (same.features == "single")]
    for found in (controls(same, position), labels):
        for control, line in found.groupby("control", sort=False):
            colour, dash = LINES[control]
            yield from _curve(line, words(line.iloc[0]), colour, dash)
    if position == "last":
        lens = rows[(rows.probe == LENS) & (rows.control == "") & rows.site.isin(here.site)]
        yield from _curve(lens, "logit lens", MODEL, "dashdot")


def _floors(rows: "pd.DataFrame", sites: "pd.DataFrame") -> Iterator[Any]:
    """Level lines of what reads no layer."""
    places = _ordered(sites)
    for row in floors(rows).itertuples():
        name, said = floor_name(row), BOUNDED if row.low == row.low else FLOOR
        colour = of_floor(row.control or row.probe)
        line = _level(name, places, row.value, colour, said.format(_form(row.metric)))
        yield {**line, "customdata": [[row.low, row.high]] * len(places)}


def _level(name: str, places: Sequence[Any], value: float, colour: str, said: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": shown_as(name),
        "x": list(places),
        "y": [value] * len(places),
        "hovertemplate": f"{shown_as(name)}<br>{said}<extra></extra>",
        "line": {"color": on_page(colour), "dash": "longdash", "width": 1.2},
    }


def _map(name: str, sites: "pd.DataFrame", read: Sequence[str], metric: str) -> Chart:
    """Positions against layers, the first position on top; empty where one does not exist."""
    places = _ordered(sites[sites.part.isin(["block", "norm"])])
    cell = {(row.position, row.site): row for row in sites.itertuples()}
    grid = [[cell.get((position, place)) for place in places] for position in read]
    return heat_map(
        name,
        places,
        list(read),
        [[None if row is None else row.value for row in line] for line in grid],
        [["" if row is None else units.bounds(row.low, row.high, metric) for row in line] for line in grid],
        units.named(metric),
        (float(sites.value.min()), float(sites.value.max())),
        _form(metric),
    )


def heat_map(
    name: str,
    x: Sequence[str],
    y: Sequence[str],
    z: Sequence[Sequence[float | None]],
    more: Sequence[Sequence[str]],
    measure: str,
    scale: tuple[float, float],
    form: str = ".1%",
) -> Chart:
    """Cells z [y, x] with `more` to say of each."""
    data = {
        "type": "heatmap",
        "x": list(x),
        "y": list(y),
        "z": [list(line) for line in z],
        "customdata": [list(line) for line in more],
        "colorscale": SEQUENTIAL,
        "zmin": scale[0],
        "zmax": scale[1],
        "xgap": 1,
        "ygap": 1,
        "hoverongaps": False,
        "colorbar": {"title": {"text": shown_as(measure), "side": "right"}, "tickformat": form, "thickness": 12},
        "hovertemplate": f"%{{y}}, %{{x}}<br><b>%{{z:{form}}}</b> %{{customdata}}<extra></extra>",
    }
    axis = {"type": "category", "showgrid": False}
    axes = {"xaxis": {**axis, "tickangle": -45}, "yaxis": axis}
    return {"name": name, "data": [data], "layout": axes}


def study_chart(tables: Sequence["pd.DataFrame"], read: Sequence[str]) -> Chart:
    """Two tasks against relative depth of the language model, each at its position of `read`."""
    lines = zip(tables, SIDES, read, of_study(*(one.task.iloc[0] for one in tables)), strict=True)
    named = [(f"{one.task.iloc[0]} ({side}) at {at}", one, at, colour) for one, side, at, colour in lines]
    return depth_chart("both tasks", named)


def depth_chart(
    name: str, lines: Sequence[tuple[str, "pd.DataFrame", str, str]], levels: Mapping[str, float] | None = None
) -> Chart:
    """Curves (name, scores, position, colour) of language models against relative depth, and `levels` beside them."""
    data: list[Any] = []
    for label, scores, position, colour in lines:
        line = blocks(real(headline(scores)))
        line = line[line.position == position].sort_values("depth")
        depth = dict(zip(line.site, line.depth, strict=True))
        data += [{**trace, "x": at_depths(trace["x"], depth)} for trace in _curve(line, label, colour)]
    tables = [scores for _, scores, _, _ in lines]
    metrics = list(map(headline_metric, tables))
    for label, level in (levels or {}).items():
        data.append(_level(label, [0, 1], level, CHANCE, FLOOR.format(_form(metrics[0]))))
    axis = _axis(metrics[0], *tables)
    axis |= {"title": _axis("", *tables)["title"]} if len(set(metrics)) > 1 else {}
    layout = {"xaxis": {"title": {"text": "relative depth in the language model"}}, "yaxis": axis}
    return {"name": name, "data": data, "layout": layout | {"hovermode": "closest"}}


def site_chart(name: str, lines: Sequence[tuple[str, "pd.DataFrame", str, str]]) -> Chart:
    """Curves (name, rows of one measure by site, colour, dash) over the sites of all of them."""
    import pandas as pd

    together = pd.concat([rows for _, rows, _, _ in lines])
    data = [trace for label, rows, colour, dash in lines for trace in _curve(rows, label, colour, dash)]
    return _chart(name, data, together, str(together.metric.iloc[0]))


def geometry_charts(table: "pd.DataFrame") -> Iterator[Chart]:
    """A heat map for each measure and position of geometry.csv."""
    from mllm_probe.report.figures.geometry import SCALES
    from mllm_probe.report.figures.geometry import TITLES as MEASURES

    pairs = table[table.site_b != ""]
    for (measure, position), cells in pairs.groupby(["measure", "position"], sort=False):
        first, second = list(dict.fromkeys(cells.site_a)), list(dict.fromkeys(cells.site_b))
        cell = {(row.site_a, row.site_b): row for row in cells.itertuples()}
        grid = [[cell[a, b] for b in second] for a in first]
        values = [[None if row.value != row.value else row.value for row in line] for line in grid]
        nulls = [[f"(shuffled: {row.null_high:.2f})" for row in line] for line in grid]
        title = MEASURES.get(measure, measure)
        yield heat_map(
            f"{title} at {position}", second, first, values, nulls, title, SCALES.get(measure, (0, 1)), ".2f"
        )
