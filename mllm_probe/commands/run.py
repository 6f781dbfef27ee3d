"""`mllm-probe run`: extract, sweep and report in one command; with a local task, both tasks and conclusions."""

from collections.abc import Sequence

from mllm_probe.config.run import RunConfig
from mllm_probe.experiment.experiment import Experiment
from mllm_probe.experiment.fill import fill_all
from mllm_probe.experiment.prepare import prepare
from mllm_probe.files.paths import SIDES, RunPaths
from mllm_probe.loggers.chosen import chosen_loggers, log_runs
from mllm_probe.records.protocols import Reporter
from mllm_probe.report.html.inspect_files import save_first
from mllm_probe.report.run import show
from mllm_probe.scoring.guards import check_probe, check_question, check_reads
from mllm_probe.scoring.sweep import Swept, sweep_cached


def run(config: RunConfig, paths: RunPaths, reporter: Reporter) -> None:
    """The command. Raises MllmProbeError."""
    loggers = chosen_loggers(config.loggers)
    if config.local is not None:
        runs = _study(config, paths, reporter)
    else:
        runs = [paths]
        experiment = _experiment_of(config, paths, reporter)
        [swept] = _extract_and_sweep([experiment], [config], runs, reporter)
        swept.clear()
        show(paths, reporter, config.report)
    log_runs(loggers, runs, config.paths.outputs, reporter)


def _study(config: RunConfig, paths: RunPaths, reporter: Reporter) -> list[RunPaths]:
    """Both tasks are checked before either is read. What is fitted is kept until both are done, for a killed run."""
    from mllm_probe.experiment.study import sides_of
    from mllm_probe.report.study import show_study
    from mllm_probe.scoring.study import save_study

    runs = [paths.side(side) for side in SIDES]
    experiments = []
    configs = sides_of(config)
    for side, own in zip(configs, runs, strict=True):
        own.root.mkdir(parents=True, exist_ok=True)
        experiments.append(_experiment_of(side, own, reporter))
    swept = _extract_and_sweep(experiments, configs, runs, reporter)
    save_study(paths, config.sweep, runs, swept, reporter)
    for one in swept:
        one.clear()
    show_study(paths, reporter, config.report)
    return runs


def _experiment_of(config: RunConfig, paths: RunPaths, reporter: Reporter) -> Experiment:
    """The experiment, once all that can be wrong before its model is loaded is refused."""
    experiment = prepare(config, paths, reporter, early=check_reads)
    check_probe(experiment, config.report)
    check_question(experiment, reporter)
    return experiment


def _extract_and_sweep(
    experiments: Sequence[Experiment], configs: Sequence[RunConfig], runs: Sequence[RunPaths], reporter: Reporter
) -> list[Swept]:
    for experiment in experiments:
        experiment.attempts.begin(experiment.outputs.parts(experiment.run))
    extractions = fill_all(experiments, configs, reporter)
    done = []
    for experiment, paths, extraction in zip(experiments, runs, extractions, strict=True):
        if len(experiments) > 1:
            reporter.note(f"{paths.root.name}: {experiment.task.name}")
        template = save_first(experiment, paths, reporter)
        done.append(sweep_cached(experiment, paths, reporter, experiment.attempts.summed(extraction), template))
    return done
