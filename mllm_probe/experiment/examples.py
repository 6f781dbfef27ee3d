"""From a data set and a task to the pictures that can be used and the decisions about them, said on the way.

Pictures that the model's processor refuses are found before a task makes samples of them. The first samples are kept
as the processor writes them, for runs that need no processor.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_probe.cache.store import write_json
from mllm_probe.config.build import build
from mllm_probe.config.run import RunConfig
from mllm_probe.data.coco import Selection
from mllm_probe.data.duplicates import alike, regrouped
from mllm_probe.data.pictures import size_of
from mllm_probe.errors import ConfigError, DataError, choices
from mllm_probe.experiment.experiment import Experiment
from mllm_probe.files.digests import Digests
from mllm_probe.models.prompts.rendering import Rendering
from mllm_probe.records.protocols import Dataset, Reporter, Task
from mllm_probe.records.samples import Collection, Examples, Picture, Sample
from mllm_probe.tasks.answer_words import bound
from mllm_probe.tasks.splits import TEST, Folds, leaks, rowwise

if TYPE_CHECKING:
    from mllm_probe.config.tune import TuneConfig
    from mllm_probe.models.blueprint import Blueprint

SHORT, LONG = 28, 50  # a shorter side in pixels or a greater share of the sides is tried: processors refuse by size
FIRST = 3  # samples of a run
OBJECTS, WORDS = "objects", "words"  # instances annotated in the pictures of a prompt; words of its text


def folds_of(config: RunConfig) -> Folds:
    splits = config.splits
    return Folds(splits.test, splits.val, splits.blocks, config.data.seed, splits.unit, splits.file)


def collected(
    dataset: Dataset, config: RunConfig, digests: Digests, reporter: Reporter, made: Callable[[], "Blueprint"]
) -> Collection:
    """The pictures that can be used, those that look the same in one group. Raises DataError."""
    collection = opened(dataset, config, digests, made)
    if (there := len(collection.pictures)) < (config.data.n or 0):
        reporter.note(f"data.n={config.data.n} is more than there are: all {there} pictures that can be used are taken")
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


def asked(
    task: Task, folds: Folds, collection: Collection, config: RunConfig, reporter: Reporter, *, trained: bool = True
) -> Examples:
    """What is asked about them, to be `trained` on unless all of it is a test. Raises ConfigError, DataError."""
    with of_file(collection.source):
        examples = task.examples(collection, folds)
    examples = covaried(examples, collection, getattr(task, "covariates", ()))
    for sentence in examples.said:
        reporter.note(sentence)
    bound(config.extract.answers, examples)
    examples = _in_folds(examples, folds, config.sweep.seeds, reporter)
    examples = common(task, examples, folds, config) if trained else examples
    for row in examples.skipped:
        reporter.note(f"skipped: {row}")
    if said := examples.unlearnt_said:
        reporter.note(said)
    return examples


@contextmanager
def of_file(name: str) -> Iterator[None]:
    """What is wrong with rows is told with the file that they are in."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{name}: {error}" if name else str(error)) from error


def common(task: Task, examples: Examples, folds: Folds, config: RunConfig) -> Examples:
    """Without classes that some split lacks, where the task says so, and categories that cannot be learnt, unless it
    keeps them."""
    rare, seeds = getattr(task, "rare", None), config.sweep.seeds
    if rare is None and not any(decision.head for decision in examples.decisions):
        return examples
    from mllm_probe.tasks.rare import DROP, KEEP, without_rare, without_unlearnt

    if rare == DROP:
        examples = without_rare(examples, folds, seeds)
    return examples if rare == KEEP else without_unlearnt(examples, folds, seeds, config.extract.positions)


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


def readable(collection: Collection, on_bad_row: str, made: Callable[[], "Blueprint"]) -> Collection:
    """The collection without the pictures that cannot be read, where those are left out. Raises DataError elsewhere.

    Only odd sizes are tried, each once, so that most runs need no `Blueprint` for this.
    """
    paths: dict[tuple[int, int], Path] = {}
    size_by = {picture.digest: size_of(picture.path) for picture in collection.pictures}
    for picture in collection.pictures:
        paths.setdefault(size_by[picture.digest], picture.path)
    blueprint = cache(made)
    refused = {size: why for size, path in paths.items() if _is_odd(size) and (why := blueprint().refusal(path))}
    if not refused:
        return collection
    left_out = [picture for picture in collection.pictures if size_by[picture.digest] in refused]
    told = []
    for picture in left_out:
        width, height = size_by[picture.digest]
        why = refused[width, height]
        told.append(f"picture {picture.id}: the model's processor refuses its {width} x {height} pixels ({why})")
    if on_bad_row == "stop":
        raise DataError(f"{told[0]}; cut it, or leave such pictures out with data.on_bad_row=skip")
    gone = {picture.digest for picture in left_out}
    pictures = tuple(picture for picture in collection.pictures if picture.digest not in gone)
    if not pictures:
        raise DataError(f"no usable picture is left: {told[0]}")
    rows = tuple(row for row in collection.rows if row.picture.digest not in gone)
    return replace(collection, pictures=pictures, rows=rows, skipped=(*collection.skipped, *told))


def _is_odd(size: tuple[int, int]) -> bool:
    return min(size) < SHORT or max(size) > LONG * min(size)


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


def covaried(examples: Examples, collection: Collection, names: Any) -> Examples:
    """The decisions with these covariates and no others; "" where a decision has none.

    A column of the table goes before what every task knows. Raises ConfigError for a name that no decision has.
    """
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise ConfigError(f"task.covariates={names} must be a list of names, such as [{WORDS}]")
    samples = {sample.uid: sample for sample in examples.samples}
    pictures = {picture.digest: picture for picture in collection.pictures}
    known = [{**_known(samples[d.sample], pictures), **d.covariates} for d in examples.decisions] if names else []
    columns = dict.fromkeys(name for each in known for name in each)
    for name in names:
        if name not in columns:
            raise ConfigError(f"task.covariates names '{name}', which no decision has; {choices(str(name), columns)}")
    chosen = [{name: each.get(name, "") for name in names} for each in known] or [{}] * len(examples.decisions)
    both = zip(examples.decisions, chosen, strict=True)
    return replace(
        examples, decisions=tuple(d if d.covariates == own else replace(d, covariates=own) for d, own in both)
    )


def _known(sample: Sample, pictures: dict[str, Picture]) -> dict[str, str | float]:
    found: dict[str, str | float] = {WORDS: float(len(sample.text.split()))}
    shown = [pictures[digest] for digest in sample.digests if digest in pictures]
    if all(picture.counts is not None for picture in shown):
        found[OBJECTS] = float(sum(sum((picture.counts or {}).values()) for picture in shown))
    return found
