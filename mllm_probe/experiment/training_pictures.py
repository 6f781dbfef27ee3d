"""The pictures of a training: those to learn from, and those that are held out."""

from dataclasses import asdict
from pathlib import Path

from mllm_probe.config.build import build
from mllm_probe.config.tune import TuneConfig
from mllm_probe.data.coco import Selection
from mllm_probe.data.duplicates import alike
from mllm_probe.experiment.examples import together
from mllm_probe.experiment.readable import readable
from mllm_probe.files.digests import Digests
from mllm_probe.records.protocols import Dataset, Reporter
from mllm_probe.records.samples import Picture
from mllm_probe.tasks.splits import TEST, Folds
from mllm_probe.train.preparation import blueprint_of


def training_pictures(config: TuneConfig, digests: Digests, reporter: Reporter) -> tuple[list[Picture], list[Picture]]:
    """Those to learn from, and those of the test set, which any probe of the same data and splits is tested on.

    Raises DataError.
    """
    dataset = build(config.dataset, Dataset, tuple(config.plugins))  # type: ignore[type-abstract]
    collection = dataset.load(Path(config.paths.outputs), Selection(**asdict(config.data)), digests)
    collection = readable(collection, config.data.on_bad_row, lambda: blueprint_of(config))
    for row in collection.skipped:
        reporter.note(f"skipped: {row}")
    splits = config.splits
    if splits.near_duplicates:
        collection = together(collection, alike(collection.pictures, digests), reporter)
    folds = Folds(splits.test, splits.val, splits.blocks, config.data.seed, file=splits.file)
    fold = folds.assign(collection.pictures)
    test = [picture for picture in collection.pictures if fold[picture.group] == TEST]
    return [picture for picture in collection.pictures if fold[picture.group] != TEST], test
