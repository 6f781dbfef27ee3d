"""Words as people type them: paths with blanks, brackets or umlauts work, and what Hydra's grammar cannot take is told
with the quotes that it needs."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from mllm_probe.config.compose import composed, readable
from mllm_probe.errors import ConfigError
from tests.support.runs import Run, tiny

DOCS = Path(__file__).resolve().parents[2]
ODD = (
    "my dir",
    "x=y",
    "x[1]",
    "a,b",
    "modèle-模",
    "(x)",
    "it's",
    "a#b",
    "007",
    "true",
    "x{y}",
    "50%&more",
    "back\\",
    "~x",
)


@pytest.mark.parametrize("name", ODD)
def test_a_path_is_taken_as_it_is(name: str) -> None:
    for setting in ("model.path", "paths.outputs", "model.adapter", "splits.file"):
        group, _, field = setting.partition(".")
        assert getattr(getattr(composed("run", [f"{setting}=/{name}"]), group), field) == f"/{name}"
        assert getattr(getattr(composed("run", [f"{setting}='/x y'"]), group), field) == "/x y"
    assert composed("report", [f"run=/{name}"]).run == f"/{name}"


def test_home_is_where_the_user_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert composed("run", ["model.path=~/x y"]).model.path == "/home/somebody/x y"
    assert composed("run", ["dataset=coco", "dataset.root=~/coco"]).dataset["root"] == "/home/somebody/coco"


def test_what_is_hydras_own_stays() -> None:
    own = ["model.path=null", "model.path='a b'", "dataset.root=${paths.outputs}/x", "model.path=choice(a,b)", "x=1"]
    assert readable([*own, "-m", "--cfg", "job"]) == [*own, "-m", "--cfg", "job"]
    assert readable(["-m", "model.path=a b,~"]) == ["-m", f"model.path=a b,'{Path.home()}'"]


def test_a_sweep_over_paths_leaves_a_comma_in_a_name(tmp_path: Path) -> None:
    (tmp_path / "a,b").mkdir()
    assert readable(["-m", f"model.path={tmp_path}/a,b"]) == ["-m", f"model.path='{tmp_path}/a,b'"]


def test_other_words_are_told_with_their_quotes() -> None:
    assert readable(["model.name=modèle"]) == ["model.name='modèle'"]
    for word in ("task.template=x[1]", "model.name=a=b", "task.template={text} is it?", "prompt.system=say 'yes'"):
        with pytest.raises(ConfigError, match=r"cannot be read; if its value is one text, type ") as error:
            readable([word])
        (typed,) = shlex.split(str(error.value).partition(", type ")[2])
        name, _, value = word.partition("=")
        assert readable([typed]) == [typed] and typed.startswith(f"{name}='") and value.split("'")[0] in typed


def test_a_command_reads_a_checkpoint_in_a_folder_of_any_name(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "my model=[1], é"))
    code, out, err = probe("inspect", *tiny(folder), "task=entailment", "n=1", "dataset.pictures=12", "data.n=12")
    assert code == 0 and "1 of 1" in out, err
    code, _, err = probe("inspect", "task.template=x[1]", "n=1")
    assert code == 1 and err == (
        "mllm-probe: task.template=x[1] cannot be read; if its value is one text, type \"task.template='x[1]'\"\n"
    )


def test_commands_in_the_docs_are_quoted_for_every_shell() -> None:
    """zsh takes a bare [ or * for a pattern and refuses what it matches nothing with."""
    for page in (DOCS / "README.md", *(DOCS / "docs").glob("*.md")):
        for block in re.findall(r"^```bash[^\n]*\n(.*?)^```", page.read_text(), re.S | re.M):
            for line in block.splitlines():
                bare = re.sub(r"'[^']*'|\"[^\"]*\"|(^|\s)#.*", "", line)
                assert not re.search(r"[\[\]*?{}]", bare), (page.name, line)
