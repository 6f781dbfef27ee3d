"""What `vision policy` ends with: figures and tables."""

from mllm_probe.config.report import DEFAULT, ReportSettings
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.readback import load_rows
from mllm_probe.records.protocols import Reporter
from mllm_probe.report.figures.policy import draw_plan, draw_recall
from mllm_probe.report.terminal.policy import print_policy
from mllm_probe.report.terminal.progress import both, end
from mllm_probe.results.policy import PlanRow, RecallRow


def show_policy(paths: RunPaths, reporter: Reporter, settings: ReportSettings = DEFAULT) -> None:
    """Draw the plan and, where anything was simulated, the recall curves; print both and say where everything is."""
    plan, recall = load_rows(paths.policy, PlanRow), load_rows(paths.recall, RecallRow)
    lacking = [draw_plan(plan, both(paths.chosen), settings)]
    if len(recall):
        lacking.append(draw_recall(recall, both(paths.recalls), settings))
    print_policy(plan, recall)
    end(reporter, paths.root, *lacking)
