"""What `intervene` refuses: settings before any file is read, and the rest before a model is loaded."""

from collections.abc import Sequence
from pathlib import Path

from mllm_probe.config.build import build
from mllm_probe.config.intervene import InterveneConfig
from mllm_probe.config.report import FIGURES
from mllm_probe.config.run import refuse_two
from mllm_probe.errors import ConfigError, choices
from mllm_probe.files.paths import GLOBAL, RunPaths
from mllm_probe.files.readback import read_entries
from mllm_probe.interventions.kinds import Sweepable
from mllm_probe.records.samples import Sample
from mllm_probe.records.sites import INSIDE, Anatomy
from mllm_probe.records.spans import IMAGE, MARK, OBJECTS

MASKED = "sdpa"  # the implementation of attention that takes a mask of single edges here


def intervention_of(config: InterveneConfig) -> Sweepable:
    """Raises ConfigError."""
    found: Sweepable = build(config.intervention, Sweepable, tuple(config.plugins), "intervention")  # type: ignore[type-abstract]
    return found


def check_intervene(config: InterveneConfig) -> None:
    """Raises ConfigError."""
    config.report.check_followed(*FIGURES)
    refuse_two(config, "intervene")
    kind, settings = intervention_of(config), config.intervene
    for name, least in (("pictures", 1), ("least", 2), ("seed", 0)):
        if (value := getattr(settings, name)) is not None and value < least:
            raise ConfigError(f"intervene.{name}={value} must be {least} or more")
    if settings.pictures is not None and settings.pictures < settings.least:
        raise ConfigError(
            f"intervene.least={settings.least} cannot be met by intervene.pictures={settings.pictures}; raise the one "
            "or lower the other"
        )
    for name, value in config.intervention.items():
        if isinstance(value, list) and len({str(one).replace(" ", "") for one in value}) < len(value):
            raise ConfigError(f"intervention.{name}={value} holds the same twice")
    if config.extract.answers is None:
        raise ConfigError(
            "extract.answers=null names no answer, and effects are told of the model's answers; give a word for each "
            "label, such as extract.answers=[Yes,No]"
        )
    if kind.cuts and config.model.attn != MASKED:
        raise ConfigError(
            f"model.attn={config.model.attn} cannot be told of single edges between tokens; set model.attn={MASKED}"
        )
    _check_layers(config)
    if config.probe_run is not None and not probe_scores(Path(config.probe_run).expanduser()).is_file():
        raise ConfigError(f"probe_run={config.probe_run} holds no scores.csv; name the folder of a finished run")


def probe_scores(folder: Path) -> Path:
    """The scores of a run, of a study those of its global task."""
    paths = RunPaths(folder)
    return (paths.side(GLOBAL) if paths.study.is_file() else paths).scores


def check_probe_run(folder: Path, cache: str) -> None:
    """That a run read the model whose cache this is, so that both can stand in one figure. Raises ConfigError."""
    own = RunPaths(probe_scores(folder).parent).identity
    found = read_entries(own, {"digest": str}, {"digest": str}).get("digest") if own.is_file() else None
    if found != cache:
        raise ConfigError(
            f"probe_run={folder} read another model, or this one with other settings (cache {found}, here {cache}); "
            "name a run with the same model, prompt and extract settings"
        )


def _check_layers(config: InterveneConfig) -> None:
    towers = config.layers.towers
    if towers is not None and "lm" not in towers:
        raise ConfigError(
            f"layers.towers={towers} leaves out lm, the language model, whose layers alone are changed; add it"
        )


def check_model(kind: Sweepable, anatomy: Anatomy, parts: Sequence[str] = ("block",)) -> None:
    """What a model is asked that it does not have, before its weights are read. Raises ConfigError."""
    kind.check(anatomy)
    pictured = [span for span in kind.spans if span in (IMAGE, *OBJECTS)]
    if pictured and anatomy.crossed:
        raise ConfigError(
            f"the span '{pictured[0]}' of intervention={kind.name} does not exist: this language model attends to "
            "pictures from outside and holds no token of theirs; take another span, or another model"
        )
    for part in parts:
        if part in INSIDE and part not in anatomy.inside.get("lm", ()):
            raise ConfigError(f"layers.parts names {part}, and no block of the language model has a separate one")


def check_marks(kind: Sweepable, task: str, samples: Sequence[Sample]) -> None:
    """That the task has marked, in every text, the stretches that spans are named after. Raises ConfigError."""
    for name in (span.removeprefix(MARK) for span in kind.spans if span.startswith(MARK)):
        for sample in samples:
            known = {mark.partition(":")[0] for mark in sample.marks}
            if name not in known:
                there = choices(name, known) if known else "its texts have no mark, take the span 'statement'"
                raise ConfigError(
                    f"the span '{MARK}{name}' of intervention={kind.name} does not exist: task={task} marks no "
                    f"'{name}' in {sample.text!r}; {there}"
                )
