"""What a command ends with, and `mllm-probe report`: page, tables, figures of a finished run, from its files alone."""

from collections.abc import Callable
from pathlib import Path

from mllm_probe.config.report import DEFAULT, FIGURES, ReportSettings
from mllm_probe.config.schemas import ReportConfig
from mllm_probe.errors import ConfigError
from mllm_probe.files.paths import SIDES, MultirunPaths, RunPaths
from mllm_probe.files.readback import blamed
from mllm_probe.files.row_file import load_rows, save_rows
from mllm_probe.records.protocols import Reporter
from mllm_probe.report.figures.align import draw_alignment
from mllm_probe.report.figures.fidelity import draw_fidelity
from mllm_probe.report.figures.geometry import draw_geometry
from mllm_probe.report.figures.integrations import draw_features
from mllm_probe.report.figures.law import draw_laws
from mllm_probe.report.figures.layers import draw_layers
from mllm_probe.report.figures.policy import draw_plan, draw_recall
from mllm_probe.report.figures.study import draw_study
from mllm_probe.report.figures.training import draw_arms
from mllm_probe.report.html.by_layer import alignment_page, fidelity_page, geometry_page
from mllm_probe.report.html.page import leave_page
from mllm_probe.report.html.run_view import Result
from mllm_probe.report.tables.paper import save_tables
from mllm_probe.report.terminal.align import print_alignment
from mllm_probe.report.terminal.arms import print_arms
from mllm_probe.report.terminal.fidelity import print_agreements
from mllm_probe.report.terminal.geometry import print_relations
from mllm_probe.report.terminal.law import print_laws
from mllm_probe.report.terminal.policy import print_policy
from mllm_probe.report.terminal.run import print_table
from mllm_probe.report.terminal.study import print_study
from mllm_probe.report.terminal.tune import show_training
from mllm_probe.report.terminal.vision import print_vision
from mllm_probe.results.fidelity import load_agreements
from mllm_probe.results.geometry import load_relations
from mllm_probe.results.group_words import with_words
from mllm_probe.results.policy import PlanRow, RecallRow
from mllm_probe.results.score_file import load_scores
from mllm_probe.results.selection import check_selection, selected
from mllm_probe.results.study import load_study
from mllm_probe.results.training import Effect
from mllm_probe.results.vision import GroupRow, LawRow, PointRow, VisionScore
from mllm_probe.sugar.arms import effects


def report(config: ReportConfig, reporter: Reporter) -> None:
    """Raises ConfigError, DataError."""
    config.report.check()
    if config.run is None:
        raise ConfigError("report needs a FOLDER, or run=FOLDER, the folder of a finished run (it holds scores.csv)")
    paths = RunPaths(Path(config.run))
    settings = config.report
    kinds: dict[Path, Callable[[RunPaths, Reporter, ReportSettings], None]] = {
        MultirunPaths(paths.root).asked: show_arms,
        paths.study: show_study,
        paths.scores: show,
        paths.geometry: show_geometry,
        paths.fidelity: show_fidelity,
        paths.alignment: show_alignment,
        paths.losses: show_training,
        paths.vision: show_vision,
        paths.fit: show_fit,
        paths.policy: show_policy,
    }
    found = next((file for file in kinds if file.is_file()), paths.scores)
    if found not in (paths.study, paths.scores):
        settings.check_followed(*(() if found == paths.vision else FIGURES))  # which has no figure
    with blamed(paths.root):
        kinds[found](paths, reporter, settings)


def show(paths: RunPaths, reporter: Reporter, settings: ReportSettings) -> None:
    """The files and the table of a run, then report.html and where everything is. Raises ConfigError."""
    check_selection([load_scores(paths.scores)], settings)
    _note(reporter, *show_run(paths, settings))
    leave_page(paths, settings, reporter)


def _note(reporter: Reporter, *lacking: str) -> None:
    """What figures lack, once."""
    for line in dict.fromkeys(filter(None, lacking)):
        reporter.note(line)


def show_run(paths: RunPaths, settings: ReportSettings) -> list[str]:
    """Draw layers.png and layers.pdf and those of features, write table.md and table.tex, print the table; what the
    figures lack."""
    run = Result(paths, settings)
    scores, summary, tests = run.scores, run.summary, run.tests
    shown = selected(scores, settings)
    lacking = [draw_layers(shown, [paths.figure("png"), paths.figure("pdf")], settings)]
    save_tables(scores, summary, tests, paths.table, shown)
    if summary.get("integrations"):
        lacking.append(draw_features(shown, summary, [paths.features("png"), paths.features("pdf")], settings))
    print_table(scores, summary, tests, shown=shown)
    return lacking


def show_study(paths: RunPaths, reporter: Reporter, settings: ReportSettings) -> None:
    """Both tasks, then study.png and study.pdf, what became of the hypotheses, and one page of it all."""
    tables = [Result(paths.side(side), settings).scores for side in SIDES]
    check_selection(tables, settings)
    lacking = [line for side in SIDES for line in show_run(paths.side(side), settings)]
    study, files = load_study(paths.study), [paths.curves("png"), paths.curves("pdf")]
    whole, local = (selected(table, settings) for table in tables)
    lacking.append(draw_study(whole, local, study["statements"], files, settings))
    print_study(study)
    _note(reporter, *lacking)
    leave_page(paths, settings, reporter)


def show_geometry(paths: RunPaths, reporter: Reporter, settings: ReportSettings) -> None:
    """Draw geometry.png and geometry.pdf, print the table, write report.html and say where everything is."""
    table = load_relations(paths.geometry)
    _note(reporter, draw_geometry(table, [paths.heatmaps("png"), paths.heatmaps("pdf")], settings))
    print_relations(table)
    geometry_page(paths, table)
    reporter.note(f"everything is in {paths.root}; open {paths.page.name} there")


def show_fidelity(paths: RunPaths, reporter: Reporter, settings: ReportSettings) -> None:
    """Draw fidelity.png and fidelity.pdf, print the table, write report.html and say where everything is."""
    table = with_words(load_agreements(paths.fidelity), paths.config)
    _note(reporter, draw_fidelity(table, [paths.precision("png"), paths.precision("pdf")], settings))
    print_agreements(table)
    fidelity_page(paths, table)
    reporter.note(f"everything is in {paths.root}; open {paths.page.name} there")


def show_alignment(paths: RunPaths, reporter: Reporter, settings: ReportSettings) -> None:
    """Draw alignment.png and alignment.pdf, print the table, write report.html and say where everything is."""
    table = load_scores(paths.alignment)
    _note(reporter, draw_alignment(table, [paths.alignments("png"), paths.alignments("pdf")], settings))
    print_alignment(table)
    alignment_page(paths, table)
    reporter.note(f"everything is in {paths.root}; open {paths.page.name} there")


def show_arms(paths: RunPaths, reporter: Reporter, settings: ReportSettings) -> None:
    """Write arms.csv of the trainings of a multirun, draw arms.png and arms.pdf, and say what was moved."""
    rows = effects(paths.root)
    save_rows(paths.arms, Effect, rows)
    _note(reporter, draw_arms(rows, [paths.differences("png"), paths.differences("pdf")], settings))
    print_arms(rows)
    reporter.note(f"everything is in {paths.root}")


def show_vision(paths: RunPaths, reporter: Reporter, settings: ReportSettings = DEFAULT) -> None:
    """Print the table and say where everything is."""
    print_vision(load_rows(paths.vision, VisionScore))
    reporter.note(f"everything is in {paths.root}")


def show_fit(paths: RunPaths, reporter: Reporter, settings: ReportSettings = DEFAULT) -> None:
    """Draw fit.png and fit.pdf, print the table and say where everything is."""
    laws = load_rows(paths.fit, LawRow)
    points, files = load_rows(paths.points, PointRow), [paths.surfaces("png"), paths.surfaces("pdf")]
    _note(reporter, draw_laws(laws, points, files, settings))
    print_laws(laws, load_rows(paths.groups, GroupRow))
    reporter.note(f"everything is in {paths.root}")


def show_policy(paths: RunPaths, reporter: Reporter, settings: ReportSettings = DEFAULT) -> None:
    """Draw the plan and, where anything was simulated, the recall curves; print both and say where everything is."""
    plan, recall = load_rows(paths.policy, PlanRow), load_rows(paths.recall, RecallRow)
    lacking = [draw_plan(plan, [paths.chosen("png"), paths.chosen("pdf")], settings)]
    if len(recall):
        lacking.append(draw_recall(recall, [paths.recalls("png"), paths.recalls("pdf")], settings))
    print_policy(plan, recall)
    _note(reporter, *lacking)
    reporter.note(f"everything is in {paths.root}")
