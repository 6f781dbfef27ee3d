"""What the probe of a run cannot read or fit: refused as soon as settings, data set or examples tell."""

from dataclasses import asdict
from pathlib import Path

from mllm_probe.config.report import ReportSettings
from mllm_probe.config.run import RunConfig
from mllm_probe.data.coco import Selection
from mllm_probe.errors import ConfigError
from mllm_probe.experiment.examples import of_file
from mllm_probe.experiment.experiment import Prepared
from mllm_probe.fitting.headline_metric import check_shown, headline
from mllm_probe.fitting.trials import Bench
from mllm_probe.records.problems import KINDS
from mllm_probe.records.protocols import Reporter
from mllm_probe.scoring.analyses import check_analyses, check_wishes
from mllm_probe.scoring.guards import Guards


def check_reads(ready: Prepared, config: RunConfig) -> None:
    """Refuse what the probe cannot read as far as the settings tell, before a picture is opened. Raises ConfigError."""
    probe, kind = ready.probe, _kind(ready, config)
    if kind in KINDS:
        _check_kind(ready, "binary" if kind == "labels" else kind)
    ragged = [position for position in ready.extract.positions if position.startswith("tokens:")]
    if probe.reads == "tokens" and len(ragged) < len(ready.extract.positions):
        raise ConfigError(
            f"probe={probe.name} reads a row for every token; set extract.positions=[tokens:text], tokens:image or "
            f"tokens:all instead of {ready.extract.positions}"
        )
    if ragged and probe.reads != "tokens":
        raise ConfigError(
            f"position {ragged[0]} holds a row for every token, and probe={probe.name} reads one row a decision; "
            "choose probe=attention, or a pooled position such as mean_text"
        )
    _check_pairs(ready, bool(getattr(ready.task, "answers", True)))  # a task without that setting says so later
    check_wishes(ready)


def _check_pairs(ready: Prepared, pairs: bool) -> None:
    if ready.probe.reads == "pairs" and not pairs:
        raise ConfigError(
            f"probe={ready.probe.name} reads contrast pairs, and task={ready.task.name} asks each question once; "
            "set task.answers=[Yes,No], which task=entailment takes"
        )


def _kind(ready: Prepared, config: RunConfig) -> str | None:
    """Of the task's labels, as far as settings tell, or the data set before a picture is opened."""
    kind_of, labels = getattr(ready.task, "kind_of", None), getattr(ready.dataset, "labels", None)
    alone = config.test.get("dataset") is None  # else settings may name labels of the other data set
    if alone and kind_of and labels and (found := labels(Selection(**asdict(config.data)))) is not None:
        with of_file(Path(str(getattr(ready.dataset, "file", None) or "")).name):
            return str(kind_of(found))
    return getattr(ready.task, "kind", None)


def check_probe(ready: Prepared, shown: ReportSettings) -> None:
    """Refuse what the probe cannot read before anything is extracted for it. Raises ConfigError."""
    _check_kind(ready, ready.examples.kind)
    check_analyses(ready)
    headline(bench := Bench(ready))
    check_shown(bench, shown)
    _check_pairs(ready, any(decision.side for decision in ready.examples.decisions))


def check_question(ready: Prepared, reporter: Reporter) -> None:
    """Refuse questions whose words alone give the label, before the model is loaded. With guards=note the sweep says
    it. Raises ProbeError."""
    if ready.guards == "stop":
        Guards(Bench(ready), reporter).question()


def _check_kind(ready: Prepared, kind: str) -> None:
    probe = ready.probe
    if kind not in probe.kinds or kind == "labels":
        raise ConfigError(
            f"probe={probe.name} fits targets of kind {', '.join(probe.kinds)}, and task={ready.task.name} has "
            f"targets of kind {kind}; choose another probe, for numbers probe=ridge"
        )
