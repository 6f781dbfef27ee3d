"""tests.csv of a run, read back."""

from pathlib import Path
from typing import TYPE_CHECKING

from mllm_probe.files.readback import read_table

if TYPE_CHECKING:
    import pandas as pd


NUMBERS = ("value", "low", "high", "p_value", "p_adjusted", "detectable")
TEXTS = ("run", "test", "family", "probe", "position", "site", "other", "verdict")


def load_tests(path: Path) -> "pd.DataFrame":
    """tests.csv; empty where a folder holds none. Raises DataError."""
    if not path.is_file():
        return no_tests()
    return read_table(path, dict.fromkeys(TEXTS, str), dict.fromkeys(NUMBERS, float))


def no_tests() -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame(columns=[*TEXTS, *NUMBERS])
