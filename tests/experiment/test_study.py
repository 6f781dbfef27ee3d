"""What each side of a study is made of, told from settings alone."""

import pytest

from mllm_probe.config.report import ReportSettings
from mllm_probe.config.run import ExtractSettings, RunConfig
from mllm_probe.errors import ConfigError
from mllm_probe.experiment.study import sides_of


def study(**report: object) -> RunConfig:
    return RunConfig(
        task={"name": "entailment"},
        extract=ExtractSettings(positions=["last", "mean_image"], answers=["Yes", "No"]),
        local={"task": {"name": "objects"}, "extract": {"positions": ["last", "mark:object"]}},
        report=ReportSettings(**report),  # type: ignore[arg-type]
    )


def test_each_side_reads_its_own_positions_and_shows_all_of_them() -> None:
    whole, local = sides_of(study(positions=["mark:object"]))
    assert whole.task == {"name": "entailment"} and local.task == {"name": "objects"}
    assert whole.extract.positions == ["last", "mean_image"] and local.extract.positions == ["last", "mark:object"]
    assert whole.extract.answers == ["Yes", "No"] and local.extract.answers is None
    assert all(side.local is None and side.report.positions is None for side in (whole, local))


def test_the_page_shows_what_a_side_reads_and_each_choice_is_named_once() -> None:
    with pytest.raises(ConfigError, match=r"report.positions names 'mean_all'.*: last, mark:object, mean_image$"):
        sides_of(study(positions=["mean_all"]))
