"""regions.csv is read as it was written."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from mllm_probe.errors import DataError
from mllm_probe.results.regions import load_regions, save_regions
from tests.support.fields import BLANK


def test_rows_come_back(tmp_path: Path) -> None:
    path = tmp_path / "regions.csv"
    full = replace(BLANK, metric="miou", seed="all", n=5, n_groups=2, value=0.25, low=0.125, high=0.5, ci_level=0.95)
    full = replace(full, p_value=0.25, p_holm=0.5)
    bare = replace(BLANK, site="", tower="", layer=None, depth=None, control="colour", seed="0", value=0.5)
    save_regions(path, [full, bare])
    table = load_regions(path)
    assert list(table.columns) == list(asdict(full))
    assert table.iloc[0].to_dict() == asdict(full)
    second = table.iloc[1]
    assert second.site == "" and second.seed == "0" and second.isna()[["layer", "depth", "low", "high"]].all()


def test_what_is_missing_or_empty_is_said(tmp_path: Path) -> None:
    path = tmp_path / "regions.csv"
    with pytest.raises(DataError, match="does not exist"):
        load_regions(path)
    save_regions(path, [])
    with pytest.raises(DataError, match="no row"):
        load_regions(path)
