"""Which rows of scores.csv are shown, and their kinds: sites, controls, baselines, what `report` names, and what their
groups are in words.

What validation chose and what was tested stays what it is, in the measure that the sweep selected by.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_probe.config.report import AUTO, ReportSettings
from mllm_probe.config.sentences import flat
from mllm_probe.config.sweep import BLANK, CONNECTOR_ONLY, RANDOM, SHUFFLED, TEXT_ONLY, VISION_ONLY
from mllm_probe.errors import ConfigError, DataError, choices, plural
from mllm_probe.files.readback import read_config
from mllm_probe.records.score import COPY_CEILING, LENS
from mllm_probe.stats.measures import HIGHER_IS_BETTER, METRICS

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = {"positions": "position", "towers": "tower"}
ONE_VALUE = (VISION_ONLY, CONNECTOR_ONLY, COPY_CEILING)
PICTURE = "picture"
COLUMN = "group_unit"  # of a table in memory: the word for one of its groups


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


def headline_metric(scores: "pd.DataFrame") -> str:
    """What layers are compared by, see sweep.metric."""
    return str(scores.metric[scores.headline].iloc[0])


def headline(scores: "pd.DataFrame") -> "pd.DataFrame":
    """The aggregate test rows of the headline measure, over all test rows in the wording that was trained on."""
    whole = (scores.subset == "") & (scores.train_template == scores.test_template) & scores.value.notna()
    return scores[whole & (scores.seed == "all") & (scores.split == "test") & scores.headline]


def real(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Those of a site, controls left out."""
    return rows[(rows.site != "") & (rows.control == "") & (rows.features == "single")]


def blocks(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Those of the language model's blocks, whose depths are comparable."""
    return rows[(rows.tower == "lm") & (rows.part == "block")]


def controls(rows: "pd.DataFrame", position: str) -> "pd.DataFrame":
    """Those of other inputs or weights, read layer by layer as the real ones are."""
    return rows[
        rows.control.isin([TEXT_ONLY, BLANK, SHUFFLED, RANDOM])
        & (rows.features == "single")
        & (rows.position == position)
    ]


def lens(rows: "pd.DataFrame") -> "pd.DataFrame":
    """What the model itself would answer if it stopped at a layer."""
    return rows[(rows.site != "") & (rows.control == "") & (rows.probe == LENS)]


def floors(rows: "pd.DataFrame") -> "pd.DataFrame":
    """One row each of what has no layers: baselines, the model's answer, and the best of one picture tower."""
    single = rows[(rows.site != "") & rows.control.isin(ONE_VALUE)]
    falling = single.metric.isin(HIGHER_IS_BETTER).all()
    single = single.sort_values("value", ascending=not falling)
    import pandas as pd

    return pd.concat([rows[rows.site == ""], single.drop_duplicates("control")])


def words(row: Any) -> str:
    """What to call a control or a baseline."""
    return str(row.control or row.probe).replace("_", " ")


def positions(sites: "pd.DataFrame") -> list[str]:
    """The positions that were read, those of the language model first, in the order of the run."""
    return list(dict.fromkeys([*sites[sites.tower == "lm"].position, *sites.position]))


def by_site(sites: "pd.DataFrame", read: Sequence[str]) -> Iterator[tuple[str, list[Any]]]:
    """(site, its row at each position of `read`, None where there is none)."""
    for site in dict.fromkeys(sites.site):
        rows = {row.position: row for row in sites[sites.site == site].itertuples()}
        yield site, [rows.get(position) for position in read]


def leading(summary: Mapping[str, Any]) -> str | None:
    """The position whose chosen block validation likes most, of equals the first by name: so the page, which reads a
    sorted file, names the one that the run chose its examples at."""
    chosen, worse = summary.get("chosen") or {}, -1 if summary.get("metric") == "nll" else 1
    return max(sorted(chosen), key=lambda position: worse * chosen[position].get("validation", 0.0), default=None)


def word_of(settings: Mapping[str, Any]) -> str:
    """What one group of the tested data set is called, by the settings of a run by dotted name."""
    if settings.get("splits.unit") == "row":
        return "row"
    tested = "test.dataset" if "test.dataset._target_" in settings else "dataset"
    column = settings.get(f"{tested}.group_column")
    return f"group ({column})" if column else PICTURE


def with_words(table: "pd.DataFrame", config: Path) -> "pd.DataFrame":
    """The rows of a run with the word for their groups; one without a readable config.yaml has pictures."""
    try:
        settings = flat(read_config(config))
    except DataError:
        settings = {}
    return table.assign(**{COLUMN: word_of(settings)})


def one_of(rows: "pd.DataFrame") -> str:
    """`picture`, `group (patient)`."""
    return str(rows[COLUMN].iloc[0]) if COLUMN in rows else PICTURE


def many_of(*tables: "pd.DataFrame") -> str:
    """`pictures`, `groups (patient)`, all of them where tables differ."""
    return " and ".join(dict.fromkeys(plural(one_of(rows)) for rows in tables))


def at_depths(x: Sequence[str | None], depth: Mapping[str, float]) -> list[float | None]:
    """The depths of a line's sites; the gaps of its outline stay."""
    return [None if site is None else depth[site] for site in x]


def outline(x: Sequence[Any], rows: "pd.DataFrame") -> dict[str, list[Any]]:
    """Around the intervals of a line, a stretch of neighbours that have one at a time, for a shape with a gap in its
    edge is closed across the gap; none between stretches."""
    known = (rows.low.notna() & rows.high.notna()).tolist()
    found: dict[str, list[Any]] = {"x": [], "y": []}
    for there, stretch in groupby(range(len(known)), lambda i: known[i]):
        own = list(stretch) if there else []
        if own and found["x"]:
            found = {name: [*values, None] for name, values in found.items()}
        found["x"] += [x[i] for i in (*own, *reversed(own))]
        found["y"] += [*rows.high.iloc[own].tolist(), *reversed(rows.low.iloc[own].tolist())]
    return found
