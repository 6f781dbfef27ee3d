"""`mllm-probe inspect`: what the model will read, and where each state is taken. Loads no weights, opens no cache."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mllm_probe.config.run import InspectConfig, save_config
from mllm_probe.errors import ConfigError
from mllm_probe.experiment.prepare import Design, check_picking, parts_of
from mllm_probe.files.digests import open_digests
from mllm_probe.files.paths import OutputPaths, RunPaths
from mllm_probe.models.loading.checkpoint import find_checkpoint, needs
from mllm_probe.models.prompts.rendering import Rendering
from mllm_probe.records.protocols import Picking, Reporter
from mllm_probe.report.html.inspect_files import inspections, save_inspections
from mllm_probe.report.terminal.inspect import print_inspections
from mllm_probe.report.terminal.progress import end
from mllm_probe.scoring.summary import folder_of

if TYPE_CHECKING:
    from mllm_probe.models.blueprint import Blueprint


def inspect(config: InspectConfig, paths: RunPaths, reporter: Reporter) -> None:
    """The command; of a study, both tasks. Raises ConfigError, DataError, ModelError."""
    if config.n < 1:
        raise ConfigError(f"n={config.n} must be 1 or more: it is how many samples are shown")
    for one, own in parts_of(config, paths, reporter):
        _inspect(one, own, reporter)
    end(reporter, paths.root)


def _inspect(config: InspectConfig, paths: RunPaths, reporter: Reporter) -> None:
    design = Design.of(config)
    if isinstance(design.task, Picking):
        check_picking(config, design.task.name, picking=False)
    if said := needs(config.model, weights=False):
        reporter.note(said)
    checkpoint = find_checkpoint(config.model, weights=False)
    digests = open_digests(OutputPaths(Path(config.paths.outputs)).digests, config.cache.trust, reporter.note)

    @cache
    def made() -> "Blueprint":
        from mllm_probe.models.blueprint import Blueprint  # transformers: seconds, and not before the data is in order

        return Blueprint(checkpoint, config.model, config.prompt, config.extract.padding_side)

    collection, examples = design.examples(config, digests, reporter, made)
    digests.save()
    samples = examples.samples[: config.n]
    reporter.note(f"{design.task.name} on {collection.name}: {len(samples)} of {len(examples.samples)} samples")
    if len(samples) < config.n:
        reporter.note(f"n={config.n} is more than there are, so all are shown")
    blueprint = made()
    for remark in blueprint.remarks:
        reporter.note(remark)
    renderings = [Rendering.of(blueprint, sample) for sample in samples]
    seed = config.sweep.seeds[0]
    shown = inspections(renderings, config.extract.positions, seed, examples, design.folds, blueprint.anatomy)
    save_config(config, paths.config)
    facts = {"model": config.model.label, "task": design.task.name, "dataset": collection.name, "seed": seed}
    save_inspections(paths, shown, facts, folder_of(examples.samples))
    print_inspections(shown)
