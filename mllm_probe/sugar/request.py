"""What `align` was asked for, checked before a weight is loaded: settings, task, model, galleries."""

from mllm_probe.config.geometry import IMAGES_AT, TEXTS_AT, AlignConfig
from mllm_probe.config.report import FIGURES
from mllm_probe.config.run import refuse_two
from mllm_probe.config.sweep import RANDOM, chosen_controls
from mllm_probe.errors import ConfigError, choices
from mllm_probe.experiment.experiment import Experiment
from mllm_probe.records.samples import Examples
from mllm_probe.sugar.gallery import FEWEST, Claim, Gallery, draw_pictures
from mllm_probe.tasks.entailment import Entailment
from mllm_probe.tasks.splits import SPLITS


def check_align(config: AlignConfig) -> None:
    """Raises ConfigError for what can be seen before any file is read."""
    config.report.check_followed(*FIGURES)
    settings = config.align
    least = {"pictures": FEWEST, "remove_components": 0}
    for name, fewest in least.items():
        if (value := getattr(settings, name)) is not None and value < fewest:
            raise ConfigError(f"align.{name}={value} must be {fewest} or more")
    if settings.delta is not None and not settings.delta > 0:
        raise ConfigError(f"align.delta={settings.delta} must be above 0, or null for the median slice distance")
    for name, allowed in (("images_at", IMAGES_AT), ("texts_at", TEXTS_AT)):
        given = getattr(settings, name)
        if not given or len(set(given)) < len(given):
            raise ConfigError(f"align.{name}={given} must hold at least one position, each once")
        for position in given:
            if position not in allowed:
                raise ConfigError(
                    f"align.{name} names '{position}', which cannot be read; {choices(position, allowed)}"
                )
    if not set(chosen_controls(config.controls)) <= {RANDOM}:
        raise ConfigError(f"controls={config.controls}: align takes only {RANDOM}, or none")
    refuse_two(config, "align")
    if config.extract.gpus > 1:
        raise ConfigError(
            f"extract.gpus={config.extract.gpus}: align reads pictures and captions in one process; set extract.gpus=1"
        )
    if config.splits.unit != "picture":
        raise ConfigError(
            f"splits.unit={config.splits.unit}: align centres by other pictures than it scores; set picture"
        )


def check_experiment(experiment: Experiment) -> None:
    """Raises ConfigError for tasks without captions that are false, and for models that hold no picture."""
    task = experiment.task
    if not isinstance(task, Entailment) or task.answers or task.test_templates:
        raise ConfigError(
            "align takes true and false captions from task=entailment, without task.answers and task.test_templates; "
            f"the task is {task.name}"
        )
    if "qformer" in experiment.anatomy.widths:
        raise ConfigError(
            f"{experiment.model.label} reads no prompt without a picture (its Q-Former needs one), and align reads "
            "captions alone; take a model that can"
        )
    if experiment.anatomy.crossed:
        raise ConfigError(
            f"{experiment.model.label} attends to pictures and holds no token of theirs in its language model, so "
            "align has no picture to read there; take a model that does"
        )


def galleries(experiment: Experiment, config: AlignConfig) -> dict[str, Gallery]:
    """{split: its pictures and what is said of them}, as the run's first seed splits them.

    Raises DataError, and ConfigError where align.remove_components would leave nothing of the states.
    """
    settings, place = config.align, experiment.folds.splits(experiment.examples.folds, config.sweep.seeds[0])
    claims = _claims(experiment.examples)
    found = {}
    for split in SPLITS:
        pictures = [picture for picture in experiment.collection.pictures if place.get(picture.group) == split]
        drawn = draw_pictures(pictures, settings.pictures, settings.seed, split)
        own = [claim for picture in drawn for claim in claims.get(picture.digest, ())]
        found[split] = Gallery(drawn, experiment.collection.contradicts, own)
    _check_components(settings.remove_components, found["train"], experiment.anatomy.widths["lm"])
    return found


def _claims(examples: Examples) -> dict[str, list[Claim]]:
    """{picture: what the task's statements say of it}."""
    samples = {sample.uid: sample for sample in examples.samples}
    found: dict[str, list[Claim]] = {}
    for decision in examples.decisions:
        sample = samples[decision.sample]
        caption = sample.text[slice(*sample.marks["caption"])]
        found.setdefault(sample.digests[0], []).append((sample.digests[0], caption, int(decision.label)))
    return found


def _check_components(remove: int, train: Gallery, width: int) -> None:
    if remove >= (most := min(len(train.pictures), len(train.texts), width)):
        raise ConfigError(
            f"align.remove_components={remove} must be below {most}, the least of training pictures, captions and width"
        )
