"""`mllm-probe align`: in which layers do a picture and a sentence about it meet? Nothing is trained.

Every picture and every caption passes through the model alone, so that a similarity is a matching score; in one pass
the later of the two would have seen the earlier. States go through the cache, so a second run loads no model.
"""

from collections.abc import Sequence
from dataclasses import replace

from mllm_probe.cache.store import write_json
from mllm_probe.cache.turns import clear
from mllm_probe.config.geometry import IMAGES_AT, TEXTS_AT, AlignConfig
from mllm_probe.config.report import FIGURES
from mllm_probe.config.run import save_config
from mllm_probe.config.sweep import RANDOM
from mllm_probe.errors import ConfigError, ProbeError, choices
from mllm_probe.experiment.attempts import Attempts
from mllm_probe.experiment.controls import loaded_otherwise
from mllm_probe.experiment.experiment import Experiment, chosen_controls
from mllm_probe.experiment.fill import fill_all
from mllm_probe.experiment.prepare import prepare
from mllm_probe.files.digests import open_digests
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.seals import sealed
from mllm_probe.records.protocols import Reporter
from mllm_probe.records.samples import Examples, Sample, digest
from mllm_probe.records.score import NOT_APPLICABLE
from mllm_probe.report.align import show_alignment
from mllm_probe.results.align import best_layers
from mllm_probe.results.score_file import ScoreFile, load_scores
from mllm_probe.sugar.gallery import FEWEST, Claim, Gallery, draw_pictures
from mllm_probe.sugar.measures import Alignment, Sides, corrected, said_alone, shown_alone
from mllm_probe.tasks.entailment import Entailment
from mllm_probe.tasks.splits import SPLITS


def align(config: AlignConfig, paths: RunPaths, reporter: Reporter) -> None:
    """The command: extract both sides, then alignment.csv, a figure and a table.

    Raises ConfigError, DataError, ProbeError.
    """
    check_settings(config)
    experiment = prepare(replace(config, controls=[]), paths, reporter)
    save_config(config, paths.config)
    check_task(experiment)
    asked = galleries(experiment, config)
    check_components(config.align.remove_components, asked["train"], experiment.anatomy.widths["lm"])
    shown = [shown_alone(picture) for gallery in asked.values() for picture in gallery.pictures]
    said = [said_alone(text) for gallery in asked.values() for text in gallery.texts]
    pictures = _side(experiment, config, shown, config.align.images_at)
    texts = _side(experiment, config, said, config.align.texts_at)
    alignment = Alignment(experiment, asked, config, reporter)
    kept = [experiment.outputs.parts(digest(alignment.run, name)) for name in ("pictures", "texts")]
    for side, place in zip((pictures, texts), kept, strict=True):
        side.attempts.begin(place)
    done = fill_all([pictures, texts], [config, config], reporter)
    sides = [Sides(pictures, texts), *map(Sides, pictures.variants, texts.variants)]
    rows = list(alignment.scores(sides))
    if all(row.metric == NOT_APPLICABLE for row in rows):
        raise ProbeError("no layer could be compared, see the notes above")
    ScoreFile(paths.alignment).replace(corrected([*alignment.baselines(), *rows]))
    best = best_layers(load_scores(paths.alignment))
    extraction = [side.attempts.summed(one) for side, one in zip((pictures, texts), done, strict=True)]
    told = {**alignment.facts, "extraction": extraction, "best": best}
    write_json(paths.summary, sealed(paths.summary, told, [paths.alignment]))
    for place in kept:
        clear(place)
    show_alignment(paths, reporter, config.report)
    for line in alignment.bounds_said():
        reporter.note(line)


def check_settings(config: AlignConfig) -> None:
    """Raises ConfigError for what can be seen before any file is read."""
    config.report.check_followed(*FIGURES)
    settings = config.align
    least = {"pictures": FEWEST, "most": FEWEST, "documents": FEWEST, "remove_components": 0, "permutations": 0}
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
        raise ConfigError(f"controls={config.controls}: align knows {RANDOM} alone, or none")
    if config.local is not None:
        raise ConfigError("align reads one task; leave out `local`, or choose no experiment that sets it")
    if config.extract.gpus > 1:
        raise ConfigError(
            f"extract.gpus={config.extract.gpus}: align reads pictures and captions in one process; set extract.gpus=1"
        )
    if config.splits.unit != "picture":
        raise ConfigError(
            f"splits.unit={config.splits.unit}: align centres by other pictures than it scores; set picture"
        )


def check_task(experiment: Experiment) -> None:
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
            "captions alone; take a model that does"
        )
    if experiment.anatomy.crossed:
        raise ConfigError(
            f"{experiment.model.label} attends to pictures and holds no token of theirs in its language model, so "
            "align has no picture to read there; take a model that does"
        )


def check_components(remove: int, train: Gallery, width: int) -> None:
    """Raises ConfigError where nothing would be left of the states."""
    if remove >= (most := min(len(train.pictures), len(train.texts), width)):
        raise ConfigError(
            f"align.remove_components={remove} must be below {most}, the least of training pictures, captions and width"
        )


def galleries(experiment: Experiment, config: AlignConfig) -> dict[str, Gallery]:
    """{split: its pictures and what is said of them}, as the run's first seed splits them. Raises DataError."""
    settings, place = config.align, experiment.folds.splits(experiment.examples.folds, config.sweep.seeds[0])
    claims = _claims(experiment.examples)
    found = {}
    for split in SPLITS:
        pictures = [picture for picture in experiment.collection.pictures if place.get(picture.group) == split]
        drawn = draw_pictures(pictures, settings.pictures, settings.seed, split)
        own = [claim for picture in drawn for claim in claims.get(picture.digest, ())]
        found[split] = Gallery(drawn, experiment.collection.contradicts, own)
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


def _side(
    experiment: Experiment, config: AlignConfig, samples: Sequence[Sample], positions: Sequence[str]
) -> Experiment:
    """An experiment of its own that reads the samples in the language model, and its twin with random weights."""
    settings = replace(config.extract, positions=list(positions), answers=None)
    layers = replace(config.layers, towers=["lm"])
    unique = tuple({sample.uid: sample for sample in samples}.values())
    side = replace(
        experiment,
        extract=settings,
        layers=layers,
        features=(),
        examples=Examples(unique, (), experiment.examples.folds),
        attempts=Attempts(),
    )
    if RANDOM not in chosen_controls(config.controls):
        return side
    digests = open_digests(experiment.outputs.digests, config.cache.trust)
    twin = replace(loaded_otherwise(side, digests, weights="random", adapter=None), control=RANDOM)
    digests.save()
    return replace(side, variants=(twin,))
