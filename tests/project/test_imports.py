"""What each command imports, in a process of its own: what it uses, and nothing of its neighbours."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.runs import QUICK

CODE = """
import json, sys
from mllm_probe.cli import entry

listed, *words = sys.argv[1:]
try:
    entry.main(words)
except SystemExit as stop:
    assert not stop.code, stop.code
with open(listed, "w") as file:
    json.dump(list(sys.modules), file)
"""
MOST = 162  # modules of ours in a run that fills its cache and draws its page; a package counts as one
HEAVY = {"torch", "transformers", "hydra", "omegaconf", "numpy", "pandas", "rich", "matplotlib", "yaml"}


def imported(folder: Path, *words: str) -> set[str]:
    """The modules that a command has imported when it is over, run in a folder."""
    listed = folder / "modules.json"
    done = subprocess.run([sys.executable, "-c", CODE, str(listed), *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(listed.read_text()))


def ours(modules: set[str], room: str = "") -> set[str]:
    """Those of this package, or of a room of it, by their names below it."""
    names = {name.removeprefix("mllm_probe.") for name in modules if name.split(".")[0] == "mllm_probe"}
    return {name for name in names if not room or name.split(".")[0] == room}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("imports")


@pytest.fixture(scope="module")
def cold(place: Path) -> set[str]:
    """Of a run that extracts, fits, draws figures and writes its page."""
    modules = imported(place, "run", *QUICK, "hydra.run.dir=cold")
    assert {path.name for path in (place / "cold").iterdir()} >= {"layers.png", "report.html", "scores.csv"}
    return modules


@pytest.fixture(scope="module")
def warm(place: Path, cold: set[str]) -> set[str]:
    """Of a multirun of one job, which reads what the run above has kept."""
    return imported(place, "run", "-m", *QUICK, "sweep.seeds=[1]", "hydra.sweep.dir=warm")


def test_help_imports_the_command_line_alone(place: Path) -> None:
    modules = imported(place, "--help")
    assert len(ours(modules)) <= 8 and not modules & HEAVY, sorted(ours(modules))


def test_a_run_imports_nothing_of_other_commands(cold: set[str]) -> None:
    assert 100 < len(ours(cold)) <= MOST, len(ours(cold))
    for room in ("sugar", "geometry", "train", "vision", "comparison"):
        assert not ours(cold, room), room
    assert ours(cold, "commands") == {"commands", "commands.run"}
    assert not {name for name in ours(cold) if name.rpartition(".")[2] in ("geometry", "tune", "vision", "fidelity")}
    assert ours(cold, "loggers") <= {"loggers", "loggers.chosen"} and ours(cold, "features") <= {
        "features",
        "features.single",
    }


def test_a_quantised_model_needs_no_compiler(cold: set[str]) -> None:
    assert "bitsandbytes" in cold and "torch._inductor.compile_fx" not in cold


def test_a_run_with_a_filled_cache_imports_no_model(cold: set[str], warm: set[str]) -> None:
    assert {"transformers", "bitsandbytes"} <= cold and "torch" in warm
    assert not warm & {"transformers", "bitsandbytes"} and not {"models.hf", "models.blueprint"} & ours(warm)


@pytest.mark.parametrize(
    "words", [("status", "warm"), ("compare", "cold", "warm"), ("list",), ("cache", "ls")], ids=" ".join
)
def test_what_reads_finished_work_needs_no_torch(place: Path, warm: set[str], words: tuple[str, ...]) -> None:
    modules = imported(place, *words)
    assert not modules & {"torch", "transformers", "hydra"}
    assert ours(modules, "commands") == {"commands", f"commands.{words[0]}"}
