"""`mllm-probe intervene` from the command line: its files, killed and resumed, in shares, and what it refuses."""

import json
from pathlib import Path

import pandas as pd
import pytest

from mllm_probe.interventions import loop
from mllm_probe.models.tails.engine import Tails
from tests.support.runs import Run

SMALL = ("intervene", "dataset.pictures=80", "intervene.pictures=20", "sweep.draws=50")
CUT = (*SMALL, 'intervention.edges=["image->statement","statement->last"]', "intervention.centres=[1,4]")
FEW = (*CUT, "intervention.above=[]", "intervention.random_draws=1")


def called(probe: Run, *words: str) -> str:
    code, out, err = probe(*words)
    assert code == 0, err
    return out + err


def effects(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "effects.csv", keep_default_na=False)


def test_a_knockout_leaves_its_files_and_is_shown_again(probe: Run, tmp_path: Path) -> None:
    said = called(probe, *FEW, "hydra.run.dir=cut")
    assert "to intervene:" in said and "8 conditions, 4 of them random draws" in said
    table = effects(tmp_path / "cut")
    real = table[(table.metric == "margin") & (table.control == "")]
    assert list(zip(real.what, real["first"], real["last"], strict=True)) == [
        ("image->statement", 1, 2),
        ("image->statement", 3, 5),
        ("statement->last", 1, 2),
        ("statement->last", 3, 5),
    ]
    assert real[(real.what == "image->statement") & (real.layer == 1)].value.item() < -2, "the picture goes in at once"
    summary = json.loads((tmp_path / "cut" / "summary.json").read_text())
    assert summary["prompts"] >= summary["answered_rightly"] == real.n.iloc[0]
    assert {path.name for path in (tmp_path / "cut").glob("effects.*")} >= {"effects.png", "effects.safetensors"}
    assert not list((tmp_path / "outputs" / "unfinished").glob("*/*.safetensors"))
    assert "image->statement" in called(probe, "report", "cut").replace("\n", "")


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "PROMPTS", {"cpu": 24})


@pytest.mark.usefixtures("small_parts")
def test_a_killed_sweep_goes_on_and_shares_are_one_sweep(
    probe: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called(probe, *FEW, "hydra.run.dir=whole")
    whole, asked = (tmp_path / "whole" / "effects.csv").read_bytes(), Tails.outcomes
    calls: list[int] = []

    def stopped(self: Tails, samples: object, interventions: object) -> object:
        calls.append(len(samples))  # type: ignore[arg-type]
        if len(calls) == 6:
            raise KeyboardInterrupt
        return asked(self, samples, interventions)  # type: ignore[arg-type]

    monkeypatch.setattr(Tails, "outcomes", stopped)
    assert probe(*FEW, "hydra.run.dir=killed")[0] != 0
    called(probe, *FEW, "hydra.run.dir=resumed")
    assert len(calls) < 2 * 6, "parts that were done are kept"
    assert (tmp_path / "resumed" / "effects.csv").read_bytes() == whole
    shares = (*FEW, "extract.num_shards=2")
    code, _, err = probe(*shares, "extract.shard=1", "hydra.run.dir=one")
    assert code == 1 and "other processes have not done their shares yet" in err
    called(probe, *shares, "extract.shard=0", "hydra.run.dir=both")
    one, both = (pd.read_csv(tmp_path / name / "effects.csv") for name in ("whole", "both"))
    pd.testing.assert_frame_equal(both, one, rtol=1e-3, atol=1e-4)  # other passes, so other roundings


def test_patching_everything_restores_everything(probe: Run, tmp_path: Path) -> None:
    words = ("intervention=patching", "layers.stride=6", "intervene.pictures=null", "intervene.least=4")
    called(probe, *SMALL, *words, "hydra.run.dir=patched")
    table = effects(tmp_path / "patched")
    shares = table[table.metric == "restored"].set_index(["direction", "what", "site"]).value.astype(float)
    for direction in ("denoise", "noise"):
        for site in ("lm.00", "lm.06", "lm.12"):
            assert shares[direction, "all", site] == pytest.approx(1, abs=1e-4)
        assert shares[direction, "image", "lm.00"] == pytest.approx(1, abs=1e-4)
        assert shares[direction, "last", "lm.12"] == pytest.approx(1, abs=1e-4)
        assert shares[direction, "last", "lm.00"] == pytest.approx(0, abs=1e-4)


def test_directions_and_erasers_come_from_training_pictures(probe: Run, tmp_path: Path) -> None:
    words = ("layers.stride=12", "layers.range=[12,12]")
    called(probe, *SMALL, "intervention=erasure", *words, "intervention.random_draws=2", "hydra.run.dir=erased")
    table = effects(tmp_path / "erased")
    assert table[(table.metric == "accuracy_loss") & (table.control == "")].value.astype(float).item() > 0.2
    more = ("intervention.random_draws=19", "intervention.strengths=[0,0.001]", "intervention.in_full=[class_mean]")
    called(probe, *SMALL, "intervention=steering", *words, *more, "hydra.run.dir=steered")
    table = effects(tmp_path / "steered")
    table = table[(table.what == "class_mean") & (table.control == "")]
    slope = table[table.metric == "slope"].value.astype(float).item()
    still, moved = table[table.metric == "d"].sort_values("strength").value.astype(float)
    assert still == pytest.approx(0, abs=1e-5) and moved == pytest.approx(0.001 * slope, rel=0.02)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (('intervention.edges=["picture->last"]',), "picture"),
        (('intervention.edges=["object->statement"]',), "object"),
        (('intervention.edges=["last->statement"]',), "nothing would be cut"),
        (('intervention.edges=["mark:captoin->last"]',), "did you mean 'caption'? choose one of: caption"),
        (("intervention=patching", "intervention.spans=[mark:word]"), "task=entailment marks no 'word' in"),
        (("intervention.centres=[2,2]",), "intervention.centres=[2, 2] holds the same twice"),
        (("intervene.pictures=20", "intervene.least=50"), "cannot be met"),
        (("intervention.window=13",), "the language model has 12 blocks"),
        (("intervention.centres=[13]",), "intervention.centres=13 is out of range"),
        (("intervention.random_draws=-1",), "intervention.random_draws=-1"),
        (("model.attn=eager",), "model.attn=eager cannot be told of single edges"),
        (("extract.answers=null",), "extract.answers=null"),
        (("probe_run=nowhere",), "probe_run=nowhere holds no scores.csv"),
        (("intervention=patching", "intervention.spans=[words]"), "words"),
        (("intervention=steering", "intervention.strengths=[.inf]"), "strengths"),
        (("intervention=erasure", "intervention.span=image"), "intervention.span=image"),
        (("layers.towers=[vision]",), "leaves out lm"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(probe: Run, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    code, _, err = probe("intervene", "dataset.pictures=40", *words, "hydra.run.dir=refused")
    assert code == 1 and said in err and len(err.strip().splitlines()) < 4, err
    assert "loading" not in err
    assert not (tmp_path / "refused" / "effects.csv").exists()


def test_a_model_that_knows_no_answers_is_not_disturbed(probe: Run) -> None:
    code, _, err = probe(*FEW, "model.weights=random", "intervene.pictures=null", "intervene.least=21")
    assert code == 1 and "prompts rightly" in err and "intervene.least=21 are needed" in err.replace("\n", " ")


def test_a_probe_run_is_one_of_the_same_model(probe: Run, tmp_path: Path) -> None:
    quick = ("run", "task=entailment", "dataset.pictures=80", "controls=none", "sweep.draws=50", "sweep.seeds=[0]")
    called(probe, *quick, "layers=every4", "extract.positions=[last]", "hydra.run.dir=read")
    said = called(probe, *FEW, "probe_run=read", "hydra.run.dir=both")
    assert "H4, " in said and (tmp_path / "both" / "read_and_used.png").is_file()
    code, _, err = probe(*FEW, "model=mini_base", "probe_run=read")
    assert code == 1 and "probe_run=read read another model" in err and "loading" not in err
