"""What the probes of a run said of each decision: predictions.csv for people, predictions.safetensors for programs.

The table has a row for each position, seed and decision at the layers that validation chose, beside words and picture;
`Result.predictions` reads it. The tensors are the logits of every key, with labels and pictures, read back by whatever
sets runs side by side. Knows no model.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import log_softmax

from mllm_probe.errors import DataError
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.readback import damaged, read_table, save_table
from mllm_probe.files.seals import check_sealed
from mllm_probe.files.store_paths import replacing
from mllm_probe.records.samples import digest
from mllm_probe.records.score import ASKED, TOLD
from mllm_probe.stats.measures import weighed_alike

if TYPE_CHECKING:
    import pandas as pd

WHOLE, NUMBERS = ("row", "seed"), ("right", "probability", "probability_of_label")
LARGE = 200_000  # rows from which parquet is written where it can be


@dataclass(frozen=True)
class Scored:
    """N decisions: who they are, their labels, their pictures, and which are tested. `kind` as in types.Problem.

    `samples`: the uids of what the model read for each. `log_shares`: of each label among the training rows, by seed;
    empty where the probe's logits are no log-odds. `names` are what labels 0, 1, ... are called, see types.Examples.
    Files of older releases lack the last three.
    """

    decisions: tuple[str, ...]
    labels: tuple[int | float, ...]
    groups: tuple[str, ...]
    test: tuple[bool, ...]
    kind: str
    samples: tuple[str, ...] = ()
    log_shares: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """The same for every model that was asked the same: its order and its name do not count."""
        return digest(sorted(zip(self.decisions, self.labels, self.groups, self.test, strict=True)))

    def metadata(self) -> dict[str, str]:
        """As the file's header keeps it."""
        return {name: json.dumps(value) for name, value in asdict(self).items()}

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> "Scored":
        uids, labels, groups, test = (json.loads(metadata[name]) for name in ("decisions", "labels", "groups", "test"))
        samples = tuple(json.loads(metadata.get("samples", "[]")))
        shares = {int(seed): tuple(row) for seed, row in json.loads(metadata.get("log_shares", "{}")).items()}
        names = tuple(json.loads(metadata.get("names", "[]")))
        kind = json.loads(metadata["kind"])
        return cls(tuple(uids), tuple(labels), tuple(groups), tuple(test), kind, samples, shares, names)

    def read_as(self, metric: str, logits: np.ndarray) -> np.ndarray:
        """Logits [S, N] or [S, N, C] of real labels, seeds in ascending order, as a measure reads them."""
        if metric != "balanced_accuracy" or not self.log_shares:
            return logits
        shares = [np.asarray(self.log_shares[seed]) for seed in sorted(self.log_shares)]
        return np.stack([weighed_alike(z, one, self.kind) for z, one in zip(logits, shares, strict=True)])


def by_label(logits: np.ndarray, kind: str) -> np.ndarray:
    """A logit a label, float64 [..., C]: of two labels a probe gives the one, whose counterpart is 0."""
    z = logits.astype(np.float64)
    return np.stack([np.zeros_like(z), z], axis=-1) if kind == "binary" else z


def load_scored(path: Path) -> Scored:
    """Raises DataError where the file is missing, damaged or of a release that kept no labels."""
    with opened(path) as file:
        metadata = file.metadata() or {}
    if "labels" not in metadata:
        raise DataError(f"{path} is from an older release and has no labels; repeat the sweep, its cache is still used")
    try:
        return Scored.of(metadata)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({error!r}); repeat the sweep, its cache is still used") from error


def load_logits(path: Path, key: str, probe: str, features: str = "") -> np.ndarray:
    """What the probe says of the real labels at a key such as lm.07@last: [S, N], or [S, N, C] for classes, seeds in
    ascending order; nan where it read nothing. `features` as in Trial. Raises DataError."""
    name = "/".join(part for part in (key, probe, features) if part)
    ours = re.compile(rf"{re.escape(name)}/seed(\d+)")  # the name of a trial without control
    with opened(path) as file:
        named = {int(match[1]): match[0] for match in map(ours.fullmatch, file.keys()) if match}
        seeds = [file.get_tensor(named[seed]) for seed in sorted(named)]
    if not seeds:
        raise DataError(
            f"{path} lacks the predictions of probe {probe} at {key}, which are in scores.csv; repeat the sweep"
        )
    return np.stack(seeds)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file of a sweep. Raises DataError where it is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise DataError(f"{path} does not exist; repeat the sweep, its cache is still used")
    try:
        with safe_open(path, framework="np") as file:
            check_sealed(path)
            yield file
    except SafetensorError as error:
        raise DataError(f"{path} is damaged ({error}); repeat the sweep, its cache is still used") from error


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
    cells = zip(*(table[name].tolist() for name in table.columns), strict=True)  # itertuples takes as long as the rest
    save_table(paths.decided("csv"), table.columns, cells, end="\n")
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
