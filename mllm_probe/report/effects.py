"""What `intervene` ends with: figures, a table, what was shown and what was not, and report.html."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mllm_probe.config.report import ReportSettings
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.readback import read_entries
from mllm_probe.records.protocols import Reporter
from mllm_probe.report.figures.effects import ProbeCurve, draw_effects, draw_read_and_used
from mllm_probe.report.html.effects import effects_page
from mllm_probe.report.terminal.layers.effects import print_effects
from mllm_probe.report.terminal.progress import both, end
from mllm_probe.results.effects import SUMMARY, load_effects
from mllm_probe.results.score_file import load_scores, load_tests
from mllm_probe.results.selection import with_words
from mllm_probe.scoring.read_and_used import probe_position, probe_side


def show_effects(paths: RunPaths, reporter: Reporter, settings: ReportSettings) -> None:
    """Draw effects.png and .pdf, and read_and_used where the run names a probe run; print the table, write the page."""
    table = with_words(load_effects(paths.effects), paths.config)
    summary = read_entries(paths.summary, SUMMARY, SUMMARY) if paths.summary.is_file() else {}
    curve, missing = _curve(paths, summary)
    lacking = [draw_effects(table, both(paths.changes), settings), missing]
    if curve is not None:
        own = both(paths.read_and_used)
        lacking.append(draw_read_and_used(table, curve, summary.get("effects", ()), own, settings))
    print_effects(table, summary)
    effects_page(paths, table, summary, curve)
    end(reporter, paths.root, *lacking, page=paths.page)


def _curve(paths: RunPaths, summary: Mapping[str, Any]) -> tuple[ProbeCurve | None, str]:
    """The curve of the probe run, or why there is none; nothing where none was named. Raises DataError."""
    places: list[Path] = []
    if named := summary.get("probe_run"):
        places = [Path(named[0]), paths.root / named[-1]]
    found = next((side for place in places if (side := probe_side(place)).scores.is_file()), None)
    if found is None:
        return None, f"no figure of read and used: {places[0]} is not there any more" if places else ""
    position = probe_position(found)
    tests = load_tests(found.tests)
    among = tests[(tests.test == "contender") & (tests.position == position) & (tests.verdict != "")]
    curve = ProbeCurve(load_scores(found.scores), str(position), tuple(among.site))
    if curve.rows.empty:
        return None, f"no figure of read and used: {found.root} read no block of the language model"
    return curve, ""
