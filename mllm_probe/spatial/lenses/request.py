"""What `lens` refuses before any file is read, and before a picture is opened."""

from dataclasses import replace

from mllm_probe.config.lens import ATTENTION, LENSES, LensConfig
from mllm_probe.config.report import FIGURES
from mllm_probe.config.run import RunConfig, refuse_two
from mllm_probe.config.sweep import RANDOM, chosen_controls
from mllm_probe.errors import ConfigError, ModelError, choices
from mllm_probe.experiment.experiment import Experiment
from mllm_probe.records.protocols import Picking
from mllm_probe.results.lenses.lens import LATENT


def check_lens(config: LensConfig) -> None:
    """Raises ConfigError."""
    config.report.check_followed(*FIGURES)
    refuse_two(config, "lens")
    for name in config.lens:
        if name not in LENSES:
            raise ConfigError(f"lens names '{name}', which is unknown; {choices(name, LENSES)}")
    if ATTENTION in config.lens and len(config.lens) > 1:
        raise ConfigError(
            f"lens={config.lens}: attention is read of statements and the others of picture tokens; set "
            "lens=[attention], or leave it out"
        )
    if config.layers.parts != ["block"]:
        raise ConfigError(
            f"layers.parts={config.layers.parts}: lens reads whole states, not what a part adds to them; set "
            "layers.parts=[block]"
        )
    if LATENT in config.lens and config.extract.gpus > 1:
        raise ConfigError(
            f"extract.gpus={config.extract.gpus}: lens=[latent] reads pictures and captions in one process; set "
            "extract.gpus=1"
        )


def check_lens_reads(experiment: Experiment, config: RunConfig) -> None:
    """Raises ConfigError for a task that picks no tokens (for lens=[attention]: that has no statements), ModelError for
    a model that holds no picture tokens."""
    watching = isinstance(config, LensConfig) and config.lens == [ATTENTION]
    if isinstance(experiment.task, Picking) == watching:
        raise ConfigError(
            f"lens=[attention] reads the tokens of statements, and task={experiment.task.name} has none; take "
            "task=objects, or another task of statements"
            if watching
            else f"lens reads single picture tokens, and task={experiment.task.name} picks none; take task=regions"
        )
    if experiment.anatomy.crossed:
        raise ModelError(
            f"{experiment.model.label}: its language model attends to pictures from outside and holds no picture "
            "token, so no lens can read one; take another model"
        )
    towers = config.layers.towers
    if towers is not None and "lm" not in towers:
        raise ConfigError(f"layers.towers={towers}: lens reads the language model; set layers=lm")


def for_attention(config: LensConfig) -> LensConfig:
    """What lens=[attention] takes of these settings: no position of a task of statements, and of controls random
    weights alone."""
    drawn = [name for name in chosen_controls(config.controls) if name == RANDOM]
    picking = config.extract.positions == ["tokens:image"]  # such a task is refused, in words of its own
    positions = config.extract.positions if picking else ["last"]
    return replace(config, controls=drawn, extract=replace(config.extract, positions=positions, answers=None))
