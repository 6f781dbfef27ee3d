"""The measure that layers are compared by: what `sweep.metric` names, or what suits the labels."""

import numpy as np

from mllm_probe.config.report import ReportSettings
from mllm_probe.errors import ConfigError, choices
from mllm_probe.fitting.trials import Probing
from mllm_probe.records.samples import label_said
from mllm_probe.stats.measures import METRICS

AUTO, ACCURACY, BALANCED, NLL, R2 = "auto", "accuracy", "balanced_accuracy", "nll", "r2"
TWO_LABELS = (BALANCED, "auroc", "average_precision")  # undefined where a split holds one label only
MEASURES = (ACCURACY, *TWO_LABELS, NLL, R2)  # which may be chosen: each has a best constant answer and a score a row
OF_ODDS = (NLL, "ece")  # measures of a probe that gives log-odds
LOPSIDED = 0.1  # how far above 1 / C the commonest training label may lie


def headline(probing: Probing) -> str:
    """One of `measures.METRICS`. Raises ConfigError for a measure that these labels or this probe do not have."""
    asked, kind = probing.experiment.sweep.metric, probing.kind
    if kind == "number":
        found = R2 if asked == AUTO else asked
    else:
        found = (BALANCED if lopsided(probing) else ACCURACY) if asked == AUTO else asked
    allowed = [name for name in METRICS[kind] if name in MEASURES]
    if found not in allowed:
        raise ConfigError(
            f"sweep.metric={asked} does not measure task={probing.experiment.task.name}, whose target is of kind "
            f"{kind}; {choices(asked, [AUTO, *allowed])}"
        )
    if found == NLL and not probing.experiment.probe.log_odds:
        raise ConfigError(
            f"sweep.metric=nll needs log-odds, which probe={probing.experiment.probe.name} does not give; choose "
            "probe=logistic or another measure"
        )
    if found in TWO_LABELS:
        _check_labels(probing, found)
    return found


def check_shown(probing: Probing, settings: ReportSettings) -> None:
    """Refuse what `report` names and this run will not have, before anything is read. Raises ConfigError."""
    kind, keys = probing.kind, probing.experiment.keys
    odds = probing.experiment.probe.log_odds
    allowed = [name for name in METRICS[kind] if odds or name not in OF_ODDS]
    if settings.metric not in (AUTO, *allowed):
        raise ConfigError(
            f"report.metric={settings.metric} is not measured in this run, whose target is of kind {kind}; "
            f"{choices(settings.metric, [AUTO, *allowed])}"
        )
    settings.check_read({key.position for key in keys}, {key.site.tower for key in keys})


def lopsided(probing: Probing) -> bool:
    """Whether the commonest label of the training rows, those of all seeds together, holds more than 1 / C + 0.1."""
    rows = np.concatenate([probing.y[probing.split_of[seed] == "train"] for seed in probing.seeds])
    counts = np.bincount(rows)
    return bool(counts.max() > (1 / len(np.unique(probing.y)) + LOPSIDED) * counts.sum())


def _check_labels(probing: Probing, metric: str) -> None:
    for seed in probing.seeds:
        for split in ("val", "test"):
            found = np.unique(probing.y[probing.split_of[seed] == split])
            if len(found) < 2:
                names = probing.experiment.examples.names
                raise ConfigError(
                    f"{metric} needs two labels in every split, and {split} of seed {seed} has "
                    f"{'none' if not len(found) else f'label {label_said(names, found[0])} only'}; take more pictures "
                    "(data.n), or set sweep.metric=accuracy"
                )
