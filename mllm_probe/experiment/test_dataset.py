"""Probes of one data set tested on another (`test.dataset`): its pictures take the place of the test pictures.

The probes train and validate on the very pictures that they would have without it, so that the two runs differ in what
is tested alone. Pictures that look like one of the other data set are left out of training, and so are groups
that both tables call alike: they may be the same.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mllm_probe.config.build import build
from mllm_probe.config.run import RunConfig
from mllm_probe.data.duplicates import alike, joined
from mllm_probe.errors import ConfigError, DataError, count, few
from mllm_probe.experiment.examples import asked, common, opened, together, told
from mllm_probe.files.digests import Digests
from mllm_probe.records.protocols import Dataset, Reporter, Task
from mllm_probe.records.samples import Collection, Decision, Examples
from mllm_probe.tasks.label_names import bare, words
from mllm_probe.tasks.splits import TEST, Folds

if TYPE_CHECKING:
    from mllm_probe.models.blueprint import Blueprint

BY_NAME = ("binary", "classes")  # kinds whose labels have names


def elsewhere_of(config: RunConfig) -> Dataset | None:
    """The data set that is tested, where it is another. Raises ConfigError, also for splits that it cannot have."""
    if not isinstance(config.test, dict) or config.test.keys() != {"dataset"}:
        raise ConfigError(f"test={config.test} must hold dataset, and nothing else; test.dataset=coco is an example")
    if config.test["dataset"] is None:
        return None
    if config.splits.unit == "row" or config.splits.file is not None:
        named = "splits.unit=row" if config.splits.unit == "row" else f"splits.file={config.splits.file}"
        raise ConfigError(
            f"test.dataset is tested whole, and {named} does not cover its pictures; leave one of them out"
        )
    return build(config.test["dataset"], Dataset, tuple(config.plugins), "test.dataset")  # type: ignore[type-abstract]


@contextmanager
def of_the_other() -> Iterator[None]:
    """What is wrong with the other data set is told as such: its settings and rows are called alike."""
    try:
        yield
    except (ConfigError, DataError) as error:
        raise type(error)(f"test.dataset: {error}") from error


@dataclass(frozen=True)
class Both:
    """The data set that trains and the one that is tested; `pairs` are the digests of each two pictures of both that
    look the same."""

    home: Collection
    there: Collection
    pairs: Sequence[tuple[str, str]]

    @classmethod
    def of(
        cls,
        home: Dataset,
        there: Dataset,
        config: RunConfig,
        digests: Digests,
        reporter: Reporter,
        made: Callable[[], "Blueprint"],
    ) -> "Both":
        """Look-alikes are looked for once, among all. Raises DataError."""
        first = opened(home, config, digests, made)
        with of_the_other():
            second = opened(there, config, digests, made)
        different = {picture.digest: picture for picture in (*first.pictures, *second.pictures)}
        pairs = alike(tuple(different.values()), digests) if config.splits.near_duplicates else []
        first, second = (told(together(one, pairs, reporter), reporter) for one in (first, second))
        return cls(_beside(first, second), _beside(second, first), pairs)

    def seen(self) -> set[str]:
        """The groups of the first with a picture that is also in the other, or looks like one there."""
        pictures = (*self.home.pictures, *self.there.pictures)
        whole = ((picture.digest, picture.group) for picture in pictures)
        name = joined((picture.digest for picture in pictures), (*self.pairs, *whole))
        tested = {name[picture.digest] for picture in self.there.pictures}
        return {picture.group for picture in self.home.pictures if name[picture.digest] in tested}

    def namesakes(self) -> dict[str, str]:
        """{group of the first: what its table calls it} where a group of the other table is called so, too."""
        called = {row.group for row in self.there.rows if row.group}
        return {row.picture.group: row.group for row in self.home.rows if row.group in called}

    def untrained(self) -> tuple[set[str], list[str]]:
        """The groups of the first that do not train, as they may be those that are tested, and a sentence on each
        reason."""
        seen = self.seen()
        named = {group: name for group, name in self.namesakes().items() if group not in seen}
        home, there, said = self.home.name, self.there.name, []
        if seen:
            said.append(
                f"{count(len(seen), 'group')} of pictures of {home} look like {there} and are not used for training"
            )
        if named:
            names = few(sorted(set(named.values())), 6)
            said.append(
                f"{count(len(named), 'group')} of {home} have names of {there} and are not used for training: {names}"
            )
        return seen | named.keys(), said


def _beside(one: Collection, other: Collection) -> Collection:
    """It with the labels of the other, which settings may name."""
    return replace(one, labels_beside=tuple(dict.fromkeys(word for row in other.rows for word in words(row.label))))


def tested_elsewhere(
    task: Task, folds: Folds, both: Both, config: RunConfig, reporter: Reporter
) -> tuple[Collection, Examples]:
    """Both data sets as one, named `HOME -> THERE`, and the decisions: training and validation of the one, all of the
    other as test. Raises ConfigError, DataError."""
    home, there = both.home, both.there
    ours = asked(task, folds, home, config, reporter)
    with of_the_other():
        others = asked(task, folds, there, config, reporter, trained=False)
    others = _named_alike(ours, others, home.name, there.name)
    gone, left = both.untrained()
    for sentence in left:
        reporter.note(sentence)
    kept = {group: fold for group, fold in ours.folds.items() if fold != TEST and group not in gone}
    trained = tuple(decision for decision in ours.decisions if decision.group in kept)
    if not trained:
        raise DataError(
            f"no picture of {home.name} is left to train on, because {' and '.join(left)}; take other pictures, or "
            "rename groups that differ"
        )
    decisions = (*trained, *_known_heads(trained, others.decisions, reporter))
    used = {decision.sample for decision in decisions}
    samples = {sample.uid: sample for sample in (*ours.samples, *others.samples) if sample.uid in used}
    places = kept | dict.fromkeys(others.folds, TEST)
    whole = replace(ours, samples=tuple(samples.values()), decisions=decisions, folds=places)
    examples = common(task, whole, folds, config)
    for row in examples.skipped[len(ours.skipped) :]:
        reporter.note(f"skipped: {row}")
    whole_data = replace(
        home,
        name=f"{home.name} -> {there.name}",
        pictures=(*(picture for picture in home.pictures if picture.group in kept), *there.pictures),
        categories=tuple(dict.fromkeys((*home.categories, *there.categories))),
        skipped=(*home.skipped, *there.skipped, *left),
        rows=(*home.rows, *there.rows),
    )
    return whole_data, examples


def _named_alike(ours: Examples, others: Examples, home: str, there: str) -> Examples:
    """The other data set's labels as the first one's of the same names. Raises DataError."""
    if ours.kind != others.kind and not {ours.kind, others.kind} <= set(BY_NAME):
        raise DataError(
            f"labels of {home} are of kind {ours.kind}, those of test.dataset={there} of kind {others.kind}"
        )
    code_of = {bare(name): code for code, name in enumerate(ours.names)}
    if unknown := [name for name in others.names if bare(name) not in code_of]:
        raise DataError(
            f"test.dataset={there} has labels that {home} lacks: {few(unknown, 6)}; there are {few(ours.names, 6)}: "
            "give them the same names in both"
        )
    if not ours.names:
        return others
    anew = {code: code_of[bare(name)] for code, name in enumerate(others.names)}
    decisions = tuple(replace(decision, label=anew[int(decision.label)]) for decision in others.decisions)
    return replace(others, decisions=decisions)


def _known_heads(trained: tuple[Decision, ...], others: tuple[Decision, ...], reporter: Reporter) -> list[Decision]:
    """Those about categories that are trained on; the others are named."""
    heads = {decision.head for decision in trained}
    unknown = sorted({str(decision.head) for decision in others if decision.head not in heads})
    if unknown:
        reporter.note(f"skipped: {len(unknown)} categories without training examples: {few(unknown, 6)}")
    return [decision for decision in others if decision.head in heads]
