"""Which rows of a run are shown: the measure, the positions and the towers that `report` names. Computes no score.

What validation chose and what was tested stays what it is, in the measure that the sweep selected by.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mllm_probe.config.report import AUTO, ReportSettings
from mllm_probe.errors import ConfigError, choices
from mllm_probe.report.figures import ONE_VALUE, blocks, headline, real
from mllm_probe.stats.measures import METRICS

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = {"positions": "position", "towers": "tower"}


def selected(scores: "pd.DataFrame", settings: ReportSettings) -> "pd.DataFrame":
    """The table with its rows of the measure as headline, without layers that are not to be shown."""
    if settings.metric != AUTO:
        scores = scores.assign(headline=scores.metric == settings.metric)
    for name, column in COLUMNS.items():
        if (wanted := getattr(settings, name)) is not None:
            beside = (scores.site == "") | (scores.features != "single") | scores.control.isin(ONE_VALUE)
            scores = scores[scores[column].isin(wanted) | beside]
    return scores


def check_selection(tables: Sequence["pd.DataFrame"], settings: ReportSettings) -> None:
    """Of a run, or of both sides of a study. Raises ConfigError for what none of them has, or what leaves nothing."""
    for table in tables:
        known = measures(table)
        if settings.metric not in (AUTO, *known):
            raise ConfigError(
                f"report.metric={settings.metric} was not measured in this run; {choices(settings.metric, known)}"
            )
    for name, column in COLUMNS.items():
        known = {one for table in tables for one in real(headline(table))[column]}
        for one in getattr(settings, name) or ():
            if one not in known:
                raise ConfigError(f"report.{name} names '{one}', which this run did not read; {choices(one, known)}")
    for table in tables:
        left = real(headline(selected(table, settings)))
        if left.empty:
            raise ConfigError(
                f"report.positions={settings.positions} and report.towers={settings.towers} leave no layer of "
                f"{table.task.iloc[0]}; name a tower and a position that is read there"
            )
        if len(tables) > 1 and blocks(left).empty:
            raise ConfigError(f"report.towers={settings.towers} must hold lm, whose blocks a study compares")


def measures(table: "pd.DataFrame") -> set[str]:
    """Those of its layers on all test rows."""
    rows = table[(table.seed == "all") & (table.split == "test") & table.value.notna()]
    return set(real(rows).metric) & {name for names in METRICS.values() for name in names}
