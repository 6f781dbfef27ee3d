"""`mllm-probe run`: extract, sweep and report in one go."""

from mllm_probe.config import RunConfig
from mllm_probe.paths import RunPaths
from mllm_probe.protocols import Reporter
from mllm_probe.stages.extract import extract_missing
from mllm_probe.stages.prepare import prepare
from mllm_probe.stages.report import show
from mllm_probe.stages.sweep import sweep_cached


def run(config: RunConfig, paths: RunPaths, reporter: Reporter) -> None:
    ready = prepare(config, paths, reporter)
    extraction = extract_missing(ready, reporter)
    sweep_cached(ready, paths, reporter, extraction)
    show(paths, reporter)
