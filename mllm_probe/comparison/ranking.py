"""Which of several runs is the best at a position, and how sure that is: the rows of ranking.csv.

Every run is represented by its best layer on validation. Where two runs were tested on the same decisions, their
difference is taken decision by decision, with pictures as the unit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from mllm_probe.comparison.finished import FinishedRun
from mllm_probe.files.readback import columns, lines_of, save_table
from mllm_probe.results.predictions import load_logits
from mllm_probe.results.selection import one_of
from mllm_probe.scoring.alarms import rare_label
from mllm_probe.stats.bootstrap import Resamples, picture_sums
from mllm_probe.stats.measures import HIGHER_IS_BETTER
from mllm_probe.stats.paired import difference, row_scores
from mllm_probe.stats.peak import contenders
from mllm_probe.stats.permutation import max_t_flips


@dataclass(frozen=True)
class Rank:
    """One row of ranking.csv. `difference` is this run minus `reference`, more being better, with interval, sign-flip p
    and p adjusted over `family` (see `against`); they are None where the two were not tested on the same decisions.
    `may_be_best`: the run is in the set that holds the truly best one with probability 0.95. `uncompared`: why
    differences have neither interval nor p, and all may be the best."""

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
    p_adjusted: float | None = None
    family: str = ""
    may_be_best: bool | None = None
    uncompared: str = ""


@dataclass(frozen=True)
class _Tested:
    """The test decisions [N] that a run's chosen layer read, in the order of their uids: their pictures, and a score
    each. `fingerprint` is that of all decisions; `uncompared`: why such scores are not compared, if so."""

    fingerprint: str
    decisions: np.ndarray
    groups: np.ndarray
    scores: np.ndarray
    uncompared: str | None

    @classmethod
    def of(cls, run: FinishedRun, position: str) -> "_Tested":
        chosen, scored = run.chosen(position), run.scored
        logits = load_logits(run.paths.predictions, f"{chosen.site}@{position}", chosen.probe).astype(np.float64)
        read = np.asarray(scored.test) & ~np.isnan(logits.reshape(*logits.shape[:2], -1)).any(axis=(0, 2))
        uids = np.asarray(scored.decisions)[read]
        order = np.argsort(uids)
        said = scored.read_as(chosen.metric, logits)[:, read]
        labels, groups = np.asarray(scored.labels)[read], np.asarray(scored.groups)[read]
        scores = row_scores(said, labels, scored.kind, chosen.metric, groups)
        reason = rare_label(chosen.metric, labels, groups, scored.names, one_of(run.scores))
        return cls(scored.fingerprint, uids[order], groups[order], scores[order], reason)

    def alike(self, other: "_Tested") -> bool:
        return self.fingerprint == other.fingerprint and np.array_equal(self.decisions, other.decisions)


def ranking(runs: Sequence[FinishedRun], position: str, baseline: str | None = None) -> list[Rank]:
    """The labelled runs of one task, best test value first; differences to the first or to the run called `baseline`.

    Raises DataError for damaged files, ProbeError for scores that cannot be compared.
    """
    sign = -1 if runs[0].chosen(position).metric in HIGHER_IS_BETTER else 1
    ordered = sorted(runs, key=lambda run: (sign * run.chosen(position).value, run.label))
    names = [run.label for run in ordered]
    reference = names[0] if baseline is None else baseline
    rows = [_row(run, position, i + 1, reference) for i, run in enumerate(ordered)]
    tested = {run.label: _Tested.of(run, position) for run in ordered}
    paired = {name: one.scores for name, one in tested.items() if one.alike(tested[reference])}
    if tested[reference].uncompared:
        return [replace(row, **_apart(row.label, paired, reference, tested[reference].uncompared)) for row in rows]
    draws, level = Resamples(tested[reference].groups), rows[0].ci_level
    if len(paired) == len(rows):
        among = contenders(np.stack(list(paired.values())), draws)
        rows = [replace(row, may_be_best=i in among.layers) for i, row in enumerate(rows)]
    judged = against(paired, reference, draws, level, picked=baseline is None)
    return [replace(row, **judged.get(row.label, {})) for row in rows]


def against(
    scores: Mapping[str, np.ndarray], reference: str, draws: Resamples, level: float, picked: bool
) -> dict[str, dict[str, Any]]:
    """{run: the columns of Rank about its difference to the reference}, of scores [N] by run.

    Adjusted p (max-T over sign flips by picture) and intervals (Bonferroni) hold for a family together: the runs held
    against a reference that was named beforehand. A reference `picked` for its value on these very rows could have been
    any run, and is ahead by luck where all are equal: then the family is all pairs of runs.
    """
    others = [name for name in scores if name != reference]
    if not others:
        return {}
    pairs = [(name, reference) for name in others] + (list(combinations(others, 2)) if picked else [])
    family = f"all pairs of {len(scores)} runs" if picked else f"all runs against {reference}"
    gaps = np.stack([scores[one] - scores[other] for one, other in pairs])
    found = max_t_flips(picture_sums(draws.member, draws.size, gaps.T).T)
    judged = {}
    for name, p, adjusted in zip(others, found.p.tolist(), found.p_adjusted.tolist(), strict=False):
        gap = difference(scores[name], scores[reference], draws, 1 - (1 - level) / len(pairs))
        bounds = {"difference": gap.value, "difference_low": gap.low, "difference_high": gap.high}
        judged[name] = {**bounds, "p_value": p, "p_adjusted": adjusted, "family": family}
    return judged


def _apart(label: str, paired: Mapping[str, np.ndarray], reference: str, reason: str | None) -> dict[str, Any]:
    """The columns of Rank where runs are not compared: the bare difference, and each may be the best."""
    gap = float(paired[label].mean() - paired[reference].mean()) if label in paired and label != reference else None
    return {"difference": gap, "may_be_best": True, "uncompared": reason}


def _row(run: FinishedRun, position: str, rank: int, reference: str) -> Rank:
    chosen = run.chosen(position)
    names = ("metric", "site", "depth", "value", "low", "high", "ci_level", "n", "n_groups")
    copied: dict[str, Any] = {name: getattr(chosen, name) for name in names}
    return Rank(run.task, position, rank=rank, label=run.label, run=chosen.run, reference=reference, **copied)


def save_ranking(path: Path, rows: Sequence[Rank]) -> None:
    save_table(path, columns(Rank), lines_of(rows))
