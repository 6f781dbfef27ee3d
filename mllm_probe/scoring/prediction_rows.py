"""predictions.csv of a sweep: decisions with their text, pictures, the user's columns, and predictions."""

from collections.abc import Mapping
from typing import Any

from mllm_probe.experiment.experiment import Experiment
from mllm_probe.files.paths import RunPaths
from mllm_probe.fitting.trials import Probing
from mllm_probe.records.protocols import Reporter
from mllm_probe.records.samples import label_said
from mllm_probe.records.score import ASKED
from mllm_probe.results.predictions import load_logits, prediction_table, save_predictions
from mllm_probe.scoring.shown_examples import below, folder_of


def save_decided(paths: RunPaths, probing: Probing, summary: Mapping[str, Any], reporter: Reporter) -> None:
    """Of a run whose validation chose a layer; nothing where it chose none."""
    chosen = {(position, entry["site"]): f"{entry['site']}@{position}" for position, entry in summary["chosen"].items()}
    if not chosen:
        return
    logits = {
        place: load_logits(paths.predictions, key, probing.experiment.probe.name) for place, key in chosen.items()
    }
    table = prediction_table(_asked(probing.experiment), probing.scored, logits, probing.split_of, summary["metric"])
    if said := save_predictions(paths, table):
        reporter.note(said)


def _asked(experiment: Experiment) -> dict[str, list[Any]]:
    """{column: a cell for each decision}."""
    examples, folder = experiment.examples, folder_of(experiment.examples.samples)
    samples = {sample.uid: sample for sample in examples.samples}
    rows = {(row.picture.digest, row.number): row for row in experiment.collection.rows}
    own = tuple(getattr(experiment.dataset, "columns", ()))
    told = []
    for one in examples.decisions:
        sample = samples[one.sample]
        row = rows.get((sample.digests[0], one.row)) if one.row is not None else None
        label = label_said(examples.names, one.label) if examples.names else one.label
        pictures = "; ".join(below(folder, path) for path in sample.images)
        cells = [one.uid, one.row, row.id if row else "", pictures, sample.text, one.head or "", one.target, label]
        told.append([*cells, one.group, *(row.columns.get(name, "") if row else "" for name in own)])
    return {name: [cells[i] for cells in told] for i, name in enumerate((*ASKED, *own))}
