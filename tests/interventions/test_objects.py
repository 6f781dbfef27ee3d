"""Edges that begin at the tokens of the object that a statement is about, from masks to effects."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mllm_probe.interventions import objects, tested
from mllm_probe.records.spans import OBJECT, REST
from tests.support.runs import Run

EDGES = 'intervention.edges=["object->statement","rest->statement"]'
SMALL = ("intervention.above=[]", "intervention.centres=[1]", "intervention.random_draws=1", "sweep.draws=50")
FEW = ("task=objects", "dataset.pictures=80", "intervene.pictures=20", *SMALL)


def test_an_object_is_used_at_its_own_tokens(probe: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only statements about an object that is there count; its few tokens are needed more than as many at random, the
    thirty others are not."""
    kept: list[tuple[tested.Tested, tested.Tested]] = []
    make = objects.on_objects

    def keeping(experiment: object, asked: tested.Tested) -> tested.Tested:
        found = make(experiment, asked)  # type: ignore[arg-type]
        kept.append((asked, found))
        return found

    monkeypatch.setattr("mllm_probe.commands.intervene.on_objects", keeping)
    code, _, err = probe("intervene", EDGES, *FEW, "hydra.run.dir=used")
    assert code == 0, err
    ((asked, found),) = kept
    assert {found.labels[one.uid] for one in found.samples} == {1}
    assert len(found.samples) == sum(asked.labels[one.uid] for one in asked.samples)
    sizes = [len(one.picked.tokens) for one in found.samples]
    assert min(sizes) >= 1 and max(sizes) <= 9, "a shape lies in one of nine fields of four tokens"
    table = pd.read_csv(tmp_path / "used" / "effects.csv", keep_default_na=False)
    margin = table[table.metric == "margin"].set_index(["what", "control"]).value.astype(float)
    assert margin["object->statement", ""] < -1.5 < -1 < margin["object->statement", "random"]
    assert margin["rest->statement", ""] > margin["rest->statement", "random"]
    assert json.loads((tmp_path / "used" / "summary.json").read_text())["prompts"] == len(found.samples)


def test_the_tokens_of_an_object_are_those_that_its_mask_covers_by_half(
    probe: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares, seen, make = np.asarray([0.0, 0.2, 0.5, 0.9, np.nan]), list[tuple[int, ...]](), objects.on_objects
    given: list[np.ndarray] = []
    monkeypatch.setattr("mllm_probe.experiment.places.Places.shares", lambda _self, _picture: Every(given[-1]))

    def stopping(experiment: object, asked: tested.Tested) -> tested.Tested:
        seen.extend(one.picked.tokens for one in make(experiment, asked).samples)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr("mllm_probe.commands.intervene.on_objects", stopping)
    for values, expected in ((shares, (2, 3)), (shares * 0.5, (3,))):
        given.append(values)
        seen.clear()
        assert probe("intervene", EDGES, *FEW)[0] != 0
        assert set(seen) == {expected}


class Every(dict):  # type: ignore[type-arg]
    """Every category has the same shares."""

    def __init__(self, shares: np.ndarray) -> None:
        self._shares = shares

    def get(self, _name: object, _default: object = None) -> np.ndarray:
        return self._shares


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("intervene", EDGES, "task=entailment"), "no statement of task=entailment is about one category of objects"),
        (("intervene", 'intervention.edges=["image->object"]'), f"the span '{OBJECT}', which is another one in every"),
        (
            ("intervene", "intervention=patching", "intervention.spans=[rest]"),
            f"the span '{REST}', which is another one",
        ),
    ],
)
def test_what_objects_cannot_be_asked_is_refused(probe: Run, words: tuple[str, ...], said: str) -> None:
    code, _, err = probe(*words)
    assert code == 1 and said in " ".join(err.split()), err
    assert "loading" not in err
