"""predictions.safetensors: the scored decisions of a run, and the logits of its probes.

Written by a sweep, read back by whatever sets runs side by side. Knows labels and pictures, no model.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mllm_probe.errors import DataError
from mllm_probe.files.seals import check_sealed
from mllm_probe.records.samples import digest
from mllm_probe.stats.measures import weighed_alike


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
