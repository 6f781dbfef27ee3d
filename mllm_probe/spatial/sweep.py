"""A sweep over single picture tokens: probes on every key of a filled cache, and the files of a run of task=regions.

What a key gives is kept until all are done, for a killed run.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from mllm_probe.cache.claims import clear, turn
from mllm_probe.cache.store import write_json
from mllm_probe.errors import ProbeError
from mllm_probe.experiment.experiment import Experiment, columns_of
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.seals import sealed
from mllm_probe.files.store_paths import replacing
from mllm_probe.records.problems import LayerData, content
from mllm_probe.records.protocols import Reporter
from mllm_probe.records.samples import digest
from mllm_probe.records.sites import Key
from mllm_probe.results.regions import A_IN, ALL, LOCALITY, Region, save_regions
from mllm_probe.spatial.answers import answers
from mllm_probe.spatial.field import Field, check_splits, left_out_said
from mllm_probe.spatial.grid_file import save_grids
from mllm_probe.spatial.locality import GLOBAL, Locality, corrected, first_global
from mllm_probe.spatial.looked_at import LookedAt
from mllm_probe.spatial.region_scores import RegionScoring, baselines
from mllm_probe.spatial.shown import field_of
from mllm_probe.stats.intervals import LEAST

AT_ONCE = "ridge"  # the probe that has a solution in closed form


class RegionSweep:
    """All keys of an experiment, of its models with random weights, and what needs no layer. Raises ProbeError where no
    category can be learnt, before anything is extracted for it."""

    def __init__(self, experiment: Experiment, reporter: Reporter) -> None:
        every, level = field_of(experiment), experiment.sweep.ci_level
        splits = _splits(experiment, every)
        check_splits(every, splits)
        kept = every.learnable(splits)
        left_out = left_out_said(every.categories, kept)
        if not kept.any():
            raise ProbeError(f"no category lies on tokens of enough pictures; {left_out}")
        self._experiment, self._field, self._reporter = experiment, every.of(kept), reporter
        on = content(self._field.shares, self._field.present, self._field.away)
        self._run = digest(experiment.run, on)  # masks are no part of a task's decisions
        self._parts = experiment.outputs.parts(self._run)
        self._regions = RegionScoring(self._field, splits, level)
        self._plain = replace(self._regions, plain=True)
        self._locality = Locality(self._field, splits, level)
        self._looked_at = LookedAt(experiment, self._field, len(experiment.keys))
        self._remarks = [said for said in (left_out, self._regions.remark, self._locality.remark) if said]
        for said in self._remarks:
            reporter.note(said)
        if (name := experiment.probe.name) != AT_ONCE:
            reporter.note(
                f"probe={name} descends step by step for {len(self._field.categories)} categories at each of "
                f"{len(experiment.keys)} keys, which may take minutes a key; probe={AT_ONCE} solves all of them at once"
            )

    def save(self, paths: RunPaths) -> None:
        """Write regions.csv and summary.json, when no other process is at the same run."""
        started = time.monotonic()
        with turn(self._parts, "fits the same sweep", self._reporter):
            found = list(self._found())
            rows = corrected([Region(**row) for one in found for row in one["rows"]])
            save_regions(paths.regions, rows)
            said = {one["site"]: one["said"] for one in found if "said" in one}
            save_grids(paths.grids(), self._looked_at.grids(said, paths.root))
            told = {
                **self._facts(rows),
                "said": [*_said(rows), *self._remarks],
                "seconds": round(time.monotonic() - started, 2),
            }
            write_json(paths.summary, sealed(paths.summary, told, (paths.regions, paths.grids())))

    def _found(self) -> Iterator[dict[str, Any]]:
        """The rows of a key or a baseline, one after the other, and of the experiment's own what is to be looked at."""
        asked = list(self._asked())
        for done, (name, make) in enumerate(asked, 1):
            yield self._kept(name, make)
            self._reporter.progress("sweep", done, len(asked), "keys")

    def _asked(self) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
        for name, values in baselines(self._field).items():
            yield name, lambda name=name, values=values: self._baseline(name, values)  # type: ignore[misc]
        for each in (self._experiment, *self._experiment.variants):
            for key in self._experiment.keys:
                yield f"{key}.{each.control}", lambda each=each, key=key: self._read(each, key)  # type: ignore[misc]

    def _baseline(self, name: str, values: np.ndarray) -> dict[str, Any]:
        import torch

        data = LayerData(torch.from_numpy(values), name=name, compute=self._experiment.compute)
        blank = replace(self._blank(), control=name)
        plain, local = self._answers(data, self._plain, self._locality)
        return _told([*self._plain.scores(plain, blank), *self._locality.scores(local, blank)])

    def _read(self, each: Experiment, key: Key) -> dict[str, Any]:
        samples = [sample.uid for sample in self._experiment.examples.samples]
        rows, _ = each.store.rows(key, samples, each.store.coverage())
        data = LayerData(rows, name=str(key), compute=self._experiment.compute).held()
        blank = self._blank(key, each)
        if each.control:
            (plain,) = self._answers(data, self._plain)
            return _told(self._plain.scores(plain, blank))
        real, local = self._answers(data, self._regions, self._locality)
        said = self._looked_at.said(self._regions.margins(real[0], self._looked_at.tokens))
        scores = [*self._regions.scores(real, blank), *self._locality.scores(local, blank)]
        return {**_told(scores), "site": str(key.site), "said": said}

    def _answers(self, data: LayerData, *asking: RegionScoring | Locality) -> list[list[np.ndarray]]:
        return answers(self._experiment.probe, data, *(one.problems for one in asking))

    def _blank(self, key: Key | None = None, each: Experiment | None = None) -> Region:
        """What rows say of themselves, as those of scores.csv do."""
        experiment = self._experiment
        return Region(
            run=self._run,
            cache=(each or experiment).identity.digest if key else "",
            model=experiment.model.label,
            **columns_of(experiment, key),
            probe=experiment.probe.name,
            control=each.control if each else "",
        )

    def _kept(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        path = self._parts.rows(f"regions-{name}")
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            found = make()
            with replacing(path) as part:
                part.write_text(json.dumps(found))
        return dict(json.loads(path.read_text()))

    def clear(self) -> None:
        """Remove what was kept for a killed run."""
        clear(self._parts)

    def _facts(self, rows: Sequence[Region]) -> dict[str, Any]:
        """The run in a few numbers."""
        experiment, field = self._experiment, self._field
        turns = first_global(rows)
        return {
            **{name: getattr(rows[0], name) for name in ("run", "model", "dataset")},
            "cache": experiment.identity.digest,
            "task": experiment.task.name,
            "pictures": len(experiment.examples.samples),
            "whole_pictures": len(np.unique(field.pictures[field.whole])),
            "tokens": len(field.pictures),
            "categories": list(field.categories),
            "local_turns_global": None if turns is None else turns.site,
            "provenance": experiment.store.provenance(),
        }


def _told(rows: Sequence[Region]) -> dict[str, Any]:
    return {"rows": [asdict(row) for row in rows]}


def _splits(experiment: Experiment, field: Field) -> dict[int, np.ndarray]:
    """{seed: the split of each token [T]}."""
    group_of = {decision.sample: decision.group for decision in experiment.examples.decisions}
    groups = [group_of[sample.uid] for sample in experiment.examples.samples]
    found = {}
    for seed in experiment.sweep.seeds:
        place = experiment.folds.splits(experiment.examples.folds, seed)
        found[seed] = np.asarray([place[group] for group in groups])[field.pictures]
    return found


def _said(rows: Sequence[Region]) -> Iterator[str]:
    """What the locality index says, in words."""
    index = [row for row in rows if row.metric == LOCALITY and row.seed == ALL and not row.control]
    if not index:
        yield _without_index(rows)
        return
    turns, last = first_global(rows), index[-1]
    if turns is None:
        yield (
            "of no layer is it sure that more than half of what a token on an object knows is known far away, too "
            f"(Holm over the layers): the locality at {last.site} is {_bounded(last)}"
        )
        return
    yield (
        f"local turns global at {turns.site}, the first layer whose locality, {_bounded(turns)}, is surely below "
        f"{GLOBAL:g} (p = {turns.p_holm:.2g}, Holm over the layers); at {last.site} it is {_bounded(last)}"
    )


def _without_index(rows: Sequence[Region]) -> str:
    known = [row for row in rows if row.metric == A_IN and row.seed == ALL and not row.control]
    if known and all(row.low is None for row in known):
        return (
            f"no locality index: A_in has no interval, for a label is in fewer than {LEAST} groups of test pictures; "
            "take more pictures (data.n, of scenes dataset.pictures) or more task.tokens"
        )
    return "no locality index: nowhere is A_in, what a token on an object says of its being there, surely above 0.55"


def _bounded(row: Region) -> str:
    ends = "" if row.low is None or row.high is None else f" [{row.low:.2f}, {row.high:.2f}]"
    return f"{row.value:.2f}{ends}"
