"""What the words of a run say of its rows, told again from the rows."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mllm_probe.report.tables.findings import Reading
from mllm_probe.results.score_file import load_scores, load_tests
from tests.support.score_tables import LAYERS, write

SITES = [f"lm.{layer:02d}" for layer in range(LAYERS)]
CURVE = [0.5, 0.55, 0.65, 0.95, 0.87, 0.86, 0.86, 0.86, 0.85]
COMMON = {"run": "r", "family": "9 keys", "probe": "logistic", "position": "last", "other": "", "verdict": ""}


def word(rows: pd.DataFrame, alpha: float = 0.05) -> str:
    """The shape, told again from the p values of tests.csv alone."""
    p = {(row.test, row.site): row for row in rows.itertuples()}
    blocks = [row.site for row in rows.itertuples() if row.test == "contender"]
    may = [site for site in blocks if p["contender", site].p_value > alpha]
    chance = {site: p["above_chance", site].p_adjusted for site in blocks if ("above_chance", site) in p}
    chance = {site: 1.0 if pd.isna(value) else value for site, value in chance.items()}
    if chance and all(value > alpha for value in chance.values()):
        return "nothing above chance"
    known = rows.site[(rows.test == "above_chance") & (rows.verdict == "by design") & rows.site.str.match(r"lm\.\d+$")]
    under, over = any(site < blocks[0] for site in known), any(site > blocks[-1] for site in known)
    if rows[rows.test == "equivalence"].p_value.iloc[0] <= alpha and not (under or over):
        return "flat"
    if not chance or all(chance[site] > alpha for site in may):
        return "undecided"
    low, high = under or blocks[0] not in may, over or blocks[-1] not in may
    plateau = rows[rows.test == "plateau"]
    if len(plateau) and plateau.p_value.iloc[0] <= alpha and (low or high):
        return "plateau"
    if low and high:
        return "peak"
    ends = {blocks[-1]: "rising to the top"} if not over else {}
    ends |= {blocks[0]: "falling from the bottom"} if not under else {}
    return ends.get("".join(may), "undecided")


def table(
    among: dict[str, float],
    chance: float | None = 0.001,
    flat: float = 0.4,
    plateau: float = 0.3,
    below: bool = False,
) -> pd.DataFrame:
    """Rows of a position; among: the blocks that may be the best, with p; below: lm.00 can know nothing."""
    sites = SITES[below:]
    rows: list[dict[str, Any]] = [{"test": "above_chance", "site": SITES[0], "verdict": "by design"}] * below
    for site in sites:
        p = among.get(site, 0.001)
        rows.append({"test": "contender", "site": site, "p_value": p, "verdict": "may be the best" * (p > 0.05)})
        if chance is not None:
            told = "above chance" * (chance <= 0.05)
            rows.append(
                {"test": "above_chance", "site": site, "p_value": chance, "p_adjusted": chance, "verdict": told}
            )
    hull = [site for site in sites if site in among]
    rows.append(
        {"test": "equivalence", "site": sites[0], "other": sites[-1], "p_value": flat, "verdict": "w" * (flat <= 0.05)}
    )
    if len(hull) > 1:
        told = "within the margin" * (plateau <= 0.05)
        rows.append({"test": "plateau", "site": hull[0], "other": hull[-1], "p_value": plateau, "verdict": told})
    for site in sites:
        if site != "lm.08":
            gap = CURVE[8] - CURVE[SITES.index(site)]
            low, high = {"lm.03": (-0.15, -0.033)}.get(site, (gap - 0.025, gap + 0.025))
            told = "above" if low > 0 else "below" if high < 0 else ""
            more = {"low": low, "high": high, "p_adjusted": 0.01 if told else 0.5, "detectable": 0.03}
            rows.append({"test": "difference", "site": "lm.08", "other": site, "value": gap, "verdict": told, **more})
    found = pd.DataFrame([COMMON | row for row in rows])
    end = {"test": "shape", "site": hull[0], "other": "", "verdict": word(found)}
    end |= {"other": hull[-1]} if len(hull) > 1 else {}
    return pd.concat([found, pd.DataFrame([COMMON | end])], ignore_index=True)


def summary(value: float, site: str = "lm.08") -> dict[str, Any]:
    chosen = {"site": site, "value": value, "low": value - 0.02, "high": value + 0.02, "validation": 0.9}
    return {"chosen": {"last": chosen}, "verdicts": {"last": {"margin": 0.01}}, "metric": "accuracy"}


@pytest.fixture
def scores(tmp_path: Path) -> pd.DataFrame:
    return load_scores(write(tmp_path / "run", "entailment", CURVE))


def reading(scores: pd.DataFrame, tests: pd.DataFrame, value: float = 0.85, site: str = "lm.08") -> Reading:
    return Reading(scores, summary(value, site), tests, "last")


def said(one: Reading) -> str:
    cards = [f"{a.question} {a.answer}. {'. '.join(a.detail)}" for a in one.answers()]
    return "\n".join([one.sentence, *cards]).replace("\xa0", " ")


def check_words(folder: Path) -> None:
    """The words of a finished run told again from its rows."""
    tests = load_tests(folder / "tests.csv")
    shapes = tests[tests.test == "shape"]
    assert len(shapes)
    for row in shapes.itertuples():
        here = tests[tests.position == row.position]
        here = here[(here.family == row.family) | (here.test == "above_chance")]
        assert word(here) == row.verdict
        may = here[(here.test == "contender") & (here.verdict != "")].site
        assert (may.iloc[0], may.iloc[-1]) == (row.site, row.other or row.site)
    assert not (tests.site == tests.other).any(), "no layer is tested against itself"
