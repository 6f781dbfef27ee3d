"""What `vision policy` ends with: who is next, and how often the policy finds the best. Draws no candidate."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from mllm_probe.report.terminal.printing import escaped, framed, say
from mllm_probe.results.policy import A_ALONE, A_PLUS_C, FIRST_HIT, FIXED, RANDOM

if TYPE_CHECKING:
    import pandas as pd


TITLES = {
    FIXED: "after\nk runs",
    FIRST_HIT: "any time\nup to k",
    RANDOM: "random",
    A_ALONE: "A alone,\nno run",
    A_PLUS_C: "A + C,\nno run",
}


def print_policy(plan: "pd.DataFrame", recall: "pd.DataFrame", console: Console | None = None) -> None:
    """Recall at the budget of the plan, one row a benchmark; then the plan of each benchmark in a sentence."""
    budget = int(max(1, (plan.turn.notna() | plan.seen).groupby(plan.benchmark).sum().max()))
    if len(recall):
        view, mean = _view(escaped(recall), budget), at_budget(recall, budget).mean()
        say(console, view, _verdict(mean, budget))
    turns: dict[str, list[str]] = {}
    for name, rows in plan.groupby("benchmark", sort=False):
        turns.setdefault(_turns(rows), []).append(str(name))
    say(console, *(f"{', '.join(names)}: {line}" for line, names in turns.items()))
    for name, rows in plan[plan.shortlisted].groupby("benchmark", sort=False):
        say(console, f"{name}: {_listed(rows, plan[plan.benchmark == name])}")


def at_budget(recall: "pd.DataFrame", budget: int) -> "pd.DataFrame":
    """[benchmark, reading] of recall after so many runs, scores that need none beside it."""
    rows = recall[(recall.budget == budget) | (recall.budget == 0)]
    grid = rows.pivot(index="benchmark", columns="reading", values="recall")
    return grid.loc[list(dict.fromkeys(rows.benchmark)), list(TITLES)]


def _view(recall: "pd.DataFrame", budget: int) -> Table:
    first, grid = recall.iloc[0], at_budget(recall, budget)
    view = framed(
        f"{first.table}: the best in the shortlist, in % of {first.trials} trials, k = {budget}",
        ["benchmark"],
        TITLES.values(),
        fold_numbers=True,
        caption="any time up to k: stops at the first hit, possible only if the best is known; random: as many draws "
        "as the policy trains and lists",
    )
    for name, row in grid.iterrows():
        view.add_row(str(name), *(f"{100 * value:.1f}" for value in row))
    view.add_section()
    view.add_row("mean", *(f"{100 * value:.1f}" for value in grid.mean()))
    return view


def _verdict(mean: "pd.Series", budget: int) -> str:
    runs = f"{budget} run{'s' if budget > 1 else ''}"
    return (
        f"after {runs} the shortlist contains the best in {100 * mean[FIXED]:.1f} % of trials; without runs: A alone "
        f"{100 * mean[A_ALONE]:.1f} %, A + C {100 * mean[A_PLUS_C]:.1f} %"
    )


def _turns(rows: "pd.DataFrame") -> str:
    """What was or is to be trained on one benchmark."""
    drawn = rows[rows.turn.notna()].sort_values("turn")
    names = ", ".join(f"{row.representation} (level {row.level:.0f})" for row in drawn.itertuples())
    if len(drawn) and drawn.seen.all():
        return f"a dry run trains {names}"
    return f"{rows.seen.sum()} of {len(rows)} trained, " + (f"next {names}" if names else "policy.budget is used up")


def _listed(short: "pd.DataFrame", rows: "pd.DataFrame") -> str:
    """The shortlist with its predictions, and whether it holds the best where that is known."""
    listed = ", ".join(
        f"{row.representation} {row.predicted:.4g}"
        for row in short.sort_values("predicted", ascending=False).itertuples()
    )
    if rows.value.isna().any():
        return f"shortlist {listed}"
    best = rows.loc[rows.value.idxmax()]
    return f"shortlist {listed}: the best, {best.representation}, is {'' if best.shortlisted else 'not '}in it"
