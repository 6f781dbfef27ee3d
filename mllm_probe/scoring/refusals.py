"""What the probe of a run cannot read or fit: refused as soon as settings, data set or examples show it."""

from dataclasses import asdict
from pathlib import Path

from mllm_probe.config.report import ReportSettings
from mllm_probe.config.run import RunConfig
from mllm_probe.data.coco import Selection
from mllm_probe.errors import ConfigError
from mllm_probe.experiment.examples import of_file
from mllm_probe.experiment.experiment import Experiment
from mllm_probe.fitting.headline_metric import check_shown, headline
from mllm_probe.fitting.readout import Source
from mllm_probe.fitting.trials import Probing
from mllm_probe.records.problems import KINDS
from mllm_probe.records.protocols import Reporter
from mllm_probe.scoring.analyses import check_analyses, check_wishes
from mllm_probe.scoring.guards import Guards


def check_reads(experiment: Experiment, config: RunConfig) -> None:
    """Refuse what the probe cannot read as far as the settings tell, before a picture is opened. Raises ConfigError."""
    probe, kind = experiment.probe, _kind(experiment, config)
    if kind in KINDS:
        _check_kind(experiment, "binary" if kind == "labels" else kind)
    ragged = [position for position in experiment.extract.positions if position.startswith("tokens:")]
    if probe.reads == "tokens" and len(ragged) < len(experiment.extract.positions):
        raise ConfigError(
            f"probe={probe.name} reads a row for every token; set extract.positions=[tokens:text], tokens:image or "
            f"tokens:all instead of {experiment.extract.positions}"
        )
    if ragged and probe.reads != "tokens":
        raise ConfigError(
            f"position {ragged[0]} holds a row for every token, and probe={probe.name} reads one row a decision; "
            "choose probe=attention, or a pooled position such as mean_text"
        )
    _check_pairs(
        experiment, bool(getattr(experiment.task, "answers", True))
    )  # a task without that setting says so later
    check_wishes(experiment)


def _check_pairs(experiment: Experiment, pairs: bool) -> None:
    if experiment.probe.reads == "pairs" and not pairs:
        raise ConfigError(
            f"probe={experiment.probe.name} reads contrast pairs, and task={experiment.task.name} asks each question "
            "once; set task.answers=[Yes,No], which task=entailment takes"
        )


def _kind(experiment: Experiment, config: RunConfig) -> str | None:
    """Of the task's labels, as far as settings tell, or the data set before a picture is opened."""
    kind_of, labels = getattr(experiment.task, "kind_of", None), getattr(experiment.dataset, "labels", None)
    alone = config.test.get("dataset") is None  # else settings may name labels of the other data set
    if alone and kind_of and labels and (found := labels(Selection(**asdict(config.data)))) is not None:
        with of_file(Path(str(getattr(experiment.dataset, "file", None) or "")).name):
            return str(kind_of(found))
    return getattr(experiment.task, "kind", None)


def check_probe(experiment: Experiment, shown: ReportSettings) -> None:
    """Refuse what the probe cannot read before anything is extracted for it. Raises ConfigError."""
    _check_kind(experiment, experiment.examples.kind)
    _check_outputs(experiment)
    check_analyses(experiment)
    headline(probing := Probing(experiment))
    check_shown(probing, shown)
    _check_pairs(experiment, any(decision.side for decision in experiment.examples.decisions))


def _check_outputs(experiment: Experiment) -> None:
    """Where several decisions read one state, each category needs an output of its own, which few probes have."""
    if "labels" in experiment.probe.kinds:
        return
    source = Source(experiment)
    read = (key for each in (experiment, *experiment.variants) for key in (*each.keys, *each.integrated))
    for position in dict.fromkeys(key.position for key in read):
        if source.headed(position):
            raise ConfigError(
                f"at {position} decisions about several categories read the same state, and probe="
                f"{experiment.probe.name} has one output for all; choose probe=logistic or mlp, or other positions"
            )


def check_question(experiment: Experiment, reporter: Reporter) -> None:
    """Refuse questions whose words alone give the label, before the model is loaded. With guards=note the sweep says
    it. Raises ProbeError."""
    if experiment.guards == "stop":
        Guards(Probing(experiment), reporter).question()


def _check_kind(experiment: Experiment, kind: str) -> None:
    probe = experiment.probe
    if kind not in probe.kinds or kind == "labels":
        raise ConfigError(
            f"probe={probe.name} fits targets of kind {', '.join(probe.kinds)}, and task={experiment.task.name} has "
            f"targets of kind {kind}; choose another probe, for numbers probe=ridge"
        )
