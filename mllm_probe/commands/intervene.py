"""`mllm-probe intervene`: is it used? Cut, patch, steer or erase, layer by layer, and see what the answers do."""

import time
from dataclasses import asdict, replace
from pathlib import Path

from mllm_probe.cache.claims import clear
from mllm_probe.config.intervene import InterveneConfig
from mllm_probe.experiment.experiment import Experiment
from mllm_probe.experiment.fill import fill_all
from mllm_probe.experiment.prepare import prepare
from mllm_probe.files.paths import RunPaths
from mllm_probe.fitting.trials import Probing
from mllm_probe.interventions.objects import on_objects
from mllm_probe.interventions.opened import lengths_of, opener
from mllm_probe.interventions.request import check_intervene, check_marks, check_model, check_probe_run, intervention_of
from mllm_probe.interventions.tested import tested
from mllm_probe.interventions.workbench import Measuring
from mllm_probe.models.loading.device import pick_device
from mllm_probe.records.protocols import Reporter
from mllm_probe.records.samples import digest
from mllm_probe.records.spans import OBJECTS
from mllm_probe.report.effects import show_effects
from mllm_probe.scoring.effect_results import save_results
from mllm_probe.scoring.effects import Scored


def intervene(config: InterveneConfig, paths: RunPaths, reporter: Reporter) -> None:
    """The command: directions from training pictures where the kind needs them, then every condition on test pictures,
    then effects.csv, figures and a table. Raises MllmProbeError."""
    check_intervene(config)
    kind, settings, started = intervention_of(config), config.intervene, time.monotonic()
    reading = replace(config.extract, positions=[kind.position or "last"])
    config = replace(config, extract=reading, controls=[])  # those of a run need passes that nobody asks for here
    experiment = prepare(
        config, paths, reporter, early=lambda one, _: check_model(kind, one.anatomy, config.layers.parts)
    )
    run = None if config.probe_run is None else Path(config.probe_run).expanduser()
    if run is not None:
        check_probe_run(run, experiment.identity.digest)
    probing = Probing(experiment)
    asked = tested(experiment, probing, settings.pictures, settings.seed)
    check_marks(kind, experiment.task.name, asked.samples)
    if set(kind.spans).intersection(OBJECTS):
        asked = on_objects(experiment, asked)
    if kind.position is not None:
        fill_all([experiment], [config], reporter)
    own = Measuring(
        experiment,
        probing,
        asked,
        opener(experiment, asked.words, asked.samples, reporter),
        lengths_of(experiment.blueprint),
        pick_device(experiment.device),
        settings.least,
        settings.seed,
        reporter,
        places=[],
    )
    sweep, counts = kind.measured(own)
    scored = Scored(sweep, _named(config, experiment), experiment.sweep.ci_level, experiment.sweep.draws)
    more = {**counts, "words": asked.words, "seconds": round(time.monotonic() - started, 2)}
    save_results(paths, scored, run, more)
    show_effects(paths, reporter, config.report)
    for place in own.places:  # a command that is killed while it draws goes on from them, too
        clear(place)


def _named(config: InterveneConfig, experiment: Experiment) -> dict[str, str]:
    """What rows say of themselves, as those of scores.csv do."""
    model = experiment.model
    return {
        "run": digest(experiment.run, config.intervention, asdict(config.intervene)),
        "cache": experiment.identity.digest,
        "model": model.label,
        "revision": model.revision or "",
        "quantization": f"{model.precision} ({model.dtype})",
        "dataset": experiment.collection.name,
        "task": experiment.task.name,
    }
