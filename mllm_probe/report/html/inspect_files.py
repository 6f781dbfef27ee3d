"""inspect.json and inspect.html of an experiment: some of its samples as the model reads them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mllm_probe.cache.store import write_json
from mllm_probe.experiment.examples import keep_first
from mllm_probe.experiment.experiment import Experiment
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.store_paths import replacing
from mllm_probe.models.prompts.rendering import Rendering
from mllm_probe.records.protocols import Reporter
from mllm_probe.records.samples import Decision, Examples
from mllm_probe.records.sites import Anatomy
from mllm_probe.report.html.inspect_page import page
from mllm_probe.report.html.prompt_tokens import Inspection, inspection
from mllm_probe.report.html.skeleton import without_codes
from mllm_probe.scoring.summary import below, folder_of
from mllm_probe.tasks.splits import Folds


def save_first(experiment: Experiment, paths: RunPaths, reporter: Reporter) -> str:
    """Those of a run; how their prompts are wrapped, which is said."""
    kept = keep_first(experiment)
    shown = inspections(
        kept,
        experiment.extract.positions,
        experiment.sweep.seeds[0],
        experiment.examples,
        experiment.folds,
        experiment.anatomy,
    )
    folder = folder_of(experiment.examples.samples)
    facts = {"model": experiment.model.label, "task": experiment.task.name, "dataset": experiment.collection.name}
    save_inspections(paths, shown, {**facts, "seed": experiment.sweep.seeds[0]}, folder)
    reporter.note(f"prompts: {kept[0].template}")
    return kept[0].template


def inspections(
    renderings: Sequence[Rendering],
    positions: Sequence[str],
    seed: int,
    examples: Examples,
    folds: Folds,
    anatomy: Anatomy,
) -> list[Inspection]:
    """Splits are those of a seed."""
    split = folds.splits(examples.folds, seed)
    asked: dict[str, list[Decision]] = defaultdict(list)
    for decision in examples.decisions:
        asked[decision.sample].append(decision)
    names = examples.names
    return [inspection(one, asked[one.layout.sample.uid], split, positions, anatomy, names) for one in renderings]


def _placed(one: Inspection, folder: Path) -> Inspection:
    """Pictures by their names below `folder`."""
    pictures = [replace(picture, path=below(folder, Path(picture.path))) for picture in one.pictures]
    return replace(one, pictures=tuple(pictures))


def save_inspections(paths: RunPaths, shown: Sequence[Inspection], facts: Mapping[str, Any], folder: Path) -> None:
    """The records as they are, and the page; `facts`: model, task, dataset and the seed of the splits; `folder` holds
    all pictures, which are named from there."""
    placed = [_placed(one, folder) for one in shown]
    write_json(paths.inspection("json"), {**facts, "samples": [asdict(one) for one in placed]})
    with replacing(paths.inspection("html")) as part:
        content = page(f"{facts['model']}, {facts['task']} on {facts['dataset']}", placed, folder)
        part.write_text(without_codes(content), encoding="utf-8")
