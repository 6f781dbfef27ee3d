"""From a data set and a task to the pictures that can be used and the decisions about them, said on the way."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mllm_probe.config import RunConfig
from mllm_probe.data.coco import Selection
from mllm_probe.data.duplicates import grouped
from mllm_probe.digests import Digests
from mllm_probe.protocols import Dataset, Reporter, Task
from mllm_probe.stages.readable import readable
from mllm_probe.tasks.answer_words import bound
from mllm_probe.tasks.covariates import covaried
from mllm_probe.tasks.folds import Folds, leaks, rowwise
from mllm_probe.tasks.questions import DROP
from mllm_probe.tasks.rare import without_rare
from mllm_probe.types import Collection, Examples

if TYPE_CHECKING:
    from mllm_probe.models.blueprint import Blueprint


def folds_of(config: RunConfig) -> Folds:
    splits = config.splits
    return Folds(splits.test, splits.val, splits.blocks, config.data.seed, splits.unit, splits.file)


def collected(
    dataset: Dataset, config: RunConfig, digests: Digests, reporter: Reporter, made: Callable[[], "Blueprint"]
) -> Collection:
    """The pictures that can be used, those that look the same in one group. Raises DataError."""
    selection = Selection(**asdict(config.data))
    collection = dataset.load(Path(config.paths.outputs), selection, digests)
    collection = readable(collection, selection.on_bad_row, made)
    if config.splits.near_duplicates:
        collection = together(collection, digests, reporter)
    for row in collection.skipped:
        reporter.note(f"skipped: {row}")
    return collection


def asked(task: Task, folds: Folds, collection: Collection, config: RunConfig, reporter: Reporter) -> Examples:
    """What is asked about them. Raises ConfigError, DataError."""
    examples = task.examples(collection, folds)
    examples = covaried(examples, collection, getattr(task, "covariates", ()))
    for sentence in examples.said:
        reporter.note(sentence)
    bound(config.extract.answers, examples)
    examples = common(task, _in_folds(examples, folds, config.sweep.seeds, reporter), folds, config)
    for row in examples.skipped:
        reporter.note(f"skipped: {row}")
    return examples


def common(task: Task, examples: Examples, folds: Folds, config: RunConfig) -> Examples:
    """Without classes that some split lacks, where the task says so."""
    drops = getattr(task, "rare", None) == DROP
    return without_rare(examples, folds, config.sweep.seeds) if drops else examples


def together(collection: Collection, digests: Digests, reporter: Reporter) -> Collection:
    """Pictures that look the same share a group, and so a split."""
    pictures = grouped(collection.pictures, digests)
    alike = len({picture.group for picture in collection.pictures}) - len({picture.group for picture in pictures})
    if not alike:
        return collection
    reporter.note(f"near-duplicates: {alike} pictures look like another one and stay in its split")
    own = {picture.digest: picture for picture in pictures}
    rows = tuple(replace(row, picture=own[row.picture.digest]) for row in collection.rows)
    return replace(collection, pictures=pictures, rows=rows)


def _in_folds(examples: Examples, folds: Folds, seeds: Sequence[int], reporter: Reporter) -> Examples:
    """Raises DataError for splits that share a picture unasked."""
    if folds.unit == "row":
        examples = rowwise(examples, folds)
        reporter.note("splits.unit=row: one picture may train and test, so scores are no evidence")
    leaks(examples, folds, seeds)
    return examples
