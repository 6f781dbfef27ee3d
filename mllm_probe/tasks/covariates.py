"""What `task.covariates` names of each decision: a column of the table, or what is known of every picture and text."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mllm_probe.errors import ConfigError, choices
from mllm_probe.records.samples import Collection, Examples, Picture, Sample

OBJECTS, WORDS = "objects", "words"  # instances annotated in the pictures of a prompt; words of its text


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
    decisions = (replace(d, covariates=own) for d, own in zip(examples.decisions, chosen, strict=True))
    return replace(examples, decisions=tuple(decisions))


def _known(sample: Sample, pictures: dict[str, Picture]) -> dict[str, str | float]:
    found: dict[str, str | float] = {WORDS: float(len(sample.text.split()))}
    shown = [pictures[digest] for digest in sample.digests if digest in pictures]
    if all(picture.counts is not None for picture in shown):
        found[OBJECTS] = float(sum(sum((picture.counts or {}).values()) for picture in shown))
    return found
