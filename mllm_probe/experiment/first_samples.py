"""The first samples as the processor writes them, kept beside the cache for runs that need no processor."""

import json
from pathlib import Path

from mllm_probe.cache.store import write_json
from mllm_probe.experiment.experiment import Prepared
from mllm_probe.models.prompts.rendering import Rendering
from mllm_probe.records.samples import Sample

FIRST = 3  # samples of a run


def keep_first(ready: Prepared) -> list[Rendering]:
    """The first samples as the processor writes them: those kept in the cache, else made and kept."""
    found = []
    for sample in ready.examples.samples[:FIRST]:
        path = ready.store.paths.rendering(sample.uid)
        rendering = _kept(path, sample)
        if rendering is None:
            rendering = Rendering.of(ready.blueprint, sample)
            write_json(path, rendering.to_json())
        found.append(rendering)
    return found


def _kept(path: Path, sample: Sample) -> Rendering | None:
    """What cannot be read is made again."""
    try:
        return Rendering.from_json(sample, json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
