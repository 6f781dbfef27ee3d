"""What libraries say first is no help: the sentence names the setting and what it takes."""

import warnings

import pytest
from conftest import Run

from mllm_probe import cli
from mllm_probe.compose import composed
from mllm_probe.errors import ConfigError, choices


@pytest.mark.parametrize("word", ["layers.range=x", "layers.range=4", "sweep.seeds=3", "extract.positions=last"])
def test_a_list_is_told_by_its_brackets(word: str) -> None:
    with pytest.raises(ConfigError) as error:
        composed("run", [word])
    assert str(error.value) == f"{word.partition('=')[0]} must be a list in brackets, as layers.range=[4,8] is"


def test_a_mapping_is_told_by_its_braces() -> None:
    with pytest.raises(
        ConfigError, match="^task.templates must be names with values in braces, such as {name: value}$"
    ):
        composed("run", ["task.templates=[]"])


def test_a_seed_is_found() -> None:
    with pytest.raises(ConfigError, match=r"'seed' is no setting of `run`; sweep.seeds=\[3\] draws train and"):
        composed("run", ["seed=3"])


def test_the_same_word_is_no_guess() -> None:
    assert choices("last", ["last", "mean"]) == "choose one of: last, mean"
    assert choices("lasd", ["last", "mean"]).startswith("did you mean 'last'?")


def test_a_long_line_is_cut_and_warnings_are_not_shown(
    probe: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli._fail("x" * 129_000)
    assert capsys.readouterr().err.endswith("x ... and 125,000 letters more\n")
    monkeypatch.setattr("mllm_probe.tools.catalogue.run", lambda args: warnings.warn("of a library", stacklevel=1))
    monkeypatch.setattr("sys.warnoptions", [])
    with warnings.catch_warnings():
        code, _, err = probe("list", "models")
    assert code == 0 and not err
