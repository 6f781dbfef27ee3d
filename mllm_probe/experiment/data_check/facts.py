"""What is told of data, a row each: table, pictures, labels, splits."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mllm_probe.config.run import RunConfig
from mllm_probe.data.pictures import size_of
from mllm_probe.data.readers import read_records
from mllm_probe.errors import DataError, count, few
from mllm_probe.experiment.examples import folds_of
from mllm_probe.records.samples import Collection, Examples, label_said
from mllm_probe.tasks.splits import SPLITS

OPENED = 500  # pictures, drawn, unless data.n says otherwise
NAMED = 12  # labels, of many
Fact = tuple[str, str]


def table_said(place: Path) -> Iterator[Fact]:
    records = read_records(place)
    names = dict.fromkeys(str(name) for _, row in records if not isinstance(row, DataError) for name in row)
    yield "rows", f"{len(records):,}"
    yield "columns", ", ".join(names)


def pictures_said(collection: Collection, most: int | None) -> Iterator[Fact]:
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


def labels_said(examples: Examples) -> Iterator[Fact]:
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


def splits_said(config: RunConfig, examples: Examples) -> Iterator[Fact]:
    """Of the first seed, how many decisions on how many groups of pictures."""
    seed = config.sweep.seeds[0]
    split = folds_of(config).splits(examples.folds, seed)
    rows = Counter(split[decision.group] for decision in examples.decisions)
    groups = Counter(split[group] for group in {decision.group for decision in examples.decisions})
    yield f"seed {seed}", ", ".join(f"{name} {rows[name]:,} on {groups[name]:,}" for name in SPLITS) + " groups"


def _counted(held: Mapping[Any, int]) -> str:
    """`cat (12), dog (9) and 3 more`, the commonest first."""
    return few([f"{name} ({n:,})" for name, n in Counter(held).most_common()], NAMED)
