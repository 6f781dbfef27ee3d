"""scores.csv, written row by row while a sweep runs, with summary.json and tests.csv read back by all that shows
results."""

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_probe.errors import DataError
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.readback import columns, lines_of, read_entries, read_table, save_table, write_lines
from mllm_probe.files.seals import NUMBER, SEALS
from mllm_probe.records.score import Score

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = columns(Score)
NAMES = ("run", "cache", "revision", "subset", "site", "position", "control", "train_template", "test_template", "seed")
TEXT = dict.fromkeys((*NAMES, "family", "model", "dataset", "task", "target", "features", "probe"), str)
KINDS = {
    str: "str",
    int: "int64",
    int | None: "Int64",
    float: "float64",
    float | None: "float64",
    bool | None: "boolean",
    bool: "bool",
}
DTYPES = {field.name.rstrip("_"): KINDS[field.type] for field in fields(Score)}  # type: ignore[index]
NUMBERS = {name: kind for name, kind in DTYPES.items() if kind.lower() in ("int64", "float64")}
TEST_NUMBERS = ("value", "low", "high", "p_value", "p_adjusted", "detectable")
TEST_TEXTS = ("run", "test", "family", "probe", "position", "site", "other", "verdict")
BOUND = NUMBER | None
CHOSEN = {str: {"site": str, "value": NUMBER, "low": BOUND, "high": BOUND}}
GAP = dict.fromkeys(("value", "low", "high", "p_adjusted"), BOUND)
ORDER = {"position": str, "verdict": str, "dci_over_sci": GAP, "sci_over_final": GAP}
SUMMARY: dict[str, Any] = {  # what is read of it; those of older releases have less
    SEALS: {str: str},
    **dict.fromkeys(("run", "cache", "model", "dataset", "task", "metric", "fingerprint"), str),
    **{name: [str] for name in ("guards", "intervals", "skipped", "pictures_in")},
    **dict.fromkeys(("provenance", "versions", "extraction", "seconds"), dict),
    "chosen": CHOSEN,
    "best": CHOSEN,
    "verdicts": {str: {"margin": NUMBER}},
    "baselines": {str: BOUND},
    "remarks": {str: [str]},
    "by_design": {str: str},
    "answers": list | None,
    "unlearnt": {"categories": [str], "said": str | None},
    "template": str | None,
    "unconverged": int,
    "integrations": [
        {"features": str, "position": str, "layers": str, "verdict": str, "value": BOUND}
        | {"against": {str: GAP}, "edge": bool, "best_layer": str | None}
    ],
    "orders": [ORDER],
}


class ScoreFile:
    """Appends rows and flushes after each batch, so that a crash keeps what was done. The summary of an earlier run in
    the folder, which told of other rows, goes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        RunPaths(path.parent).summary.unlink(missing_ok=True)
        save_table(path, COLUMNS, ())

    def replace(self, scores: Iterable[Score]) -> None:
        """The whole table anew, in one move."""
        save_table(self._path, COLUMNS, lines_of(scores))

    def add(self, scores: Iterable[Score]) -> None:
        with self._path.open("a", encoding="utf-8", newline="") as file:
            write_lines(file, lines_of(scores))


def load_scores(path: Path) -> "pd.DataFrame":
    """The tidy table. Raises DataError where the file is missing or has other columns."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; name the folder of a finished run, such as outputs/run/DATE/TIME")
    table = read_table(path, TEXT, NUMBERS)
    if tuple(table.columns) != COLUMNS:
        raise DataError(
            f"{path} has other columns than this release writes: {', '.join(set(table.columns) ^ set(COLUMNS))}"
        )
    if table[table.seed == "all"].empty:
        raise DataError(f"{path} has no finished row; run the experiment again")
    return table


def load_summary(path: Path) -> dict[str, Any]:
    """Raises DataError where the file is damaged; a run without one has an empty summary."""
    found = read_entries(path, SUMMARY, SUMMARY) if path.is_file() else {}
    return {"chosen": found["best"], **found} if "best" in found else found  # the name in older releases


def load_tests(path: Path) -> "pd.DataFrame":
    """tests.csv; empty where a folder holds none. Raises DataError."""
    if not path.is_file():
        return no_tests()
    return read_table(path, dict.fromkeys(TEST_TEXTS, str), dict.fromkeys(TEST_NUMBERS, float))


def no_tests() -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame(columns=[*TEST_TEXTS, *TEST_NUMBERS])
