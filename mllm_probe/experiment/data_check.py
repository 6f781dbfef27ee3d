"""What a run would make of data: read by the code of a run, so that the two cannot differ. Loads no model."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mllm_probe.config.build import build
from mllm_probe.config.run import RunConfig
from mllm_probe.data.pictures import size_of
from mllm_probe.data.readers import read_records
from mllm_probe.errors import ConfigError, DataError, count, few
from mllm_probe.experiment.examples import asked, collected, folds_of
from mllm_probe.experiment.test_dataset import Both, elsewhere_of, tested_elsewhere
from mllm_probe.files.digests import open_digests
from mllm_probe.files.paths import OutputPaths
from mllm_probe.records.protocols import Dataset, Task
from mllm_probe.records.samples import Collection, Examples, label_said
from mllm_probe.tasks.splits import SPLITS

OPENED = 500  # pictures, drawn, unless data.n says otherwise
NAMED = 12  # labels, of many
Fact = tuple[str, str]


@dataclass
class Checked:
    """What is told of the data, a row each; `refusal` says why a run would not take it."""

    facts: list[Fact] = field(default_factory=list)
    refusal: str = ""

    def note(self, text: str) -> None:
        """As the reporter of a run is told it."""
        self.facts.append(tuple(text.split(": ", 1)) if text.startswith("skipped: ") else ("note", text))  # type: ignore[arg-type]

    def progress(self, what: str, done: int, total: int, unit: str) -> None:
        """Nothing takes long here."""


class _Readable:
    """In the place of a model, whose processor is not asked about odd sizes here."""

    def refusal(self, path: Path) -> None:
        return None


def checked(place: Path, config: RunConfig) -> Checked:
    """Raises ConfigError, DataError where nothing can be read at all."""
    found, plugins = Checked(), tuple(config.plugins)
    skipping = replace(config, data=replace(config.data, on_bad_row="skip"))
    dataset: Dataset = build(config.dataset, Dataset, plugins)  # type: ignore[type-abstract]
    task: Task = build(config.task, Task, plugins, seed=config.data.seed, on_bad_row="skip")  # type: ignore[type-abstract]
    other, folds = elsewhere_of(config), folds_of(config)
    digests = open_digests(OutputPaths(Path(config.paths.outputs)).digests, config.cache.trust)
    if place.is_file():
        found.facts += _table(place)
    if other is None:
        whole = collected(dataset, skipping, digests, found, _Readable)  # type: ignore[arg-type]
        found.facts += _pictures(whole, config.data.n)
        _judge(found, config, whole.skipped, lambda: asked(task, folds, whole, skipping, found))
        return found
    both = Both.of(dataset, other, skipping, digests, found, _Readable)  # type: ignore[arg-type]
    for one, which in ((both.home, ""), (both.there, "tested ")):
        found.facts += [(which + what, said) for what, said in _pictures(one, config.data.n)]
    skipped = (*both.home.skipped, *both.there.skipped)
    _judge(found, config, skipped, lambda: tested_elsewhere(task, folds, both, skipping, found)[1])
    return found


def _judge(found: Checked, config: RunConfig, skipped: Sequence[str], make: Callable[[], Examples]) -> None:
    """What is asked about the pictures, or why a run would refuse it."""
    if skipped and config.data.on_bad_row == "stop":
        bad = count(len(skipped), "bad row")
        found.refusal = f"a run stops at the first of {bad}; fix them, or leave them out with data.on_bad_row=skip"
    try:
        examples = make()
        found.facts += [*_labels(examples), *_splits(config, examples)]
        folds_of(config).check(examples, config.sweep.seeds)
    except (ConfigError, DataError) as error:
        found.refusal = str(error)


def _table(place: Path) -> Iterator[Fact]:
    records = read_records(place)
    names = dict.fromkeys(str(name) for _, row in records if not isinstance(row, DataError) for name in row)
    yield "rows", f"{len(records):,}"
    yield "columns", ", ".join(names)


def _pictures(collection: Collection, most: int | None) -> Iterator[Fact]:
    pictures, sides = collection.pictures, [size_of(picture.path) for picture in collection.pictures]
    groups = Counter(picture.group for picture in pictures)
    low, high = (" x ".join(str(pick(side)) for side in zip(*sides, strict=True)) for pick in (min, max))
    drawn = " were drawn and opened (data.n=null: all)" if most == OPENED <= len(pictures) else ""
    sizes = f"all {low}" if low == high else f"from {low} to {high}"
    yield "pictures", f"{len(pictures):,} different ones{drawn}, {sizes} pixels"
    yield (
        "groups",
        f"{len(groups):,} that splits keep together, the largest with {count(max(groups.values()), 'picture')}",
    )
    if captions := sum(len(picture.captions) for picture in pictures):
        yield "captions", f"{captions:,}"
    if collection.categories:
        held = Counter(name for picture in pictures for name in picture.categories or ())
        yield "categories", f"{len(held)} of {len(collection.categories)} are in these pictures: {_counted(held)}"


def _labels(examples: Examples) -> Iterator[Fact]:
    decisions, texts = examples.decisions, {sample.text for sample in examples.samples}
    prompts, different = count(len(examples.samples), "prompt"), count(len(texts), "different text")
    yield "questions", f"{count(len(decisions), 'decision')} about {prompts}, {different}"
    if examples.kind == "number":
        values = [decision.label for decision in decisions]
        yield "labels", f"numbers from {min(values):g} to {max(values):g}, {len(set(values)):,} different ones"
        return
    heads = Counter(decision.head for decision in decisions if decision.label and decision.head)
    held = heads or Counter(label_said(examples.names, decision.label) for decision in decisions)
    kind = "labels, several of which may apply" if heads else "classes" if examples.kind == "classes" else "labels"
    positive = "" if heads or examples.kind != "binary" else f"; label 1 is {label_said(examples.names, 1)!r}"
    yield "labels", f"{len(held):,} {kind}: {_counted(held)}{positive}"


def _splits(config: RunConfig, examples: Examples) -> Iterator[Fact]:
    """Of the first seed, how many decisions on how many groups of pictures."""
    seed = config.sweep.seeds[0]
    split = folds_of(config).splits(examples.folds, seed)
    rows = Counter(split[decision.group] for decision in examples.decisions)
    groups = Counter(split[group] for group in {decision.group for decision in examples.decisions})
    yield f"seed {seed}", ", ".join(f"{name} {rows[name]:,} on {groups[name]:,}" for name in SPLITS) + " groups"


def _counted(held: Mapping[Any, int]) -> str:
    """`cat (12), dog (9) and 3 more`, the commonest first."""
    return few([f"{name} ({n:,})" for name, n in Counter(held).most_common()], NAMED)
