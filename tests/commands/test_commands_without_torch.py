"""What looks at files, or at the machine, imports no torch: it answers at once, and where torch is broken."""

import subprocess
import sys
from pathlib import Path

import pytest

from mllm_probe.cli import entry as cli
from tests.support.runs import QUICK, tiny

FEW = ("layers.towers=[lm]", "layers.stride=4", "controls=none", "sweep.permutations=50", "sweep.seeds=[0]")
CODE = """
import sys
from mllm_probe.cli import entry
code = 0
try:
    entry.main(sys.argv[1:])
except SystemExit as stop:
    code = stop.code
print(*sorted({"torch", "transformers", "hydra"} & set(sys.modules)), file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def made(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep of two finished runs, and their cache."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["mllm-probe"])
        cli.main(["run", "-m", *tiny(checkpoint), *QUICK, *FEW, "sweep.draws=50,60", "hydra.sweep.dir=sweep"])
    return folder


@pytest.mark.parametrize(
    "words",
    [
        "list",
        "doctor",
        "status sweep",
        "compare sweep",
        "cache ls",
        "cache verify",
        "cache prune --unfinished --damaged",
        "cache why sweep/0 sweep/1",
    ],
)
def test_the_command_imports_no_torch(made: Path, words: str) -> None:
    done = subprocess.run([sys.executable, "-c", CODE, *words.split()], cwd=made, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout, done.stderr
    assert done.stderr.splitlines()[-1] == ""
