"""Runs that cannot be right stop with one sentence, and go on where guards=note was asked for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mllm_probe.data.coco import Coco
from mllm_probe.fitting.readout import Readout, Source
from mllm_probe.records.problems import LayerData
from mllm_probe.records.samples import Examples
from mllm_probe.records.sites import Key
from mllm_probe.results.score_file import load_scores
from mllm_probe.tasks.entailment import Entailment
from mllm_probe.tasks.splits import Folds
from tests.support.runs import QUICK, Run, tiny

ARGS = (*QUICK, "layers.towers=[lm]", "extract.positions=[last]", "sweep.permutations=50")
Planted = pytest.MonkeyPatch


def flattened(monkeypatch: Planted, change: str) -> None:
    """Every row of the highest block becomes the same, or all rows of a picture do."""
    read = Source.readout

    def readout(self: Source, key: Key) -> Readout:
        found = read(self, key)
        if key.site.layer < 4 or "answer" in key.position:
            return found
        rows = found.data.rows[:].clone()
        groups = np.asarray([d.group for d in self.experiment.examples.decisions])
        for group in np.unique(groups) if change == "picture" else ():
            mine = torch.from_numpy(groups == group)
            rows[mine] = rows[mine][0]
        if change == "all":
            rows[:] = torch.arange(len(rows))[:, None] % 2 * 1e-9 + 1
        data = LayerData(rows, name=found.data.name, compute=found.data.compute)
        return Readout(data, found.who, found.total, found.heads)

    monkeypatch.setattr(Source, "readout", readout)


@pytest.mark.parametrize(
    ("change", "said"), [("picture", "rows equal another row about the same picture"), ("all", "rows")]
)
def test_vectors_that_cannot_be_told_apart(
    probe: Run, checkpoint: Path, monkeypatch: Planted, change: str, said: str
) -> None:
    flattened(monkeypatch, change)
    code, _, err = probe("run", *tiny(checkpoint), *ARGS)
    assert code == 1 and said in err and "guards=note continues anyway" in err
    assert probe("run", *tiny(checkpoint), *ARGS, "guards=note")[0] == 0


def test_probes_that_say_the_same_of_all(probe: Run, checkpoint: Path, monkeypatch: Planted) -> None:
    monkeypatch.setattr("mllm_probe.scoring.guards.identical_vectors", lambda *_: None)
    flattened(monkeypatch, "all")
    code, _, err = probe("run", *tiny(checkpoint), *ARGS)
    assert code == 1 and "lm.04@last: the probes of" in err and "the same output" in err


def test_a_question_that_decides_its_label(probe: Run, checkpoint: Path, monkeypatch: Planted) -> None:
    monkeypatch.setattr(
        "mllm_probe.fitting.trials.Probing.texts", property(lambda self: [f"is it {label}?" for label in self.y])
    )
    code, _, err = probe("run", *tiny(checkpoint), *ARGS)
    assert code == 1 and "the question decides the label" in err


def test_labels_of_pictures_are_chance_and_rows_are_split_by_name_only(
    probe: Run, checkpoint: Path, monkeypatch: Planted
) -> None:
    """A coin per picture: nothing to read from a picture that is new, much from one that was trained on."""
    asked = Entailment.examples

    def coined(self: Entailment, collection: Coco, folds: Folds) -> Examples:
        found = asked(self, collection, folds)  # type: ignore[arg-type]
        coin = {group: i % 2 for i, group in enumerate(sorted(found.folds))}
        return replace(found, decisions=tuple(replace(d, label=coin[d.group], pair=None) for d in found.decisions))

    monkeypatch.setattr(Entailment, "examples", coined)
    args = ("data.n=80", "dataset.pictures=80", "layers.towers=[lm]", "extract.positions=[mean_image]", "guards=note")
    table = {}
    for unit in ("picture", "row"):
        code, _, err = probe(
            "run", *tiny(checkpoint), *QUICK[:1], *args, f"splits.unit={unit}", f"paths.outputs={unit}"
        )
        assert code == 0, err
        assert ("scores are no evidence" in err) == (unit == "row")
        scores = load_scores(next(Path(unit).rglob("scores.csv")))
        own = scores[
            (scores.seed == "all") & (scores.metric == "accuracy") & (scores.control == "") & (scores.site != "")
        ]
        table[unit] = own[own.features == "single"]
    assert (table["picture"].low <= 0.5).all(), "no layer is above chance"
    assert (table["row"].value > 0.9).any(), "every layer knows a picture it has seen"


def test_a_probe_of_one_output_is_refused_where_categories_share_a_state_and_before_the_weights(
    probe: Run, checkpoint: Path, monkeypatch: Planted
) -> None:
    monkeypatch.setattr("mllm_probe.experiment.fill.Models.get", lambda *_: pytest.fail("they are loaded"))
    words = ("task=objects", "probe=mean_difference", "extract.answers=null", "extract.positions=[mean_image]")
    code, _, err = probe("run", *tiny(checkpoint), *QUICK, *words)
    assert code == 1 and "at mean_image decisions about several categories read the same state" in err, err
