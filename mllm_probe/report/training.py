"""losses.csv, held_out.csv and what `tune` ends with: a curve of the losses and one line. Fits nothing."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mllm_probe.paths import RunPaths, replacing
from mllm_probe.protocols import Reporter
from mllm_probe.report.colours import COLOURS
from mllm_probe.report.figures import save

DRAWN = ("loss", "lg", "ld")  # columns of losses.csv
SMOOTHED = 0.05  # the share of all steps that the drawn mean goes over


def save_losses(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """A row a step, columns by the first: what is written down depends on the target."""
    with replacing(path) as part, part.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def show_training(paths: RunPaths, reporter: Reporter) -> None:
    """Draw losses.png and losses.pdf and say how the held-out loss is. Reads the files of the run alone."""
    import pandas as pd

    draw_losses(pd.read_csv(paths.losses), [paths.curve("png"), paths.curve("pdf")])
    said = json.loads(paths.summary.read_text())
    reporter.note(
        f"held out: {said['held_out']:.4f} nats a token [{said['low']:.4f}, {said['high']:.4f}] over "
        f"{said['rows']} {said['unit']}; `mllm-probe run {said['probed']}={paths.checkpoint}` probes it"
    )
    reporter.note(f"everything is in {paths.root}")


def draw_losses(losses: Any, paths: Sequence[Path]) -> None:
    """Each loss that was written down, step by step and as a moving mean."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, 3.2), layout="constrained")
    panel = figure.subplots()
    names = [name for name in DRAWN if name in losses.columns]
    for name, colour in zip(names, COLOURS, strict=False):
        mean = losses[name].rolling(max(1, round(SMOOTHED * len(losses))), min_periods=1).mean()
        panel.plot(losses.step, losses[name], color=colour, alpha=0.3, linewidth=0.7)
        panel.plot(losses.step, mean, color=colour, linewidth=1.4, label=name)
    panel.set_xlabel("step")
    panel.set_ylabel("loss")
    panel.grid(axis="y", color="0.92")
    panel.spines[["top", "right"]].set_visible(False)
    if len(names) > 1:
        panel.legend(frameon=False, fontsize=8)
    save(figure, paths)
