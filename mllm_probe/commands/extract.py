"""`mllm-probe extract`: add what a request lacks to the cache; load no model if nothing is missing."""

from typing import Any

from mllm_probe.config.run import RunConfig
from mllm_probe.experiment.fill import fill_missing
from mllm_probe.experiment.prepare import prepare
from mllm_probe.files.paths import RunPaths
from mllm_probe.records.protocols import Reporter


def extract(config: RunConfig, paths: RunPaths, reporter: Reporter) -> dict[str, Any]:
    """The command: prepare, then extract what is missing; labels are for the sweep to judge."""
    experiment = prepare(config, paths, reporter, scored=False)
    [done] = fill_missing([experiment], [config], reporter)
    return done
