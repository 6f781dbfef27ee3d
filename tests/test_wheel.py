"""The built wheel, installed over the present packages, runs from an empty folder and finds its conf."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment that sees this one's packages, with the wheel on top; returns its console script."""
    place = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(place), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = place.glob("*.whl")
    venv.create(place / "env", with_pip=False)
    python = place / "env" / "bin" / "python"
    (site,) = (place / "env" / "lib").glob("python*/site-packages")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    own = [path for path in sys.path if path.endswith("site-packages")]
    (site / "present.pth").write_text("\n".join(own))
    script = place / "env" / "bin" / "mllm-probe"
    script.write_text(f"#!{python}\nfrom mllm_probe.cli import main\nmain()\n")
    script.chmod(0o755)
    return script


def call(script: Path, folder: Path, *args: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([script, *args], cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_conf_travels_with_the_package(installed: Path, tmp_path: Path) -> None:
    done = call(installed, tmp_path, "run", "--info", "searchpath")
    assert done.returncode == 0, done.stderr
    assert str(installed.parents[1]) in done.stdout and str(ROOT / "conf") not in done.stdout
    (package,) = installed.parents[1].glob("lib/python*/site-packages/mllm_probe")
    assert {"py.typed", "__init__.pyi"} <= {path.name for path in package.iterdir()}
    assert "bundled: mini" in call(installed, tmp_path, "run", "--cfg", "job").stdout


def test_the_bundled_model_travels_with_the_package(installed: Path, tmp_path: Path) -> None:
    done = call(installed, tmp_path, "run", "experiment=smoke")
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("outputs/run/*/*/layers.png"))


def test_own_groups_are_found_with_config_dir(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "mine" / "layers").mkdir(parents=True)
    (tmp_path / "mine" / "layers" / "first.yaml").write_text("# The first two.\ntowers: [lm]\nrange: [1, 2]\n")
    done = call(installed, tmp_path, "run", "--config-dir", "mine", "layers=first", "--cfg", "job")
    assert done.returncode == 0, done.stderr
    assert "range:\n  - 1\n  - 2" in done.stdout
