"""What a sweep writes besides scores.csv and the joined parts: splits, the summary, and the test decisions that a run
shows to people: at the chosen layer, the surest right and wrong and the least sure.
"""

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mllm_probe.cache.store import write_json
from mllm_probe.experiment.experiment import Experiment
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.readback import save_table
from mllm_probe.files.seals import sealed
from mllm_probe.records.samples import Sample
from mllm_probe.records.score import BY_DESIGN, Score
from mllm_probe.records.sites import Site
from mllm_probe.results.examples import Example, Examples, Seen, Verdicts
from mllm_probe.results.predictions import Scored, load_logits
from mllm_probe.results.selection import leading
from mllm_probe.stats.measures import HIGHER_IS_BETTER
from mllm_probe.stats.peak import preferred
from mllm_probe.tasks.answer_words import bound

PACKAGES = ("torch", "transformers", "bitsandbytes", "numpy", "scipy", "hydra-core", "mllm-probe")


def save_splits(path: Path, splits: Mapping[int, Mapping[str, str]]) -> None:
    """One row per seed and picture digest."""
    rows = ((seed, group, name) for seed, one in splits.items() for group, name in sorted(one.items()))
    save_table(path, ("seed", "group", "split"), rows)


def _places(experiment: Experiment, run: Path) -> list[str]:
    """Where the pictures of examples.json are found: a folder here, and seen from the run's own, should both move."""
    folder = folder_of(experiment.examples.samples)
    return [str(folder), below(run, folder)]


def summarised(
    run: Path, experiment: Experiment, scores: Sequence[Score], metric: str, more: Mapping[str, Any]
) -> dict[str, Any]:
    """The run in a few numbers; the only file of its folder `run` that holds clock times."""
    positions = dict.fromkeys(key.position for key in experiment.keys)
    headline = [s for s in scores if s.metric == metric]
    return {
        "run": scores[0].run,
        "cache": experiment.identity.digest,
        "model": experiment.model.label,
        "dataset": experiment.collection.name,
        "task": experiment.task.name,
        "metric": metric,
        "answers": list(bound(experiment.extract.answers, experiment.examples)) or None,
        "pictures": len(experiment.collection.pictures),
        "pictures_in": _places(experiment, run),
        "skipped": [*experiment.collection.skipped, *experiment.examples.skipped],
        "unlearnt": {"categories": list(experiment.examples.unlearnt), "said": experiment.examples.unlearnt_said},
        "labels": {"names": list(experiment.examples.names), "said": list(experiment.examples.said)},
        "samples": len(experiment.examples.samples),
        "decisions": len(experiment.examples.decisions),
        "chosen": {p: chosen for p in positions if (chosen := _chosen(headline, p))},
        "baselines": {s.control or s.probe: s.value for s in headline if not s.site and _is_final(s)},
        "unconverged": sum(not s.converged for s in headline if s.seed != "all" and s.split == "test"),
        "provenance": experiment.store.provenance(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        **more,
    }


def save_summary(paths: RunPaths, summary: Mapping[str, Any]) -> None:
    """Written last, with the digests of the files that it tells of."""
    numbers, texts = (
        (paths.scores, paths.tests, paths.splits),
        (paths.examples, *map(paths.decided, ("csv", "parquet"))),
    )
    files = (*numbers, paths.predictions, paths.probes, *texts)
    write_json(paths.summary, sealed(paths.summary, summary, files))


def _is_final(score: Score) -> bool:
    return score.split == "test" and score.seed == "all"


def _chosen(scores: Sequence[Score], position: str) -> dict[str, Any] | None:
    """The best language-model block on validation, its test score, and what is lost up to the highest block read.
    Blocks that are by design are none of them."""
    here = [s for s in scores if s.position == position and s.tower == "lm" and s.real]
    designed = {score.site for score in here if score.family == BY_DESIGN}
    val: dict[str, list[float]] = {}
    for score in here:
        if score.split == "val" and score.part == "block" and score.site not in designed:
            val.setdefault(score.site, []).append(score.value)
    if not val:
        return None
    test = {s.site: s for s in here if _is_final(s)}
    means, better = np.asarray([np.mean(values) for values in val.values()]), here[0].metric in HIGHER_IS_BETTER
    chosen = test[list(val)[preferred(means, better)]]
    top = test[max(val, key=lambda site: Site.parse(site).layer)]
    return {
        "validation": float(np.mean(val[chosen.site])),
        "site": chosen.site,
        "value": chosen.value,
        "low": chosen.low,
        "high": chosen.high,
        "top_site": top.site,
        "top_value": top.value,
        "drop_to_top": chosen.value - top.value,
    }


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
    pictures = {path for sample in samples for path in sample.images}  # far fewer, and a parent takes time
    parents = {path.parent for path in pictures}
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
