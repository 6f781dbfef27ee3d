"""Which of several runs is the best at a position, and how sure that is: the rows of ranking.csv.

Every run stands with the layer that its own validation prefers. Where two runs were tested on the same decisions, their
difference is taken decision by decision, with pictures as the unit.
"""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from mllm_probe.paths import replacing
from mllm_probe.report.predictions import load_logits
from mllm_probe.stats.bootstrap import Resamples
from mllm_probe.stats.paired import Difference, difference, row_scores
from mllm_probe.stats.peak import contenders
from mllm_probe.stats.permutation import holm
from mllm_probe.tools.runs import FinishedRun


@dataclass(frozen=True)
class Rank:
    """One row of ranking.csv. `difference` is this run minus `reference`, with interval, sign-flip p and p after Holm
    over the runs of the position; they are None where the two were not tested on the same decisions. `may_be_best`:
    the run is in the set that holds the truly best one with probability `ci_level`."""

    task: str
    position: str
    metric: str
    rank: int
    label: str
    run: str
    site: str
    depth: float
    value: float
    low: float
    high: float
    ci_level: float
    n: int
    n_groups: int
    reference: str
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p_value: float | None = None
    p_holm: float | None = None
    may_be_best: bool | None = None


@dataclass(frozen=True)
class _Tested:
    """The test decisions [N] that a run's chosen layer read, in the order of their uids: their pictures, and a score
    each. `fingerprint` is that of all decisions."""

    fingerprint: str
    decisions: np.ndarray
    groups: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(cls, run: FinishedRun, position: str) -> "_Tested":
        chosen, scored = run.chosen(position), run.scored
        logits = load_logits(run.paths.predictions, f"{chosen.site}@{position}", chosen.probe).astype(np.float64)
        read = np.asarray(scored.test) & ~np.isnan(logits.reshape(*logits.shape[:2], -1)).any(axis=(0, 2))
        uids = np.asarray(scored.decisions)[read]
        order = np.argsort(uids)
        said = scored.read_as(chosen.metric, logits)[:, read]
        scores = row_scores(said, np.asarray(scored.labels)[read], scored.kind, chosen.metric)
        return cls(scored.fingerprint, uids[order], np.asarray(scored.groups)[read][order], scores[order])

    def alike(self, other: "_Tested") -> bool:
        return self.fingerprint == other.fingerprint and np.array_equal(self.decisions, other.decisions)


def ranking(runs: Sequence[FinishedRun], position: str, baseline: str | None = None) -> list[Rank]:
    """The labelled runs of one task, best test value first; differences to the first or to the run called `baseline`.

    Raises DataError for damaged files, ProbeError for scores that cannot be compared.
    """
    ordered = sorted(runs, key=lambda run: (-run.chosen(position).value, run.label))
    names = [run.label for run in ordered]
    reference = names[0] if baseline is None else baseline
    rows = [_row(run, position, i + 1, reference) for i, run in enumerate(ordered)]
    tested = dict(zip(names, (_Tested.of(run, position) for run in ordered), strict=True))
    paired = {name: one for name, one in tested.items() if one.alike(tested[reference])}
    draws = Resamples(tested[reference].groups)
    if len(paired) == len(rows):
        among = contenders(np.stack([tested[name].scores for name in names]), draws, rows[0].ci_level)
        rows = [replace(row, may_be_best=i in among.layers) for i, row in enumerate(rows)]
    del paired[reference]
    differences = [difference(o.scores, tested[reference].scores, draws, rows[0].ci_level) for o in paired.values()]
    corrected = holm(np.asarray([found.p for found in differences]))
    judged = {name: _told(*found) for name, *found in zip(paired, differences, corrected.tolist(), strict=True)}
    return [replace(row, **judged.get(row.label, {})) for row in rows]


def _row(run: FinishedRun, position: str, rank: int, reference: str) -> Rank:
    chosen = run.chosen(position)
    names = ("metric", "site", "depth", "value", "low", "high", "ci_level", "n", "n_groups")
    copied: dict[str, Any] = {name: getattr(chosen, name) for name in names}
    return Rank(run.task, position, rank=rank, label=run.label, run=chosen.run, reference=reference, **copied)


def _told(found: Difference, p_holm: float) -> dict[str, Any]:
    bounds = {"difference": found.value, "difference_low": found.low, "difference_high": found.high}
    return {**bounds, "p_value": found.p, "p_holm": p_holm}


def save_ranking(path: Path, rows: Sequence[Rank]) -> None:
    with replacing(path) as part, part.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, [field.name for field in fields(Rank)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
