"""The request of `vision score`, checked before a weight is loaded: encoders, models, data, measures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mllm_probe import __version__
from mllm_probe.cache.coverage import folder_digests
from mllm_probe.config.build import build
from mllm_probe.config.model import DEVICES, PLAIN, ModelSettings, PromptSettings
from mllm_probe.config.vision import (
    A_COS,
    A_LOGLIK,
    C_PCK,
    CKA,
    H_SCORE,
    LOG_ME,
    LOG_ME_PUBLISHED,
    MUTUAL_KNN,
    VISION_MEASURES,
    ScoreSettings,
    VisionScoreConfig,
)
from mllm_probe.data.coco import Selection
from mllm_probe.data.spair import Pair, read_pairs
from mllm_probe.errors import ConfigError, choices
from mllm_probe.files.digests import Digests, open_digests
from mllm_probe.files.paths import OutputPaths
from mllm_probe.geometry.row_checks import FEWEST
from mllm_probe.models.loading.checkpoint import check_settings, find_checkpoint
from mllm_probe.records.protocols import Dataset, Reporter
from mllm_probe.records.samples import Collection, Picture, digest
from mllm_probe.results.vision import VisionScore
from mllm_probe.vision.c_score import matcher
from mllm_probe.vision.frames import drawer
from mllm_probe.vision.model_reads import named_model
from mllm_probe.vision.representation import JOIN, Representation, representations

if TYPE_CHECKING:
    from mllm_probe.models.encoders.encoder_plan import EncoderPlan

NEEDS = {  # what a measure cannot be taken without
    C_PCK: "pictures with keypoints: pairs.root=FOLDER",
    A_LOGLIK: "a multimodal model for a representation: +mllms.NAME=FOLDER, and a caption for every picture",
    A_COS: "two multimodal models or more, or score.references: +mllms.NAME=FOLDER, and a caption for every picture",
    CKA: "a caption for every picture: another dataset",
    MUTUAL_KNN: "a caption for every picture: another dataset",
    LOG_ME: "object categories for every picture, some in a part of them: another dataset",
    LOG_ME_PUBLISHED: "object categories for every picture, some in a part of them: another dataset",
    H_SCORE: "object categories for every picture, some in a part of them: another dataset",
}


@dataclass(frozen=True)
class Asked:
    """`pictures` [n] of the data set, with `labels` [n, C] of 0 and 1; `models` {representation: its multimodal model},
    and `run` digests all that can change a score."""

    config: VisionScoreConfig
    plans: Mapping[str, "EncoderPlan"]
    chosen: Sequence[Representation]
    pairs: Sequence[Pair]
    pictures: Sequence[Picture]
    labels: np.ndarray
    models: Mapping[str, ModelSettings]
    measures: Sequence[str]
    device: str
    dataset: str
    run: str

    def bare(self, representation: Representation, measure: str = "") -> VisionScore:
        """The columns that all rows of a representation have in common."""
        plans = [self.plans[name] for name in representation.encoders]
        settings = self.config.score
        return VisionScore(
            run=self.run,
            representation=representation.name,
            layer=JOIN.join(str(plan.layer) for plan in plans),
            size=JOIN.join(str(plan.size) for plan in plans),
            grid=plans[0].grid,
            width=JOIN.join(str(plan.width) for plan in plans),
            geometry=settings.geometry,
            normalisation=settings.normalisation,
            dataset=self.config.pairs.layout if measure == C_PCK else self.dataset,
            measure=measure,
        )


def ask(config: VisionScoreConfig, reporter: Reporter) -> Asked:
    """Cheapest checks first. Raises ConfigError, DataError, ModelError."""
    _check(config)
    from mllm_probe.models.encoders.by_kind import plan_encoder
    from mllm_probe.models.encoders.vit import NORMALISATIONS
    from mllm_probe.models.loading.device import pick_device

    if (scaling := config.score.normalisation) not in NORMALISATIONS:
        raise ConfigError(f"score.normalisation={scaling} is unknown; {choices(scaling, NORMALISATIONS)}")
    device = pick_device(config.device)
    plans = {name: plan_encoder(name, settings) for name, settings in config.encoders.items()}
    chosen = representations(config.representations, {name: plan.grid for name, plan in plans.items()})
    models = {name: named_model(config.model, given) for name, given in config.mllms.items()}
    names = [one.name for one in chosen]
    _check_names(config, names)
    outputs = OutputPaths(Path(config.paths.outputs))
    digests = open_digests(outputs.digests, config.cache.trust, reporter.note)
    pairs, skipped = _pairs(config)
    for row in skipped:
        reporter.note(f"skipped: {row}")
    collection = build(config.dataset, Dataset, tuple(config.plugins)).load(  # type: ignore[type-abstract]
        outputs.root, Selection(**asdict(config.data)), digests
    )
    labels = _labels(collection)
    measures = _measures(config, names, pairs, collection.pictures, labels, reporter)
    run = _run(config, plans, models, pairs, collection, digests)
    digests.save()
    data = (pairs, collection.pictures, labels)
    return Asked(config, plans, chosen, *data, models, measures, device, collection.name, run)


def _check(config: VisionScoreConfig) -> None:
    """What needs no file."""
    settings: ScoreSettings = config.score
    check_settings(config.model, PromptSettings(chat=PLAIN))
    if config.model.adapter is not None:
        raise ConfigError("vision score reads models as they are; leave out model.adapter")
    drawer(settings.geometry)
    matcher(settings.match)
    if config.device not in DEVICES:
        raise ConfigError(f"device={config.device} is unknown; {choices(config.device, DEVICES)}")
    for name in settings.measures or ():
        if name not in VISION_MEASURES:
            raise ConfigError(f"score.measures names the unknown measure '{name}'; {choices(name, VISION_MEASURES)}")
    for name, least in (("k", 1), ("permutations", 0), ("micro_batch", 1), ("draws", 1), ("seed", 0)):
        if (value := getattr(settings, name)) < least:
            raise ConfigError(f"score.{name}={value} must be {least} or more")
    if not settings.alphas or min(settings.alphas) <= 0 or len(set(settings.alphas)) < len(settings.alphas):
        raise ConfigError(f"score.alphas={settings.alphas} must hold at least one share above 0, each once")
    if settings.clip is not None and not settings.clip > 0:
        raise ConfigError(f"score.clip={settings.clip} must be above 0, or null to clip nothing")
    if not 0 < settings.ci_level < 1:
        raise ConfigError(f"score.ci_level={settings.ci_level} must be between 0 and 1")


def _check_names(config: VisionScoreConfig, chosen: Sequence[str]) -> None:
    """A model belongs to a representation or is a reference; a reference has a model."""
    if config.score.references == []:
        raise ConfigError("score.references=[] compares with nothing; name models of mllms, or null for all others")
    references = config.score.references or []
    for name in references:
        if name not in config.mllms:
            raise ConfigError(f"score.references names {name}, which has no model in mllms; add +mllms.{name}=FOLDER")
    for name in config.mllms:
        if name not in (*chosen, *references):
            raise ConfigError(
                f"mllms has a model for {name}, which is neither a representation nor in score.references; "
                f"{choices(name, chosen)}"
            )


def _pairs(config: VisionScoreConfig) -> tuple[list[Pair], list[str]]:
    settings, measures = config.pairs, config.score.measures
    if settings.root is None or (measures is not None and C_PCK not in measures):
        return [], []
    return read_pairs(Path(settings.root), settings.layout, settings.split, settings.on_bad_pair)


def _labels(collection: Collection) -> np.ndarray:
    """Which categories are in which pictures, [n, C] of 0 and 1, those that are in all or none left out; C = 0 where a
    picture was not annotated."""
    if any(picture.categories is None for picture in collection.pictures):
        return np.zeros((len(collection.pictures), 0))
    found = np.asarray([[c in (p.categories or ()) for c in collection.categories] for p in collection.pictures])
    return found[:, found.any(axis=0) & ~found.all(axis=0)].astype(np.float64)


def _measures(
    config: VisionScoreConfig,
    chosen: Sequence[str],
    pairs: Sequence[Pair],
    pictures: Sequence[Picture],
    labels: np.ndarray,
    reporter: Reporter,
) -> list[str]:
    """Those asked for, or all there are data for. Raises ConfigError."""
    told = all(picture.captions for picture in pictures)
    modelled = told and any(name in config.mllms for name in chosen)
    possible = {
        C_PCK: bool(pairs),
        A_LOGLIK: modelled,
        A_COS: modelled and (config.score.references is not None or len(config.mllms) > 1),
        CKA: told,
        MUTUAL_KNN: told,
        LOG_ME: labels.shape[1] > 0,
        LOG_ME_PUBLISHED: labels.shape[1] > 0,
        H_SCORE: labels.shape[1] > 0,
    }
    asked = config.score.measures
    wanted = [name for name in VISION_MEASURES if (name != LOG_ME_PUBLISHED if asked is None else name in asked)]
    for name in (name for name in wanted if not possible[name]):
        if asked is not None:
            raise ConfigError(f"score.measures names {name}, which needs {NEEDS[name]}")
        reporter.note(f"{name} is left out; it needs {NEEDS[name]}")
    measures = [name for name in wanted if possible[name]]
    if not measures:
        raise ConfigError("there is nothing to measure; give pairs.root=FOLDER or another dataset")
    if set(measures) - {C_PCK} and len(pictures) < FEWEST:
        raise ConfigError(f"{len(pictures)} pictures are too few to compare encoders; give {FEWEST} or more by data.n")
    groups = len({picture.group for picture in pictures})
    if MUTUAL_KNN in measures and config.score.k >= groups:
        raise ConfigError(
            f"score.k={config.score.k} must be below the number of pictures, which is {groups}, those of a group "
            "counted once"
        )
    return measures


def _run(
    config: VisionScoreConfig,
    plans: Mapping[str, "EncoderPlan"],
    models: Mapping[str, ModelSettings],
    pairs: Sequence[Pair],
    collection: Collection,
    digests: Digests,
) -> str:
    """Where files lie does not count, what is in them does."""
    folders = {name: plan.folder for name, plan in plans.items()}
    folders |= {f"mllms.{name}": find_checkpoint(model, f"mllms.{name}") for name, model in models.items()}
    folders["model"] = find_checkpoint(config.model)
    files = {name: folder_digests(folder, digests) for name, folder in folders.items()}
    told = [(pair.name, pair.extent, pair.source.points.tolist(), pair.target.points.tolist()) for pair in pairs]
    seen = [digests.of(path) for path in dict.fromkeys(s.path for p in pairs for s in (p.source, p.target))]
    encoders = {name: (plan.size, plan.layer, plan.step) for name, plan in plans.items()}
    pictures = [(picture.digest, picture.captions, picture.group) for picture in collection.pictures]
    model = {name: value for name, value in asdict(config.model).items() if name not in ("path", "name")}
    settings = (
        asdict(config.score) | {"micro_batch": None},
        asdict(config.pairs) | {"root": None},
        config.representations,
        encoders,
        model,
    )
    return digest(__version__, settings, files, told, seen, pictures)
