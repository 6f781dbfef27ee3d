"""predictions.csv: the prediction for each decision at the layers that validation chose, with text and picture.

A row for each position, seed and decision. Written by a sweep, read by people and by `Result.predictions`.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import log_softmax

from mllm_probe.errors import DataError
from mllm_probe.files.paths import RunPaths, replacing
from mllm_probe.files.readback import damaged, read_table
from mllm_probe.files.row_file import save_table
from mllm_probe.files.seals import check_sealed
from mllm_probe.records.score import ASKED, TOLD
from mllm_probe.results.logits import Scored, by_label, load_scored

if TYPE_CHECKING:
    import pandas as pd

WHOLE, NUMBERS = ("row", "seed"), ("right", "probability", "probability_of_label")
LARGE = 200_000  # rows from which parquet is written where it can be


def told(scored: Scored, z: np.ndarray, read: np.ndarray) -> dict[str, np.ndarray]:
    """What a seed's probe says of N decisions, a column each: `said` (a label's name, or a number; "" where labels
    tie), `right` (1, 0, or the share of a tie), and the probability of what it said and of the label.

    `z` [N] or [N, C] are its logits, `read` the same as the headline reads them, so that the mean of `right` over test
    rows is the accuracy of that reading. Probabilities are nan where logits are no log-odds, all is where it read
    nothing.
    """
    nothing = np.full(len(z), np.nan)
    if scored.kind == "number":
        return {"said": z, "right": nothing, "probability": nothing, "probability_of_label": nothing}
    codes = np.asarray(scored.labels, int)
    odds, seen = by_label(z, scored.kind), by_label(read, scored.kind)
    best, shares, where = seen == seen.max(-1, keepdims=True), np.exp(log_softmax(odds, axis=-1)), np.arange(len(z))
    ties, code = best.sum(-1), best.argmax(-1)
    names = np.asarray(scored.names or [str(k) for k in range(odds.shape[-1])], object)
    known = bool(scored.log_shares)
    return {
        "said": np.where(ties == 1, names[code], ""),
        "right": np.where(ties > 0, best[where, codes] / np.maximum(ties, 1), np.nan),
        "probability": shares[where, code] if known else nothing,
        "probability_of_label": shares[where, codes] if known else nothing,
    }


def prediction_table(
    asked: Mapping[str, Sequence[Any]],
    scored: Scored,
    logits: Mapping[tuple[str, str], np.ndarray],
    splits: Mapping[int, np.ndarray],
    metric: str,
) -> "pd.DataFrame":
    """The whole table. `asked` {column: a cell a decision}; `logits` {(position, site): [S, N] or [S, N, C]}; `splits`
    {seed: that of each decision [N]}."""
    import pandas as pd

    base, found = pd.DataFrame(dict(asked)), []
    for (position, site), every in logits.items():
        pairs = zip(every.astype(np.float64), scored.read_as(metric, every).astype(np.float64), strict=True)
        for seed, (z, read) in zip(sorted(splits), pairs, strict=True):
            place = {"position": position, "site": site, "seed": seed, "split": splits[seed]}
            found.append(base.assign(**place, **told(scored, z, read)))
    return pd.concat(found, ignore_index=True)


def save_predictions(paths: RunPaths, table: "pd.DataFrame") -> str | None:
    """Write it; what people should know of how. A large one is parquet where pyarrow is installed."""
    large = len(table) > LARGE
    if large and find_spec("pyarrow"):
        with replacing(paths.decided("parquet")) as part:
            table.to_parquet(part, index=False)
        paths.decided("csv").unlink(missing_ok=True)
        return f"{len(table):,} predictions are in {paths.decided('parquet').name}"
    save_table(paths.decided("csv"), table.columns, table.itertuples(index=False, name=None), end="\n")
    paths.decided("parquet").unlink(missing_ok=True)
    return (
        f"{len(table):,} predictions are in {paths.decided('csv').name}; with pyarrow it is parquet" if large else None
    )


def load_predictions(paths: RunPaths) -> "pd.DataFrame":
    """Texts are str, "" where empty; `row` and `seed` Int64, other numbers float64, as labels that are numbers and what
    was said of them. Raises DataError."""
    import pandas as pd

    if paths.decided("parquet").is_file():
        try:
            found = pd.read_parquet(paths.decided("parquet"))
        except (ImportError, OSError, ValueError) as error:
            raise damaged(paths.decided("parquet"), error) from error
        check_sealed(paths.decided("parquet"))
        return found
    path = paths.decided("csv")
    if not path.is_file():
        raise DataError(f"{path} does not exist; repeat the run with this release, its cache is still used")
    names = pd.read_csv(path, nrows=0).columns
    amounts = ("label", "said") if load_scored(paths.predictions).kind == "number" else ()
    numbers = dict.fromkeys((*WHOLE, *NUMBERS, *amounts), float)
    table = read_table(path, {name: str for name in names if name not in numbers}, numbers)
    if absent := {*ASKED, *TOLD} - set(names):
        raise damaged(path, f"it lacks the column {min(absent)}")
    return table.astype(dict.fromkeys(WHOLE, "Int64"))
