"""`mllm-probe tune`: train a small part of a model and write a checkpoint that `run model.path=...` reads.

A killed training continues from its last state when the command is repeated, with the same losses.
"""

from dataclasses import replace
from pathlib import Path

from mllm_probe.cache.claims import clear, turn
from mllm_probe.cache.coverage import folder_digests, weights_digest
from mllm_probe.cache.store import write_json
from mllm_probe.config.run import save_config
from mllm_probe.config.tune import TuneConfig
from mllm_probe.experiment.examples import training_pictures
from mllm_probe.files.digests import open_digests
from mllm_probe.files.model_names import words_for
from mllm_probe.files.paths import OutputPaths, RunPaths
from mllm_probe.files.readback import save_rows
from mllm_probe.files.seals import sealed
from mllm_probe.models.loading.checkpoint import find_checkpoint, needs
from mllm_probe.records.protocols import Reporter
from mllm_probe.report.tune import show_training
from mllm_probe.results.training import save_losses
from mllm_probe.sugar.label_vectors import label_identity, plan_labels, slice_vectors
from mllm_probe.train.follow_up import follow, followers
from mllm_probe.train.held_out_loss import judged
from mllm_probe.train.loop import train
from mllm_probe.train.preparation import (
    blueprint_of,
    check_tune,
    loaded,
    planned_material,
    target_of,
    tell_memory,
    training_digest,
)


def tune(config: TuneConfig, paths: RunPaths, reporter: Reporter) -> None:
    """The command. Raises ConfigError, DataError, ModelError, ProbeError, TrainError, and what follows it raises."""
    check_tune(config)
    following = followers(config)
    target = target_of(config)
    if size := needs(config.model):
        reporter.note(size)
    outputs = OutputPaths(Path(config.paths.outputs))
    digests = open_digests(outputs.digests, config.cache.trust, reporter.note)
    learnt, held = training_pictures(config, digests, reporter, lambda: blueprint_of(config))
    planned = planned_material(config, target, learnt, held)
    tell_memory(planned, target, reporter)
    files = folder_digests(find_checkpoint(config.model), digests)
    slices = target.slices(planned)
    encoders = plan_labels(config.labels) if slices else {}
    run = training_digest(config, files, [*learnt, *held], label_identity(encoders, digests))
    digests.save()
    save_config(config, paths.config)
    state = outputs.training(run)
    with turn(state, "trains the same", reporter):
        vectors, batch = None, config.labels.micro_batch
        if slices:
            vectors = slice_vectors(encoders, slices, batch, outputs, planned.device, digests, reporter)
        material = replace(planned, network=loaded(planned, reporter), base=weights_digest(files), vectors=vectors)
        apprentice = target.apprentice(material)
        save_losses(paths.losses, train(apprentice, material.settings, state, reporter))
        rows = apprentice.held_out()
        save_rows(paths.held_out, type(rows[0]), rows)
        apprentice.save(paths.checkpoint)
    probed = target.probed.format(model=words_for(config.model.path, config.model.bundled, config.model.hub_id))
    known = {"run": run, "target": target.name, **target.told, "seed": config.train.seed, "unit": target.unit}
    told = {**known, "probed": probed, **judged(rows)}
    write_json(paths.summary, sealed(paths.summary, told, [paths.losses, paths.held_out]))
    show_training(paths, reporter)
    follow(following, target.probed.rpartition(".")[2], config.model, paths, reporter)
    clear(state)
