"""`mllm-probe tune`: train a small part of a model and leave a checkpoint that `run model.path=...` reads.

A killed training goes on from its last state when the same command is given again, with the losses it would have had.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mllm_probe import __version__
from mllm_probe.cache.identity import folder_digests, weights_digest
from mllm_probe.cache.store import write_json
from mllm_probe.cache.turns import clear, turn
from mllm_probe.config.build import build
from mllm_probe.config.model import DEVICES
from mllm_probe.config.run import plain, save_config
from mllm_probe.config.tune import TuneConfig
from mllm_probe.data.coco import Selection
from mllm_probe.data.duplicates import alike
from mllm_probe.errors import ConfigError, choices
from mllm_probe.experiment.examples import together
from mllm_probe.experiment.readable import readable
from mllm_probe.files.digests import open_digests
from mllm_probe.files.model_names import words_for
from mllm_probe.files.paths import OutputPaths, RunPaths
from mllm_probe.files.row_file import save_rows
from mllm_probe.files.seals import sealed
from mllm_probe.models.loading.checkpoint import check_settings, find_checkpoint, needs
from mllm_probe.records.protocols import Dataset, Reporter
from mllm_probe.records.samples import Picture, digest
from mllm_probe.report.tune import show_training
from mllm_probe.results.training import save_losses
from mllm_probe.stats.bootstrap import Resamples, interval
from mllm_probe.sugar.label_vectors import label_identity, plan_labels, slice_vectors
from mllm_probe.tasks.splits import TEST, Folds
from mllm_probe.train.follow_up import follow, followers
from mllm_probe.train.loop import train
from mllm_probe.train.material import HeldOut, Material, Target
from mllm_probe.train.memory import GB

if TYPE_CHECKING:
    from mllm_probe.models.blueprint import Blueprint

DRAWS, LEVEL = 2000, 0.95
KNOWN = {one.name for one in fields(HeldOut)}


def tune(config: TuneConfig, paths: RunPaths, reporter: Reporter) -> None:
    """The command. Raises ConfigError, DataError, ModelError, ProbeError, TrainError, and what follows it raises."""
    check(config)
    following = followers(config)
    given: dict[str, Any] = {"connector": config.connector, "labels": config.labels}
    target: Target = build(config.target, Target, tuple(config.plugins), **given)  # type: ignore[type-abstract]
    if size := needs(config.model):
        reporter.note(size)
    outputs = OutputPaths(Path(config.paths.outputs))
    digests = open_digests(outputs.digests, config.cache.trust, reporter.note)
    learnt, held = _pictures(config, outputs, digests, reporter)
    planned = _material(config, target, learnt, held)
    _tell_memory(planned, target, reporter)
    files = folder_digests(find_checkpoint(config.model), digests)
    slices = target.slices(planned)
    run = digest(
        __version__,
        {name: value for name, value in plain(config).items() if name not in ("after", "paths", "device", "plugins")},
        files,
        [[picture.digest, picture.captions] for picture in (*learnt, *held)],
        label_identity(plan_labels(config.labels), digests) if slices else {},
    )
    digests.save()
    save_config(config, paths.config)
    state = outputs.training(run)
    with turn(state, "trains the same", reporter):
        vectors = slice_vectors(config.labels, slices, outputs, planned.device, digests, reporter) if slices else None
        material = replace(planned, network=_network(planned, reporter), base=weights_digest(files), vectors=vectors)
        apprentice = target.apprentice(material)
        save_losses(paths.losses, train(apprentice, material.settings, state, reporter))
        rows = apprentice.held_out()
        save_rows(paths.held_out, type(rows[0]), rows)
        apprentice.save(paths.checkpoint)
    probed = target.probed.format(model=words_for(config.model.path, config.model.bundled, config.model.hub_id))
    known = {"run": run, "target": target.name, **target.told, "seed": config.train.seed, "unit": target.unit}
    told = {**known, "probed": probed, **_judged(rows)}
    write_json(paths.summary, sealed(paths.summary, told, [paths.losses, paths.held_out]))
    show_training(paths, reporter)
    follow(following, target.probed.rpartition(".")[2], config.model, paths, reporter)
    clear(state)


def check(config: TuneConfig) -> None:
    """Raises ConfigError for what can be seen before any file is read."""
    check_settings(config.model, config.prompt)
    if config.model.adapter is not None:
        raise ConfigError("tune begins with the weights alone; leave out model.adapter")
    if config.device not in DEVICES:
        raise ConfigError(f"device={config.device} is unknown; {choices(config.device, DEVICES)}")
    for name in ("warmup", "beta2"):
        if not 0 <= (value := getattr(config.train, name)) < 1:
            raise ConfigError(f"train.{name}={value} must be at least 0 and below 1")


def _pictures(
    config: TuneConfig, outputs: OutputPaths, digests: Any, reporter: Reporter
) -> tuple[list[Picture], list[Picture]]:
    """Those to learn from, and those of the test set, which any probe of the same data and splits is tested on."""
    dataset = build(config.dataset, Dataset, tuple(config.plugins))  # type: ignore[type-abstract]
    collection = dataset.load(outputs.root, Selection(**asdict(config.data)), digests)
    collection = readable(collection, config.data.on_bad_row, lambda: _blueprint(config))
    for row in collection.skipped:
        reporter.note(f"skipped: {row}")
    splits = config.splits
    if splits.near_duplicates:
        collection = together(collection, alike(collection.pictures, digests), reporter)
    folds = Folds(splits.test, splits.val, splits.blocks, config.data.seed, file=splits.file)
    fold = folds.assign(collection.pictures)
    test = [picture for picture in collection.pictures if fold[picture.group] == TEST]
    return [picture for picture in collection.pictures if fold[picture.group] != TEST], test


def _material(config: TuneConfig, target: Target, learnt: Sequence[Picture], held: Sequence[Picture]) -> Material:
    """All but the weights, with a number of steps. Raises ConfigError, ModelError, DataError."""
    from mllm_probe.models.loading.device import pick_device

    material = Material(_blueprint(config), None, pick_device(config.device), learnt, held, config.train)
    settings, examples = config.train, target.examples(material)
    steps = settings.steps or max(1, math.ceil(settings.epochs * examples / settings.batch))
    return replace(material, settings=replace(settings, steps=steps))


def _blueprint(config: TuneConfig) -> "Blueprint":
    from mllm_probe.models.blueprint import Blueprint

    return Blueprint(find_checkpoint(config.model, weights=False), config.model, config.prompt, "right")


def _tell_memory(material: Material, target: Target, reporter: Reporter) -> None:
    from mllm_probe.models.loading.device import memory_of

    if needed := target.memory(material):
        there = memory_of(material.device)
        enough = "" if needed.total < there else "; lower train.micro_batch or target.rank"
        reporter.note(f"memory: {needed}; {material.device} has {there / GB:.3g} GB{enough}")


def _network(material: Material, reporter: Reporter) -> Any:
    """Raises ModelError."""
    from mllm_probe.models.hf import load_model

    model = material.blueprint.settings
    reporter.note(f"loading {model.label} ({model.precision}) on {material.device}")
    loaded = load_model(material.blueprint, material.device)
    for remark in loaded.remarks:
        reporter.note(remark)
    return loaded.network


def _judged(rows: Sequence[HeldOut]) -> dict[str, Any]:
    """Nats a token over the test pictures, with an interval over pictures, and what else there is on average."""
    nats, tokens = np.asarray([row.loss for row in rows]), np.asarray([float(row.tokens) for row in rows])
    draws = Resamples(np.asarray([row.picture for row in rows]), DRAWS)
    low, high = interval((draws.ratios(nats[:, None]) / draws.ratios(tokens[:, None]))[:, 0], draws.size, LEVEL)
    more = {name: float(np.mean([vars(row)[name] for row in rows])) for name in vars(rows[0]) if name not in KNOWN}
    return {"held_out": nats.sum() / tokens.sum(), "low": float(low), "high": float(high), **more, "rows": len(rows)}
