"""The table a run ends with, and its conclusions. Reads scores, summary and tests; fits and tests nothing."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mllm_probe.errors import few
from mllm_probe.records import units
from mllm_probe.records.score import BY_DESIGN
from mllm_probe.report.tables.controls import beyond_covariates, preferred_controls
from mllm_probe.report.tables.curve_shapes import beyond, p_said, print_curves
from mllm_probe.report.tables.findings import Reading
from mllm_probe.report.terminal.printing import screen
from mllm_probe.results.selection import floors, headline, headline_metric, many_of, positions, real, words
from mllm_probe.scoring.alarms import few_groups

if TYPE_CHECKING:
    import pandas as pd

ZERO_SHOT = "zero_shot"
DESIGNED, BOTH = "d", "*"
MARKS = {"above_chance": "c", "floor": "f"}
MARKED = {
    "c": "c: above chance (permuted labels)",
    "f": "f: above the best constant answer",
    BOTH: f"{BOTH}: above chance (permuted labels) and above the best constant answer",
    DESIGNED: f"{DESIGNED}: by design",
}


def print_table(
    scores: "pd.DataFrame",
    summary: dict[str, Any],
    tests: "pd.DataFrame",
    console: Console | None = None,
    shown: "pd.DataFrame | None" = None,
) -> None:
    """One row per site, one column per position: the headline measure with its interval; floors, curves and words
    below. The table and the curves are of `shown` (None = of all scores), words of what the sweep selected by."""
    console, shown = console or screen(), scores if shown is None else shown
    rows, metric = headline(shown), headline_metric(shown)
    sites = real(rows)
    read = positions(sites)
    first = scores.iloc[0]
    title = f"{first.model} ({first.quantization}), {first.task} on {first.dataset}: {units.headed(metric)}"
    same = metric == headline_metric(scores)  # tests are of that measure
    marks, known = _marks(tests) if same else {}, {*sites.family, *floors(rows).family}
    used = {*marks.values(), *([DESIGNED] if BY_DESIGN in known else [])}
    table = Table(title=escape(title), caption=_caption(sites, used), pad_edge=False)
    table.add_column("site")
    for position in read:
        table.add_column(position, justify="right")
    chosen = {position: entry["site"] for position, entry in summary.get("chosen", {}).items()}
    for site in dict.fromkeys(sites.site):
        cells = {row.position: row for row in sites[sites.site == site].itertuples()}
        texts = (_cell(cells.get(at), metric, chosen.get(at) == site, marks.get((site, at), "")) for at in read)
        table.add_row(site, *texts)
    table.add_section()
    for row in floors(rows).itertuples():
        table.add_row(escape(row.control or row.probe), _cell(row, metric))
    console.print(table)
    print_curves(_curves(sites), metric, console)
    readings = [Reading(scores, summary, tests, position) for position in chosen if position in read]
    said = (line for reading in readings for line in _said(reading))
    design, beyond_all = _designed(summary), map(escape, beyond_covariates(tests))
    so_few = few_groups(int(sites.n_groups.iloc[0]), many_of(sites))
    whole = headline(scores)
    unlearnt = (summary.get("unlearnt") or {}).get("said")
    own = (
        *_controls(scores, whole, read[:1]),
        *_answer(scores, whole, summary, tests),
        *([escape(so_few)] if so_few else []),
    )
    for line in (*([escape(unlearnt)] if unlearnt else []), *said, *design, *beyond_all, *_gains(summary), *own):
        console.print(line.replace("\u00a0", " "), highlight=False)


def _designed(summary: Mapping[str, Any]) -> Iterator[str]:
    """What can be no other, a line a reason."""
    found: dict[str, list[str]] = {}
    for name, why in (summary.get("by_design") or {}).items():
        found.setdefault(why, []).append(name)
    return (f"{escape(few(names))} by design: {escape(why)}" for why, names in found.items())


def _gains(summary: Mapping[str, Any]) -> Iterable[str]:
    if not summary.get("integrations"):
        return ()
    from mllm_probe.report.tables.integrations import gains

    return gains(summary)


def _marks(tests: "pd.DataFrame") -> dict[tuple[str, str], str]:
    """{(site, position): one character for the floors that it is above}, so that three columns fit a terminal."""
    found: dict[tuple[str, str], str] = {}
    for test, letter in MARKS.items():
        for row in tests[(tests.test == test) & beyond(tests)].itertuples():
            found[row.site, row.position] = BOTH if (row.site, row.position) in found else letter
    return found


def _curves(sites: "pd.DataFrame") -> dict[str, list[float]]:
    """{tower and position: values of its blocks, from the first to the last}, the language model before the others."""
    rows = sites[sites.part == "block"].sort_values("tower", key=lambda towers: towers != "lm", kind="stable")
    return {
        f"{tower}, {at}": line.value.tolist() for (tower, at), line in rows.groupby(["tower", "position"], sort=False)
    }


def _said(reading: Reading) -> Iterator[str]:
    """What may be said of a position's layers: what validation chose, which may be the best, the shape of the curve."""
    yield f"[bold]{escape(reading.sentence)}[/bold]"
    if reading.among:
        one = reading.answers()[2]
        yield f"  {escape(one.answer)}: {escape('; '.join(one.detail))}"


def _controls(scores: "pd.DataFrame", rows: "pd.DataFrame", read: list[str]) -> Iterator[str]:
    """What is left to see without the picture or the training."""
    metric = headline_metric(scores)
    for position in read:
        found = [row for row in preferred_controls(scores, rows, position) if row.family != BY_DESIGN]
        each = [f"{escape(words(row))} {_cell(row, metric)} ({row.site})" for row in found]
        if each:
            yield f"controls at {position}, each at its best layer on validation: {', '.join(each)}"


def _answer(
    scores: "pd.DataFrame", rows: "pd.DataFrame", summary: dict[str, Any], tests: "pd.DataFrame"
) -> Iterator[str]:
    """What the model answers itself, how often it says the word for label 1, and what a probe reads beyond that."""
    metric = headline_metric(scores)
    yes = scores[(scores.metric == "yes_rate") & (scores.seed == "all") & (scores.split == "test")]
    yes = yes[(yes.control == ZERO_SHOT) & (yes.subset == "") & yes.value.notna()]
    word = (summary.get("answers") or ["yes"])[0]
    for row in rows[rows.control == ZERO_SHOT].itertuples():
        shares = [units.value(share, None, None, "yes_rate") for share in yes.value[:1]]
        often = "".join(f"; it answers {escape(repr(word))} in {share}" for share in shares)
        score = escape(units.value(row.value, row.low, row.high, metric))
        yield f"zero-shot: the model's own answer scores {score}{often}"
    for row in tests[(tests.test == "gap") & (tests.position == "last")].itertuples():
        gap = escape(units.gap(row.value, row.low, row.high, metric))
        yield f"  the probe at {row.site} minus that answer: {gap}, {p_said(row.p_value)}"


def _cell(row: Any, metric: str, chosen: bool = False, marks: str = "") -> str:
    if row is None:
        return ""
    bounds = units.bounds(row.low, row.high, metric)
    text = units.number(row.value, metric) + f" [dim]{escape(bounds)}[/dim]" * bool(bounds)
    marks = DESIGNED if row.family == BY_DESIGN else marks
    text += f"[cyan]{marks}[/cyan]" * bool(marks)
    return f"[bold green]{text}[/bold green]" if chosen else text


def _caption(sites: "pd.DataFrame", marks: set[str]) -> str:
    level = 100 * float(sites.ci_level.iloc[0])
    n, groups, told = int(sites.n.iloc[0]), int(sites.n_groups.iloc[0]), escape(many_of(sites))
    return "; ".join(
        (
            f"{n} test decisions on {groups} {told}",
            *([f"{level:g} % intervals over {told}"] if sites.low.notna().any() else []),
            "bold: chosen on validation",
            *(said for mark, said in MARKED.items() if mark in marks),
        )
    )
