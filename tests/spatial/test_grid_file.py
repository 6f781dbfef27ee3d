"""grids.json is read as it was written, and a damaged one is named."""

from pathlib import Path

import numpy as np
import pytest

from mllm_probe.errors import DataError
from mllm_probe.results.examples import Seen
from mllm_probe.spatial.grid_file import PictureGrid, RegionGrids, as_bytes, as_numbers, load_grids, save_grids


def grids() -> RegionGrids:
    cells = ((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0))
    one = PictureGrid(
        Seen("a.png", "d", ""), cells, (0, 0), {"cat": as_bytes(np.asarray([255, 0]))}, {"cat": ("gAA=",)}
    )
    return RegionGrids(("lm.01",), "pictures", (one,))


def test_what_was_written_is_read(tmp_path: Path) -> None:
    save_grids(tmp_path / "grids.json", grids())
    found = load_grids(tmp_path / "grids.json")
    assert found == grids()
    assert as_numbers(grids().pictures[0].said["cat"][0]).tolist() == [128, 0]
    assert load_grids(tmp_path / "none.json") is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sites": ["a"], "folder": "x", "pictures": [{}]}', '{"sites": 3}'])
def test_a_damaged_file_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "grids.json").write_text(text)
    with pytest.raises(DataError, match="grids.json is damaged"):
        load_grids(tmp_path / "grids.json")
