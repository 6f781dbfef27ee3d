"""From the states of every layer to the rows of alignment.csv. Joins the cache and the measures of `sugar`.

Validation only tells which layer is best; intervals, nulls and p are those of the test pictures.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from mllm_probe.cache.coverage import Coverage
from mllm_probe.config.geometry import AlignConfig
from mllm_probe.config.run import run_digest
from mllm_probe.config.sweep import PERMUTED, RANDOM, chosen_controls
from mllm_probe.errors import ProbeError
from mllm_probe.experiment.controls import loaded_otherwise
from mllm_probe.experiment.experiment import Attempts, Experiment
from mllm_probe.files.digests import open_digests
from mllm_probe.geometry.row_checks import check_finite
from mllm_probe.records.protocols import Reporter
from mllm_probe.records.samples import Examples, Picture, Sample
from mllm_probe.records.score import NOT_APPLICABLE, Score
from mllm_probe.records.sites import Key, Site
from mllm_probe.stats.bootstrap import Redraws
from mllm_probe.stats.permutation import holm_within, two_sided
from mllm_probe.sugar.centring import Cosines, States, centred, mapped
from mllm_probe.sugar.gallery import Documents, Gallery
from mllm_probe.sugar.retrieval import FALSE, Measure, exchanges, permuted
from mllm_probe.sugar.sequences import ALIGNED, BAG, GAK, aligned_mean, bag_mean, gak, median_distance

COSINE, CHANCE, LENGTH = "cosine", "chance", "caption_length"
RANDOM_COSINE = "random_cosine"
RAW, CENTRED, MAPPED = "raw", "centred", "mapped"
HELD_OUT = ("val", "test")


def shown_alone(picture: Picture) -> Sample:
    return Sample.of([picture], "", {})


def said_alone(text: str) -> Sample:
    return Sample.of([], text, {"caption": (0, len(text))})


def sides_of(
    experiment: Experiment, config: AlignConfig, galleries: Mapping[str, Gallery]
) -> tuple[Experiment, Experiment]:
    """Two experiments: one reads the pictures of all splits alone, the other their texts."""
    shown = [shown_alone(picture) for gallery in galleries.values() for picture in gallery.pictures]
    said = [said_alone(text) for gallery in galleries.values() for text in gallery.texts]
    pictures = _side(experiment, config, shown, config.align.images_at)
    return pictures, _side(experiment, config, said, config.align.texts_at)


def _side(
    experiment: Experiment, config: AlignConfig, samples: Sequence[Sample], positions: Sequence[str]
) -> Experiment:
    """An experiment of its own that reads the samples in the language model, and its twin with random weights."""
    settings = replace(config.extract, positions=list(positions), answers=None)
    layers = replace(config.layers, towers=["lm"])
    unique = tuple({sample.uid: sample for sample in samples}.values())
    side = replace(
        experiment,
        extract=settings,
        layers=layers,
        features=(),
        examples=Examples(unique, (), experiment.examples.folds),
        attempts=Attempts(),
    )
    if RANDOM not in chosen_controls(config.controls):
        return side
    digests = open_digests(experiment.outputs.digests, config.cache.trust)
    twin = replace(loaded_otherwise(side, digests, weights="random", adapter=None), control=RANDOM)
    digests.save()
    return replace(side, variants=(twin,))


@dataclass(frozen=True)
class Sides:
    """The pictures alone and the texts alone, read by one model."""

    pictures: Experiment
    texts: Experiment

    @cached_property
    def coverages(self) -> tuple[Coverage, Coverage]:
        return self.pictures.store.coverage(), self.texts.store.coverage()

    def states(self, site: Site, at: tuple[str, str], gallery: Gallery) -> States:
        """Of one layer at a pair of positions. Raises ProbeError for values that are not finite."""
        samples = [shown_alone(one).uid for one in gallery.pictures], [said_alone(one).uid for one in gallery.texts]
        parts = zip(
            (self.pictures, self.texts), (Key(site, position) for position in at), samples, self.coverages, strict=True
        )
        return States(*(_rows(experiment, key, uids, coverage) for experiment, key, uids, coverage in parts))


def _rows(experiment: Experiment, key: Key, samples: Sequence[str], coverage: Coverage) -> np.ndarray:
    rows = experiment.store.read(key, samples, coverage)[0].double().numpy()
    check_finite(rows, str(key))
    return rows


class Alignment:
    """The measures of each split are drawn once, so that all layers answer the same questions."""

    def __init__(
        self, experiment: Experiment, galleries: Mapping[str, Gallery], config: AlignConfig, reporter: Reporter
    ) -> None:
        self._experiment, self._galleries, self._config, self._reporter = experiment, galleries, config, reporter
        settings = config.align
        self._single = {split: galleries[split].single for split in HELD_OUT}
        self._documents: dict[str, Documents] = {
            split: galleries[split].documents(settings.documents, settings.most, settings.seed) for split in HELD_OUT
        }
        self._draws = Redraws(config.sweep.draws)
        self._delta: dict[str, float] = {}
        self._unbounded: dict[str, str] = {}
        self.run = run_digest(config, experiment.identity.digest, experiment.examples)

    @property
    def facts(self) -> dict[str, Any]:
        """What was compared, and the width of the kernel at each layer."""
        sizes = {
            split: {"pictures": len(gallery.pictures), "texts": len(gallery.texts)}
            for split, gallery in self._galleries.items()
        }
        for split, documents in self._documents.items():
            sizes[split] |= {"documents": len(documents.pictures.lengths)}
            sizes[split] |= {measure.task: len(measure.groups) for measure in self._single[split]}
        return {"splits": sizes, "delta": self._delta, "intervals": self.bounds_said()}

    def bounds_said(self) -> list[str]:
        """Which measures have no interval, and why."""
        return [f"no interval of {metric}: {reason}" for metric, reason in self._unbounded.items()]

    def baselines(self) -> Iterator[Score]:
        """What each measure gives for nothing: by chance, and by the number of words in a caption."""
        for measure in (*self._single["test"], *self._documents["test"].measures):
            bare = self._asked(self._blank(), measure)
            for metric, value in zip(measure.metrics, measure.chance, strict=True):
                yield replace(bare, probe=CHANCE, metric=metric, value=float(value))
        for split in HELD_OUT:
            gallery = self._galleries[split]
            words = np.asarray([len(text.split()) for text in gallery.texts], dtype=float)
            table = np.tile(words, (len(gallery.pictures), 1))
            for measure in self._single[split]:
                yield from self._measured(replace(self._blank(), probe=LENGTH, split=split), measure, table)

    def scores(self, sides: Sequence[Sides]) -> Iterator[Score]:
        """Every layer at every pair of positions, of the model and of its twin with random weights."""
        settings = self._config.align
        sites = sides[0].pictures.sites
        self._exchanges = exchanges(settings.permutations, len(sites), self._reporter)
        asked = list(product(sides, sites, product(settings.images_at, settings.texts_at)))
        for done, (one, site, at) in enumerate(asked):
            yield from self._layer(one, site, at)
            self._reporter.progress("align", done + 1, len(asked), "layers")

    def _layer(self, one: Sides, site: Site, at: tuple[str, str]) -> Iterator[Score]:
        """A layer whose states have no direction, such as those of one token, says so in one row."""
        bare = self._blank(one, site, at)
        states = {split: one.states(site, at, gallery) for split, gallery in self._galleries.items()}
        try:
            raw, kinds = Cosines.of(states["test"]), self._kinds(states)
        except ProbeError as error:
            self._reporter.note(f"{site} at {bare.position} is left out: {error}")
            yield replace(bare, metric=NOT_APPLICABLE)
            return
        yield self._common(replace(bare, features=RAW), raw.across)
        for features, (cosines, strength) in kinds.items():
            kind = replace(bare, features=features, lambda_=strength)
            yield self._common(kind, cosines["test"].across)
            yield from self._of_layer(kind, cosines)

    def _kinds(self, states: Mapping[str, States]) -> dict[str, tuple[dict[str, Cosines], float | None]]:
        """{features: the cosines of each split, strength of the map}. Raises ProbeError."""
        bare = centred(states, self._config.align.remove_components)
        carried, strength = mapped(bare, {split: gallery.own for split, gallery in self._galleries.items()})
        return {
            name: ({split: Cosines.of(rows) for split, rows in found.items()}, value)
            for name, found, value in ((CENTRED, bare, None), (MAPPED, carried, strength))
        }

    def _of_layer(self, bare: Score, cosines: Mapping[str, Cosines]) -> Iterator[Score]:
        delta = self._config.align.delta or median_distance(cosines["train"].across)
        if not bare.control:
            self._delta[f"{bare.site}@{bare.position}, {bare.features}"] = delta
        for split in HELD_OUT:
            yield from self._of_pictures(replace(bare, split=split), cosines[split].across)
            yield from self._of_documents(replace(bare, split=split), cosines[split], delta)

    def _common(self, bare: Score, across: np.ndarray) -> Score:
        """The mean cosine of a picture and a caption that is false of it: what all pairs have in common."""
        retrieval = self._single["test"][0]
        false = self._galleries["test"].relevance == FALSE
        n, value = int(false.sum()), float(across[false].mean())
        return replace(self._asked(bare, retrieval), metric=RANDOM_COSINE, n=n, value=value)

    def _of_pictures(self, bare: Score, across: np.ndarray) -> Iterator[Score]:
        """One picture and one caption; of the model's own test rows the null, too."""
        measures, settings = self._single[bare.split], self._config.align
        tested = bare.split == "test" and not bare.control and self._exchanges
        groups, count = self._galleries[bare.split].groups, self._exchanges
        nulls = permuted(measures, across, groups, count, settings.seed) if tested else [None] * len(measures)
        for measure, null in zip(measures, nulls, strict=True):
            rows = list(self._measured(bare, measure, across))
            if null is None:
                yield from rows
                continue
            yield from (replace(r, p_value=two_sided(r.value, own)) for r, own in zip(rows, null.T, strict=True))
            level = self._config.sweep.ci_level
            limits = np.quantile(null, ((1 - level) / 2, (1 + level) / 2), axis=0).T
            for row, mean, (low, high) in zip(rows, null.mean(axis=0), limits.tolist(), strict=True):
                yield replace(row, control=PERMUTED, value=float(mean), low=low, high=high)

    def _of_documents(self, bare: Score, cosines: Cosines, delta: float) -> Iterator[Score]:
        """Sequences; no null, for documents that share pictures cannot be exchanged one by one."""
        documents = self._documents[bare.split]
        both = documents.pictures, documents.captions
        tables = {
            GAK: gak(cosines.across, (cosines.pictures, cosines.texts), *both, delta),
            ALIGNED: aligned_mean(cosines.across, *both),
            BAG: bag_mean(cosines.across, *both),
        }
        for (name, table), measure in product(tables.items(), documents.measures):
            yield from self._measured(replace(bare, probe=name), measure, table)

    def _measured(self, bare: Score, measure: Measure, table: np.ndarray) -> Iterator[Score]:
        """A row a metric, on test pictures with its interval."""
        values, level = measure.values(table), self._config.sweep.ci_level
        tested = bare.split == "test"
        found = measure.intervals(table, self._draws.of(measure.groups), level) if tested else [None] * len(values)
        for metric, value, between in zip(measure.metrics, values.tolist(), found, strict=True):
            row = replace(self._asked(bare, measure), metric=metric, value=value)
            yield replace(row, low=between.low, high=between.high, ci_level=level) if between else row
            if between and between.reason:
                self._unbounded[metric] = between.reason

    def _asked(self, bare: Score, measure: Measure) -> Score:
        groups = measure.groups
        return replace(bare, task=measure.task, target=measure.target, n=len(groups), n_groups=len(np.unique(groups)))

    def _blank(self, one: Sides | None = None, site: Site | None = None, at: tuple[str, str] = ("", "")) -> Score:
        """Everything a row says of what was compared, without a measure."""
        experiment, model = self._experiment, self._config.model
        read = one.pictures if one else experiment
        return Score(
            run=self.run,
            cache=read.identity.digest if site else "",
            model=read.model.label,
            revision=model.revision or "",
            quantization=model.precision,
            dataset=experiment.collection.name,
            task="",
            target="",
            subset="",
            site=str(site or ""),
            tower=site.tower if site else "",
            layer=site.layer if site else None,
            part=site.part if site else "",
            depth=round(experiment.anatomy.depth(site), 4) if site else None,
            position=" x ".join(at) if site else "",
            features=CENTRED,
            probe=COSINE,
            control=read.control if site else "",
            train_template="",
            test_template="",
            seed="all",
            split="test",
            metric="",
            n=0,
            n_groups=0,
            n_train=len(self._galleries["train"].pictures),
            lambda_=None,
            converged=None,
            value=float("nan"),
        )


def corrected(scores: Sequence[Score]) -> list[Score]:
    """p after Holm over the layers that answer the same questions by the same similarity at the same positions."""
    names = ["/".join((s.task, s.target, s.metric, s.features, s.probe, s.position)) for s in scores]
    adjusted = holm_within([row.p_value for row in scores], names)
    return [
        row if p is None else replace(row, p_holm=p, family=name)
        for row, p, name in zip(scores, adjusted, names, strict=True)
    ]
