"""H4 on planted curves: where it holds, where it fails, and what leaves it open."""

from pathlib import Path

import pytest

from mllm_probe.records.interventions import Condition
from mllm_probe.scoring.effect_facts import facts
from mllm_probe.scoring.effects import Scored
from mllm_probe.scoring.read_and_used import probe_side, read_and_used
from tests.support.probe_runs import probe_run
from tests.support.sweeps import NAMED, sweep_of, windows


def found(layer: int, edge: str = "statement->last", size: float = 2.0) -> list:  # type: ignore[type-arg]
    def used(one: Condition) -> float:
        return size * ((one.what, one.layer, one.control) == (edge, layer, ""))

    return list(facts(Scored(sweep_of(windows(), used), NAMED)))


@pytest.mark.parametrize(
    ("layer", "among", "verdict", "said"),
    [
        (5, [4, 5], "holds", "the sets share lm.05 and lie below the top quarter; H4 holds"),
        (5, [2, 3], "does not hold", "no layer is in both sets; H4 does not hold"),
        (7, [6, 7], "undecided", "reach into the top quarter; H4 is undecided"),
        (5, [5, 6, 7], "undecided", "reach into the top quarter"),
        (6, [6], "holds", "read best at lm.06 (last), used most at lm.06"),
    ],
)
def test_both_sets_decide(layer: int, among: list[int], verdict: str, said: str, tmp_path: Path) -> None:
    one = read_and_used(found(layer), probe_run(tmp_path / "a", among))
    assert (one.name, one.verdict) == ("H4", verdict) and said in one.sentence
    assert one.numbers["used_first"] == one.numbers["used_last"] == layer and one.numbers["read_first"] == min(among)


def test_what_is_not_known_decides_nothing(tmp_path: Path) -> None:
    run = probe_run(tmp_path / "a", [2, 3])
    one = read_and_used(found(5, size=0.0), run)
    assert one.verdict == "undecided" and "no window takes more than as many random edges" in one.sentence
    assert "was not cut" in read_and_used([fact for fact in found(5) if fact.what != "statement->last"], run).sentence
    none = read_and_used(found(5), probe_run(tmp_path / "b", [2, 3], above=False))
    assert none.verdict == "undecided" and "no set of best blocks above chance" in none.sentence


def test_of_a_study_the_global_side_is_read_and_another_position_where_last_was_not(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "study.json").write_text("{}")
    run = probe_run(tmp_path / "study" / "global", [5], position="mean_text")
    assert probe_side(tmp_path / "study").root == run.root
    assert "read best at lm.05 (mean_text)" in read_and_used(found(5), run).sentence
