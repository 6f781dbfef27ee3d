"""What a run of two tasks ends with: the answers, both runs, study.png, the hypotheses, and one page of it all."""

from mllm_probe.config.report import SCREEN, ReportSettings
from mllm_probe.files.paths import RunPaths
from mllm_probe.records.protocols import Reporter
from mllm_probe.report.figures.saving import save
from mllm_probe.report.figures.study import study_figure
from mllm_probe.report.html.page import answering, leave_page, results_of
from mllm_probe.report.run import show_run
from mllm_probe.report.terminal.progress import both
from mllm_probe.report.terminal.study import print_answers, print_study
from mllm_probe.results.selection import check_selection
from mllm_probe.results.study import load_study


def show_study(paths: RunPaths, reporter: Reporter, settings: ReportSettings) -> None:
    """The answer to each question, both tasks, study.png and study.pdf, the hypotheses, then one page of it all."""
    results = results_of(paths, settings)
    check_selection([result.scores for result in results], settings)
    best = answering(results)
    print_answers(best)
    lacking = [line for result in results for line in show_run(result)]
    study = load_study(paths.study)
    whole, local = (result.selected for result in results)
    figure = study_figure(whole, local, best, settings)
    lacking.append(save(figure, both(paths.curves), settings))
    print_study(study)
    leave_page(paths, settings, reporter, lacking, results, figure if settings.style == SCREEN else None)
