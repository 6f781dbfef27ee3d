"""`mllm-probe sweep`: what the cache holds -> scores, on the fixed test pictures. Loads no model."""

from mllm_probe.config.run import RunConfig
from mllm_probe.experiment.experiment import Experiment
from mllm_probe.experiment.prepare import parts_of, prepare_all
from mllm_probe.files.paths import RunPaths
from mllm_probe.loggers.chosen import chosen_loggers, log_runs
from mllm_probe.records.protocols import Picking, Reporter
from mllm_probe.report.html.inspect_files import save_first
from mllm_probe.report.html.page import leave_page
from mllm_probe.scoring.guards import check_probe, check_reads, check_regions_run
from mllm_probe.scoring.sweep import check_filled, sweep_cached


def sweep(config: RunConfig, paths: RunPaths, reporter: Reporter) -> None:
    """The command: prepare, then sweep what the cache holds, of a study for both tasks. Raises CacheError where it does
    not hold it."""
    loggers = chosen_loggers(config.loggers)
    parts = parts_of(config, paths, reporter)
    experiments = prepare_all(parts, reporter, early=check_reads, picking=True)
    if isinstance(experiments[0].task, Picking):
        check_filled(experiments[0], reporter)
        _sweep_regions(experiments[0], config, paths, reporter)
        return
    for experiment in experiments:
        check_probe(experiment, config.report)
        check_filled(experiment, reporter)
    check_regions_run(config.regions_run, experiments[0])
    runs, swept = [own for _, own in parts], []
    for experiment, own in zip(experiments, runs, strict=True):
        template = save_first(experiment, own, reporter)
        swept.append(sweep_cached(experiment, own, reporter, {}, template))
    if config.local is not None:
        from mllm_probe.scoring.study import save_study

        save_study(paths, config.sweep, runs, swept, reporter, config.regions_run)
    for one in swept:
        one.clear()
    leave_page(paths, config.report, reporter)
    log_runs(loggers, runs, config.paths.outputs, reporter)


def _sweep_regions(experiment: Experiment, config: RunConfig, paths: RunPaths, reporter: Reporter) -> None:
    """Of a task that reads single picture tokens."""
    from mllm_probe.report.regions import show_regions
    from mllm_probe.spatial.sweep import RegionSweep

    sweep = RegionSweep(experiment, reporter)
    sweep.save(paths)
    show_regions(paths, reporter, config.report)
    sweep.clear()
