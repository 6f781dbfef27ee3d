"""What libraries say first is no help: the sentence names the setting and what it takes."""

import re
import warnings

import pytest

from mllm_probe.cli import entry as cli
from mllm_probe.config.compose import composed
from mllm_probe.config.sentences import reason
from mllm_probe.errors import ConfigError, choices
from mllm_probe.experiment.prepare import Design
from tests.support.runs import Run

OPTION = "{} must name an option, such as layers=all; its settings have a dot, such as layers.range=[4,8]"


@pytest.mark.parametrize(
    ("job", "key"),
    [
        ("run", "sweep.seeds"),
        ("run", "layers.range"),
        ("run", "layers.towers"),
        ("vision_score", "score.alphas"),
        ("geometry", "geometry.across"),
    ],
)
def test_a_list_is_told_by_an_example_of_itself(job: str, key: str) -> None:
    """Which can be typed as it stands."""
    with pytest.raises(ConfigError, match=rf"^{re.escape(key)}=x must be a list in brackets, such as .*\]$") as error:
        composed(job, [f"{key}=x"])
    example = str(error.value).rpartition(" ")[2]
    assert example.startswith(f"{key}=[")
    composed(job, [example])


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("sweep.seeds=3", "sweep.seeds=3 must be a list in brackets, such as sweep.seeds=[3]"),
        ("layers.range=4", "layers.range=4 must be a list in brackets, such as layers.range=[4,8]"),
        ("task.templates=[]", "task.templates=[] must be names with values in braces, such as {name: value}"),
        ("sweep.seeds=[a]", "each of sweep.seeds=[a] must be a whole number"),
        ("sweep.seeds=[null]", "each of sweep.seeds=[null] must be a whole number"),
        ("data.n=1.5", "data.n=1.5 must be a whole number"),
        ("extract.max_disk_gb=x", "extract.max_disk_gb=x must be a number"),
        ("model.trust_remote_code=maybe", "model.trust_remote_code=maybe must be true or false"),
        ("model.attn=[a]", "model.attn=[a] must be one text"),
        ("data=3", "data=3 must be settings, each by its own name after a dot"),
        ("~model.name", "'model.name' cannot be removed with ~; leave that word out"),
        ("~nothing", "'nothing' cannot be removed with ~; leave that word out"),
        ("data.n", "'data.n' cannot be read; write NAME=VALUE"),
        ("features=[a,b]", "features names 'b', which is unknown; `mllm-probe run --help` lists what there is"),
        *((word, OPTION.format(word)) for word in ("layers=[4,8]", "layers=7", "layers=null", "layers=[all,lm]")),
        ("~layers", "'layers' cannot be removed with ~; leave that word out"),
        ("~paths", "'paths' cannot be removed with ~; leave that word out"),
        ("~hydra", "'hydra' cannot be removed with ~; leave that word out"),
        ("paths.outputs=null", "paths.outputs=null must be one text"),
        ("hydra.run.dir=null", "hydra.run.dir=null must be one text"),
        ("hydra.run.dir=", "hydra.run.dir='' must not be empty"),
        ("sweep.draws=null", "sweep.draws=null must be a whole number"),
        ("prompt.generation_prompt=null", "prompt.generation_prompt=null must be true or false"),
        ("extract.wait_s=null", "extract.wait_s=null must be a number"),
        ("data=null", "data=null must be settings, each by its own name after a dot"),
        ("sweep.seeds=null", "sweep.seeds=null must be a list in brackets, such as sweep.seeds=[3]"),
        (
            "layers.towers={a: 1}",
            "layers.towers={a: 1} must be a list in brackets, such as layers.towers=[a,b]",
        ),
        ("data.n=???", "data.n has no value; give it one"),
        (
            "model.name=${a.b}",
            "model.name cannot be filled in (Interpolation key 'a.b' not found); ${NAME} stands for another setting",
        ),
    ],
)
def test_words_of_libraries_are_told_by_the_setting(word: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        composed("run", [word])
    assert str(error.value) == said


@pytest.mark.parametrize(
    ("job", "word", "said"),
    [
        ("vision_score", "mllms=null", "mllms=null must be names with values in braces, such as {name: value}"),
        ("vision_score", "mllms.mini=null", "mllms.mini=null must be one text"),
        ("vision_fit", "fit.groups=3", "fit.groups=3 must be names with values in braces, such as {name: value}"),
        (
            "geometry",
            "geometry.across=[3]",
            "geometry.across=[3] must be a list in brackets, such as geometry.across=[[last,mean_image]]",
        ),
        ("geometry", "geometry.across=[[null]]", "each of geometry.across=[[null]] must be one text"),
    ],
)
def test_names_of_the_user_have_values_of_their_type(job: str, word: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        composed(job, [word])
    assert str(error.value) == said


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("task.templates=null", "task.templates=null must be names with values in braces, such as {name: value}"),
        ("dataset.pictures=null", "dataset.pictures=null must be a whole number"),
        ("probe.lambdas=[a]", "probe.lambdas='a' must be a number"),
        ("task.answers=7", "task.answers=7 must be a list in brackets"),
        ("task.answers=[7,8]", "task.answers=7 must be one text"),
        ("dataset._target_=null", "dataset._target_=null must be one text"),
    ],
)
def test_settings_of_options_are_told_as_they_are_typed(word: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        Design.of(composed("run", [word]))
    assert str(error.value) == said


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
    monkeypatch.setattr("mllm_probe.commands.list.run", lambda args: warnings.warn("of a library", stacklevel=1))
    monkeypatch.setattr("sys.warnoptions", [])
    with warnings.catch_warnings():
        code, _, err = probe("list", "models")
    assert code == 0 and not err


def test_a_stop_by_the_keyboard_is_called_so() -> None:
    """An exception counts as true even where it says nothing."""
    assert reason("run", KeyboardInterrupt()).startswith("stopped by Ctrl-C; finished shards are kept")
    assert reason("run", KeyboardInterrupt("SIGTERM")).startswith("stopped by SIGTERM;")
    told = "stopped by Ctrl-C; the state that train.save_every saved last is kept, repeat the command to continue"
    assert reason("tune", KeyboardInterrupt()) == told


@pytest.mark.parametrize(("command", "what"), [("run", "finished shards are"), ("tune", "the state that")])
def test_a_stop_tells_what_this_command_continues_with(
    probe: Run, monkeypatch: pytest.MonkeyPatch, command: str, what: str
) -> None:
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "perform", stop)
    code, _, err = probe(command)
    assert code == 1 and f"stopped; {what}" in err and err.endswith("kept, repeat the command to continue\n")
