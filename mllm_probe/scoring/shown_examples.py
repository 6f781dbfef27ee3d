"""Which test decisions a run shows to people: at the chosen layer, the surest right and wrong and the least sure."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mllm_probe.cache.store import write_json
from mllm_probe.experiment.experiment import Experiment
from mllm_probe.files.paths import RunPaths
from mllm_probe.records.samples import Sample
from mllm_probe.results.examples import Example, Examples, Seen, Verdicts
from mllm_probe.results.predictions import Scored, load_logits
from mllm_probe.results.selection import leading


def save_examples(paths: RunPaths, experiment: Experiment, scored: Scored, summary: Mapping[str, Any]) -> None:
    """examples.json, of a run whose validation chose a layer."""
    position = leading(summary)
    if position is None:
        return
    key, probe = f"{summary['chosen'][position]['site']}@{position}", experiment.probe
    logits = load_logits(paths.predictions, key, probe.name)
    read = np.asarray(scored.test) & ~np.isnan(logits.reshape(len(logits), len(scored.test), -1)[0, :, 0])
    rows, truth = np.flatnonzero(read), np.asarray(scored.labels)[read]
    found = Verdicts.of(logits[:, rows], truth, scored.kind)
    licences = {picture.digest: picture.licence for picture in experiment.collection.pictures}
    folder = folder_of(experiment.examples.samples)
    shown = tuple(
        _example(kind, experiment, folder, licences, int(rows[i]), float(found.said[i]), float(found.sure[i]))
        for kind, i in found.chosen(np.asarray(scored.groups)[rows])
    )
    wrong = None if scored.kind == "number" else int((~found.right).sum())
    write_json(paths.examples, Examples(key, probe.name, len(rows), wrong, shown, scored.names).to_json())


def folder_of(samples: Sequence[Sample]) -> Path:
    """The deepest folder that holds all pictures of an experiment: files of results name them from there, so that they
    do not change with the place of the data."""
    parents = {path.parent for sample in samples for path in sample.images}
    return Path(os.path.commonpath([os.path.normpath(parent.absolute()) for parent in parents])) if parents else Path()


def below(folder: Path, path: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _example(
    kind: str, experiment: Experiment, folder: Path, licences: Mapping[str, str], number: int, said: float, sure: float
) -> Example:
    """`licences` {picture digest: what its data set says}."""
    decision = experiment.examples.decisions[number]
    sample = next(one for one in experiment.examples.samples if one.uid == decision.sample)
    pictures = tuple(
        Seen(below(folder, path), digest, licences.get(digest, ""))
        for path, digest in zip(sample.images, sample.digests, strict=True)
    )
    certain = sure if experiment.probe.log_odds and experiment.examples.kind != "number" else None
    label, head = float(decision.label), decision.head or ""
    return Example(kind, decision.uid, sample.text, decision.target, label, said, certain, head, pictures)
