"""What `tune` ends with: the losses as a figure, one line, and report.html."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mllm_probe.config.report import DEFAULT, ReportSettings
from mllm_probe.files.model_names import trained
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.readback import read_entries
from mllm_probe.files.seals import NUMBER, SEALS
from mllm_probe.records.protocols import Reporter
from mllm_probe.report.figures.training import draw_losses, loss_chart
from mllm_probe.report.html.pieces import Part, known_command, picture_uri, write_other
from mllm_probe.report.tables.held_out import SAID, held_out_said
from mllm_probe.report.terminal.progress import both, end
from mllm_probe.results.training import DRAWN, load_losses

if TYPE_CHECKING:
    import pandas as pd

SUMMARY = {**dict.fromkeys(("held_out", "low", "high"), NUMBER), "rows": int, "unit": str, "probed": str}


def show_training(paths: RunPaths, reporter: Reporter, settings: ReportSettings = DEFAULT) -> None:
    """Draw losses.png and losses.pdf and say how the held-out loss is. Reads the files of the run alone."""
    losses = load_losses(paths.losses)
    lacking = draw_losses(losses, both(paths.curve), settings)
    told = read_entries(paths.summary, SUMMARY)
    reporter.note(f"held out: {held_out_said(told)}; `mllm-probe run {told['probed']}={paths.checkpoint}` probes it")
    training_page(paths, losses, told)
    end(reporter, paths.root, lacking, page=paths.page)


def training_page(paths: RunPaths, losses: "pd.DataFrame", told: Mapping[str, Any]) -> None:
    """report.html of a training."""
    names = [name for name in DRAWN if name in losses.columns]
    of = trained(paths.checkpoint)
    title = f"training of {of[0]}: {of[1]}" if of else f"training, target={told['target']}"
    facts = [f"{name}: {value}" for name, value in told.items() if name not in (*SAID, SEALS)]
    said = (f"On held-out pictures: {held_out_said(told)}.", *facts)
    where = f"FOLDER/{paths.checkpoint.name}"
    probed = f"`mllm-probe run {told['probed']}={where}` probes it; FOLDER is the folder of this page."
    parts = [
        Part("Losses, step by step", (), [loss_chart(losses, names)], picture_uri(paths.curve("png"))),
        Part("Results", (*said, probed)),
    ]
    about = [f"{len(losses)} steps"]
    write_other(paths.page, "mllm-probe tune", title, about, parts, known_command(paths))
