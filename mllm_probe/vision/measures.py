"""The rows of vision.csv: what was read of encoders and models, as measures with their intervals and floors.

Every function takes `bare`, the columns that all rows of a representation and measure have in common.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from mllm_probe.config.vision import LOG_ME, LOG_ME_PUBLISHED, MUTUAL_KNN, ScoreSettings
from mllm_probe.geometry.row_checks import clip_outliers
from mllm_probe.geometry.similarity import compare_layers, similarity
from mllm_probe.records.sites import Site
from mllm_probe.results.vision import MEAN, VisionScore
from mllm_probe.stats.bootstrap import Resamples, interval
from mllm_probe.vision.a_score import a_cos, a_loglik
from mllm_probe.vision.c_score import OVER, PER_IMAGE, Matched, pck, pck_interval
from mllm_probe.vision.transferability import h_score, log_me, log_me_published


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
