"""`mllm-probe run`: extract, sweep and report in one go."""

from mllm_probe.config import RunConfig
from mllm_probe.errors import CacheError
from mllm_probe.paths import RunPaths
from mllm_probe.protocols import Reporter
from mllm_probe.stages.extract import extract_missing
from mllm_probe.stages.prepare import prepare
from mllm_probe.stages.report import show
from mllm_probe.stages.sweep import check_probe, sweep_cached


def run(config: RunConfig, paths: RunPaths, reporter: Reporter) -> None:
    ready = prepare(config, paths, reporter)
    check_probe(ready)
    extraction = extract_missing(ready, reporter)
    if not extraction["complete"]:
        raise CacheError(
            "other processes have not filled their shards yet; when all are done, `mllm-probe sweep` with the same "
            "settings goes on"
        )
    sweep_cached(ready, paths, reporter, extraction)
    show(paths, reporter)
