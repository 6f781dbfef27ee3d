"""losses.csv, held_out.csv and what `tune` ends with: a curve of the losses, one line, and its page. Fits nothing."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_probe.config.report import DEFAULT, ReportSettings
from mllm_probe.files.entries import NUMBER
from mllm_probe.files.model_names import trained
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.readback import read_entries
from mllm_probe.records.protocols import Reporter
from mllm_probe.report.charts import Chart
from mllm_probe.report.colours import LOSSES, on_page
from mllm_probe.report.finish import save
from mllm_probe.report.other_page import Part, known_command, picture_uri, write_other

if TYPE_CHECKING:
    import pandas as pd
from mllm_probe.results.training import DRAWN, load_losses

SUMMARY = {**dict.fromkeys(("held_out", "low", "high"), NUMBER), "rows": int, "unit": str, "probed": str}
SAID = ("held_out", "low", "high", "rows", "unit", "probed")  # of summary.json, in a sentence
SMOOTHED = 0.05  # the share of all steps that the drawn mean goes over


def show_training(paths: RunPaths, reporter: Reporter, settings: ReportSettings = DEFAULT) -> None:
    """Draw losses.png and losses.pdf and say how the held-out loss is. Reads the files of the run alone."""
    losses = load_losses(paths.losses)
    lacking = draw_losses(losses, [paths.curve("png"), paths.curve("pdf")], settings)
    told = read_entries(paths.summary, SUMMARY)
    reporter.note(f"held out: {held_out_said(told)}; `mllm-probe run {told['probed']}={paths.checkpoint}` probes it")
    training_page(paths, losses, told)
    if lacking:
        reporter.note(lacking)
    reporter.note(f"everything is in {paths.root}; open {paths.page.name} there")


def held_out_said(told: Mapping[str, Any]) -> str:
    """`2.1234 nats a token [2.0, 2.2] over 40 captions`."""
    bounds = f"[{told['low']:.4f}, {told['high']:.4f}]"
    return f"{told['held_out']:.4f} nats a token {bounds} over {told['rows']} {told['unit']}"


def loss_chart(losses: "pd.DataFrame", names: Sequence[str]) -> Chart:
    """The columns `names` of a training, step by step."""
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": escape(DRAWN[name]),
            "x": losses.step.tolist(),
            "y": losses[name].tolist(),
            "hovertemplate": f"step %{{x}}<br><b>%{{y:.4g}}</b> {escape(DRAWN[name])}<extra></extra>",
            "line": {"color": on_page(LOSSES[name]), "width": 1.6},
        }
        for name in names
    ]
    axes = {"xaxis": {"title": {"text": "step"}}, "yaxis": {"title": {"text": "loss"}}}
    return {"name": "losses", "data": data, "layout": axes | {"showlegend": len(names) > 1}}


def training_page(paths: RunPaths, losses: "pd.DataFrame", told: Mapping[str, Any]) -> None:
    """report.html of a training."""
    names = [name for name in DRAWN if name in losses.columns]
    of = trained(paths.checkpoint)
    title = f"a training of {of[0]}: {of[1]}" if of else f"a training, target={told['target']}"
    facts = [f"{name}: {value}" for name, value in told.items() if name not in SAID]
    said = (f"On pictures held out: {held_out_said(told)}.", *facts)
    where = f"FOLDER/{paths.checkpoint.name}"
    probed = f"`mllm-probe run {told['probed']}={where}` probes it; FOLDER is the one that this page lies in."
    parts = [
        Part("Losses, step by step", (), [loss_chart(losses, names)], picture_uri(paths.curve("png"))),
        Part("What came out", (*said, probed)),
    ]
    about = [f"{len(losses)} steps"]
    write_other(paths.page, "mllm-probe tune", title, about, parts, known_command(paths))


def draw_losses(losses: Any, paths: Sequence[Path], settings: ReportSettings = DEFAULT) -> str:
    """Each loss that was written down, step by step and as a moving mean."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, 3.2), layout="constrained")
    panel = figure.subplots()
    names = [name for name in DRAWN if name in losses.columns]
    for name in names:
        colour = LOSSES[name]
        mean = losses[name].rolling(max(1, round(SMOOTHED * len(losses))), min_periods=1).mean()
        panel.plot(losses.step, losses[name], color=colour, alpha=0.3, linewidth=0.7)
        panel.plot(losses.step, mean, color=colour, linewidth=1.4, label=DRAWN[name])
    panel.set_xlabel("step")
    panel.set_ylabel("loss")
    figure.suptitle("Losses by step (thin) and their moving mean (thick)", fontsize=10)
    panel.grid(axis="y", color="0.92")
    panel.spines[["top", "right"]].set_visible(False)
    if len(names) > 1:
        panel.legend(frameon=False, fontsize=8)
    return save(figure, paths, settings)
