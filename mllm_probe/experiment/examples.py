"""From a data set and a task to the pictures that can be used and the decisions about them, said on the way."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mllm_probe.config.build import build
from mllm_probe.config.run import RunConfig
from mllm_probe.data.coco import Selection
from mllm_probe.data.duplicates import alike, regrouped
from mllm_probe.errors import DataError
from mllm_probe.experiment.readable import readable
from mllm_probe.files.digests import Digests
from mllm_probe.records.protocols import Dataset, Reporter, Task
from mllm_probe.records.samples import Collection, Examples, Picture
from mllm_probe.tasks.answer_words import bound
from mllm_probe.tasks.covariates import covaried
from mllm_probe.tasks.splits import TEST, Folds, leaks, rowwise

if TYPE_CHECKING:
    from mllm_probe.config.tune import TuneConfig
    from mllm_probe.models.blueprint import Blueprint


def folds_of(config: RunConfig) -> Folds:
    splits = config.splits
    return Folds(splits.test, splits.val, splits.blocks, config.data.seed, splits.unit, splits.file)


def collected(
    dataset: Dataset, config: RunConfig, digests: Digests, reporter: Reporter, made: Callable[[], "Blueprint"]
) -> Collection:
    """The pictures that can be used, those that look the same in one group. Raises DataError."""
    collection = opened(dataset, config, digests, made)
    pairs = alike(collection.pictures, digests) if config.splits.near_duplicates else ()
    return told(together(collection, pairs, reporter), reporter)


def opened(dataset: Dataset, config: RunConfig, digests: Digests, made: Callable[[], "Blueprint"]) -> Collection:
    """The pictures that can be used. Raises DataError."""
    selection = Selection(**asdict(config.data))
    return readable(dataset.load(Path(config.paths.outputs), selection, digests), selection.on_bad_row, made)


def told(collection: Collection, reporter: Reporter) -> Collection:
    """It, with what was left out of it said."""
    for row in collection.skipped:
        reporter.note(f"skipped: {row}")
    return collection


def asked(task: Task, folds: Folds, collection: Collection, config: RunConfig, reporter: Reporter) -> Examples:
    """What is asked about them. Raises ConfigError, DataError."""
    with of_file(collection.source):
        examples = task.examples(collection, folds)
    examples = covaried(examples, collection, getattr(task, "covariates", ()))
    for sentence in examples.said:
        reporter.note(sentence)
    bound(config.extract.answers, examples)
    examples = common(task, _in_folds(examples, folds, config.sweep.seeds, reporter), folds, config)
    for row in examples.skipped:
        reporter.note(f"skipped: {row}")
    return examples


@contextmanager
def of_file(name: str) -> Iterator[None]:
    """What is wrong with rows is told with the file that they are in."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{name}: {error}" if name else str(error)) from error


def common(task: Task, examples: Examples, folds: Folds, config: RunConfig) -> Examples:
    """Without classes that some split lacks, where the task says so."""
    rare = getattr(task, "rare", None)
    if rare is None:
        return examples
    from mllm_probe.tasks.rare import DROP, without_rare

    return without_rare(examples, folds, config.sweep.seeds) if rare == DROP else examples


def together(collection: Collection, pairs: Sequence[tuple[str, str]], reporter: Reporter) -> Collection:
    """Pictures that look the same, two of them by their digests in each of the pairs, share a group, and so a split."""
    pictures = regrouped(collection.pictures, pairs)
    fewer = len({picture.group for picture in collection.pictures}) - len({picture.group for picture in pictures})
    if not fewer:
        return collection
    reporter.note(f"near-duplicates: {fewer} pictures look like another one and stay in its split")
    own = {picture.digest: picture for picture in pictures}
    rows = tuple(replace(row, picture=own[row.picture.digest]) for row in collection.rows)
    return replace(collection, pictures=pictures, rows=rows)


def _in_folds(examples: Examples, folds: Folds, seeds: Sequence[int], reporter: Reporter) -> Examples:
    """Raises DataError for splits that share a picture unasked."""
    if folds.unit == "row":
        examples = rowwise(examples, folds)
        reporter.note("splits.unit=row: one picture may be in train and test, so scores are no evidence")
    leaks(examples, folds, seeds)
    return examples


def training_pictures(
    config: "TuneConfig", digests: Digests, reporter: Reporter, made: Callable[[], "Blueprint"]
) -> tuple[list[Picture], list[Picture]]:
    """Those to learn from, and those of the test set, which any probe of the same data and splits is tested on.

    Raises DataError.
    """
    dataset = build(config.dataset, Dataset, tuple(config.plugins))  # type: ignore[type-abstract]
    collection = dataset.load(Path(config.paths.outputs), Selection(**asdict(config.data)), digests)
    collection = readable(collection, config.data.on_bad_row, made)
    collection, splits = told(collection, reporter), config.splits
    if splits.near_duplicates:
        collection = together(collection, alike(collection.pictures, digests), reporter)
    folds = Folds(splits.test, splits.val, splits.blocks, config.data.seed, file=splits.file)
    fold = folds.assign(collection.pictures)
    test = [picture for picture in collection.pictures if fold[picture.group] == TEST]
    return [picture for picture in collection.pictures if fold[picture.group] != TEST], test
