"""inspect.json and inspect.html of an experiment: some of its samples as the model reads them.

What the processor made of the first samples is kept beside the cache, so that a run which finds its activations there
needs neither the processor nor transformers to show them.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from mllm_probe.cache.store import write_json
from mllm_probe.config.schemas import RunConfig
from mllm_probe.files.paths import RunPaths, replacing
from mllm_probe.models.prompts.rendering import Rendering
from mllm_probe.records.protocols import Reporter
from mllm_probe.records.samples import Decision, Examples, Sample
from mllm_probe.records.sites import Anatomy
from mllm_probe.report.inspection import Inspection, inspection, without_codes
from mllm_probe.report.inspection_page import page
from mllm_probe.stages.examples import below, folder_of
from mllm_probe.stages.prepared import Prepared
from mllm_probe.tasks.splits import Folds

FIRST = 3  # samples of a run


def save_first(ready: Prepared, paths: RunPaths, reporter: Reporter) -> str:
    """Those of a run; how their prompts are wrapped, which is said."""
    kept = keep_first(ready)
    shown = inspections(kept, ready.config, ready.examples, ready.folds, ready.anatomy)
    folder = folder_of(ready.examples.samples)
    save_inspections(paths, shown, ready.config, ready.task.name, ready.collection.name, folder)
    reporter.note(f"prompts: {kept[0].template}")
    return kept[0].template


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


def inspections(
    renderings: Sequence[Rendering], config: RunConfig, examples: Examples, folds: Folds, anatomy: Anatomy
) -> list[Inspection]:
    """Splits are those of the first seed."""
    split = folds.splits(examples.folds, config.sweep.seeds[0])
    asked: dict[str, list[Decision]] = defaultdict(list)
    for decision in examples.decisions:
        asked[decision.sample].append(decision)
    positions = config.extract.positions
    names = examples.names
    return [inspection(one, asked[one.layout.sample.uid], split, positions, anatomy, names) for one in renderings]


def _placed(one: Inspection, folder: Path) -> Inspection:
    """Pictures by their names below `folder`."""
    pictures = [replace(picture, path=below(folder, Path(picture.path))) for picture in one.pictures]
    return replace(one, pictures=tuple(pictures))


def save_inspections(
    paths: RunPaths, shown: Sequence[Inspection], config: RunConfig, task: str, dataset: str, folder: Path
) -> None:
    """The records as they are, and the page; `folder` holds all pictures, which are named from there."""
    facts = {"model": config.model.label, "task": task, "dataset": dataset, "seed": config.sweep.seeds[0]}
    placed = [_placed(one, folder) for one in shown]
    write_json(paths.inspection("json"), {**facts, "samples": [asdict(one) for one in placed]})
    with replacing(paths.inspection("html")) as part:
        content = page(f"{config.model.label}, {task} on {dataset}", placed, folder)
        part.write_text(without_codes(content), encoding="utf-8")
