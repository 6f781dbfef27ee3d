"""What `vision score` ends with: a table."""

from mllm_probe.config.report import DEFAULT, ReportSettings
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.readback import load_rows
from mllm_probe.records.protocols import Reporter
from mllm_probe.report.terminal.progress import end
from mllm_probe.report.terminal.vision import print_vision
from mllm_probe.results.vision import VisionScore


def show_vision(paths: RunPaths, reporter: Reporter, settings: ReportSettings = DEFAULT) -> None:
    """Print the table and say where everything is."""
    print_vision(load_rows(paths.vision, VisionScore))
    end(reporter, paths.root)
