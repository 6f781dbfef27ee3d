"""The first samples as the processor writes them, kept with the cache for runs that need no processor."""

import json
from pathlib import Path

from mllm_probe.cache.store import write_json
from mllm_probe.experiment.experiment import Experiment
from mllm_probe.models.prompts.rendering import Rendering
from mllm_probe.records.samples import Sample

FIRST = 3  # samples of a run


def keep_first(experiment: Experiment) -> list[Rendering]:
    """The first samples as the processor writes them: those kept in the cache, else made and kept."""
    found = []
    for sample in experiment.examples.samples[:FIRST]:
        path = experiment.store.paths.rendering(sample.uid)
        rendering = _kept(path, sample)
        if rendering is None:
            rendering = Rendering.of(experiment.blueprint, sample)
            write_json(path, rendering.to_json())
        found.append(rendering)
    return found


def _kept(path: Path, sample: Sample) -> Rendering | None:
    """What cannot be read is made again."""
    try:
        return Rendering.from_json(sample, json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
