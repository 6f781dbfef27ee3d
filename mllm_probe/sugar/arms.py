"""Several trainings of one model side by side: what each arm moved, paired by test row, from the files they left.

An arm is a way to train; its seeds are repetitions. Trains, extracts and fits nothing. Letters: S seeds, N test rows.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from mllm_probe.errors import DataError
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.readback import read_entries
from mllm_probe.results.align import QUESTIONS, curves
from mllm_probe.results.fidelity import HEADLINES, HOME, MODEL, REFERENCE, curve, load_agreements
from mllm_probe.results.predictions import Scored, load_logits, load_scored
from mllm_probe.results.score_file import load_scores
from mllm_probe.results.training import BASE, FULL, PERMUTED, PLAIN, Effect
from mllm_probe.scoring.alarms import rare_label
from mllm_probe.stats.bootstrap import Resamples
from mllm_probe.stats.measures import HIGHER_IS_BETTER
from mllm_probe.stats.paired import difference, known, row_scores
from mllm_probe.stats.peak import preferred
from mllm_probe.stats.permutation import holm_within
from mllm_probe.sugar.measures import CENTRED, COSINE, MAPPED
from mllm_probe.sugar.sequences import GAK

KINDS = {"refitted": (MODEL, MODEL), "reused": (REFERENCE, MODEL)}  # measure: the probe is fitted on, read on
LEVEL = 0.95
ALIGNED = tuple(one for one in QUESTIONS if one.target != "text_to_image")  # of two directions one
Trainings = Mapping[str, Mapping[int, RunPaths]]  # {arm: {seed: where}}


@dataclass(frozen=True)
class Measured:
    """One measure of every arm on the same test rows: scores {arm: [S, N]} in `unit`, pictures [N]; `compared`:
    whether their differences are tested."""

    name: str
    task: str
    position: str
    layers: str
    unit: str
    groups: np.ndarray
    scores: Mapping[str, np.ndarray]
    compared: bool = True

    @cached_property
    def draws(self) -> Resamples:
        return Resamples(self.groups)


def effects(root: Path) -> list[Effect]:
    """All rows of arms.csv for the trainings in a multirun's folder. Raises DataError."""
    trainings = find_trainings(root)
    found = [_effect(measured, *pair) for measured in _measured(trainings) for pair in _pairs(measured.scores)]
    tables = sorted(_first(trainings).root.glob("*/alignment.csv"))
    return [*_corrected(found), *(row for table in tables for row in _alignments(trainings, table.parent.name))]


def find_trainings(root: Path) -> Trainings:
    """Raises DataError where there is none of Sugar's, or not every arm has the same seeds."""
    found: dict[str, dict[int, RunPaths]] = {}
    for summary in sorted(root.glob("*/summary.json"), key=_number):
        told = read_entries(summary, {"arm": str, "seed": int}, optional=("arm", "seed"))
        if "arm" in told:
            found.setdefault(told["arm"], {})[told["seed"]] = RunPaths(summary.parent)
    if PLAIN not in found or len(found) < 2:
        raise DataError(
            f"{root} holds trainings of the arms {', '.join(sorted(found)) or 'none'}; {PLAIN} and another are needed, "
            "as `mllm-probe tune -m experiment=sugar_arms` leaves them"
        )
    for arm, seeds in found.items():
        if seeds.keys() != found[PLAIN].keys():
            raise DataError(
                f"{root}: {arm} has the seeds {sorted(seeds)} and {PLAIN} {sorted(found[PLAIN])}; train those missing"
            )
    return {arm: dict(sorted(seeds.items())) for arm, seeds in found.items()}


def _first(trainings: Trainings) -> RunPaths:
    """The one whose files say what was measured of all."""
    return next(iter(trainings[PLAIN].values()))


def _number(path: Path) -> tuple[int, str]:
    """Jobs in their order: 10 behind 9."""
    return len(path.parent.name), path.parent.name


def _pairs(arms: Mapping[str, np.ndarray]) -> Iterator[tuple[str, str]]:
    """(arm, against): all against captions alone, and against the base; the full loss against permuted labels."""
    yield from ((arm, PLAIN) for arm in arms if arm not in (PLAIN, BASE))
    yield from ((arm, BASE) for arm in arms if BASE in arms and arm != BASE)
    if FULL in arms and PERMUTED in arms:
        yield FULL, PERMUTED


def _effect(measured: Measured, arm: str, against: str) -> Effect:
    a, b = measured.scores[arm], measured.scores[against]
    gap = difference(a.mean(axis=0), b.mean(axis=0), measured.draws, LEVEL)
    gap = gap if measured.compared else gap.untested
    seeds = _listed(np.broadcast_to(a - b, a.shape).mean(axis=1))
    names = (measured.name, measured.task, measured.position, measured.layers, arm, against, measured.unit)
    n = len(measured.groups)
    return Effect(*names, n, measured.draws.size, gap.value, seeds, gap.low, gap.high, LEVEL, p_value=gap.p)


def _corrected(rows: Sequence[Effect]) -> list[Effect]:
    """p after Holm, over the measures of a pair of arms."""
    adjusted = holm_within([known(row.p_value) for row in rows], [(row.arm, row.against) for row in rows])
    return [row if p is None else replace(row, p_holm=p) for row, p in zip(rows, adjusted, strict=True)]


def _measured(trainings: Trainings) -> Iterator[Measured]:
    yield _captions(trainings)
    for table in sorted(_first(trainings).root.glob("*/fidelity.csv")):
        yield from _probes(trainings, table.parent.name)


def _captions(trainings: Trainings) -> Measured:
    """Nats of each caption of a test picture."""
    tables = {
        arm: [pd.read_csv(paths.held_out).set_index(["picture", "item"]) for paths in seeds.values()]
        for arm, seeds in trainings.items()
    }
    index = tables[PLAIN][0].index
    for found in tables.values():
        if any(not table.index.equals(index) for table in found):
            raise DataError(
                "the trainings were tested on different captions; train all arms on the same data and splits"
            )
    scores = {arm: np.stack([table.loss.to_numpy() for table in found]) for arm, found in tables.items()}
    return Measured("captions", "", "", "", "nats", index.get_level_values("picture").to_numpy(), scores)


def _probes(trainings: Trainings, name: str) -> Iterator[Measured]:
    """The curves of the `fidelity` run called `name`, at each position: refitted probes and those of the base."""
    table, scored = load_agreements(_first(trainings).side(name).fidelity), _scored(trainings, name)
    for position, here in table.groupby("position", sort=False):
        blocks = here[(here.tower == "lm") & (here.part == "block") & here.measure.isin(HEADLINES)]
        val = curve(blocks, *HOME, split="val")
        if val.empty:
            continue
        sites, metric = list(val.site), str(val.measure.iloc[0])
        best = preferred(val.value.to_numpy(), metric in HIGHER_IS_BETTER)
        chosen = {"all": range(len(sites)), sites[best]: [best]}
        keys, probe = [f"{site}@{position}" for site in sites], str(val.probe.iloc[0])
        right = _right(trainings, name, partial(_scores, scored=scored, keys=keys, probe=probe, metric=metric))
        labels, groups = (np.asarray(one)[np.asarray(scored.test)] for one in (scored.labels, scored.groups))
        compared = rare_label(metric, labels, groups) is None
        for kind, (layers, rows) in product(KINDS, chosen.items()):
            scores = {arm: 100 * found[:, rows].mean(axis=1) for arm, found in right[kind].items()}
            yield Measured(kind, str(here.task.iloc[0]), str(position), layers, "points", groups, scores, compared)


def _scored(trainings: Trainings, name: str) -> Scored:
    """What every `fidelity` run called `name` was tested on. Raises DataError for runs on other decisions."""
    found = load_scored(_first(trainings).side(name).predictions)
    for paths in (paths.side(name) for seeds in trainings.values() for paths in seeds.values()):
        if load_scored(paths.predictions).fingerprint != found.fingerprint:
            raise DataError(f"{paths.root} was tested on other decisions; measure all arms on the same data and splits")
    return found


def _alignments(trainings: Trainings, name: str) -> Iterator[Effect]:
    """What the `align` run called `name` says of each training, mean over blocks: a number a seed, without interval."""
    tables = {
        arm: [load_scores(paths.side(name).alignment) for paths in seeds.values()] for arm, seeds in trainings.items()
    }
    for question in ALIGNED:
        asked = {arm: [dict(curves(question.rows(table))) for table in found] for arm, found in tables.items()}
        for kind in asked[PLAIN][0]:
            if kind[0] not in (CENTRED, MAPPED) or kind[1] not in (COSINE, GAK):
                continue
            values = {arm: np.asarray([_mean(one[kind]) for one in found]) for arm, found in asked.items()}
            row = asked[PLAIN][0][kind].iloc[0]
            for arm, against in _pairs(values):
                gap = values[arm] - values[against]
                names = (question.name, " ".join(kind[:2]), kind[2], "all", arm, against, "points")
                yield Effect(*names, int(row.n), int(row.n_groups), float(gap.mean()), _listed(gap))


def _mean(rows: pd.DataFrame) -> float:
    return 100 * float(rows[rows.part == "block"].value.mean())


def _listed(values: np.ndarray) -> str:
    return " ".join(f"{round(float(value), 9) + 0:.4g}" for value in values)


def _right(trainings: Trainings, name: str, scores: Callable[..., np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """{measure: {arm: [S, K, N]}}: the mean over probe seeds, key by key; the base is at home once."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for kind, pair in KINDS.items():
        found[kind] = {
            arm: np.stack([scores(paths.side(name), pair) for paths in seeds.values()])
            for arm, seeds in trainings.items()
        }
        found[kind][BASE] = scores(_first(trainings).side(name), HOME)[None]
    return found


def _scores(
    paths: RunPaths, pair: tuple[str, str], scored: Scored, keys: Sequence[str], probe: str, metric: str
) -> np.ndarray:
    """What each test row adds to the headline at each key [K, N]."""
    test = np.asarray(scored.test)
    y, groups = np.asarray(scored.labels)[test], np.asarray(scored.groups)[test]
    logits = (load_logits(paths.predictions, key, probe, " on ".join(pair)) for key in keys)
    return np.stack([row_scores(scored.read_as(metric, z)[:, test], y, scored.kind, metric, groups) for z in logits])
