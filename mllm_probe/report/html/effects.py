"""report.html of `intervene`, from its own files: what was shown, every metric by layer, and read beside used."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mllm_probe.files.paths import RunPaths
from mllm_probe.records import units
from mllm_probe.report.figures.effects import ProbeCurve
from mllm_probe.report.figures.style import CHANCE, READ, of_effects
from mllm_probe.report.html.charts import Chart, depth_chart, shown_as, site_chart
from mllm_probe.report.html.pieces import Part, known_command, picture_uri, write_other
from mllm_probe.report.tables.effects import CONTROLS, band, headed, lines, metrics, of_window, scaled, sentences
from mllm_probe.report.terminal.layers.effects import effect_views
from mllm_probe.results.effects import CORRECT, PATCHING
from mllm_probe.results.selection import at_depths, headline_metric, many_of

if TYPE_CHECKING:
    import pandas as pd

APART = 0.06  # of the height of a chart, between its two halves


def effects_page(
    paths: RunPaths, table: "pd.DataFrame", summary: Mapping[str, Any], curve: ProbeCurve | None = None
) -> None:
    """In words first; then the figure of read and used where a probe run is given, and the layers."""
    first = table.iloc[0]
    parts = [Part("What was shown", list(sentences(summary)))]
    if curve is not None:
        charts = [_read_and_used(table, curve)]
        parts.append(Part("Read and used", (), charts, picture_uri(paths.read_and_used("png"))))
    shown = [_chart(table, metric) for metric in metrics(table)]
    views = [view for metric in metrics(table) for view in effect_views(table, metric)]
    parts.append(Part("Layer by layer", (), shown, picture_uri(paths.changes("png")), views))
    title = f"{first.model} ({first.quantization}): {first.kind}, {first.task}"
    about = [f"{_measured_on(table)} of {first.dataset}{_right(first, summary)}"]
    write_other(paths.page, "mllm-probe intervene", title, about, parts, known_command(paths))


def _measured_on(table: "pd.DataFrame") -> str:
    """A pair is of two pictures at least, and what counts as a group holds both."""
    first = table.iloc[0]
    if first.kind == PATCHING:
        return f"{first.n} pairs of {many_of(table)}"
    return f"{first.n} statements about {first.n_groups} {many_of(table)}"


def _right(first: Any, summary: Mapping[str, Any]) -> str:
    """How many of all statements are answered rightly, where only those are read."""
    asked = summary.get("prompts", summary.get("measured"))
    if first.subset != CORRECT or asked is None:
        return ""
    return f", those of {asked} that the model answers rightly without intervention"


def _chart(table: "pd.DataFrame", metric: str) -> Chart:
    found = site_chart(metric.replace("_", " "), list(_drawn(table, metric)))
    found["layout"]["yaxis"]["title"] = {"text": shown_as(headed(table, metric))}
    found["layout"]["xaxis"]["title"] = {"text": f"layer{of_window(table)}"}
    return found


def _drawn(table: "pd.DataFrame", metric: str) -> Iterator[tuple[str, "pd.DataFrame", str, str]]:
    """The lines of a metric and their controls, each at the site of what is changed."""
    found = lines(table, metric)
    colour = of_effects(list(dict.fromkeys(line.what for line in found)))
    for line in found:
        dash = "dash" if line.way == "noise" else "solid"
        yield line.label, _placed(line.rows, metric), colour[line.what], dash
        if len(line.control):
            yield f"{line.label}, random edges", _placed(line.control, metric), colour[line.what], "dot"
    around = band(table, metric)
    if len(around):
        first = found[0].rows.iloc[0]
        same = {"site": [f"lm.{layer:02d}" for layer in around.layer], "n": first.n, "n_groups": first.n_groups}
        rows = around.assign(value=(around.low + around.high) / 2, tower="lm", part="block", metric=metric, **same)
        yield CONTROLS.get(str(table.kind.iloc[0]), "control"), scaled(rows, metric), CHANCE, "dot"


def _placed(rows: "pd.DataFrame", metric: str) -> "pd.DataFrame":
    rows = scaled(rows, metric)
    sites = [row.site or f"lm.{row.layer:02d}" for row in rows.itertuples()]
    return rows.assign(site=sites, part=rows.part.replace("", "block"))


def _read_and_used(table: "pd.DataFrame", curve: ProbeCurve) -> Chart:
    """Two halves over one axis of depth, the probe's above."""
    metric = metrics(table)[0]
    above = depth_chart("read and used", [(f"probe at {curve.position}", curve.scores, curve.position, READ)])
    below = _chart(table, metric)
    depth = {f"lm.{row.layer:02d}{norm}": row.depth for row in table.itertuples() for norm in ("", ".norm")}
    moved = [{**one, "x": at_depths(one["x"], depth), "yaxis": "y2"} for one in below["data"]]
    read, used = ({"title": {"text": shown_as(name)}} for name in (units.named(headline_metric(curve.scores)), metric))
    halves = {
        "yaxis": above["layout"]["yaxis"] | read | {"domain": [0.5 + APART / 2, 1]},
        "yaxis2": below["layout"]["yaxis"] | used | {"domain": [0, 0.5 - APART / 2]},
    }
    title = {"text": f"{above['layout']['xaxis']['title']['text']}{of_window(table)}"}
    layout = above["layout"] | halves | {"xaxis": {"title": title, "anchor": "y2"}}
    return {"name": "read and used", "data": [*above["data"], *moved], "layout": layout}
