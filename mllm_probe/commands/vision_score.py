"""`mllm-probe vision score`: how well vision encoders suit a multimodal model, without training one.

The C score (correspondence), the A scores (alignment, of models whose connectors are trained already) and measures
beside them, for each representation. Features are not stored: each encoder sees each picture once or twice in a run, a
category's features are dropped when its pairs are matched, and a disk would hold 1 MB for each picture and layer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from mllm_probe.config.run import save_config
from mllm_probe.config.vision import (
    A_COS,
    A_LOGLIK,
    C_PCK,
    CKA,
    H_SCORE,
    LOG_ME,
    LOG_ME_PUBLISHED,
    MUTUAL_KNN,
    VisionScoreConfig,
)
from mllm_probe.errors import ProbeError
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.row_file import load_rows, save_rows
from mllm_probe.records.protocols import Reporter
from mllm_probe.records.sites import Site
from mllm_probe.report.vision import show_vision
from mllm_probe.results.vision import VisionScore, save_representations
from mllm_probe.vision.encoding import Features, matched, pooled
from mllm_probe.vision.measures import correspondence, cosines, likelihood, with_labels, with_text
from mllm_probe.vision.model_reads import caption_log_probabilities, caption_states, load_plain, projected_tokens
from mllm_probe.vision.request import Asked, ask


def vision_score(config: VisionScoreConfig, paths: RunPaths, reporter: Reporter) -> None:
    """The command: vision.csv and a table. Raises ConfigError, DataError, ModelError, ProbeError."""
    asked = ask(config, reporter)
    save_config(config, paths.config)
    rows = [*_of_encoders(asked, reporter), *_of_models(asked, reporter)]
    if not rows:
        raise ProbeError("no measure could be taken, see the notes above")
    save_rows(paths.vision, VisionScore, rows)
    save_representations(paths.representations, load_rows(paths.vision, VisionScore))
    show_vision(paths, reporter)


def _of_encoders(asked: Asked, reporter: Reporter) -> Iterator[VisionScore]:
    """What needs features, and the captions' states beside them."""
    of_pictures = [name for name in (CKA, MUTUAL_KNN, LOG_ME, LOG_ME_PUBLISHED, H_SCORE) if name in asked.measures]
    if not of_pictures and C_PCK not in asked.measures:
        return
    features = Features(asked.plans, asked.chosen, asked.config.score, asked.device, reporter)
    if C_PCK in asked.measures:
        found = matched(features, asked.pairs, asked.config.score.match, reporter)
        for one in asked.chosen:
            yield from correspondence(asked.bare(one, C_PCK), found[one.name], asked.config.score)
    if of_pictures:
        yield from _of_pictures(asked, features, of_pictures, reporter)


def _of_pictures(asked: Asked, features: Features, measures: list[str], reporter: Reporter) -> Iterator[VisionScore]:
    """Captions are exchanged for a null, so of pictures that belong together one is compared with them."""
    settings = asked.config.score
    vectors = pooled(features, [picture.path for picture in asked.pictures], reporter)
    texts = _texts(asked, reporter) if {CKA, MUTUAL_KNN} & set(measures) else None
    once = list({picture.group: i for i, picture in enumerate(asked.pictures)}.values())
    for one in asked.chosen:
        for measure in measures:
            bare, values = asked.bare(one, measure), vectors[one.name]
            try:
                if texts is not None and measure in (CKA, MUTUAL_KNN):
                    own, (states, site) = replace(bare, llm=asked.config.model.label), texts
                    yield with_text(own, values[once], states[once], site, settings)
                else:
                    yield with_labels(bare, values, asked.labels)
            except ProbeError as error:
                reporter.note(f"{one.name}: {measure} is left out; {error}")


def _texts(asked: Asked, reporter: Reporter) -> tuple[np.ndarray, Site]:
    settings = asked.config.score
    model = load_plain(asked.config.model, asked.device, reporter)
    return caption_states(model, asked.pictures, settings.text_layer, settings.micro_batch)


def _of_models(asked: Asked, reporter: Reporter) -> Iterator[VisionScore]:
    """The A scores, model by model; those that others are compared with come first, and their tokens stay."""
    settings, named = asked.config.score, {one.name: asked.bare(one) for one in asked.chosen}
    references = settings.references if settings.references is not None else list(asked.models)
    groups = [picture.group for picture in asked.pictures]
    kept: dict[str, list[np.ndarray]] = {}
    for name in _order(asked, references):
        scores, tokens = _read(asked, name, reporter)
        bare = replace(named[name], llm=asked.models[name].label) if name in named else None
        if bare is not None and scores:
            yield likelihood(replace(bare, measure=A_LOGLIK), scores, groups, settings)
        if name in references:
            kept[name] = tokens
        elif bare is not None and tokens:
            yield from cosines(replace(bare, measure=A_COS), tokens, kept, groups, settings)
    if A_COS not in asked.measures:
        return
    for name in (name for name in kept if name in named):
        others = kept if settings.references is not None else {n: kept[n] for n in kept if n != name}
        bare = replace(named[name], llm=asked.models[name].label)
        yield from cosines(replace(bare, measure=A_COS), kept[name], others, groups, settings)


def _read(asked: Asked, name: str, reporter: Reporter) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Log-probabilities of captions and projected tokens, as far as they are needed; then the model is gone."""
    batch, model = asked.config.score.micro_batch, asked.models[name]
    reporter.note(f"loading {model.label}, the model of {name}")
    loaded = load_plain(model, asked.device, reporter, f"mllms.{name}")
    told = A_LOGLIK in asked.measures and any(one.name == name for one in asked.chosen)
    return (
        caption_log_probabilities(loaded, asked.pictures, batch) if told else [],
        projected_tokens(loaded, asked.pictures, batch) if A_COS in asked.measures else [],
    )


def _order(asked: Asked, references: Sequence[str]) -> list[str]:
    """The models that are needed, references first."""
    if A_COS in asked.measures:
        return list(dict.fromkeys([*references, *asked.models]))
    return [one.name for one in asked.chosen if A_LOGLIK in asked.measures and one.name in asked.models]
