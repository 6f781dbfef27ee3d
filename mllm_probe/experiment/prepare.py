"""What every stage needs before a weight is loaded: examples, the cache they belong to, the keys asked for."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_probe.cache.coverage import Identity
from mllm_probe.cache.store import Store, write_json
from mllm_probe.config.build import build
from mllm_probe.config.model import DEVICES, ONE
from mllm_probe.config.run import (
    Config,
    RunConfig,
    run_digest,
    save_config,
    sides_of,
)
from mllm_probe.config.sentences import flat
from mllm_probe.config.sweep import GUARDS, RANDOM, chosen_controls
from mllm_probe.data.coco import Selection
from mllm_probe.errors import ConfigError, choices
from mllm_probe.experiment.cache_identity import identity_of
from mllm_probe.experiment.controls import with_variants
from mllm_probe.experiment.examples import asked, collected, folds_of
from mllm_probe.experiment.experiment import Experiment
from mllm_probe.extraction.estimate import GB, check_layers
from mllm_probe.extraction.plan import BYTES
from mllm_probe.files.digests import Digests, open_digests
from mllm_probe.files.paths import SIDES, OutputPaths, RunPaths
from mllm_probe.models.loading.checkpoint import check_settings, find_checkpoint, needs
from mllm_probe.models.prompts.prompt import check_position
from mllm_probe.records.protocols import Dataset, Feature, Picking, Probe, Reporter, Task
from mllm_probe.records.samples import Collection, Examples
from mllm_probe.records.sites import PICKED
from mllm_probe.results.selection import word_of
from mllm_probe.tasks.answer_words import check_words
from mllm_probe.tasks.splits import Folds

if TYPE_CHECKING:
    from mllm_probe.models.blueprint import Blueprint

FOR_WHOLE = 0.5  # of extract.max_disk_gb: what a task that picks tokens may fill
NO_PICTURES = Collection("", (), (), lambda *_: False)
NO_EXAMPLES = Examples((), (), {})


@dataclass(frozen=True)
class Design:
    """What the config names, built; nothing is read yet."""

    dataset: Dataset
    task: Task
    probe: Probe
    features: tuple[Feature, ...]
    folds: Folds
    elsewhere: Dataset | None = None

    @classmethod
    def of(cls, config: RunConfig) -> "Design":
        """Raises ConfigError, DataError for all that can be seen in the config alone."""
        _check(config)
        Selection(**asdict(config.data))
        plugins, data = tuple(config.plugins), config.data
        task: Task = build(config.task, Task, plugins, seed=data.seed, on_bad_row=data.on_bad_row)  # type: ignore[type-abstract]
        check_words(config.extract.answers, getattr(task, "kind", None))
        return cls(
            build(config.dataset, Dataset, plugins),  # type: ignore[type-abstract]
            task,
            build(config.probe, Probe, plugins),  # type: ignore[type-abstract]
            _features(config.features, plugins),
            folds_of(config),
            _elsewhere(config),
        )

    def examples(
        self,
        config: RunConfig,
        digests: Digests,
        reporter: Reporter,
        made: Callable[[], "Blueprint"],
        scored: bool = True,
        collection: Collection | None = None,
    ) -> tuple[Collection, Examples]:
        """The pictures that the model of a blueprint can read, read now where they are not given, and what is asked
        about them; where they will be `scored`, in splits that a probe can be. Raises DataError."""
        if self.elsewhere is None:
            collection = collection or collected(self.dataset, config, digests, reporter, made)
            examples = asked(self.task, self.folds, collection, config, reporter)
        else:
            from mllm_probe.experiment.test_dataset import Both, tested_elsewhere

            both = Both.of(self.dataset, self.elsewhere, config, digests, reporter, made)
            collection, examples = tested_elsewhere(self.task, self.folds, both, config, reporter)
        if scored:
            self.folds.check(examples, config.sweep.seeds)
        return collection, examples


def parts_of(config: Config, paths: RunPaths, reporter: Reporter) -> list[tuple[Config, RunPaths]]:
    """What is run, and the folder of each: the experiment itself, or both of a study, which a line tells. Raises
    ConfigError."""
    if config.local is None:
        return [(config, paths)]
    parts = [(side, paths.side(name)) for side, name in zip(sides_of(config), SIDES, strict=True)]
    for _, own in parts:
        own.root.mkdir(parents=True, exist_ok=True)
    tasks = [Design.of(side).task for side, _ in parts]
    whole, local = (task.name for task in tasks)
    if picks := next((task.name for task in tasks if isinstance(task, Picking)), None):
        raise ConfigError(
            f"task={picks} cannot be a part of a study; run it alone, with local=null in an experiment of two"
        )
    reporter.note(
        f"a study of two tasks on the same pictures: {whole} (global) and {local} (local); for one alone give "
        f"task={whole} or task={local}, with an experiment of two local=null"
    )
    return parts


def prepare_all(parts: Sequence[tuple[Config, RunPaths]], reporter: Reporter, **how: Any) -> list[Experiment]:
    """Those of `parts_of`; the second task of a study is about the pictures that the first has read."""
    made: list[Experiment] = []
    for config, paths in parts:
        made.append(prepare(config, paths, reporter, beside=made[0] if made else None, **how))
    return made


def prepare(
    config: RunConfig,
    paths: RunPaths,
    reporter: Reporter,
    scored: bool = True,
    early: Callable[[Experiment, RunConfig], None] = lambda *_: None,
    picking: bool = False,
    beside: Experiment | None = None,
) -> Experiment:
    """Everything that can be wrong without loading the model is found here, cheapest first; then config.yaml.

    Splits are held to what probes need of them where rows will be `scored`. `early` may raise before a picture is
    opened. `picking`: a task may pick the tokens that are read. `beside`: an experiment on the same pictures and model.
    """
    design = Design.of(config)
    if picks := isinstance(design.task, Picking):
        check_picking(config, design.task.name, picking)
    if size := needs(config.model):
        reporter.note(size)
    checkpoint = find_checkpoint(config.model)
    outputs = OutputPaths(Path(config.paths.outputs))
    digests = open_digests(outputs.digests, config.cache.trust, reporter.note)
    identity = identity_of(checkpoint, config.model, config.prompt, config.extract, digests)
    store = Store(outputs.cache(identity.digest), digests)
    store.tidy()
    bare = _without_examples(design, config, checkpoint, identity, store)
    if beside:
        beside.share(bare)
    check_reading(bare, config)
    early(bare, config)
    pictures = beside.collection if beside else None
    read = design.examples(config, digests, reporter, lambda: bare.blueprint, scored and not picks, pictures)
    collection, examples = read
    if picks:
        bare = _with_picked(bare.about(collection, examples))
        examples, config = bare.examples, replace(config, extract=bare.extract)
    save_config(config, paths.config)
    write_json(paths.identity, identity.to_json())
    run = run_digest(config, identity.digest, examples)
    experiment = with_variants(bare.about(collection, examples, run), config, digests)
    digests.save()
    for control, facts in experiment.told.items():
        if own := facts.get("own_group"):
            reporter.note(
                f"{control}: {100 * own:.0f} % of rows get a picture of their own group, because one group has more "
                "than half of the pictures of a fold"
            )
    return experiment


def _without_examples(
    design: Design, config: RunConfig, checkpoint: Path, identity: Identity, store: Store
) -> Experiment:
    return Experiment(
        dataset=design.dataset,
        task=design.task,
        probe=design.probe,
        features=design.features,
        folds=design.folds,
        collection=NO_PICTURES,
        examples=NO_EXAMPLES,
        checkpoint=checkpoint,
        identity=identity,
        store=store,
        outputs=OutputPaths(Path(config.paths.outputs)),
        model=config.model,
        prompt=config.prompt,
        layers=config.layers,
        extract=config.extract,
        sweep=config.sweep,
        controls=chosen_controls(config.controls),
        guards=config.guards,
        device=config.device,
        group_word=word_of(flat(asdict(config))),
    )


def check_picking(config: RunConfig, task: str, picking: bool) -> None:
    """Raises ConfigError where a task that picks the tokens which are read cannot have its way."""
    if not picking:
        raise ConfigError(
            f"task={task} reads single picture tokens, as run, extract, sweep and lens can; take another task"
        )
    if config.test != {"dataset": None}:
        raise ConfigError(f"task={task} is tested on pictures of its own data set; leave test.dataset out")
    if config.extract.positions != ["tokens:image"]:
        raise ConfigError(
            f"task={task} picks the tokens that are read, and extract.positions={config.extract.positions} names "
            "others; leave extract.positions out"
        )
    if config.loggers:
        raise ConfigError(f"task={task} writes no scores.csv, which loggers are given; leave loggers out")
    if others := [name for name in chosen_controls(config.controls) if name != RANDOM]:
        raise ConfigError(
            f"task={task} has controls of its own and random_weights, and controls names {others[0]}; set "
            "controls=[random_weights], or controls=none"
        )


def _with_picked(experiment: Experiment) -> Experiment:
    """Samples with the tokens that the task picks, and the position that reads them. Raises MllmProbeError."""
    assert isinstance(experiment.task, Picking)
    anatomy, extract, places = experiment.anatomy, experiment.extract, experiment.places
    width = sum(anatomy.widths[site.tower] for site in experiment.sites if anatomy.has(site, PICKED))
    if not width:
        task = experiment.task.name
        raise ConfigError(f"task={task} reads sites of the vision tower and of the language model; take layers=all")
    room = int(FOR_WHOLE * extract.max_disk_gb * GB / (BYTES[experiment.storage] * width))
    examples, position = experiment.task.picked(
        experiment.examples, places.pictures, places.grid, places.on_objects, room
    )
    return experiment.about(experiment.collection, examples, extract=replace(extract, positions=[position]))


def check_reading(experiment: Experiment, config: RunConfig) -> None:
    """Whether the model has the sites and positions asked for, and a file of splits the seeds, before a picture is
    opened. Raises ConfigError, DataError, ModelError."""
    if config.device == "cuda" or config.model.placement != ONE:
        from mllm_probe.models.loading.device import check_device, pick_device

        check_device(config.model, pick_device(config.device))
    for seed in config.sweep.seeds if config.splits.file else ():
        experiment.folds.listed(seed)
    _ = experiment.stored


def _elsewhere(config: RunConfig) -> Dataset | None:
    """The data set that is tested, where it is another, for which alone its module is imported. Raises ConfigError."""
    if config.test == {"dataset": None}:
        return None
    from mllm_probe.experiment.test_dataset import elsewhere_of

    return elsewhere_of(config)


def _features(given: Any, plugins: tuple[str, ...]) -> tuple[Feature, ...]:
    """Raises ConfigError."""
    if not isinstance(given, dict) or not given:
        raise ConfigError(f"features={given} must name one or several options, such as features=[sci,dci]")
    return tuple(build(node, Feature, plugins, f"features.{name}", name=name) for name, node in given.items())  # type: ignore[type-abstract]


def _check(config: RunConfig) -> None:
    check_settings(config.model, config.prompt)
    for position in config.extract.positions:
        check_position(position)
    if config.regions_run is not None and config.local is None:
        raise ConfigError("regions_run is told beside the hypotheses of a study of two tasks; leave it out")
    check_layers(config.layers)
    config.extract.check()
    config.sweep.check()
    chosen_controls(config.controls)
    config.report.check()
    if config.guards not in GUARDS:
        raise ConfigError(f"guards={config.guards} is unknown; {choices(config.guards, GUARDS)}")
    if config.device not in DEVICES:
        raise ConfigError(f"device={config.device} is unknown; {choices(config.device, DEVICES)}")
