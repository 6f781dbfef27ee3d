"""The source archive and the wheel built from it, installed over the present packages, run from an empty folder."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with both; the wheel is built from what the source archive holds."""
    place = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(place), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    return place


@pytest.fixture(scope="module", params=["whl", "tar.gz"])
def installed(request: pytest.FixtureRequest, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment that sees this one's packages, with one of the two on top; returns its console script."""
    place = tmp_path_factory.mktemp("installed")
    (package,) = built.glob(f"*.{request.param}")
    venv.create(place / "env", with_pip=False)
    python = place / "env" / "bin" / "python"
    (site,) = (place / "env" / "lib").glob("python*/site-packages")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*install, "--target", str(site), str(package)], check=True, capture_output=True)
    own = [path for path in sys.path if path.endswith("site-packages")]
    (site / "present.pth").write_text("\n".join(own))
    script = place / "env" / "bin" / "mllm-probe"
    script.write_text(f"#!{python}\nfrom mllm_probe.cli.entry import main\nmain()\n")
    script.chmod(0o755)
    return script


def call(script: Path, folder: Path, *args: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([script, *args], cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_both_hold_what_belongs_to_them(built: Path) -> None:
    (wheel,), (archive,) = built.glob("*.whl"), built.glob("*.tar.gz")
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {"mllm_probe/py.typed", "mllm_probe/conf/run.yaml", "mllm_probe/bundled/mini/model.safetensors"} <= held
    assert not [name for name in held if not name.startswith("mllm_probe")]
    with tarfile.open(archive) as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    alone = {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "Makefile", "constraints.txt", "pyproject.toml"}
    assert alone <= names and {"docs/start.md", "tests/project/test_wheel.py", "scripts/get_coco.py"} <= names
    assert not [name for name in names if name.startswith("outputs/") and name != "outputs/README.md"]


def test_what_needs_nothing_else_runs_without_a_single_dependency(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path)
    for flag in ("--help", "--version"):
        call = [sys.executable, "-S", "-m", "mllm_probe", flag]  # -S: no site-packages
        done = subprocess.run(call, cwd=tmp_path, env={}, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and "mllm-probe" in done.stdout, done.stderr


def test_what_there_is_to_choose_from_is_listed(installed: Path, tmp_path: Path) -> None:
    assert "logistic" in call(installed, tmp_path, "list", "probes").stdout


def test_conf_travels_with_the_package(installed: Path, tmp_path: Path) -> None:
    done = call(installed, tmp_path, "run", "--info", "searchpath")
    assert done.returncode == 0, done.stderr
    assert str(installed.parents[1]) in done.stdout and str(ROOT / "conf") not in done.stdout
    (package,) = installed.parents[1].glob("lib/python*/site-packages/mllm_probe")
    assert {"py.typed", "__init__.pyi"} <= {path.name for path in package.iterdir()}
    assert "bundled: mini" in call(installed, tmp_path, "run", "--cfg", "job").stdout


@pytest.mark.parametrize("installed", ["whl"], indirect=True)
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
