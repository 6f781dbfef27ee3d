"""What intervals are over is called by its name: pictures, or the groups that a table's column makes of them."""

import csv
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mllm_probe.files.paths import RunPaths
from mllm_probe.results.selection import word_of
from tests.support.runs import Run, tiny

SMALL = ("sweep.draws=50", "sweep.seeds=[0,1]", "layers.stride=2", "controls=none", "extract.positions=[last]")


def patients(folder: Path, n: int = 48) -> tuple[str, ...]:
    """The settings of a table with two pictures a patient, of whom every other one is ill."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    with (folder / "t.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("picture", "text", "label", "patient"))
        for i in range(n):
            ill = i // 2 % 2
            shades = rng.integers(0, 90, (8, 8, 3)) + 150 * (np.arange(3) == ill)
            Image.fromarray(shades.astype(np.uint8)).resize((32, 32), 0).save(folder / f"{i}.png")
            table.writerow((f"{i}.png", "Ill?", ("no", "yes")[ill], f"p{i // 2}"))
    return ("task=custom", f"dataset.root={folder}", "dataset.file=t.csv", "dataset.group_column=patient")


def told(text: str) -> list[str]:
    """The phrases in which pictures are counted or drawn as the unit."""
    return re.findall(r"\d+ (?:test )?pictures\b|over pictures|held-out pictures|few pictures|pictures in two", text)


def test_a_run_on_patients_says_patients(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    words = (*tiny(checkpoint), *patients(tmp_path / "data"), *SMALL)
    code, out, err = probe("run", *words, "hydra.run.dir=one")
    assert code == 0, err
    assert not told(out) and "groups (patient)" in out
    run = RunPaths(tmp_path / "one")
    page = run.page.read_text()
    assert not told(page) and "6 groups (patient)" in page and "accuracy on held-out groups (patient)" in page
    assert "groups (patient) in two splits of one seed" in page and "one per group (patient)" in page
    for kind in ("md", "tex"):
        text = run.table(kind).read_text()
        assert not told(text) and "over groups (patient)" in text
    code, _, err = probe("run", *words, "probe=mean_difference", "hydra.run.dir=two")
    assert code == 0, err
    code, out, err = probe("compare", "one", "two", "--out", "both", "--parquet")
    assert code == 0, err
    assert not told(out) and "decisions on 6 groups (patient)" in out
    page = (tmp_path / "both" / "report.html").read_text()
    assert not told(page) and "over groups (patient)" in page
    both = tmp_path / "both"
    assert list(pd.read_parquet(both / "compare.parquet")) == list(pd.read_csv(both / "compare.csv"))


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"dataset.name": "coco"}, "picture"),
        ({"dataset.group_column": None, "test.dataset": None}, "picture"),
        ({"dataset.group_column": "film", "test.dataset": None}, "group (film)"),
        ({"dataset.group_column": "film", "test.dataset._target_": "Coco"}, "picture"),
        ({"test.dataset._target_": "T", "test.dataset.group_column": "ward"}, "group (ward)"),
        ({"dataset.group_column": "film", "splits.unit": "row"}, "row"),
    ],
)
def test_the_tested_data_set_decides(settings: dict[str, str | None], word: str) -> None:
    assert word_of(settings) == word
