"""`mllm-probe sweep`: what the cache holds -> scores, on the fixed test pictures. Loads no model."""

from typing import Any

from mllm_probe.config.run import RunConfig
from mllm_probe.experiment.prepare import prepare
from mllm_probe.files.paths import RunPaths
from mllm_probe.loggers.chosen import chosen_loggers, log_runs
from mllm_probe.records.protocols import Reporter
from mllm_probe.report.html.inspect_files import save_first
from mllm_probe.report.html.page import leave_page
from mllm_probe.scoring.guards import check_probe, check_reads
from mllm_probe.scoring.sweep import check_filled, sweep_cached


def sweep(config: RunConfig, paths: RunPaths, reporter: Reporter) -> dict[str, Any]:
    """The command: prepare, then sweep what the cache holds. Raises CacheError where it does not hold it."""
    loggers = chosen_loggers(config.loggers)
    experiment = prepare(config, paths, reporter, early=check_reads)
    check_probe(experiment, config.report)
    check_filled(experiment, reporter)
    template = save_first(experiment, paths, reporter)
    swept = sweep_cached(experiment, paths, reporter, {}, template)
    swept.clear()
    leave_page(paths, config.report, reporter)
    log_runs(loggers, [paths], config.paths.outputs, reporter)
    return swept.summary
