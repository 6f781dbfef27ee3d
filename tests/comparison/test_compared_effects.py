"""`compare` on folders of interventions: what it writes, and what it refuses."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from mllm_probe.files.paths import RunPaths
from mllm_probe.records.interventions import Condition
from mllm_probe.results.effects import Sweep
from mllm_probe.scoring.effect_results import save_results
from mllm_probe.scoring.effects import Scored
from tests.support.runs import Run
from tests.support.sweeps import NAMED, erased, nothing, patched, steered, sweep_of, windows

FEW = windows(layers=4, draws=2)


def folder(name: str, sweep: Sweep, level: float = 0.95, **named: str) -> Path:
    """A finished intervention in the working directory."""
    paths = RunPaths(Path(name))
    paths.root.mkdir(parents=True)
    save_results(paths, Scored(sweep, {**NAMED, "run": name, **named}, level, permutations=99), None, {})
    paths.config.write_text("model:\n  name: mini\nplugins: []\n")
    return paths.root


def cut(conditions: Sequence[Condition] = FEW, size: float = 0.0) -> Sweep:
    return sweep_of(conditions, lambda one: size * ((one.what, one.layer, one.control) == ("image->last", 2, "")))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_two_models_leave_a_table_and_a_page(probe: Run) -> None:
    folder("jobs/0", cut(), quantization="nf4")
    folder("jobs/1", cut(size=1.0), quantization="none")
    code, out, err = probe("compare", "jobs", "--out", "o")
    assert code == 0, err
    assert "mini none minus mini nf4" in Path("o/report.html").read_text()
    assert "1 of 12 conditions differ" in out and "image->last" in out and "-1.000" in out
    table = pd.read_csv("o/differences.csv")
    assert len(table) == 3 * 12 and set(table.label) == {"mini none"} and set(table.reference) == {"mini nf4"}
    row = table[(table.metric == "margin") & (table.what == "image->last") & (table.layer == 2)].iloc[0]
    assert row.difference == pytest.approx(-1, abs=1e-5)
    code, out, err = probe("compare", "jobs", "--baseline", "jobs/1", "--metric", "flips", "--out", "p")
    assert code == 0 and "answers that change in %" in out, err
    other = pd.read_csv("p/differences.csv")
    assert other.difference.tolist() == pytest.approx((-table.difference).tolist())


def test_a_copy_differs_by_nothing(probe: Run) -> None:
    shutil.copytree(folder("a", erased(nothing)), "b")
    code, out, err = probe("compare", "a", "b", "--out", "o")
    assert code == 0, err
    table = pd.read_csv("o/differences.csv")
    assert set(table.difference) == {0.0} and set(table.p_max_t) == {1.0} == set(table.p_value)
    assert "0 of 18 conditions differ" in out and set(table.label) == {"mini b"}


def of_a_run(name: str) -> None:
    for path in (RunPaths(Path(name)).scores, RunPaths(Path(name)).summary):
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("cut", "run"), "cut is of mllm-probe intervene and run is a run"),
        (("cut", "erased"), "cut is of kind knockout and erased of erasure"),
        (("patched", "again/patched"), "patching of several models cannot be compared (patched): of a pair of prompts"),
        (("steered", "again/steered"), "one unit of strength is another step in each model"),
        (("cut",), "cut is the only intervention"),
        (("cut", "deep"), "the language model of cut has 4 blocks and that of deep 8"),
        (("cut", "other"), "cut has 12 conditions and other 8, of which 8 are the same"),
        (("cut", "level"), "the intervals of cut have the level 0.95 and those of level 0.9"),
        (("cut", "apart"), "cut and apart share 0 statements, of which all models answer 0 about 0 pictures rightly"),
        (("cut", "turned"), "turned and cut call different statements true"),
        (("cut", "again/cut", "--metric", "slope"), "--metric slope is not measured of knockout"),
        (("cut", "again/cut", "--position", "last"), "--position is for runs, and cut is of mllm-probe intervene"),
        (("cut", "again/cut", "--baseline", "x"), "--baseline x is 0 runs of entailment"),
        (("cut", "empty"), "empty holds no finished run; give folders such as outputs/run/DATE/TIME"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(probe: Run, words: tuple[str, ...], said: str) -> None:
    of_a_run("run")
    Path("empty").mkdir()
    made = {"cut": cut(), "erased": erased(nothing), "patched": patched(nothing), "steered": steered(nothing)}
    made |= {"deep": cut(windows(draws=2)), "other": cut([one for one in FEW if one.what != "image->last"])}
    made |= {"apart": replace(cut(), uids=tuple(f"v{i}" for i in range(80)))}
    made |= {"turned": replace(cut(), labels=1 - cut().labels), "level": cut()}
    for name in {Path(word).name for word in words if Path(word).name in made}:
        folder(name, made[name], 0.9 if name == "level" else 0.95)
    for word in words:
        if word.startswith("again/"):
            folder(word, made[Path(word).name])
    code, _, err = probe("compare", *words, "--out", "o")
    assert code == 1 and said in " ".join(err.split()) and len(err.strip().splitlines()) == 1, err
    assert not Path("o").exists()


def test_what_was_changed_by_hand_is_named(probe: Run) -> None:
    for name in "ab":
        folder(name, cut())
    told = json.loads(Path("b/summary.json").read_text())
    Path("b/summary.json").write_text(json.dumps({name: told[name] for name in told if name != "kind"}))
    code, _, err = probe("compare", "a", "b")
    assert code == 1 and "b/summary.json" in err
