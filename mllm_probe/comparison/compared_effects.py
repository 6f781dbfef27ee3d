"""Which finished interventions are compared: of one kind, with the same conditions, told apart by labels.

Everything is read and judged here, before anything is written. Opens no cache and loads no model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mllm_probe.comparison.finished import InFolder, intervened
from mllm_probe.comparison.run_names import labels_of
from mllm_probe.config.build import first_named
from mllm_probe.config.sentences import flat
from mllm_probe.errors import DataError
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.readback import blamed, read_config, read_entries
from mllm_probe.records.interventions import Condition
from mllm_probe.results.effects import PATCHING, STEERING, SUMMARY, Sweep, load_effects, load_sweep
from mllm_probe.results.selection import with_words

if TYPE_CHECKING:
    import pandas as pd

NAMED = dict.fromkeys(("run", "cache", "model", "task", "kind"), str)  # what a summary must have
INCOMPARABLE = {
    PATCHING: (
        "of a pair of prompts effects.safetensors keeps the one whose statement is true and not its partner, and "
        "models may have been given other partners, so pairs of two models cannot be matched"
    ),
    STEERING: (
        "each model is moved along directions of its own, by a share of the norm of its own states, so one unit of "
        "strength is another step in each model and slopes have no common scale"
    ),
}


@dataclass(frozen=True, eq=False)
class FinishedSweep(InFolder):
    """One finished `intervene`: its rows of effects.csv, its summary, its settings by dotted name, what to call it."""

    paths: RunPaths
    rows: "pd.DataFrame"
    summary: Mapping[str, Any]
    settings: Mapping[str, Any]
    label: str = ""

    @property
    def task(self) -> str:
        return str(self.summary["task"])

    @property
    def kind(self) -> str:
        return str(self.summary["kind"])

    @property
    def level(self) -> float:
        """Of its intervals."""
        return float(self.rows.ci_level.iloc[0])

    @cached_property
    def sweep(self) -> Sweep:
        """What each statement answered."""
        with blamed(self.paths.root):
            return load_sweep(self.paths.outcomes)

    @property
    def blocks(self) -> int | None:
        """Of the language model; None where layer 0 alone was changed, which does not tell."""
        top = max(self.sweep.conditions, key=lambda one: one.depth)
        return round(top.layer / top.depth) if top.depth else None


def interventions(found: Sequence[RunPaths]) -> list[RunPaths]:
    """Those of finished folders that `intervene` left: all of them or none. Raises DataError for a mix."""
    changed = [paths for paths in found if intervened(paths)]
    others = [paths for paths in found if paths not in changed]
    if changed and others:
        raise DataError(
            f"{changed[0].root} is of mllm-probe intervene and {others[0].root} is a run, and scores and effects have "
            "no common scale; compare runs with runs and interventions with interventions"
        )
    return changed


def load_sweeps(found: Sequence[RunPaths]) -> list[FinishedSweep]:
    """Those that can be compared, each with a label of its own. Raises DataError."""
    sweeps = [_loaded(paths) for paths in found]
    first = sweeps[0]
    if other := next((one for one in sweeps if one.kind != first.kind), None):
        raise DataError(
            f"{first.name} is of kind {first.kind} and {other.name} of {other.kind}, whose effects have no common "
            "scale; compare interventions of one kind"
        )
    if why := INCOMPARABLE.get(first.kind):
        raise DataError(f"{first.kind} of several models cannot be compared ({first.name}): {why}")
    if len(sweeps) < 2:
        raise DataError(f"{first.name} is the only intervention, so it cannot be compared; name more of them")
    for one in sweeps[1:]:
        _check(one, first)
    labels, _ = labels_of(sweeps)
    return [replace(one, label=label) for one, label in zip(sweeps, labels, strict=True)]


def _loaded(paths: RunPaths) -> FinishedSweep:
    with blamed(paths.root):
        table = with_words(load_effects(paths.effects), paths.config)
        summary = read_entries(paths.summary, {**SUMMARY, **NAMED}, SUMMARY)
        return FinishedSweep(paths, table, summary, flat(first_named(read_config(paths.config))))


def _check(one: FinishedSweep, first: FinishedSweep) -> None:
    """Raises DataError unless both changed the same."""
    if one.blocks != first.blocks and None not in (one.blocks, first.blocks):
        raise DataError(
            f"the language model of {first.name} has {first.blocks} blocks and that of {one.name} {one.blocks}, so the "
            "blocks of one are not those of the other; compare interventions in models with equally many blocks"
        )
    own, others = ({same_place(c) for c in each.sweep.conditions if c.control == ""} for each in (one, first))
    if own != others:
        raise DataError(
            f"{first.name} has {len(others)} conditions and {one.name} {len(own)}, of which {len(own & others)} are "
            "the same, and all must be; repeat one with the intervention and layers of the other"
        )
    if one.level != first.level:
        raise DataError(
            f"the intervals of {first.name} have the level {first.level:g} and those of {one.name} {one.level:g}; "
            "repeat one with the sweep.ci_level of the other"
        )


def same_place(one: Condition) -> tuple[Any, ...]:
    """What an effect has in common with that of another model: what is changed, and where."""
    return one.what, one.site, one.first, one.last, one.layer
