"""What each side of a study is made of, told from settings alone."""

from typing import Any

import pytest

from mllm_probe.config.report import ReportSettings
from mllm_probe.config.run import ExtractSettings, RunConfig, sides_of
from mllm_probe.errors import ConfigError
from tests.support.configs import composed


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


@pytest.mark.parametrize("words", [("model=llava",), ("experiment=sharded_extract",)])
def test_without_a_task_both_questions_are_asked(words: tuple[str, ...]) -> None:
    both = sides_of(composed(*words))
    assert [name(side.task) for side in both] == ["entailment", "objects"]
    assert [side.extract.positions for side in both] == [["last", "mean_text"], ["last", "mark:object"]]


@pytest.mark.parametrize("command", ["extract", "sweep", "inspect", "geometry"])
def test_commands_that_go_with_a_run_ask_both_too(command: str) -> None:
    assert name(composed(command=command).local["task"]) == "objects"


@pytest.mark.parametrize("word", ["task=entailment", "task=objects", "local=null", "experiment=smoke"])
def test_one_task_can_be_asked_for_alone(word: str) -> None:
    assert composed(word).local is None


def test_one_task_is_what_it_was_and_a_study_may_have_another() -> None:
    assert composed("task=entailment").extract.positions == ["last", "mean_text", "mean_image"]
    assert [name(side.task) for side in sides_of(composed("task@local=count"))] == ["entailment", "count"]


@pytest.mark.parametrize("command", ["fidelity", "align"])
def test_commands_on_one_task_ask_whether_captions_describe(command: str) -> None:
    config = composed(command=command)
    assert name(config.task) == "entailment" and config.local is None


def name(task: Any) -> str:
    return str(task["_target_"]).rpartition(".")[2].lower()
