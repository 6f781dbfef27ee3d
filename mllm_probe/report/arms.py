"""What a multirun of `tune` ends with that set several arms side by side: arms.csv, a figure, and words."""

from mllm_probe.config.report import ReportSettings
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.readback import save_rows
from mllm_probe.records.protocols import Reporter
from mllm_probe.report.figures.training import draw_arms
from mllm_probe.report.terminal.arms import print_arms
from mllm_probe.report.terminal.progress import both, end
from mllm_probe.results.training import Effect
from mllm_probe.sugar.arms import effects


def show_arms(paths: RunPaths, reporter: Reporter, settings: ReportSettings) -> None:
    """Write arms.csv of the trainings of a multirun, draw arms.png and arms.pdf, and say what was moved."""
    rows = effects(paths.root)
    save_rows(paths.arms, Effect, rows)
    lacking = draw_arms(rows, both(paths.differences), settings)
    print_arms(rows)
    end(reporter, paths.root, lacking)
