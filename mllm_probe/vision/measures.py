"""The rows of vision.csv: what was read of encoders and models, as measures with their intervals and floors.

`bare` are the columns that all rows of a representation and measure have in common.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from mllm_probe.config.vision import (
    A_COS,
    A_LOGLIK,
    C_PCK,
    CKA,
    H_SCORE,
    LOG_ME,
    LOG_ME_PUBLISHED,
    MUTUAL_KNN,
    ScoreSettings,
)
from mllm_probe.errors import ProbeError
from mllm_probe.geometry.row_checks import clip_outliers
from mllm_probe.geometry.similarity import compare_layers, similarity
from mllm_probe.records.protocols import Reporter
from mllm_probe.records.sites import Site
from mllm_probe.results.vision import MEAN, VisionScore
from mllm_probe.stats.bootstrap import Resamples, interval
from mllm_probe.vision.a_score import a_cos, a_loglik
from mllm_probe.vision.c_score import OVER, PER_IMAGE, Matched, pck, pck_interval
from mllm_probe.vision.encoding import Features, matched, pooled
from mllm_probe.vision.model_reads import caption_log_probabilities, caption_states, load_plain, projected_tokens
from mllm_probe.vision.request import Asked
from mllm_probe.vision.transferability import h_score, log_me, log_me_published


def of_encoders(asked: Asked, reporter: Reporter) -> Iterator[VisionScore]:
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


def of_models(asked: Asked, reporter: Reporter) -> Iterator[VisionScore]:
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


def correspondence(bare: VisionScore, found: Sequence[Matched], settings: ScoreSettings) -> Iterator[VisionScore]:
    """c_pck over all pairs and over those of each category, at every alpha, per image and per keypoint."""
    subsets = {"": found}
    for one in found:
        subsets.setdefault(f"category={one.pair.category}", [])
    for subset in subsets:
        members = [one for one in found if subset in ("", f"category={one.pair.category}")]
        pictures = {side.path for one in members for side in (one.pair.source, one.pair.target)}
        for alpha in settings.alphas:
            for over in OVER:
                n = len(members) if over == PER_IMAGE else sum(len(one.errors) for one in members)
                row = replace(bare, alpha=alpha, over=over, match=settings.match, subset=subset)
                row = replace(row, n_images=len(pictures), n=n, value=pck(members, alpha, over))
                level = settings.ci_level
                between = pck_interval(members, alpha, over, settings.draws, settings.seed, level)
                yield replace(row, low=between.low, high=between.high, ci_level=level)


def likelihood(
    bare: VisionScore, scores: Sequence[np.ndarray], groups: Sequence[str], settings: ScoreSettings
) -> VisionScore:
    """a_loglik of captions [T] a picture, pictures by their `groups` [n]."""
    return _mean(bare, a_loglik(scores), groups, settings)


def cosines(
    bare: VisionScore,
    target: Sequence[np.ndarray],
    references: Mapping[str, Sequence[np.ndarray]],
    groups: Sequence[str],
    settings: ScoreSettings,
) -> Iterator[VisionScore]:
    """a_cos against each reference and its mean over them, of tokens [T, D] a picture."""
    found = a_cos(target, references)
    for name, values in {MEAN: np.mean(list(found.values()), axis=0), **found}.items():
        yield _mean(replace(bare, reference=name), values, groups, settings)


def _mean(row: VisionScore, values: np.ndarray, groups: Sequence[str], settings: ScoreSettings) -> VisionScore:
    """The row with the mean of values [n]."""
    draws = Resamples(np.asarray(groups), settings.draws, settings.seed).ratios(values[:, None])[:, 0]
    row = replace(row, n_images=len(set(groups)), n=len(values), value=float(values.mean()))
    return _between(row, draws, settings)


def _between(row: VisionScore, draws: np.ndarray, settings: ScoreSettings) -> VisionScore:
    low, high = interval(draws, row.n_images, settings.ci_level)
    return replace(row, low=float(low), high=float(high), ci_level=settings.ci_level)


def with_text(
    bare: VisionScore, pictures: np.ndarray, texts: np.ndarray, site: Site, settings: ScoreSettings
) -> VisionScore:
    """cka or mutual_knn of picture vectors [n, D] with caption states [n, E]; shuffled captions are the null.

    No interval: pictures drawn twice are each other's nearest neighbours. Raises ProbeError.
    """
    compared = similarity(bare.measure, settings.k)
    seen, said = ([compared.piece(clip_outliers(values, settings.clip))] for values in (pictures, texts))
    found = compare_layers(compared, seen, said, settings.permutations, settings.seed)
    n = len(pictures)
    row = replace(bare, reference=str(site), n_images=n, n=n, value=float(found.value[0, 0]))
    chance = settings.k / (n - 1) if bare.measure == MUTUAL_KNN else 0.0
    return replace(row, chance=chance, null_high=float(found.null_high[0, 0]))


def with_labels(bare: VisionScore, pictures: np.ndarray, labels: np.ndarray) -> VisionScore:
    """LogME or h_score of picture vectors [n, D], the mean over labels [n, C] of 0 and 1; at random h_score is
    D / (n - 1). Raises ProbeError."""
    row = replace(bare, n_images=len(pictures), n=labels.shape[1])
    if evidence := {LOG_ME: log_me, LOG_ME_PUBLISHED: log_me_published}.get(bare.measure):
        return replace(row, value=float(np.mean([one.value for one in evidence(pictures, labels)])))
    value = float(np.mean([h_score(pictures, label) for label in labels.T]))
    return replace(row, value=value, chance=pictures.shape[1] / (len(pictures) - 1))
