"""The files of a sweep of interventions: effects.csv, effects.safetensors, and summary.json, which is written last."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mllm_probe.cache.store import write_json
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.seals import sealed
from mllm_probe.results.effects import KNOCKOUT, save_effects, save_sweep
from mllm_probe.scoring.effect_facts import facts, summarised
from mllm_probe.scoring.effects import Scored
from mllm_probe.scoring.read_and_used import probe_side, read_and_used
from mllm_probe.scoring.summary import below


def save_results(paths: RunPaths, scored: Scored, probe_run: Path | None, more: Mapping[str, Any]) -> dict[str, Any]:
    """All three files; what summary.json holds. `more` is what else it tells: provenance, versions, seconds, counts.

    With the folder of a finished probe run (of a study its global task's is read) a knockout judges H4 (`statements`).
    Raises DataError, ProbeError, before anything is written.
    """
    told: dict[str, Any] = {**scored.named, **summarised(scored), **more}
    if probe_run is not None:
        told["probe_run"] = [str(probe_run), below(paths.root, probe_run)]  # should one of the folders move
        if scored.sweep.kind == KNOCKOUT:
            told["statements"] = [asdict(read_and_used(list(facts(scored)), probe_side(probe_run)))]
    save_effects(paths.effects, scored.rows)
    save_sweep(paths.outcomes, scored.sweep)
    write_json(paths.summary, sealed(paths.summary, told, (paths.effects, paths.outcomes)))
    return told
