"""What `fidelity` ends with: tables, and in words what differs from the reference. Fits nothing."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from mllm_probe.records import units
from mllm_probe.records.score import ALPHA
from mllm_probe.report.terminal.printing import escaped, framed, say
from mllm_probe.results.fidelity import CHANGED, HOME, MODEL, MOVED, SIDES, curve, headline
from mllm_probe.results.selection import many_of, positions
from mllm_probe.scoring.alarms import few_groups
from mllm_probe.stats.measures import HIGHER_IS_BETTER
from mllm_probe.stats.peak import preferred

if TYPE_CHECKING:
    import pandas as pd

SENTENCES = {CHANGED: "the probe's score", MOVED: "a reference probe's score on the model's states"}
STATES = {"relative_error": ".3g", "fvu": ".3g", "cosine": ".4f", "cka": ".4f"}


def print_agreements(table: "pd.DataFrame", console: Console | None = None) -> None:
    """A table for each position, one row a site; then what may be said of it."""
    for position in positions(table):
        here = table[table.position == position]
        say(console, agreement_view(here, position), *_said(here, position), *_answers(here))
    say(console, *_few(table))


def agreement_view(here: "pd.DataFrame", position: str) -> Table:
    """A row a site, of the rows of one position."""
    here = escaped(here)
    first, metric = here.iloc[0], headline(here)
    change = units.unit(metric).gap
    view = framed(
        f"{first.model}, {first.task} at {position}: {first.quantization} against {first.reference}",
        ["site"],
        ("error", "FVU", "cosine", "CKA", "probe", "change"),
        caption=f"error: relative; FVU: variance unexplained; probe: {units.headed(metric)}"
        f"{change and f', change in{change}'}; *: p < {ALPHA}, Holm",
        collapse_padding=True,
    )
    for site, rows in here[here.split == "test"].groupby("site", sort=False):
        cell = {(row.measure, row.fitted_on, row.read_on): row for row in rows.itertuples()}
        states = (_number(cell.get((name, "", "")), form) for name, form in STATES.items())
        view.add_row(site, *states, *_probed(curve(rows, *HOME), cell.get((CHANGED, MODEL, MODEL)), metric))
    return view


def _number(row: Any, form: str) -> str:
    return "" if row is None or row.value != row.value else f"{row.value:{form}}"


def _probed(at_home: "pd.DataFrame", change: Any, metric: str) -> tuple[str, str]:
    if change is None:
        return "", ""
    moved = units.bare(change.value, change.low, change.high, metric)
    return units.number(at_home.value.iloc[0], metric), f"{moved}{'*' if change.p_holm < ALPHA else ''}"


def lost(table: "pd.DataFrame") -> Iterator[str]:
    """The sentences of print_agreements."""
    for position in positions(table):
        here = table[table.position == position]
        yield from map(str.strip, (*_said(here, position), *_answers(here)))
    yield from _few(table)


def _few(table: "pd.DataFrame") -> Iterator[str]:
    tested = table[table.measure.isin(SENTENCES)]
    if said := len(tested) and few_groups(int(tested.n_groups.iloc[0]), many_of(tested)):
        yield said


def _said(here: "pd.DataFrame", position: str) -> Iterator[str]:
    """Where the curve changes, and whether its best layer moves."""
    for name, what in SENTENCES.items():
        rows = here[here.measure == name]
        if len(rows):
            yield f"{position}: {what} {_changed(rows, here)}"
    best = [_best(here, side) for side in SIDES]
    if all(best):
        same = "the same block" if best[0] == best[1] else "different blocks"
        yield f"  best layer on validation: {best[0]} in the reference, {best[1]} in the model, {same}"


def _changed(rows: "pd.DataFrame", here: "pd.DataFrame") -> str:
    """The largest of many changes is large by luck, too, and its interval knows nothing of that: its p after Holm does.
    That the test pictures show none does not say that others would not, but where no state differs nothing can."""
    most = rows.loc[rows.value.abs().idxmax()]
    gap = units.gap(most.value, most.low, most.high, headline(here))
    if most.value:
        many = f"p = {most.p_holm:.2g}; {int((rows.p_holm < ALPHA).sum())} of {len(rows)} sites differ (Holm)"
        if rows.p_holm.isna().all():
            many = f"not tested: a label is too rare among the test {many_of(here)}"
        return f"changes most at {most.site}, by {gap}, {many}"
    if not here[here.measure == "relative_error"].value.any():
        return "does not change: all compared states are equal"
    return f"does not change significantly: {gap} at every site"


def _best(here: "pd.DataFrame", side: str) -> str:
    rows = curve(here, side, side, split="val")
    rows = rows[(rows.tower == "lm") & (rows.part == "block")]
    if rows.empty:
        return ""
    return str(rows.site.iloc[preferred(rows.value.to_numpy(), rows.measure.iloc[0] in HIGHER_IS_BETTER)])


def _answers(here: "pd.DataFrame") -> Iterator[str]:
    rows = here[here.measure == "answer_agreement"]
    for row in rows[rows.layer == rows.layer.max()].itertuples():
        share = units.value(row.value, row.low, row.high, "accuracy")
        yield f"  answers read at {row.site}: the same in {share} of {row.n} prompts"
