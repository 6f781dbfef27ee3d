"""Fits that sweeps keep: found by all that went into them, never where anything of it is another."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mllm_probe.config.compose import composed
from mllm_probe.config.run import run_digest
from mllm_probe.files.store_paths import FitPaths
from mllm_probe.fitting.readout import Readout
from mllm_probe.fitting.resume import KeptFits, _versions
from mllm_probe.fitting.trials import Asked, Fitted, Trial
from mllm_probe.probes.logistic import Logistic
from mllm_probe.records.problems import LayerData, Problem
from mllm_probe.records.samples import Examples
from mllm_probe.records.sites import Key
from tests.support.runs import QUICK, Run, folder, tiny

FILES = ("scores.csv", "tests.csv", "predictions.safetensors", "probes.safetensors")


@pytest.fixture
def asked() -> Asked:
    rng = np.random.default_rng(0)
    rows, y, train = torch.from_numpy(rng.normal(size=(40, 6))).float(), rng.integers(0, 2, 40), np.arange(40) < 20
    problems = [Problem(y, train, (np.arange(40) >= 20) & (np.arange(40) < 30), seed=seed) for seed in (0, 1)]
    blanks = [Trial.blank(Key.parse("lm.01@last"), "", seed) for seed in (0, 1)]
    return Asked(Logistic(), Readout.of(LayerData(rows.bfloat16())), problems, blanks)


def kept(place: Path, asked: Asked, make: Callable[[], list[Trial]] | None = None) -> tuple[list[Trial], list[str]]:
    """The trials, and what is said of them."""
    fits = KeptFits(FitPaths(place))
    return fits(asked, make or asked.fitted), fits.said()


def never() -> list[Trial]:
    raise AssertionError("it is there")


def test_a_fit_is_found_as_it_was(tmp_path: Path, asked: Asked) -> None:
    one, said = kept(tmp_path, asked)
    assert not said
    two, said = kept(tmp_path, asked, never)
    assert len(said) == 1 and said[0].startswith("1 of 1 fits are those of earlier sweeps")
    for a, b in zip(one, two, strict=True):
        assert (a.name, a.facts, a.arrays.keys()) == (b.name, b.facts, b.arrays.keys())
        for x, y in [(a.logits, b.logits), *((a.arrays[name], b.arrays[name]) for name in a.arrays)]:
            assert x.dtype == y.dtype and x.tobytes() == y.tobytes()


def others(asked: Asked) -> dict[str, Asked]:
    """The same question with one thing changed."""
    readout, (first, *rest) = asked.readout, asked.problems
    rows = readout.data.rows[:].clone()
    rows[7, 3] += 1

    def read(**given: object) -> Asked:
        return replace(asked, readout=replace(readout, data=replace(readout.data, **given)))  # type: ignore[arg-type]

    def solved(**given: object) -> Asked:
        return replace(asked, problems=[replace(first, **given), *rest])  # type: ignore[arg-type]

    return {
        "a value": read(rows=rows),
        "their dtype": read(rows=rows.half()),
        "pairs": read(pairs=np.arange(40)),
        "who": replace(asked, readout=replace(readout, who=readout.who[::-1])),
        "heads": replace(asked, readout=replace(readout, heads=np.zeros(40, int))),
        "a label": solved(y=1 - first.y),
        "training": solved(train=first.train & (np.arange(40) > 0)),
        "validation": solved(val=first.val & (np.arange(40) != 25)),
        "the seed": solved(seed=7),
        "the probe": replace(asked, probe=Logistic([1.0])),
        "the control": replace(asked, blanks=[replace(blank, control="permuted") for blank in asked.blanks]),
    }


def test_anything_else_is_fitted_anew(tmp_path: Path, asked: Asked) -> None:
    kept(tmp_path, asked)
    for i, (name, other) in enumerate(others(asked).items(), 1):
        assert not kept(tmp_path, other, asked.fitted)[1], name
        assert len(list(tmp_path.iterdir())) == 1 + i, name


def test_damaged_fits_and_those_of_other_versions_are_not_used(
    tmp_path: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(tmp_path, asked)
    (path,) = tmp_path.iterdir()
    sound = path.read_bytes()
    for damage in (sound[:-1] + bytes([sound[-1] ^ 4]), sound[:100], b""):
        path.write_bytes(damage)
        assert kept(tmp_path, asked)[1] == [f"{tmp_path} has fits that were not used but made again: 1 damaged"]
        assert kept(tmp_path, asked, never)[1]
    with monkeypatch.context() as patch:
        patch.setattr("mllm_probe.fitting.resume.version", lambda name: "another")
        _versions.cache_clear()
        assert kept(tmp_path, asked)[1][0].endswith("made again: 1 of other versions")
    _versions.cache_clear()
    assert kept(tmp_path, asked)[1][0].endswith("made again: 1 of other versions")
    assert kept(tmp_path, asked, never)[1]


def test_the_second_run_fits_nothing_whatever_it_shows(
    probe: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = (*tiny(checkpoint), *QUICK, "layers.towers=[lm]", "layers.range=[3,4]", "sweep.analyses=[erasure]")
    assert probe("run", *args)[0] == 0
    first = folder(tmp_path)
    fits = len(list((tmp_path / "outputs" / "fits").iterdir()))
    with monkeypatch.context() as patch:
        patch.setattr(Fitted, "on", lambda *_: pytest.fail("it was fitted before"))
        code, _, err = probe("sweep", *args, "report.style=paper")
        assert code == 0 and f"{fits} of {fits} fits are those of earlier sweeps" in " ".join(err.split())
        assert all((folder(tmp_path, "sweep") / name).read_bytes() == (first / name).read_bytes() for name in FILES)
    calls: list[object] = []
    on = Fitted.on
    monkeypatch.setattr(Fitted, "on", lambda *given: (calls.append(given), on(*given))[1])
    assert probe("sweep", *args, "sweep.reuse=false")[0] == 0
    assert len(calls) >= fits
    assert all((folder(tmp_path, "sweep") / name).read_bytes() == (first / name).read_bytes() for name in FILES)


def test_reuse_does_not_name_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest of a run of one task, as it was before there was such a setting."""
    monkeypatch.setattr("mllm_probe.config.run.__version__", "0")
    digests = {
        run_digest(composed("run", ["task=entailment", *words]), "cache", Examples((), (), {}))
        for words in ([], ["sweep.reuse=false"])
    }
    assert digests == {"d4597c67fc6c327a"}


@dataclass(frozen=True)
class Plugged(Logistic):
    """Of a package whose code nobody follows."""


def test_probes_of_plugins_are_always_fitted(tmp_path: Path, asked: Asked) -> None:
    other = replace(asked, probe=Plugged())
    kept(tmp_path, other)
    assert kept(tmp_path, other)[1] == [] and not list(tmp_path.iterdir())
