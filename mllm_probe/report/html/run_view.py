"""What report.html shows of one run: the rows of its tables picked, ordered and named. Computes no score.

Knows the files of a run and no markup.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from rich.text import Text

from mllm_probe.config.report import SCREEN, ReportSettings
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.readback import read_config
from mllm_probe.records import units
from mllm_probe.report.figures.layers import layers_figure
from mllm_probe.report.figures.saving import svg_uri
from mllm_probe.report.html.charts import Chart, class_chart, geometry_charts, layer_charts
from mllm_probe.report.html.confusion import Confusion, OptionalFiles
from mllm_probe.report.html.inspect_page import Framed, framed
from mllm_probe.report.tables.controls import Beside, beside, beyond_covariates
from mllm_probe.report.tables.findings import Reading
from mllm_probe.results.examples import KINDS, Example, Examples, load_examples
from mllm_probe.results.predictions import load_logits
from mllm_probe.results.score_file import load_scores, load_summary, load_tests, no_tests
from mllm_probe.results.selection import (
    by_site,
    headline,
    headline_metric,
    leading,
    many_of,
    one_of,
    positions,
    real,
    selected,
    with_words,
)
from mllm_probe.scoring.alarms import few_groups

if TYPE_CHECKING:
    import pandas as pd

TOLD = ("above_chance", "floor", "contender", "difference")  # tests that each block has a row of


@dataclass(frozen=True)
class Result(OptionalFiles):
    """One run as its page shows it; `name` tells the two of a study apart, and is empty for a run of its own."""

    settings: ReportSettings
    name: str = ""

    @cached_property
    def scores(self) -> "pd.DataFrame":
        return with_words(load_scores(self.paths.scores), self.paths.config)

    @cached_property
    def summary(self) -> dict[str, Any]:
        return load_summary(self.paths.summary)

    @cached_property
    def tests(self) -> "pd.DataFrame":
        return self.spared(self.paths.tests, load_tests, no_tests(), "the tests")

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
        n, groups = int(sites.n.iloc[0]), int(sites.n_groups.iloc[0])
        told, level = many_of(sites), f"{100 * float(sites.ci_level.iloc[0]):.0f} %"
        bounds = f"; {level} intervals over {told}" if sites.low.notna().any() else ""
        return f"{n} held-out decisions on {groups} {told}{bounds}"

    @property
    def few(self) -> str | None:
        """What intervals of so few groups are worth."""
        return few_groups(int((sites := real(self.rows)).n_groups.iloc[0]), many_of(sites))

    @property
    def group_word(self) -> str:
        """What one group of decisions is called."""
        return one_of(self.scores)

    @cached_property
    def readings(self) -> list[Reading]:
        """A reading of each position, the best one on validation first."""
        lead = leading(self.summary)
        chosen = [position for position in self.summary.get("chosen") or {} if position in self.positions]
        ordered = sorted(chosen, key=lambda position: position != lead)
        return [Reading(self.scores, self.summary, self.tests, position) for position in ordered]

    @property
    def charts(self) -> list[Chart]:
        return layer_charts(self.selected)

    @cached_property
    def drawn(self) -> Any:
        """layers_figure, once for its files and the page."""
        return layers_figure(self.selected, self.settings)

    @property
    def figure(self) -> str:
        """layers.svg as an address."""
        on_screen = replace(self.settings, style=SCREEN)
        same = on_screen == self.settings
        return svg_uri(self.drawn if same else layers_figure(self.selected, on_screen), on_screen)

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
        """Each baseline and control at the leading position, at its best layer on validation."""
        where = next(((first.position, first.site) for first in self.readings), ("", ""))
        return beside(self.scores, self.tests, *where)

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
        if not self.readings or (scored := self.scored) is None:
            return None
        key = f"{self.readings[0].site}@{self.readings[0].position}"
        probe = str(real(self.rows).probe.iloc[0])
        logits = self.spared(self.paths.predictions, partial(load_logits, key=key, probe=probe), None, "confusions")
        return None if logits is None else Confusion.of(key, scored, logits, self.metric)

    @property
    def class_charts(self) -> list[Chart]:
        """The recall of the classes shown, layer by layer."""
        found = self.confusion
        names = [one.name for one in found.labels()] if found else []
        return class_chart(self.scores, self.readings[0].position, names) if names else []

    @cached_property
    def examples(self) -> Examples | None:
        return self.spared(self.paths.examples, load_examples, None, "the examples")

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

    def checks(self) -> Iterator[tuple[str, str]]:
        """What may have leaked or gone wrong, each with what was found."""
        yield from self.leakage(many_of(self.scores))
        for row in self.rows[self.rows.control == "question_only"].itertuples():
            yield "question text alone", units.value(row.value, row.low, row.high, self.metric)
        said = self.summary.get("guards")
        passed = "no guard was raised" if said == [] else "; ".join(said) if said else "no guard stopped the run"
        yield "guards", passed
        for row in self.summary.get("intervals") or []:
            yield "intervals", row
        yield "fits that did not converge", str(self.summary.get("unconverged", "not known"))
        for remark, named in (self.summary.get("remarks") or {}).items():
            more = f" and {len(named) - 4} more" * (len(named) > 4)
            yield remark.removeprefix("have "), ", ".join(named[:4]) + more
        yield from (("skipped", row) for row in self.summary.get("skipped") or [])
        yield from (("damaged", row) for row in self.left_out)

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

    @cached_property
    def config(self) -> str:
        path = self.paths.config
        whole = path.is_file() and self.spared(path, read_config, None, "the configuration")
        return path.read_text(encoding="utf-8") if whole else ""

    @property
    def integrations(self) -> tuple[list[str], str]:
        """What several layers as one feature gained, and its figure; nothing where none was asked for."""
        if not self.summary.get("integrations"):
            return [], ""
        from mllm_probe.report.tables.integrations import gains

        drawn = self if self.settings.style == SCREEN else replace(self)  # on paper the files' has lost its title
        return [Text.from_markup(line).plain for line in gains(self.summary)], svg_uri(drawn.gains, self.settings)

    @cached_property
    def gains(self) -> Any:
        """features_figure, once for its files and the page."""
        from mllm_probe.report.figures.integrations import features_figure

        return features_figure(self.selected, self.summary)

    @cached_property
    def lost(self) -> list[str]:
        """What quantisation changes, where `fidelity` was run in this folder or in `fidelity` below it."""
        found = [one.fidelity for one in self._places("fidelity") if one.fidelity.is_file()]
        if not found:
            return []
        from mllm_probe.report.terminal.layers.fidelity import lost
        from mllm_probe.results.fidelity import load_agreements

        table = self.spared(found[0], load_agreements, None, "what quantisation changes")
        return [] if table is None else list(lost(with_words(table, self.paths.config)))

    @cached_property
    def geometry(self) -> list[Chart]:
        """How alike layers are, where `geometry` was run in this folder or in `geometry` below it."""
        found = [one.geometry for one in self._places("geometry") if one.geometry.is_file()]
        if not found:
            return []
        from mllm_probe.results.geometry import load_relations

        table = self.spared(found[0], load_relations, None, "the similarity of layers")
        return [] if table is None else list(geometry_charts(table))

    def _places(self, name: str) -> tuple[RunPaths, RunPaths]:
        return self.paths, RunPaths(self.paths.root / name)

    @property
    def left_out(self) -> list[str]:
        """A line on each damaged file that the page goes without."""
        _ = self.tests, self.examples, self.splits, self.scored, self.confusion, self.config, self.lost, self.geometry
        return self.damaged


def _cell(row: Any, low: float, high: float, chosen: bool) -> dict[str, Any] | None:
    return None if row is None else {"row": row, "heat": (row.value - low) / ((high - low) or 1), "chosen": chosen}
