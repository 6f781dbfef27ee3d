"""`mllm-probe run`: extract, sweep and report in one command; of a study both tasks, and conclusions."""

import shlex
from collections.abc import Iterator, Sequence

from mllm_probe.config.run import RunConfig
from mllm_probe.data.scenes import QUESTIONS
from mllm_probe.experiment.experiment import Experiment
from mllm_probe.experiment.fill import fill_all
from mllm_probe.experiment.prepare import parts_of, prepare_all
from mllm_probe.files.jobs import Job, read
from mllm_probe.files.paths import RunPaths
from mllm_probe.loggers.chosen import chosen_loggers, log_runs
from mllm_probe.models.loading.checkpoint import BUNDLED
from mllm_probe.records.protocols import Picking, Reporter
from mllm_probe.report.html.inspect_files import save_first
from mllm_probe.report.run import show
from mllm_probe.scoring.guards import check_probe, check_question, check_reads, check_regions_run
from mllm_probe.scoring.summary import folder_of
from mllm_probe.scoring.sweep import Swept, sweep_cached


def run(config: RunConfig, paths: RunPaths, reporter: Reporter) -> None:
    """The command. Raises MllmProbeError.

    Both tasks of a study are checked before either is read. What is fitted is kept until both are done, for a killed
    run.
    """
    loggers = chosen_loggers(config.loggers)
    parts = parts_of(config, paths, reporter)
    configs, runs = [one for one, _ in parts], [own for _, own in parts]
    experiments = prepare_all(parts, reporter, early=check_reads, picking=True)
    if isinstance(experiments[0].task, Picking):
        _run_regions(experiments[0], config, paths, reporter)
        return
    for experiment in experiments:
        check_probe(experiment, config.report)
        check_question(experiment, reporter)
    check_regions_run(config.regions_run, experiments[0])
    swept = _extract_and_sweep(experiments, configs, runs, reporter)
    if config.local is not None:
        from mllm_probe.scoring.study import save_study

        save_study(paths, config.sweep, runs, swept, reporter, config.regions_run)
    for one in swept:
        one.clear()
    if config.local is not None:
        from mllm_probe.report.study import show_study

        show_study(paths, reporter, config.report)
    else:
        show(paths, reporter, config.report)
    log_runs(loggers, runs, config.paths.outputs, reporter)
    for line in _next(config, experiments[0], paths):
        reporter.note(line)


def _run_regions(experiment: Experiment, config: RunConfig, paths: RunPaths, reporter: Reporter) -> None:
    """A task that reads single picture tokens: other scores, another page."""
    from mllm_probe.report.regions import show_regions
    from mllm_probe.spatial.sweep import RegionSweep

    sweep = RegionSweep(experiment, reporter)
    fill_all([experiment], [config], reporter)
    sweep.save(paths)
    show_regions(paths, reporter, config.report)
    sweep.clear()


def _extract_and_sweep(
    experiments: Sequence[Experiment], configs: Sequence[RunConfig], runs: Sequence[RunPaths], reporter: Reporter
) -> list[Swept]:
    for experiment in experiments:
        experiment.attempts.begin(experiment.outputs.parts(experiment.run))
    extractions = fill_all(experiments, configs, reporter)
    done = []
    for experiment, paths, extraction in zip(experiments, runs, extractions, strict=True):
        if len(experiments) > 1:
            reporter.note(f"{paths.root.name}: {experiment.task.name}")
        template = save_first(experiment, paths, reporter)
        done.append(sweep_cached(experiment, paths, reporter, experiment.attempts.summed(extraction), template))
    return done


def _next(config: RunConfig, experiment: Experiment, paths: RunPaths) -> Iterator[str]:
    """Commands for a model, pictures and questions of one's own: each runs as it is printed, on what is at hand.

    None for what is the user's own already, and none for a job of a multirun.
    """
    job = read(Job, paths.status) if paths.status.is_file() else None
    words = [word for word in job.overrides if word.startswith("model")] if job else []
    found: dict[str, tuple[str, ...]] = {}
    if config.model.bundled and not words:
        folder = next(
            folder for folder in (BUNDLED / "mini_base", BUNDLED / "mini") if folder.name != config.model.bundled
        )
        found["model"] = ("run", "model=custom", f"model.path={folder}")
    if str(config.dataset["_target_"]).endswith(".scenes.Scenes"):
        scenes = folder_of(experiment.examples.samples).parent
        found["pictures"] = ("run", *words, "dataset=coco", f"dataset.root={scenes}")
        found["questions"] = ("check", str(scenes / QUESTIONS), *words)
    if found and (job is None or job.number is None):
        yield "next, with what is yours in the place of these folders and files:"
        yield from (f"  your {what}: {shlex.join(['mllm-probe', *command])}" for what, command in found.items())
