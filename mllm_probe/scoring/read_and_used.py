"""H4 of the study: global meaning is read in the middle layers and used there. Judges the layers that two sets hold.

The first set is that of a run's blocks which may be the best for the probe, the second that of the windows whose cut of
statement->last may have the largest effect, see `effect_facts`. Both hold the true layer with 95 % each.
"""

from collections.abc import Sequence
from pathlib import Path

from mllm_probe.files.paths import GLOBAL, RunPaths
from mllm_probe.records.sites import Site, listed
from mllm_probe.results.effects import MARGIN
from mllm_probe.results.score_file import load_summary, load_tests
from mllm_probe.results.selection import leading
from mllm_probe.scoring.effect_facts import Fact
from mllm_probe.scoring.verdicts.hypotheses import FAILS, HOLDS, UNDECIDED, Statement

EDGE = "statement->last"
MIDDLE = 0.75  # of the blocks: what lies above is the top quarter
CLAIM = "global meaning is read in the middle layers and used there"


def probe_side(folder: Path) -> RunPaths:
    """The run that a folder holds: of a study the global task's."""
    paths = RunPaths(folder)
    return paths.side(GLOBAL) if paths.study.is_file() else paths


def probe_position(run: RunPaths) -> str | None:
    """`last` where the run read it, else its leading position. Raises DataError."""
    summary = load_summary(run.summary)
    return "last" if "last" in (summary.get("chosen") or {}) else leading(summary)


def read_and_used(found: Sequence[Fact], run: RunPaths) -> Statement:
    """H4 for the facts of a knockout and a finished probe run of the same model. Raises DataError.

    Holds where both sets share a layer and neither reaches into the top quarter of blocks; does not hold where both are
    known and share none; else it is undecided. The probe's set is known where some of its blocks is above chance and
    blocks were compared, the other where some window takes more than its random edges.
    """
    fact = next((one for one in found if one.what == EDGE and one.metric == MARGIN), None)
    if fact is None:
        return _stated(UNDECIDED, f"{EDGE} was not cut", {})
    position = probe_position(run)
    read = _best(run, position)
    if not read:
        return _stated(UNDECIDED, "the probe run shows no set of best blocks above chance", {})
    used = list(fact.layers)
    said = f"read best at {_named(read)} ({position}), used most at {_named(used)} ({EDGE}; 95 % each)"
    numbers: dict[str, float | str] = {"read_first": min(read), "read_last": max(read)}
    numbers |= {"used_first": min(used), "used_last": max(used), "used_value": fact.value or 0.0}
    if not fact.shown:
        return _stated(UNDECIDED, f"{said}, but no window takes more than as many random edges", numbers)
    shared = sorted(set(read) & set(used))
    numbers |= {"shared": len(shared)}
    if not shared:
        return _stated(FAILS, f"{said}: no layer is in both sets", numbers)
    top = [layer for layer in (*read, *used) if layer > MIDDLE * _blocks(fact)]
    if top:
        return _stated(UNDECIDED, f"{said}: the sets share layers, but reach into the top quarter", numbers)
    return _stated(HOLDS, f"{said}: the sets share {_named(shared)} and lie below the top quarter", numbers)


def _stated(verdict: str, said: str, numbers: dict[str, float | str]) -> Statement:
    word = "is undecided" if verdict == UNDECIDED else verdict
    return Statement("H4", CLAIM, verdict, f"{said}; H4 {word}", numbers, {})


def _best(run: RunPaths, position: str | None) -> list[int]:
    """Layers of the blocks that may be the best at a position, where any is above chance."""
    tests = load_tests(run.tests)
    here = tests[tests.position == position]
    rows = here[here.test == "contender"]
    among = rows[rows.verdict != ""]
    chance = here[(here.test == "above_chance") & here.site.isin(among.site)]
    if not rows.p_value.notna().any() or not chance.verdict.str.startswith("above").any():
        return []
    return sorted(Site.parse(site).layer for site in among.site)


def _blocks(fact: Fact) -> float:
    """Of the language model, from a layer and its depth."""
    layer, depth = max(zip(fact.layers, fact.depths, strict=True))
    return layer / depth if depth else float("inf")


def _named(layers: Sequence[int]) -> str:
    """`lm.03 to lm.05`: neighbours joined."""
    every = [str(Site("lm", layer)) for layer in range(min(layers), max(layers) + 1)]
    return listed([str(Site("lm", layer)) for layer in layers], every)
