"""`mllm-probe report`: the table and the figures of a finished run, from its files alone."""

from pathlib import Path

from mllm_probe.config import ReportConfig
from mllm_probe.errors import ConfigError
from mllm_probe.paths import RunPaths
from mllm_probe.protocols import Reporter
from mllm_probe.report.figures import draw_layers
from mllm_probe.report.scores import load_scores, load_summary
from mllm_probe.report.table import print_table


def report(config: ReportConfig, reporter: Reporter) -> None:
    """Raises ConfigError, DataError."""
    if config.run is None:
        raise ConfigError("report needs run=FOLDER, the folder of a finished run (it holds scores.csv)")
    show(RunPaths(Path(config.run)), reporter)


def show(paths: RunPaths, reporter: Reporter) -> None:
    """Draw layers.png and layers.pdf, print the table and say where everything is."""
    scores = load_scores(paths.scores)
    draw_layers(scores, [paths.figure("png"), paths.figure("pdf")])
    print_table(scores, load_summary(paths.summary))
    reporter.note(f"everything is in {paths.root}")
