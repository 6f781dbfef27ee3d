"""The table a run ends with. Reads scores and summary, fits nothing."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from mllm_probe.report.answers import preferred_controls
from mllm_probe.report.features import gains
from mllm_probe.report.figures import floors, headline, headline_metric, positions, real
from mllm_probe.report.sparkline import print_curves

if TYPE_CHECKING:
    import pandas as pd

ZERO_SHOT = "zero_shot"


def print_table(scores: "pd.DataFrame", summary: dict[str, Any], console: Console | None = None) -> None:
    """One row per site, one column per position: accuracy in percent with its interval; baselines and curves below."""
    console = console or Console()
    rows = headline(scores)
    sites = real(rows)
    read = positions(sites)
    first = scores.iloc[0]
    title = f"{first.model} ({first.quantization}), {first.task} on {first.dataset}: {headline_metric(scores)} in %"
    table = Table(title=title, caption=_caption(first, sites))
    table.add_column("site")
    for position in read:
        table.add_column(position, justify="right")
    chosen = {position: entry["site"] for position, entry in summary.get("chosen", {}).items()}
    for site in dict.fromkeys(sites.site):
        cells = {row.position: row for row in sites[sites.site == site].itertuples()}
        table.add_row(site, *(_cell(cells.get(position), chosen.get(position) == site) for position in read))
    table.add_section()
    for row in floors(rows).itertuples():
        table.add_row(row.control or row.probe, _cell(row, False))
    console.print(table)
    print_curves(_curves(sites), console)
    for line in (*_said(summary), *gains(summary), *_controls(scores, rows, read[:1]), *_answer(scores, rows, summary)):
        console.print(line, highlight=False)


def _curves(sites: "pd.DataFrame") -> dict[str, list[float]]:
    """{tower and position: values of its blocks, from the first to the last}, the language model before the others."""
    rows = sites[sites.part == "block"].sort_values("tower", key=lambda towers: towers != "lm", kind="stable")
    return {
        f"{tower}, {at}": line.value.tolist() for (tower, at), line in rows.groupby(["tower", "position"], sort=False)
    }


def _said(summary: dict[str, Any]) -> Iterator[str]:
    """What may be said of each position's layers."""
    for position, entry in summary.get("chosen", {}).items():
        yield (
            f"{position}: validation prefers {entry['site']} with {100 * entry['value']:.1f} % "
            f"\\[{100 * entry['low']:.1f}, {100 * entry['high']:.1f}]; {entry['top_site']}, the highest block read, "
            f"has {100 * entry['top_value']:.1f} %"
        )
        if verdict := summary.get("verdicts", {}).get(position):
            first, last = verdict["best_between"]
            where = first if first == last else f"between {first} and {last}"
            yield (
                f"  the best block is {where}; drop to the top {100 * verdict['drop']:.1f} points "
                f"\\[{100 * verdict['drop_low']:.1f}, {100 * verdict['drop_high']:.1f}], p = {verdict['drop_p']:.2g}: "
                f"[bold]{_verdict(verdict)}[/bold]"
            )


def _verdict(verdict: dict[str, Any]) -> str:
    points = f"{100 * verdict['margin']:g} point{'' if verdict['margin'] == 0.01 else 's'}"
    return {"flat within margin": f"flat within {points}", "undecided": "neither a peak nor flat was shown"}.get(
        verdict["verdict"], verdict["verdict"]
    )


def _controls(scores: "pd.DataFrame", rows: "pd.DataFrame", read: Sequence[str]) -> Iterator[str]:
    """What is left to see without the picture or the training."""
    for position in read:
        found = preferred_controls(scores, rows, position)
        each = [f"{row.control} {_cell(row, False)} ({row.site})" for row in found]
        if each:
            yield f"controls at {position}, where validation prefers each: {', '.join(each)}"


def _answer(scores: "pd.DataFrame", rows: "pd.DataFrame", summary: dict[str, Any]) -> Iterator[str]:
    """What the model answers itself, how often it says yes, and what a probe reads beyond that."""
    yes = scores[(scores.metric == "yes_rate") & (scores.seed == "all") & (scores.split == "test")]
    yes = yes[(yes.control == ZERO_SHOT) & (yes.subset == "") & yes.value.notna()]
    for row in rows[rows.control == ZERO_SHOT].itertuples():
        often = f", and says yes to {100 * yes.value.iloc[0]:.1f} %" if len(yes) else ""
        yield f"zero-shot: the model's own answer scores {_cell(row, False)} %{often}"
    if gap := summary.get("gap"):
        bounds = f"\\[{100 * gap['low']:.1f}, {100 * gap['high']:.1f}]"
        yield f"  the probe at {gap['site']} minus that answer: {100 * gap['value']:.1f} points {bounds}"


def _cell(row: Any, chosen: bool) -> str:
    if row is None:
        return ""
    bounds = "" if row.low != row.low else f" [dim]\\[{100 * row.low:.1f}, {100 * row.high:.1f}][/dim]"
    text = f"{100 * row.value:.1f}{bounds}"
    return f"[bold green]{text}[/bold green]" if chosen else text


def _caption(first: Any, sites: "pd.DataFrame") -> str:
    level = 100 * float(sites.ci_level.iloc[0])
    n, groups = int(sites.n.iloc[0]), int(sites.n_groups.iloc[0])
    return f"{n} test decisions on {groups} pictures; {level:.0f} % intervals over pictures; bold: chosen on validation"
