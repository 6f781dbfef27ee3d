"""Fixtures of all rooms; what they are made of is in support/."""

import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from mllm_probe.cli import entry as cli
from mllm_probe.config.verbosity import VARIABLE
from mllm_probe.data.coco import Selection
from mllm_probe.data.scenes import Scenes
from mllm_probe.files.digests import Digests
from mllm_probe.models.hf import HFModel, load_model
from mllm_probe.records.samples import Collection, Examples, Sample
from mllm_probe.tasks.entailment import Entailment
from mllm_probe.tasks.splits import Folds
from tests.support.checkpoints import blueprint_of, save_llava
from tests.support.runs import Run

torch.set_num_threads(1)

# In the order in which they import each other
pytest_plugins = [f"tests.support.{name}" for name in ("caches", "killed", "score_tables", "finished", "score_words")]

FIRST = ("test_docs.py", "test_hf_conformance.py", "test_wheel.py")  # so that no worker ends long after another
LONG = {"probe", "called", "checkpoint", "made", "family", "built", "cold"}  # fixtures: commands, models


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in FIRST)
    for item in items:
        if LONG.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("long")


def pytest_collection_finish() -> None:
    """The garbage collector need not look at what is imported again and again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from tests.support.workers import ByFile

    return ByFile(config, log)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llava(tmp_path_factory.mktemp("tiny") / "llava")


@pytest.fixture(scope="session")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="session")
def scenes(outputs: Path) -> Collection:
    return Scenes(pictures=40).load(outputs, Selection(), Digests(outputs / "digests.json"))


@pytest.fixture(scope="session")
def entailment(scenes: Collection) -> Examples:
    return Entailment().examples(scenes, Folds(blocks=4))


@pytest.fixture(scope="session")
def samples(entailment: Examples) -> Sequence[Sample]:
    """Twelve statements of different lengths about three pictures."""
    return entailment.samples[:12]


@pytest.fixture(scope="session")
def model(checkpoint: Path) -> HFModel:
    """The tiny LLaVA in float32, not quantised."""
    return load_model(blueprint_of(checkpoint), "cpu")


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call the console script's function in an empty folder: (exit code, output, error output)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, "")  # what --quiet sets ends with the test

    def call(*args: str) -> tuple[int, str, str]:
        monkeypatch.setenv("HYDRA_FULL_ERROR", "")
        monkeypatch.setattr(sys, "argv", ["mllm-probe"])
        try:
            cli.main(args)
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call
