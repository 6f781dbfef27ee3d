"""What a run says in words: which layer wins, by how much, whether that is significant, what the controls say.

Every number is one of scores.csv, tests.csv or summary.json; nothing is tested again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_probe.report.figures import controls, floors, headline, headline_metric, words
from mllm_probe.settings import CONTROL_TASK, PERMUTED
from mllm_probe.stats.measures import HIGHER_IS_BETTER
from mllm_probe.stats.peak import preferred

if TYPE_CHECKING:
    import pandas as pd

ALPHA = 0.05
TEXTS = ("run", "test", "family", "probe", "position", "site", "other", "verdict")
MEANING = {
    "majority": "always the commonest label: chance",
    "question_only": "a bag of words of the question, no picture",
    "zero_shot": "the model's own answer, no probe",
    "text_only": "the prompt without its picture",
    "blank_picture": "a grey picture instead",
    "shuffled_picture": "another sample's picture instead",
    "random_weights": "the same architecture, weights drawn",
    "vision_only": "the vision tower alone",
    "connector_only": "the connector alone",
    "copy_ceiling": "the label stands in the prompt",
    CONTROL_TASK: "labels drawn by type (Hewitt and Liang), same layer",
    PERMUTED: "labels shuffled in training, same layer",
}
VERDICTS = {
    "peak": "Yes, a peak",
    "flat within margin": "No: flat within {margin}",
    "undecided": "Undecided: neither a peak nor flatness was shown",
}


@dataclass(frozen=True)
class Answer:
    """A question about the run, its answer in a few words, and the numbers behind it."""

    question: str
    answer: str
    detail: tuple[str, ...]


def load_tests(path: Path) -> "pd.DataFrame":
    """tests.csv; empty where a folder holds none."""
    import pandas as pd

    if not path.is_file():
        return pd.DataFrame(columns=[*TEXTS, "value", "low", "high", "p_value", "p_adjusted", "detectable"])
    texts = dict.fromkeys(TEXTS, str)
    return pd.read_csv(path, dtype=texts).fillna(dict.fromkeys(texts, ""))


def leading(summary: Mapping[str, Any]) -> str | None:
    """The position whose best block validation likes best, the first of the run where that is not known."""
    best = summary.get("chosen") or {}
    return max(best, key=lambda position: best[position].get("validation", 0.0), default=None)


def sentence(task: str, summary: Mapping[str, Any], tests: "pd.DataFrame", position: str) -> str:
    """The run at one position in a line: the block that wins, or that none can be named."""
    best, verdict = summary["chosen"][position], summary.get("verdicts", {}).get(position)
    if not _above_chance(tests[tests.position == position], best["site"]):
        return f"At {position}, no block was shown to read {task} above chance"
    if verdict is None:
        return f"{best['site']} at {position} reads {task}: {bounded(best)}"
    first, last = verdict["best_between"]
    said = f"{best['site']} at {position} reads {task} best: {bounded(best)}"
    return said if first == last else f"{said}; any block from {first} to {last} may be as good"


def answers(scores: "pd.DataFrame", summary: Mapping[str, Any], tests: "pd.DataFrame", position: str) -> list[Answer]:
    """The four questions at one position. Where its layers were not compared, the first and the last."""
    best, verdict = summary["chosen"][position], summary.get("verdicts", {}).get(position)
    here = tests[tests.position == position]
    found = [_which(best, verdict, here, position)]
    if verdict is not None and len(here):
        found += [_how_much(here), _significant(here, verdict)]
    return [*found, _controlled(scores, summary, here, position)]


def _above_chance(here: "pd.DataFrame", site: str) -> bool:
    """Unless the test says otherwise."""
    rows = here[(here.test == "above_chance") & (here.site == site)]
    return rows.empty or bool(_significant_rows(rows).all())


def _which(best: Mapping[str, Any], verdict: Mapping[str, Any] | None, here: "pd.DataFrame", position: str) -> Answer:
    detail = [f"chosen on validation among the language model's blocks at {position}, scored once on test"]
    if verdict is not None:
        first, last = verdict["best_between"]
        among = f"it is {first}" if first == last else f"one from {first} to {last}"
        detail.append(f"the truly best block: {among}, as far as these test pictures tell")
    none = "" if _above_chance(here, best["site"]) else "None is shown to: "
    return Answer("Which layer wins?", f"{none}{best['site']} has {bounded(best)}", tuple(detail))


def _how_much(here: "pd.DataFrame") -> Answer:
    """Against the best other block; those that the chosen one is better than, and those it is not told apart from."""
    rivals = here[here.test == "difference"].sort_values("value")
    better, worse = rivals[_significant_rows(rivals) & (rivals.value > 0)], rivals[rivals.value < 0]
    tied = rivals[~_significant_rows(rivals)]
    nearest = rivals.iloc[0]
    detail = [f"better than {_named(better.other)} of {len(rivals)} other blocks (p < {ALPHA}, Holm)"]
    if len(tied):
        detail.append(f"not told apart from {_named(tied.other)}")
    if (beaten := len(worse[_significant_rows(worse)])) > 0:
        detail.append(f"{beaten} score higher on test than the block that validation chose")
    for row in here[here.test == "rise"].itertuples():
        detail.append(f"over the bottom block {row.other}: {points(row)}, {p_said(row.p_adjusted)}")
    return Answer(
        "By how much?", f"{points(nearest)} against {nearest.other}, the highest of the others", tuple(detail)
    )


def _significant_rows(rows: "pd.DataFrame") -> Any:
    return rows.p_adjusted <= ALPHA


def _significant(here: "pd.DataFrame", verdict: Mapping[str, Any]) -> Answer:
    margin = f"{100 * verdict['margin']:g} point{'' if verdict['margin'] == 0.01 else 's'}"
    chance = here[here.test == "above_chance"]
    above, own = int(_significant_rows(chance).sum()), chance[chance.site == verdict["chosen"]]
    detail = []
    if verdict["chosen"] == verdict["top"]:
        detail.append(f"{verdict['top']} is the highest block read, so nothing falls behind it")
    for row in here[here.test == "drop"].itertuples():
        if verdict["chosen"] != verdict["top"]:
            found = f"drop to the top block {row.other}: {points(row)}, {p_said(row.p_adjusted)}"
            least = f"; {100 * row.detectable:.1f} would be found in 80 % of such samples"
            detail.append(found + least * bool(row.detectable))
    for row in own.itertuples():
        family = f"max-T over {row.family}"
        detail.append(
            f"{above} of {len(chance)} layers here are above chance; {row.site}: {p_said(row.p_adjusted)}, {family}"
        )
    said = VERDICTS.get(verdict["verdict"], verdict["verdict"]).format(margin=margin)
    return Answer("Is one layer significantly best?", said, tuple(detail))


def _controlled(scores: "pd.DataFrame", summary: Mapping[str, Any], here: "pd.DataFrame", position: str) -> Answer:
    """The highest of what sees no picture or no training beside the layer, then what is known beyond each."""
    site, rows = summary["chosen"][position]["site"], headline(scores)
    base = {words(row): row for row in floors(rows).itertuples()}
    blind = list(preferred_controls(scores, rows, position))
    blind += [base[name] for name in ("question only", "majority") if name in base]
    top = max(blind, key=lambda row: row.value)
    detail = [f"{words(row)}: {bounded(row)}" for row in blind if row is not top]
    own = scores[
        (scores.site == site) & (scores.position == position) & (scores.seed == "all") & (scores.split == "test")
    ]
    for row in own[(own.metric == "selectivity") & (own.subset == "") & (own.features == "single")].itertuples():
        detail.append(f"selectivity, above the control task: {points(row)}")
    for row in here[(here.test == "gap")].itertuples():
        detail.append(f"above the model's own answer: {points(row)}, {p_said(row.p_value)}")
    name = "chance" if words(top) == "majority" else words(top)
    return Answer("What do the controls say?", f"at most {bounded(top)}: {name}", tuple(detail))


def preferred_controls(scores: "pd.DataFrame", rows: "pd.DataFrame", position: str) -> Iterator[Any]:
    """Each control of other inputs or weights at the layer validation prefers of it, as the real layers are chosen."""
    val = scores[(scores.split == "val") & scores.headline & (scores.subset == "")]
    for control, found in controls(rows, position).groupby("control", sort=False):
        liked = val[(val.control == control) & (val.position == position)].groupby("site").value.mean()
        yield next(
            found.iloc[
                [preferred(liked.reindex(found.site).to_numpy(), headline_metric(scores) in HIGHER_IS_BETTER)]
            ].itertuples()
        )


def bounded(row: Any) -> str:
    """`98.1 % [96.9, 99.2]`, of a row or a mapping; no interval where there is none."""
    value, low, high = (row[n] if isinstance(row, Mapping) else getattr(row, n) for n in ("value", "low", "high"))
    bounds = "" if low is None or low != low else f" [{100 * low:.1f},\u00a0{100 * high:.1f}]"
    return f"{100 * value:.1f}\u00a0%{bounds}"


def points(row: Any) -> str:
    """A difference with its sign and interval, in points."""
    return f"{100 * row.value:+z.1f} points [{100 * row.low:z.1f},\u00a0{100 * row.high:z.1f}]"


def p_said(p: float) -> str:
    return f"p\u00a0=\u00a0{p:.2g}"


def _named(sites: Sequence[str]) -> str:
    """`3 (lm.00, lm.01, lm.02)`; of many the ends of the list."""
    names = sorted(sites)
    if not names:
        return "none"
    shown = ", ".join(names) if len(names) < 5 else f"{names[0]}, {names[1]} ... {names[-1]}"
    return f"{len(names)} ({shown})"
