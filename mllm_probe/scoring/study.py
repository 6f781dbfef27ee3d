"""The conclusions of a study, after the sweeps of both tasks: the hypotheses on both curves, as study.json."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mllm_probe.cache.store import write_json
from mllm_probe.config.sweep import SweepSettings
from mllm_probe.errors import ProbeError
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.seals import sealed
from mllm_probe.records.protocols import Reporter
from mllm_probe.results.score_file import load_scores
from mllm_probe.results.study import study_headline
from mllm_probe.scoring.sweep import Swept
from mllm_probe.scoring.turns_global import turns_global
from mllm_probe.scoring.verdicts.hypotheses import Judge


def save_study(
    paths: RunPaths,
    settings: SweepSettings,
    sides: Sequence[RunPaths],
    swept: Sequence[Swept],
    reporter: Reporter,
    regions_run: str | None = None,
) -> None:
    """study.json: the hypotheses, and each task's score. `sides` and `swept`: the global task's, then the local's.
    `regions_run`: the folder that H5 is taken from."""
    judged = _judged(settings, swept[0], swept[1], reporter)
    position = str(judged["position"])
    if regions_run is not None:
        judged["statements"].append(asdict(turns_global(regions_run)))
    told = [
        study_headline(load_scores(own.scores), one.summary, position) for own, one in zip(sides, swept, strict=True)
    ]
    write_json(paths.study, sealed(paths.study, {**judged, "headlines": [one for one in told if one]}, []))


def _judged(settings: SweepSettings, whole: Swept, local: Swept, reporter: Reporter) -> dict[str, Any]:
    """The three hypotheses at the first position that both tasks read, `last` before others."""
    curves, others = whole.curves, local.curves
    shared = sorted(set(curves) & set(others), key=lambda position: position != "last")
    if not shared:
        reporter.note("no hypotheses: the tasks share no position that was read at three blocks of the language model")
        return {"position": None, "statements": []}
    measures = [str(swept.summary["metric"]) for swept in (whole, local)]
    judge = Judge(settings.draws, margin=settings.margin, metric=measures[0])
    if measures[0] != measures[1]:
        reporter.note(
            f"no hypotheses: the labels of the tasks suit {' and '.join(measures)}, and curves are compared by one "
            "measure; name it with sweep.metric"
        )
        return {"position": shared[0], "statements": []}
    try:
        statements = judge.statements(curves[shared[0]], others[shared[0]])
    except ProbeError as error:
        reporter.note(f"no hypotheses: {error}")
        return {"position": shared[0], "statements": []}
    return {"position": shared[0], "statements": [asdict(one) for one in statements]}
