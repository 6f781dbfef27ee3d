"""Tasks built over drawn scenes, and the balance of what they ask."""

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from mllm_probe.records.samples import Collection, Examples, Picture, Row
from mllm_probe.tasks.questions import Questions
from mllm_probe.tasks.splits import Folds

FOLDS = Folds(blocks=2)


def collection(*labels: Any, texts: tuple[str, ...] = (), groups: tuple[str, ...] = ()) -> Collection:
    """A row and a picture for each label."""
    count = range(max(len(labels), 12))
    texts = texts or tuple(f"Number {i}?" for i in count)
    pictures = tuple(
        Picture(f"p{i}", Path(f"{i}.png"), f"d{i}", group=dict(enumerate(groups)).get(i, "")) for i in count
    )
    rows = tuple(Row(pictures[i], texts[i % len(texts)], label, i + 1) for i, label in enumerate(labels))
    return Collection("table", pictures, (), lambda picture, caption: False, rows=rows)


def asked(*labels: Any, task: Questions | None = None, **more: Any) -> Examples:
    return (task or Questions()).examples(collection(*labels, **more), FOLDS)


def balance(examples: Examples, split: dict[str, str], by: str) -> dict[tuple[str, str], Counter]:
    """{(split, text or picture or category): labels}."""
    texts = {sample.uid: sample.text for sample in examples.samples}
    found: dict[tuple[str, str], Counter] = defaultdict(Counter)
    for d in examples.decisions:
        name = {"text": texts[d.sample], "picture": d.group, "category": d.strata.get("category", "")}[by]
        found[split[d.group], name][d.label] += 1
    return found
