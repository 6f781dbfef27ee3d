"""What a sweep leaves beside scores.csv: splits, predictions, probes and the summary."""

import csv
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mllm_probe.cache.store import write_json
from mllm_probe.paths import replacing
from mllm_probe.stages.bench import Trial
from mllm_probe.stages.prepare import Prepared
from mllm_probe.types import Score, Site

PACKAGES = ("torch", "transformers", "bitsandbytes", "numpy", "scipy", "hydra-core", "mllm-probe")


def save_splits(path: Path, splits: Mapping[int, Mapping[str, str]]) -> None:
    """One row per seed and picture digest."""
    with replacing(path) as part, part.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(("seed", "group", "split"))
        writer.writerows((seed, group, name) for seed, one in splits.items() for group, name in sorted(one.items()))


def trial_name(trial: Trial) -> str:
    """`lm.07@last/logistic/seed0`; baselines have the control's name, or none, in front."""
    return f"{trial.key or trial.control or 'none'}/{trial.probe}/seed{trial.seed}"


def save_predictions(path: Path, trials: Sequence[Trial], decisions: Sequence[str]) -> None:
    """Logits [N] float32 of each trial; the decisions' uids are in the metadata, the splits in splits.csv."""
    _save(path, {trial_name(t): t.logits.astype(np.float32) for t in trials}, {"decisions": json.dumps(decisions)})


def save_fits(path: Path, trials: Sequence[Trial]) -> None:
    """The arrays of every fit: for a linear probe mean, scale, weights [D] and intercept [1]."""
    arrays = {f"{trial_name(t)}/{name}": array for t in trials for name, array in t.fit.arrays().items()}
    _save(path, arrays, {"facts": json.dumps({trial_name(t): dict(t.fit.facts) for t in trials})})


def _save(path: Path, arrays: Mapping[str, np.ndarray], metadata: dict[str, str]) -> None:
    from safetensors.numpy import save_file

    with replacing(path) as part:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, part, metadata=metadata)


def save_summary(
    path: Path, ready: Prepared, scores: Sequence[Score], extraction: Mapping[str, Any], seconds: float
) -> dict[str, Any]:
    """The run in a few numbers; the only file that holds clock times."""
    positions = dict.fromkeys(key.position for key in ready.keys)
    summary = {
        "run": scores[0].run,
        "cache": ready.identity.digest,
        "model": ready.config.model.label,
        "dataset": ready.collection.name,
        "task": ready.task.name,
        "pictures": len(ready.collection.pictures),
        "skipped": list(ready.collection.skipped),
        "samples": len(ready.examples.samples),
        "decisions": len(ready.examples.decisions),
        "best": {p: best for p in positions if (best := _best(scores, p))},
        "baselines": {s.control or s.probe: s.value for s in scores if not s.site and _is_headline(s)},
        "unconverged": sum(
            not s.converged for s in scores if s.seed != "all" and s.split == "test" and s.metric == "auroc"
        ),
        "provenance": ready.store.provenance(),
        "seconds": {"extract": extraction.get("seconds"), "sweep": seconds},
        "extraction": dict(extraction),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }
    write_json(path, summary)
    return summary


def _is_headline(score: Score) -> bool:
    return score.metric == "accuracy" and score.split == "test" and score.seed == "all"


def _best(scores: Sequence[Score], position: str) -> dict[str, Any] | None:
    """The language-model block validation prefers, its test score, and what is lost up to the highest block read."""
    here = [s for s in scores if s.position == position and s.tower == "lm" and s.metric == "accuracy"]
    if not here:
        return None
    val: dict[str, list[float]] = {}
    for score in here:
        if score.split == "val" and score.part == "block":
            val.setdefault(score.site, []).append(score.value)
    test = {s.site: s for s in here if _is_headline(s)}
    best = test[max(val, key=lambda site: float(np.mean(val[site])))]
    top = test[max(val, key=lambda site: Site.parse(site).layer)]
    return {
        "site": best.site,
        "accuracy": best.value,
        "low": best.low,
        "high": best.high,
        "top_site": top.site,
        "top_accuracy": top.value,
        "drop_to_top": best.value - top.value,
    }
