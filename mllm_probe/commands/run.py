"""`mllm-probe run`: extract, sweep and report in one go; with a local task, both and what may be said of them."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from mllm_probe.cache.store import write_json
from mllm_probe.commands.extract import extract_all
from mllm_probe.commands.sweep import Swept, sweep_cached
from mllm_probe.config.report import ReportSettings
from mllm_probe.config.run import ExtractSettings, RunConfig, run_digest
from mllm_probe.errors import ConfigError, ProbeError, choices
from mllm_probe.experiment.experiment import Prepared
from mllm_probe.experiment.prepare import prepare
from mllm_probe.files.paths import SIDES, OutputPaths, RunPaths
from mllm_probe.files.seals import sealed
from mllm_probe.fitting.trials import Bench
from mllm_probe.loggers.chosen import chosen_loggers, log_runs
from mllm_probe.records.protocols import Reporter
from mllm_probe.records.sites import TOWERS
from mllm_probe.report.run import show
from mllm_probe.results.score_file import load_scores
from mllm_probe.scoring.guards import Guards
from mllm_probe.scoring.refusals import check_probe, check_reads
from mllm_probe.scoring.verdicts.hypotheses import Judge

OF_A_SIDE = ("positions", "answers")  # what a task sets of `extract`


def run(config: RunConfig, paths: RunPaths, reporter: Reporter) -> None:
    loggers = chosen_loggers(config.loggers)
    if config.local is not None:
        _study(config, paths, reporter)
        log_runs(loggers, [paths.side(side) for side in SIDES], config.paths.outputs, reporter)
        return
    ready = _ready(config, paths, reporter)
    [swept] = _swept([ready], [paths], reporter)
    swept.clear()
    show(paths, reporter, config.report)
    log_runs(loggers, [paths], config.paths.outputs, reporter)


def _ready(config: RunConfig, paths: RunPaths, reporter: Reporter) -> Prepared:
    ready = prepare(config, paths, reporter, early=check_reads)
    check_probe(ready)
    if config.guards == "stop":  # else the sweep notes it
        Guards(Bench(ready), reporter).question()
    return ready


def _swept(experiments: Sequence[Prepared], paths: Sequence[RunPaths], reporter: Reporter) -> list[Swept]:
    for ready in experiments:
        run = run_digest(ready.config, ready.identity.digest, ready.examples)
        ready.attempts.begin(OutputPaths(Path(ready.config.paths.outputs)).parts(run))
    extractions = extract_all(experiments, reporter)
    done = []
    for ready, own, extraction in zip(experiments, paths, extractions, strict=True):
        if len(experiments) > 1:
            reporter.note(f"{own.root.name}: {ready.task.name}")
        done.append(sweep_cached(ready, own, reporter, ready.attempts.summed(extraction)))
    return done


def _study(config: RunConfig, paths: RunPaths, reporter: Reporter) -> None:
    """Both tasks are checked before either is read. What is fitted is kept until both are done, for a killed run."""
    from mllm_probe.report.study import show_study
    from mllm_probe.results.study import study_headline

    sides = [paths.side(side) for side in SIDES]
    both = []
    configs = (replace(config, local=None, report=_of_a_side(config.report)), local_side(config))
    positions = [position for side in configs for position in side.extract.positions]
    config.report.check_read(positions, config.layers.towers or TOWERS)
    for side, own in zip(configs, sides, strict=True):
        own.root.mkdir(parents=True, exist_ok=True)
        both.append(_ready(side, own, reporter))
    swept = _swept(both, sides, reporter)
    judged = _judged(config, swept[0], swept[1], reporter)
    position = str(judged["position"])
    told = [
        study_headline(load_scores(own.scores), one.summary, position) for own, one in zip(sides, swept, strict=True)
    ]
    write_json(paths.study, sealed(paths.study, {**judged, "headlines": [one for one in told if one]}, []))
    for one in swept:
        one.clear()
    show_study(paths, reporter, config.report)


def local_side(config: RunConfig) -> RunConfig:
    """The experiment with the other task and what that sets of `extract`. Raises ConfigError."""
    given = config.local
    if not isinstance(given, dict) or not {"task"} <= given.keys() <= {"task", "extract"}:
        raise ConfigError(f"local={given!r} must hold a task, and may hold extract; experiment=tao2024 is an example")
    extract = given.get("extract") or {}
    for name in extract:
        if name not in OF_A_SIDE:
            raise ConfigError(
                f"'local.extract.{name}' is set for both tasks by extract.{name}; {choices(name, OF_A_SIDE)}"
            )
    settings: ExtractSettings = replace(config.extract, **{"answers": None, **extract})
    return replace(config, task=given["task"], extract=settings, local=None, report=_of_a_side(config.report))


def _of_a_side(report: ReportSettings) -> ReportSettings:
    """Without the positions, of which each side reads its own."""
    return replace(report, positions=None)


def _judged(config: RunConfig, whole: Swept, local: Swept, reporter: Reporter) -> dict[str, object]:
    """The three hypotheses at the first position that both tasks read, `last` before others."""
    curves, others = whole.curves, local.curves
    shared = sorted(set(curves) & set(others), key=lambda position: position != "last")
    metric = str(whole.summary["metric"])
    judge = Judge(config.sweep.draws, margin=config.sweep.margin, metric=metric)
    if not shared:
        reporter.note("no hypotheses: the tasks share no position that was read at three blocks of the language model")
        return {"position": None, "statements": []}
    measures = [swept.summary["metric"] for swept in (whole, local)]
    if measures[0] != measures[1]:
        reporter.note(
            f"no hypotheses: the labels of the tasks suit {' and '.join(measures)}, and curves are compared by one "
            "measure; name it with sweep.metric"
        )
        return {"position": shared[0], "statements": []}
    try:
        statements = judge.statements(curves[shared[0]], others[shared[0]])
    except ProbeError as error:
        reporter.note(f"no hypotheses: {error}")
        return {"position": shared[0], "statements": []}
    return {"position": shared[0], "statements": [asdict(one) for one in statements]}
