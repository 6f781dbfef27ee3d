"""table.md and table.tex: the headline score of every site and position for a paper, the floors below.

The same numbers as scores.csv with their intervals; bold where validation chose, and below which may be the best.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_probe.files.store_paths import replacing
from mllm_probe.records import units
from mllm_probe.report.tables.findings import Reading
from mllm_probe.results.selection import by_site, floors, headline, headline_metric, many_of, positions, real, words

if TYPE_CHECKING:
    import pandas as pd

SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


@dataclass(frozen=True)
class Cell:
    """A score and its interval, empty where a position does not exist."""

    text: str = ""
    chosen: bool = False


@dataclass(frozen=True)
class Grid:
    """`head`: the positions; `rows`: (site, a cell for each position); `floors`: (name, score) of what has no layer."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    floors: tuple[tuple[str, Cell], ...]
    words: tuple[str, ...]

    @classmethod
    def of(
        cls, scores: "pd.DataFrame", summary: Mapping[str, Any], tests: "pd.DataFrame", shown: "pd.DataFrame"
    ) -> "Grid":
        rows, metric = headline(shown), headline_metric(shown)
        sites, first = real(rows), scores.iloc[0]
        read = tuple(positions(sites))
        chosen = {position: entry["site"] for position, entry in (summary.get("chosen") or {}).items()}
        found = tuple(
            (site, tuple(_cell(row, metric, chosen.get(p) == site) for row, p in zip(cells, read, strict=True)))
            for site, cells in by_site(sites, read)
        )
        base = tuple((words(row), _cell(row, metric, False)) for row in floors(rows).itertuples())
        level, n, groups = 100 * sites.ci_level.iloc[0], int(sites.n.iloc[0]), int(sites.n_groups.iloc[0])
        told = many_of(sites)
        title = (
            f"{first.model} ({first.quantization}), {first.task} on {first.dataset}: {units.headed(metric)} "
            f"[{level:.0f} % interval over {told}], {n} test decisions on {groups} {told}"
        )
        readings = [Reading(scores, summary, tests, position) for position in chosen if position in read]
        said = tuple(f"{one.sentence}. {one.shape}".replace("\u00a0", " ").strip() for one in readings)
        return cls(title, read, found, base, said)


def save_tables(
    scores: "pd.DataFrame",
    summary: Mapping[str, Any],
    tests: "pd.DataFrame",
    path: Callable[[str], Path],
    shown: "pd.DataFrame | None" = None,
) -> None:
    """Both files, `path` naming each by its kind; their rows are `shown` (None = all)."""
    grid = Grid.of(scores, summary, tests, scores if shown is None else shown)
    for kind, lines in (("md", _markdown(grid)), ("tex", _latex(grid))):
        with replacing(path(kind)) as part:
            part.write_text("\n".join([*lines, ""]), encoding="utf-8")


def _cell(row: Any, metric: str, chosen: bool) -> Cell:
    return Cell() if row is None else Cell(units.bare(row.value, row.low, row.high, metric), chosen)


def _markdown(grid: Grid) -> Iterator[str]:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    yield markdown(grid.title)
    yield ""
    yield line(["site", *map(markdown, grid.head)])
    yield f"|---|{'---:|' * len(grid.head)}"
    for site, cells in grid.rows:
        yield line([site, *(f"**{cell.text}**" if cell.chosen else cell.text for cell in cells)])
    yield from (line([markdown(name), cell.text, *[""] * (len(grid.head) - 1)]) for name, cell in grid.floors)
    yield ""
    yield from map(markdown, grid.words)


def _latex(grid: Grid) -> Iterator[str]:
    def line(cells: Sequence[str]) -> str:
        return f"{' & '.join(cells)} \\\\"

    yield "% " + " ".join(grid.title.split())
    yield from (f"% {said}" for said in grid.words)
    yield "% needs \\usepackage{booktabs}; rows are sites, columns positions; bold: chosen on validation"
    yield f"\\begin{{tabular}}{{l{'r' * len(grid.head)}}}"
    yield "\\toprule"
    yield line(["site", *map(latex, grid.head)])
    yield "\\midrule"
    yield from (line([latex(site), *map(_bold, cells)]) for site, cells in grid.rows)
    yield "\\midrule"
    yield from (line([latex(name), latex(cell.text), *[""] * (len(grid.head) - 1)]) for name, cell in grid.floors)
    yield "\\bottomrule"
    yield "\\end{tabular}"


def _bold(cell: Cell) -> str:
    return f"\\textbf{{{latex(cell.text)}}}" if cell.chosen else latex(cell.text)


def markdown(text: str) -> str:
    """A text in which nothing is a sign of Markdown."""
    return re.sub(r"([\\|*_<>`])", r"\\\1", text)


def latex(text: str) -> str:
    """A text in which nothing is a command."""
    return "".join(SPECIAL.get(sign, sign) for sign in text)
