"""`mllm-probe extract`: add what a request lacks to the cache; load no model if nothing is missing."""

from mllm_probe.config.run import RunConfig
from mllm_probe.experiment.fill import fill_missing
from mllm_probe.experiment.prepare import parts_of, prepare_all
from mllm_probe.files.paths import RunPaths
from mllm_probe.records.protocols import Reporter


def extract(config: RunConfig, paths: RunPaths, reporter: Reporter) -> None:
    """The command: prepare, then extract what is missing, of a study for both tasks; labels are for the sweep to
    judge."""
    parts = parts_of(config, paths, reporter)
    experiments = prepare_all(parts, reporter, scored=False, picking=True)
    fill_missing(experiments, [one for one, _ in parts], reporter)
