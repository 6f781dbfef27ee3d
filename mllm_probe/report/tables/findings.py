"""What a run says in words: which layer validation chose, which may be the best, the shape of the curve, the controls.

Every number is one of scores.csv, tests.csv or summary.json, and every word stands on a row of tests.csv; nothing is
tested again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mllm_probe.config.sweep import RANDOM
from mllm_probe.records import units
from mllm_probe.records.score import ALPHA, BY_DESIGN
from mllm_probe.records.sites import listed
from mllm_probe.report.tables.controls import against, beside
from mllm_probe.report.tables.curve_shapes import beyond, p_said, shape_said, shape_why
from mllm_probe.results.selection import headline_metric, many_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Answer:
    """A question about the run, its answer in a few words, and the numbers behind it."""

    question: str
    answer: str
    detail: tuple[str, ...]


@dataclass(frozen=True)
class Reading:
    """One position of a run: what validation chose there, and what tests.csv says of it and of the other blocks."""

    scores: "pd.DataFrame"
    summary: Mapping[str, Any]
    tests: "pd.DataFrame"
    position: str

    @property
    def chosen(self) -> Mapping[str, Any]:
        return self.summary["chosen"][self.position]

    @property
    def site(self) -> str:
        return str(self.chosen["site"])

    @cached_property
    def metric(self) -> str:
        return headline_metric(self.scores)

    @cached_property
    def here(self) -> "pd.DataFrame":
        return self.tests[self.tests.position == self.position]

    def rows(self, test: str) -> "pd.DataFrame":
        return self.here[self.here.test == test]

    @property
    def level(self) -> str:
        """Of the set of blocks that may be the best."""
        return f"{100 * (1 - ALPHA):g} %"

    @cached_property
    def score(self) -> str:
        """`93.0 % [91.0, 95.0]` of the chosen block."""
        return units.tied(units.value(self.chosen["value"], self.chosen["low"], self.chosen["high"], self.metric))

    @cached_property
    def among(self) -> list[str]:
        """The blocks that may be the best, from the bottom up; none where blocks were not compared."""
        rows = self.rows("contender")
        return list(rows.site[rows.verdict != ""])

    @cached_property
    def blocks(self) -> list[str]:
        return list(self.rows("contender").site)

    @cached_property
    def compared(self) -> bool:
        """Whether blocks were tested against each other; not where a label is too rare."""
        return bool(self.rows("contender").p_value.notna().any())

    def above(self, test: str) -> bool | None:
        """Is the chosen block above chance, or above the best constant answer (floor)? None where it was not tested."""
        rows = self.rows(test)
        rows = rows[(rows.site == self.site) & rows.p_adjusted.notna()]
        return None if rows.empty else bool(beyond(rows).all())

    def gap(self, row: Any) -> str:
        return units.tied(units.gap(row.value, row.low, row.high, self.metric))

    @property
    def sentence(self) -> str:
        """The run at this position in a line."""
        task, metric = self.scores.task.iloc[0], units.named(self.metric)
        chance = self.rows("above_chance")
        own = chance[chance.site == self.site]
        if len(own) and not self.any_above:
            return f"At {self.position}, no block reads {task} significantly above chance"
        said = f"{self.site} at {self.position}, chosen on validation, reads {task} with {metric} {self.score}"
        if self.above("above_chance") is False:
            said += ", which is not significantly above chance"
        said += ", by design" if BY_DESIGN in set(own.verdict) else ""
        return f"{said}{self._untrained}{self._set}"

    @property
    def plain(self) -> str:
        """The same for somebody who knows none of the words: where what was asked is read best, and how well."""
        score = f"{units.named(self.metric)} {self.score} at {self.site}, which validation chose"
        if len(self.rows("above_chance")) and not self.any_above:
            return "is read in no layer significantly above chance"
        if self.above("above_chance") is False:
            score += " and which is not significantly above chance"
        if not (self.among and self.compared):
            return f"is read with {score}"
        one_of = "one of " * (len(self.among) > 1)
        return f"is read best in {one_of}{listed(self.among, self.blocks)}: {score}"

    @property
    def any_above(self) -> bool:
        rows = self.rows("above_chance")
        return bool(beyond(rows[rows.site.isin(self.blocks or [self.site])]).any())

    @property
    def _untrained(self) -> str:
        """Against the same architecture with weights drawn, where that was run: the worst of its draws, by name."""
        row = against(self.tests, RANDOM, self.site, self.position)
        if row is None:
            return ""
        name = str(row.other).replace("_", " ")
        if row.verdict in ("above", "below"):
            return f", {row.verdict} {name} by {self.gap(row)}"
        if row.verdict == BY_DESIGN or row.p_adjusted != row.p_adjusted:
            return f", not tested against {name}" + f" ({row.verdict})" * bool(row.verdict)
        least = units.amount(row.detectable, self.metric)
        return f", not significantly different from {name}" + f" (minimum detectable difference: {least})" * bool(least)

    @property
    def _set(self) -> str:
        if not self.among:
            return ""
        if not self.compared:
            return "; blocks are not compared, so each may be the best"
        named, several = listed(self.among, self.blocks), len(self.among) > 1
        if self.site not in self.among:
            return f"; the best block is another, {'one of ' * several}{named} ({self.level})"
        return (
            f"; the best block is one of {named} ({self.level})"
            if several
            else f"; no other block may be the best ({self.level})"
        )

    def answers(self) -> list[Answer]:
        """The questions at this position. Where its layers were not compared, the first and the last."""
        found = [self._which()]
        if self.among:
            found += [self._how_much(), self._shape()]
        return [*found, self._controlled()]

    def _which(self) -> Answer:
        detail = [f"best validation score of the language model's blocks at {self.position}, scored once on test"]
        if self.compared:
            detail.append(f"may be the best block ({self.level}): {listed(self.among, self.blocks)}")
        if self.among and self.site not in self.among:
            detail.append(f"{self.site} is not among them: the test {many_of(self.scores)} favour other blocks")
        for test, floor in (("above_chance", "chance"), ("floor", "the best constant answer")):
            for row in self.rows(test).itertuples():
                if row.site == self.site:
                    detail.append(self._beyond(row, floor))
        return Answer(
            "Which layer did validation choose?", f"{self.site}: {units.named(self.metric)} {self.score}", tuple(detail)
        )

    def _beyond(self, row: Any, floor: str) -> str:
        gap = f" ({self.gap(row)})" if row.test == "floor" else ""
        if row.p_adjusted != row.p_adjusted:
            why = row.verdict or self._unbounded
            return f"not tested against {floor}{gap}" + f": {why}" * bool(why)
        shown = "" if row.verdict.startswith("above") else "not significantly "
        return f"{shown}above {floor}{gap}, {p_said(row.p_adjusted)}"

    @property
    def _unbounded(self) -> str:
        """Why the headline has no interval, empty where it has one."""
        start = f"no interval of {self.metric.replace('_', ' ')}: "
        lines = self.summary.get("intervals") or []
        return next((str(line).removeprefix(start) for line in lines if str(line).startswith(start)), "")

    def _how_much(self) -> Answer:
        """Against the best other block; those that the chosen one is above, and those it is not told apart from."""
        rivals = self.rows("difference").sort_values("value")
        told = {word: list(rivals.other[rivals.verdict == word]) for word in ("above", "below", "")}
        nearest = rivals.iloc[0]
        said = f"{self.gap(nearest)} compared with {nearest.other}, the best other block"
        if not self.compared:
            return Answer(
                "By how much?", said, (f"not tested: a label is too rare among the test {many_of(self.scores)}",)
            )
        others = f"{len(rivals)} other blocks" if len(rivals) > 1 else "the other block"
        detail = [f"above {self._counted(told['above'])} of {others} (Holm)"]
        detail += [f"not significantly different from {self._counted(told[''])}"] if told[""] else []
        detail += [f"below {self._counted(told['below'])}"] if told["below"] else []
        for name, end in (("rise", "bottom"), ("drop", "top")):
            for row in self.rows(name).itertuples():
                least = units.amount(row.detectable, self.metric)
                could = f"; minimum detectable difference: {least} (power 80 %)" * bool(least)
                found = f"{self.gap(row)}, {p_said(row.p_adjusted)}"
                detail.append(f"{self.site} minus the {end} block compared, {row.other}: {found}{could}")
        return Answer("By how much?", said, tuple(detail))

    def _counted(self, sites: Sequence[str]) -> str:
        return f"{len(sites)} ({listed(sites, self.blocks)})" if sites else "none"

    def _shape(self) -> Answer:
        chance = self.rows("above_chance")
        detail = list(shape_why(self.here, self.blocks, self._margin))
        chance = chance[chance.p_adjusted.notna()]
        if len(chance):
            above, family = int(beyond(chance).sum()), "".join(chance.family[:1])
            detail.append(f"above chance: {above} of {len(chance)} layers here (max-T over {family})")
        return Answer("What is the shape of the curve?", self.shape, tuple(detail))

    @property
    def shape(self) -> str:
        """Its word, empty where blocks were not compared."""
        if not self.among:
            return ""
        said = shape_said(self.here, self.blocks, self._margin)
        return said[:1].upper() + said[1:]

    @property
    def _margin(self) -> str:
        return units.amount(self.summary["verdicts"][self.position]["margin"], self.metric)

    def _controlled(self) -> Answer:
        """The best of all controls and floors, then each of them beside the chosen layer."""
        found = beside(self.scores, self.tests, self.position, self.site)
        counted = [one for one in found if one.counts]
        detail = [one.said for one in found]
        rows = self.scores
        rows = rows[(rows.site == self.site) & (rows.position == self.position) & (rows.subset == "")]
        rows = rows[rows.value.notna()]
        for row in rows[
            (rows.metric == "selectivity") & (rows.seed == "all") & (rows.features == "single")
        ].itertuples():
            detail.append(f"selectivity, over the control task: {self.gap(row)}")
        if not counted:
            return Answer("How do the controls score?", "no informative control was measured", tuple(detail))
        top = counted[0]
        said = units.tied(units.value(top.row.value, top.row.low, top.row.high, self.metric))
        most = f"{top.name} has {said}" + f", the best of {len(counted)} controls and baselines" * (len(counted) > 1)
        return Answer("How do the controls score?", most, tuple(detail))
