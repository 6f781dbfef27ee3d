"""Controls and baselines next to the layer that validation chose: meaning, score, and difference to the layer.

Reads scores.csv and tests.csv; tests nothing again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mllm_probe.config.sweep import CONTROL_TASK, PERMUTED, drawn_from
from mllm_probe.records import units
from mllm_probe.records.score import BY_DESIGN, COPY_CEILING
from mllm_probe.report.figures.style import DASHES
from mllm_probe.report.tables.curve_shapes import beyond, p_said
from mllm_probe.results.selection import floors, headline, headline_metric, words
from mllm_probe.stats.measures import HIGHER_IS_BETTER
from mllm_probe.stats.peak import preferred

if TYPE_CHECKING:
    import pandas as pd

MEANING = {
    "majority": "the same answer for every row: the most frequent training label with its share (numbers: the mean)",
    "constant": "the best constant answer: the most frequent test label with its share (numbers: the mean)",
    "question_only": "a bag of words of the question, no picture",
    "zero_shot": "the model's own answer (zero-shot), no probe",
    "text_only": "the prompt without its picture",
    "blank_picture": "a grey picture instead of the real one",
    "shuffled_picture": "another sample's picture instead of the real one",
    "random_weights": "the same architecture with random weights",
    "vision_only": "the vision tower alone",
    "connector_only": "the connector alone",
    COPY_CEILING: "the prompt contains the label",
    CONTROL_TASK: "random labels by type (Hewitt and Liang), same layer",
    PERMUTED: "labels shuffled in training, same layer",
}
COVARIATE = "covariate:"
NO_CONTROLS = ("zero_shot", COPY_CEILING)  # the model's own answer, and a ceiling
SCEPTICAL = ("below", "", "by design", "above")  # the verdict that says least for the layer comes first


@dataclass(frozen=True)
class Beside:
    """One control or floor; `designed`: it could not have another score, at any of its layers there."""

    name: str
    row: Any
    meaning: str
    said: str
    designed: bool

    @property
    def counts(self) -> bool:
        """Its score may speak against the layer; what is so by design, the model's own answer and a ceiling do not."""
        return not self.designed and str(self.row.control or self.row.probe) not in NO_CONTROLS


def beside(scores: "pd.DataFrame", tests: "pd.DataFrame", position: str, site: str) -> list[Beside]:
    """All at a position, the best score first; `site` is the block that validation chose there."""
    rows, metric = headline(scores), headline_metric(scores)
    found = [*preferred_controls(scores, rows, position), *floors(rows).itertuples(), *_labels(rows, position, site)]
    held = tests[(tests.site == site) & (tests.position == position)]
    told = [_told(row, metric, held) for row in found]
    return sorted(told, key=lambda one: one.row.value, reverse=metric in HIGHER_IS_BETTER)


def _told(row: Any, metric: str, held: "pd.DataFrame") -> Beside:
    name = str(row.control or row.probe)
    said = f"{words(row)}: {units.tied(units.value(row.value, row.low, row.high, metric))}"
    designed = row.family == BY_DESIGN
    for pair in held[(held.other == name) & (held.verdict != BY_DESIGN)].itertuples():
        said += f"; {_over(pair, metric)}"
    said += f", {BY_DESIGN}" if designed else ""
    return Beside(words(row), row, _meaning(name), said, designed)


def _meaning(name: str) -> str:
    if name.startswith(COVARIATE):
        return f"the strata of {name.removeprefix(COVARIATE)} alone, no activations"
    return MEANING.get(drawn_from(name), "")


def _over(row: Any, metric: str) -> str:
    """`above it by +43.1 points [40.2, 46.0], p = 0.0005`, or what could have been found; a control is held against the
    layer at the same layer."""
    gap, p = units.tied(units.gap(row.value, row.low, row.high, metric)), p_said(row.p_adjusted)
    where = f"{row.site} compared with the control's {row.site}" if row.test == "control" else row.site
    if row.verdict:
        return f"{where}: {'below' if row.verdict == 'below' else 'above'} by {gap}, {p}"
    if row.p_adjusted != row.p_adjusted:
        return f"{where}: not tested, {gap}"
    least = units.amount(row.detectable, metric)
    return f"{where}: no significant difference, {gap}, {p}" + f" (minimum detectable difference: {least})" * bool(
        least
    )


def beyond_covariates(tests: "pd.DataFrame") -> Iterator[str]:
    """One line a covariate: how many layers read the label beyond it at each position."""
    for name, found in tests[tests.test == "beyond"].groupby("other", sort=False):
        each = found.groupby("position", sort=False)
        places = ", ".join(f"{int(beyond(here).sum())} of {len(here)} at {position}" for position, here in each)
        families = "; ".join(dict.fromkeys(found.family))
        least = p_said(found.p_adjusted.min())
        yield f"layers that predict beyond {name}: {places} (smallest {least}, max-T over {families})"


def _labels(rows: "pd.DataFrame", position: str, site: str) -> Iterator[Any]:
    """Other labels at the chosen layer."""
    here = rows[(rows.position == position) & (rows.site == site) & (rows.features == "single")]
    yield from here[here.control.isin([CONTROL_TASK, PERMUTED])].itertuples()


def preferred_controls(scores: "pd.DataFrame", rows: "pd.DataFrame", position: str) -> Iterator[Any]:
    """Each control of other inputs or weights at its best layer on validation, as the real layers are chosen;
    one that is so by design stands for a control only where all its layers are."""
    metric = headline_metric(scores)
    val = scores[(scores.split == "val") & (scores.headline) & (scores.subset == "")]
    here = rows[(rows.features == "single") & (rows.position == position)]
    here = here[here.control.map(drawn_from).isin(list(DASHES))]
    for control, found in here.groupby("control", sort=False):
        free = found[found.family != BY_DESIGN]
        found = found if free.empty else free
        liked = val[(val.control == control) & (val.position == position)].groupby("site").value.mean()
        best = preferred(liked.reindex(found.site).to_numpy(), metric in HIGHER_IS_BETTER)
        yield next(found.iloc[[best]].itertuples())


def against(tests: "pd.DataFrame", control: str, site: str, position: str) -> Any | None:
    """The row of a layer minus a control (`test` = control); of several draws the worst for the layer, None where the
    control was not read there.

    Worst is a draw that the layer lies below, then one it is not told apart from; of several the one with the least
    difference. So "above" means above every draw.
    """
    rows = tests[(tests.test == "control") & (tests.site == site) & (tests.position == position)]
    found = [row for row in rows.itertuples() if drawn_from(row.other) == control]
    return min(found, key=lambda row: (SCEPTICAL.index(row.verdict), row.value), default=None)
