"""Finished runs: the files of one as `report` reads them, and real ones that tests share."""

import json
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path

import pytest

from mllm_probe.cli import entry as cli
from tests.support.score_tables import PEAKED, at, score, write

AUROC = [score(0.5 + 0.05 * i, metric="auroc", headline=False, **at("lm", i, "last", i / 8)) for i in range(9)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of a run, as `report` reads them."""
    chosen = {"last": {"site": "lm.05", "value": 0.93, "low": 0.91, "high": 0.95, "validation": 0.9}}
    write(tmp_path / "run", "entailment", PEAKED, more=AUROC)
    (tmp_path / "run" / "summary.json").write_text(json.dumps({"chosen": chosen, "metric": "accuracy"}))
    return tmp_path / "run"


@pytest.fixture(scope="session")
def called(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder in which a command was called that ended well, once for all tests that ask for the same; its files are
    read, never changed."""

    @cache
    def call(*words: str) -> Path:
        folder = tmp_path_factory.mktemp("called")
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()), redirect_stderr(StringIO()) as said:
            patch.chdir(folder)
            patch.setenv("HYDRA_FULL_ERROR", "")
            patch.setattr(sys, "argv", ["mllm-probe"])
            try:
                cli.main(words)
            except SystemExit as stop:
                assert not stop.code, said.getvalue()
        return folder

    return call
