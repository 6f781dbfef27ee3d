"""What the groups are that `n_groups` counts and intervals are over, in words: pictures, or what a table calls groups.

Decided here alone, by the settings of a run; tables carry it beside their rows, and no file does.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_probe.config.dotted import flat
from mllm_probe.errors import DataError, plural
from mllm_probe.files.readback import read_config

if TYPE_CHECKING:
    import pandas as pd

PICTURE = "picture"
COLUMN = "group_unit"  # of a table in memory: the word for one of its groups


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
