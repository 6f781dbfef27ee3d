"""What a training starts from: settings that hold, a model without and with its weights, the number of steps.

Knows no target by name.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mllm_probe import __version__
from mllm_probe.config.build import build
from mllm_probe.config.model import DEVICES
from mllm_probe.config.run import plain
from mllm_probe.config.tune import TuneConfig
from mllm_probe.errors import ConfigError, choices
from mllm_probe.models.loading.checkpoint import check_settings, find_checkpoint
from mllm_probe.records.protocols import Reporter
from mllm_probe.records.samples import Picture, digest
from mllm_probe.train.material import Material, Target
from mllm_probe.train.memory import GB

if TYPE_CHECKING:
    from mllm_probe.models.blueprint import Blueprint

UNCOUNTED = ("after", "paths", "device", "plugins")  # settings that no number of a training follows from


def check_tune(config: TuneConfig) -> None:
    """Raises ConfigError for what can be seen before any file is read."""
    check_settings(config.model, config.prompt)
    if config.model.adapter is not None:
        raise ConfigError("tune starts from the weights alone; leave out model.adapter")
    if config.device not in DEVICES:
        raise ConfigError(f"device={config.device} is unknown; {choices(config.device, DEVICES)}")
    for name in ("warmup", "beta2"):
        if not 0 <= (value := getattr(config.train, name)) < 1:
            raise ConfigError(f"train.{name}={value} must be at least 0 and below 1")


def target_of(config: TuneConfig) -> Target:
    """What is trained. Raises ConfigError."""
    given: dict[str, Any] = {"connector": config.connector, "labels": config.labels}
    return build(config.target, Target, tuple(config.plugins), **given)  # type: ignore[type-abstract, no-any-return]


def planned_material(
    config: TuneConfig, target: Target, learnt: Sequence[Picture], held: Sequence[Picture]
) -> Material:
    """All but the weights, with a number of steps. Raises ConfigError, ModelError, DataError."""
    from mllm_probe.models.loading.device import pick_device

    material = Material(blueprint_of(config), None, pick_device(config.device), learnt, held, config.train)
    settings, (own, judged) = config.train, target.examples(material)
    steps = settings.steps or max(1, math.ceil(settings.epochs * len(own) / settings.batch))
    return replace(material, learnt=own, judged=judged, settings=replace(settings, steps=steps))


def blueprint_of(config: TuneConfig) -> "Blueprint":
    from mllm_probe.models.blueprint import Blueprint

    return Blueprint(find_checkpoint(config.model, weights=False), config.model, config.prompt, "right")


def tell_memory(material: Material, target: Target, reporter: Reporter) -> None:
    from mllm_probe.models.loading.device import memory_of

    if needed := target.memory(material):
        there = memory_of(material.device)
        enough = "" if needed.total < there else "; lower train.micro_batch or target.rank"
        reporter.note(f"memory: {needed}; {material.device} has {there / GB:.3g} GB{enough}")


def loaded(material: Material, reporter: Reporter) -> Any:
    """Raises ModelError."""
    from mllm_probe.models.hf import load_model

    model = material.blueprint.settings
    reporter.note(f"loading {model.label} ({model.precision}) on {material.device}")
    found = load_model(material.blueprint, material.device)
    for remark in found.remarks:
        reporter.note(remark)
    return found.network


def training_digest(
    config: TuneConfig, files: Mapping[str, str], pictures: Sequence[Picture], labels: Mapping[str, Any]
) -> str:
    """What every number of a training follows from: its settings, the checkpoint's files, pictures with their captions,
    and the frozen encoders behind the labels of a target that has some."""
    settings = {name: value for name, value in plain(config).items() if name not in UNCOUNTED}
    return digest(__version__, settings, files, [[one.digest, one.captions] for one in pictures], labels)
