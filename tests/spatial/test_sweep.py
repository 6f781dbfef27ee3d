"""`mllm-probe run task=regions` from the command line: its files, killed and resumed, and what it refuses."""

import json
from pathlib import Path

import pandas as pd
import pytest

from mllm_probe.records.sites import PICKED
from mllm_probe.results.regions import A_IN, ALL, Region
from mllm_probe.spatial.region_scores import RegionScoring
from mllm_probe.spatial.sweep import _said
from tests.support.runs import Run

SMALL = (
    "task=regions",
    "dataset.pictures=300",
    "task.tokens=16",
    "layers.stride=4",
    "sweep.seeds=[0]",
)
ONE = (*SMALL, "controls=none", "task.categories=[red circle,blue circle,green square,white ring]")


def called(probe: Run, *words: str) -> str:
    code, out, err = probe(*words)
    assert code == 0, err
    return out + err


def refused(probe: Run, *words: str) -> str:
    code, _, err = probe(*words)
    assert code == 1, err
    return " ".join(err.split())


def regions(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "regions.csv", keep_default_na=False)


def test_a_run_leaves_its_files_and_is_shown_again(probe: Run, tmp_path: Path) -> None:
    """The eye of `mini` knows what a patch shows, and after its blocks patches far away know it, too."""
    called(probe, "run", *SMALL, "random_draws=1", "hydra.run.dir=where")
    table = regions(tmp_path / "where")
    mean = table[(table.seed == "all") & (table.view == "")]
    real = mean[(mean.control == "") & (mean.training == "all") & (mean.distance == "")]
    value = {(row.site, row.metric): float(row.value) for row in real.itertuples() if row.value != ""}
    sites = ["vision.00", "vision.04", "vision.08", "lm.00", "lm.04", "lm.08", "lm.12", "lm.12.norm"]
    assert list(dict.fromkeys(real.site)) == sites
    assert set(real.position) == {next(iter(real.position))} and real.position.iloc[0].startswith(PICKED)
    assert value["vision.00", "locality"] > 0.7 > 0.6 > value["vision.08", "locality"]
    assert value["lm.12", "miou"] > 0.6
    assert set(mean.control) >= {"", "within_picture", "position", "colour", "random_weights"}
    for control in ("within_picture", "position", "colour", "random_weights"):
        rows = mean[(mean.control == control) & (mean.metric == "miou")]
        assert rows.value.astype(float).max() < value["lm.12", "miou"] - 0.2, control
    summary = json.loads((tmp_path / "where" / "summary.json").read_text())
    assert summary["local_turns_global"] in (None, *sites) and summary["said"]
    assert summary["whole_pictures"] > 30
    page = (tmp_path / "where" / "report.html").read_bytes()
    assert b"random weights" in page and (tmp_path / "where" / "regions.png").is_file()
    (tmp_path / "where" / "report.html").unlink()
    called(probe, "report", "where")
    assert "where is a run of single picture tokens" in refused(probe, "compare", "where", "where")
    assert (tmp_path / "where" / "report.html").read_bytes() == page


def test_a_stopped_sweep_goes_on_and_ends_with_the_same_numbers(
    probe: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called(probe, "run", *ONE, "hydra.run.dir=whole")
    scores, made = RegionScoring.scores, []

    def stopping(self: RegionScoring, *given: object) -> object:
        made.append(given)
        if len(made) == 5:
            raise KeyboardInterrupt
        return scores(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(RegionScoring, "scores", stopping)
    assert probe("sweep", *ONE, "hydra.run.dir=stopped")[0] != 0
    called(probe, "sweep", *ONE, "hydra.run.dir=again")
    assert len(made) == 5 + 6, "both baselines and two of eight layers were kept"
    assert (tmp_path / "again" / "regions.csv").read_bytes() == (tmp_path / "whole" / "regions.csv").read_bytes()


@pytest.mark.parametrize(("low", "said"), [(None, "A_in has no interval"), (0.51, "nowhere is A_in")])
def test_why_there_is_no_index_is_told(low: float | None, said: str) -> None:
    named = dict.fromkeys(("run", "cache", "model", "revision", "quantization", "dataset", "position", "probe"), "")
    named["seed"] = ALL
    row = Region(site="lm.00", tower="lm", layer=0, part="block", depth=0.0, metric=A_IN, low=low, **named)  # type: ignore[arg-type]
    assert [one for one in _said([row]) if said in one]


def test_what_single_tokens_cannot_be_asked_is_refused(probe: Run, tmp_path: Path) -> None:
    for words, said in (
        (("run", "task=regions", "extract.positions=[last]"), "task=regions picks the tokens that are read"),
        (("run", "task=regions", "controls=[blank_picture]"), "controls names blank_picture"),
        (("run", "task=regions", "layers=connector"), "and of the language model; take layers=all"),
        (("run", "task=regions", "task.categories=[]"), "task.categories=[] names no category"),
        (("run", "task=regions", "probe=mean_difference"), "choose probe=ridge"),
        (("align", "task=regions"), "as run, extract, sweep and lens can; take another"),
        (("inspect", "task=regions"), "as run, extract, sweep and lens can; take another"),
        (("intervene", "task=regions"), "extract.answers=null names no answer"),
        (("sweep", *ONE), "run `mllm-probe extract` with the same settings first"),
        (("run", "task=regions", "dataset.pictures=8"), "no category lies on tokens of enough pictures"),
    ):
        assert said in refused(probe, *words), words
