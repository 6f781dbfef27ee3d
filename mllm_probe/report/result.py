"""What report.html shows of one run: the rows of its tables picked, ordered and named. Computes no score.

Knows the files of a run and no markup.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rich.text import Text

from mllm_probe import units
from mllm_probe.errors import DataError
from mllm_probe.paths import RunPaths
from mllm_probe.report.answers import Reading, leading, load_tests
from mllm_probe.report.beside import Beside, beside, beyond_covariates
from mllm_probe.report.charts import Chart, class_chart, geometry_charts, layer_charts
from mllm_probe.report.classes import Confusion
from mllm_probe.report.examples import KINDS, Example, Examples, load_examples
from mllm_probe.report.features import features_figure, gains
from mllm_probe.report.fidelity import load_agreements, lost
from mllm_probe.report.figures import (
    by_site,
    headline,
    headline_metric,
    layers_figure,
    positions,
    real,
    svg_uri,
)
from mllm_probe.report.geometry import load_relations
from mllm_probe.report.predictions import load_logits, load_scored
from mllm_probe.report.scores import load_scores, load_summary
from mllm_probe.report.selection import selected
from mllm_probe.report.thumbs import Framed, framed
from mllm_probe.report_settings import NONE, ReportSettings
from mllm_probe.stats.guards import few_pictures

if TYPE_CHECKING:
    import pandas as pd


TOLD = ("above_chance", "floor", "contender", "difference")  # tests that each block has a row of


@dataclass(frozen=True)
class Result:
    """One run as its page shows it; `name` tells the two of a study apart, and is empty for a run of its own."""

    paths: RunPaths
    settings: ReportSettings
    name: str = ""

    @cached_property
    def scores(self) -> "pd.DataFrame":
        return load_scores(self.paths.scores)

    @cached_property
    def summary(self) -> dict[str, Any]:
        return load_summary(self.paths.summary)

    @cached_property
    def tests(self) -> "pd.DataFrame":
        return load_tests(self.paths.tests)

    @cached_property
    def rows(self) -> "pd.DataFrame":
        return headline(self.scores)

    @property
    def first(self) -> Any:
        return self.scores.iloc[0]

    @cached_property
    def selected(self) -> "pd.DataFrame":
        """The scores that layers are shown by, see report.metric, report.positions and report.towers."""
        return selected(self.scores, self.settings)

    @cached_property
    def metric(self) -> str:
        """That layers were chosen and tested by."""
        return headline_metric(self.scores)

    @cached_property
    def shown_metric(self) -> str:
        """That layers are shown by."""
        return headline_metric(self.selected)

    @property
    def title(self) -> str:
        return f"{self.first.model} ({self.first.quantization}), {self.first.task} on {self.first.dataset}"

    @property
    def scored_on(self) -> str:
        sites = real(self.rows)
        level = f"{100 * float(sites.ci_level.iloc[0]):.0f} %"
        n, groups = int(sites.n.iloc[0]), int(sites.n_groups.iloc[0])
        bounds = f"; {level} intervals over pictures" if sites.low.notna().any() else ""
        return f"{n} held-out decisions on {groups} pictures{bounds}"

    @property
    def few(self) -> str | None:
        """What intervals of so few pictures are worth."""
        return few_pictures(int(real(self.rows).n_groups.iloc[0]))

    @cached_property
    def readings(self) -> list[Reading]:
        """A reading of each position, the one that validation prefers first."""
        lead = leading(self.summary)
        chosen = [position for position in self.summary.get("chosen") or {} if position in self.positions]
        ordered = sorted(chosen, key=lambda position: position != lead)
        return [Reading(self.scores, self.summary, self.tests, position) for position in ordered]

    @property
    def charts(self) -> list[Chart]:
        return layer_charts(self.selected)

    @property
    def figure(self) -> str:
        """layers.svg as an address."""
        return svg_uri(layers_figure(self.selected, given=self.settings.size))

    def grid(self) -> Iterator[tuple[str, list[Mapping[str, Any] | None]]]:
        """(site, a cell for each position): the row of scores.csv, `heat` from 0 to 1, and whether validation chose
        it."""
        sites = real(headline(self.selected))
        low, high = float(sites.value.min()), float(sites.value.max())
        chosen = {position: entry["site"] for position, entry in (self.summary.get("chosen") or {}).items()}
        for site, cells in by_site(sites, self.positions):
            marked = zip(cells, self.positions, strict=True)
            yield site, [_cell(row, low, high, chosen.get(p) == site) for row, p in marked]

    @cached_property
    def positions(self) -> list[str]:
        return positions(real(headline(self.selected)))

    def controls(self) -> list[Beside]:
        """Each floor and control at the leading position, where validation prefers it."""
        if not self.readings:
            return beside(self.scores, self.tests, "", "")
        first = self.readings[0]
        return beside(self.scores, self.tests, first.position, first.site)

    @property
    def covariates(self) -> list[str]:
        """How many layers read the label beyond each covariate."""
        return list(beyond_covariates(self.tests))

    def blocks(self) -> Iterator[tuple[Reading, list[dict[str, Any]]]]:
        """Each reading with the rows of tests.csv on each of its blocks, by the test they are of."""
        for reading in self.readings:
            rows = reading.here.itertuples()
            held = {(row.test, row.other if row.test == "difference" else row.site): row for row in rows}
            told = [{"site": site} | {test: held.get((test, site)) for test in TOLD} for site in reading.blocks]
            if told:
                yield reading, told

    @cached_property
    def measures(self) -> list[Any]:
        """All measures of the layer that validation chose."""
        position = leading(self.summary)
        if position is None:
            return []
        rows = self.scores
        rows = rows[(rows.site == self.summary["chosen"][position]["site"]) & (rows.position == position)]
        rows = rows[(rows.seed == "all") & (rows.split == "test") & (rows.control == "") & (rows.subset == "")]
        rows = rows[(rows.features == "single") & (rows.train_template == rows.test_template) & rows.value.notna()]
        return list(rows.itertuples())

    @cached_property
    def confusion(self) -> Confusion | None:
        """At the layer that validation chose; None where labels have no names or predictions were not kept."""
        if not self.readings or not self.paths.predictions.is_file():
            return None
        key = f"{self.readings[0].site}@{self.readings[0].position}"
        probe = str(real(self.rows).probe.iloc[0])
        scored = load_scored(self.paths.predictions)
        return Confusion.of(key, scored, load_logits(self.paths.predictions, key, probe), self.metric)

    @property
    def class_charts(self) -> list[Chart]:
        """The recall of the classes shown, layer by layer."""
        found = self.confusion
        names = [one.name for one in found.labels()] if found else []
        return class_chart(self.scores, self.readings[0].position, names) if names else []

    @cached_property
    def examples(self) -> Examples | None:
        return load_examples(self.paths.examples)

    def shown(self) -> Iterator[tuple[str, list[tuple[Example, list[Framed]]]]]:
        """(heading, examples with their pictures) of each kind that there is."""
        if self.examples is None:
            return
        folders = [self.paths.root / place for place in self.summary.get("pictures_in", ())]
        for kind, (label, number) in KINDS.items():
            shown = self.examples.of(kind)
            found = [(one, [framed(s, folders, self.settings.pictures) for s in one.pictures]) for one in shown]
            if found:
                yield (number if self.examples.wrong is None else label), found

    def licences(self) -> list[str]:
        """Of the pictures that are shown."""
        if self.examples is None or self.settings.pictures == NONE:
            return []
        return list(dict.fromkeys(s.licence for one in self.examples.shown for s in one.pictures if s.licence))

    def checks(self) -> Iterator[tuple[str, str]]:
        """What may have leaked or gone wrong, each with what was found."""
        yield from leakage(self.paths)
        for row in self.rows[self.rows.control == "question_only"].itertuples():
            yield "the words alone", units.value(row.value, row.low, row.high, self.metric)
        said = self.summary.get("guards")
        passed = "none tripped" if said == [] else "; ".join(said) if said else "none stopped the run"
        yield "guards", passed
        for row in self.summary.get("intervals") or []:
            yield "intervals", row
        yield "fits that did not converge", str(self.summary.get("unconverged", "not known"))
        for remark, named in (self.summary.get("remarks") or {}).items():
            yield (
                remark.replace("have ", "", 1),
                ", ".join(named[:4]) + f" and {len(named) - 4} more" * (len(named) > 4),
            )
        for row in self.summary.get("skipped") or []:
            yield "skipped", row

    @property
    def quantized(self) -> list[str]:
        return list(self.summary.get("provenance", {}).get("quantized_modules") or [])

    @property
    def facts(self) -> dict[str, Any]:
        """Versions and what the model was loaded as."""
        shown = {"class", "device", "dtype", "attn", "padding_side", "revision"}
        loaded = {n: v for n, v in self.summary.get("provenance", {}).items() if n in shown and v is not None}
        named = {name: self.summary.get(name) for name in ("run", "cache", "fingerprint")}
        if wrapped := self.summary.get("template"):
            named["template"] = wrapped
        return {**named, **loaded, **self.summary.get("versions", {})}

    @property
    def config(self) -> str:
        return self.paths.config.read_text(encoding="utf-8") if self.paths.config.is_file() else ""

    @property
    def integrations(self) -> tuple[list[str], str]:
        """What several layers as one feature gained, and its figure; nothing where none was asked for."""
        if not self.summary.get("integrations"):
            return [], ""
        said = [Text.from_markup(line).plain for line in gains(self.summary)]
        return said, svg_uri(features_figure(self.selected, self.summary))

    @cached_property
    def lost(self) -> list[str]:
        """What quantisation changes, where `fidelity` was run in this folder or in `fidelity` below it."""
        found = [one.fidelity for one in self._places("fidelity") if one.fidelity.is_file()]
        return list(lost(load_agreements(found[0]))) if found else []

    @cached_property
    def geometry(self) -> list[Chart]:
        """How alike layers are, where `geometry` was run in this folder or in `geometry` below it."""
        found = [one.geometry for one in self._places("geometry") if one.geometry.is_file()]
        return list(geometry_charts(load_relations(found[0]))) if found else []

    def _places(self, name: str) -> tuple[RunPaths, RunPaths]:
        return self.paths, RunPaths(self.paths.root / name)


def _cell(row: Any, low: float, high: float, chosen: bool) -> dict[str, Any] | None:
    return None if row is None else {"row": row, "heat": (row.value - low) / ((high - low) or 1), "chosen": chosen}


def leakage(paths: RunPaths) -> Iterator[tuple[str, str]]:
    """What splits.csv and predictions.safetensors say of pictures on two sides, and of the balance of labels."""
    import pandas as pd

    if paths.splits.is_file():
        table = pd.read_csv(paths.splits, dtype=str)
        several = int((table.groupby(["seed", "group"]).split.nunique() > 1).sum())
        moved = table.assign(test=table.split == "test").groupby("group").test.nunique()
        yield "pictures in two splits of a seed", f"{several} of {table.group.nunique()}"
        yield "pictures tested with some seeds only", f"{int((moved > 1).sum())}"
    if paths.predictions.is_file():
        yield "label 1 among what is tested", _balance(paths)


def _balance(paths: RunPaths) -> str:
    """Of a run that kept no labels, why it is not known."""
    try:
        scored = load_scored(paths.predictions)
    except DataError as error:
        return f"not known: {error}"
    tested = [label for label, test in zip(scored.labels, scored.test, strict=True) if test]
    if scored.kind != "binary":
        return "not told: labels are no yes or no"
    return f"{100 * sum(tested) / len(tested):.1f} % of {len(tested)}"
