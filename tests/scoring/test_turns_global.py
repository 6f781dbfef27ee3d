"""H5: a study tells what a finished run of single picture tokens found, of the same model alone."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mllm_probe.errors import ConfigError, DataError
from mllm_probe.results.regions import Region, save_regions
from mllm_probe.scoring.turns_global import check_regions_run, turns_global
from tests.support.fields import BLANK


def finished(folder: Path, turns: str | None) -> str:
    folder.mkdir()
    row = replace(BLANK, metric="locality", seed="all", value=0.25, low=0.2, high=0.3)
    save_regions(folder / "regions.csv", [row, replace(row, seed="0", value=0.5)])
    said = ["what was found", "a remark"]
    (folder / "summary.json").write_text(json.dumps({"said": said, "cache": "abc", "local_turns_global": turns}))
    return str(folder)


def test_the_layer_is_told(tmp_path: Path) -> None:
    folder = finished(tmp_path / "a", BLANK.site)
    check_regions_run(folder, "abc")
    told = turns_global(folder)
    assert (told.name, told.verdict, told.sentence) == ("H5", "holds", "what was found; H5 holds")
    assert told.numbers == {"site": BLANK.site, "locality": 0.25}


def test_where_no_layer_is_sure_it_is_undecided(tmp_path: Path) -> None:
    told = turns_global(finished(tmp_path / "a", None))
    assert told.verdict == "undecided" and told.numbers == {} and told.sentence.endswith("H5 is undecided")


def test_other_folders_are_refused(tmp_path: Path) -> None:
    folder = finished(tmp_path / "a", None)
    with pytest.raises(
        ConfigError, match=r"read another model, or this one with other settings \(cache abc, here abd\)"
    ):
        check_regions_run(folder, "abd")
    with pytest.raises(ConfigError, match="b holds no regions.csv; name the folder of a finished run task=regions"):
        check_regions_run(str(tmp_path / "b"), "abc")
    save_regions(tmp_path / "a" / "regions.csv", list[Region]())
    with pytest.raises(DataError, match="no row"):
        check_regions_run(folder, "abc")
