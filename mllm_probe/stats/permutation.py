"""Is a layer better than chance, over a whole sweep at once: max-T permutation of held-out labels, and Holm.

No probe is fitted again. The predictions of all layers stay as they are and the test labels move between pictures, so
what layers have in common stays in the null, and one family-wise p per layer follows. Knows votes, labels and pictures.
Letters: K layers (or any curves), S seeds, N rows, C classes, B permutations.

What a null exchanges is whole groups of rows, because rows of one picture, or of pictures that look alike, are not
independent. Two arms are compared by flipping the signs of their differences: K differences, G pictures, B patterns.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mllm_probe.errors import ProbeError, choices

Statistic = np.ndarray | Callable[[np.ndarray], np.ndarray]  # see max_t
KINDS = ("binary", "classes", "number")
STEP = 512  # permutations per matrix product
TIE = 1e-9  # statistics closer than this are equal: sums of the same votes in another order differ in the last bits
EXACT = 12  # up to this many pictures that differ anywhere, all 2^G sign patterns are tried


@dataclass(frozen=True)
class MaxT:
    """Per layer [K]: the statistic (accuracy or correlation), its z under the null, p, and p adjusted over layers.

    `moving` rows of the N have a label that can change; the others belong to pictures of a size of their own.
    `expected` [K] is the mean of the statistic under permuted labels.
    """

    statistic: np.ndarray
    z: np.ndarray
    p: np.ndarray
    p_adjusted: np.ndarray
    moving: int
    expected: np.ndarray


def votes(logits: np.ndarray, kind: str = "binary") -> np.ndarray:
    """Logits [K, S, N] or, for classes, [K, S, N, C] -> share of seeds that say each class [K, N, C].

    Tied maxima share a vote, so a binary logit of 0 is half a vote for either label. For a number, predictions
    [K, S, N] -> their mean over seeds [K, N].
    """
    _known(kind)
    if kind == "number":
        return logits.mean(axis=1)
    if kind == "binary":
        yes = (np.sign(logits) / 2 + 0.5).mean(axis=1)
        return np.stack([1 - yes, yes], axis=-1)
    top = logits == logits.max(axis=-1, keepdims=True)
    return (top / top.sum(axis=-1, keepdims=True)).mean(axis=1)


def max_t(
    scores: Statistic,
    y: np.ndarray,
    groups: np.ndarray,
    order: np.ndarray,
    kind: str = "binary",
    permutations: int = 9999,
    seed: int = 0,
    strata: np.ndarray | None = None,
) -> MaxT:
    """Step-down max-T over K layers, one-sided for better than chance (Westfall and Young 1993; Ge et al. 2003).

    scores: what a row adds if its label is c [K, N, C], such as `votes`; the predictions [K, N] of a number; or a
    function of labels [b, N] that gives the statistic [b, K], see `chance.statistic`. y, groups, order: [N]. Whole
    blocks of labels are exchanged between pictures with the same number of rows. Inside a picture the rows stand in
    ascending `order`, which must say nothing about the label (a digest of the text does, the row number after writing
    true before false does not: such labels would never move, which is an error). The statistic is the mean over rows
    (of votes: accuracy), or the correlation with a number, standardised by its own permutation mean and deviation;
    p = (1 + #{permuted >= observed}) / (B + 1). With `strata` [N] pictures exchange labels only where their rows have
    the same strata, and each label stays in its own. A layer whose statistic never varies gets p = 1. Raises
    ProbeError for shapes, unknown kinds, labels that cannot move.
    """
    _fit_together(scores, y, groups, order, kind, permutations)
    parts = blocks(groups, order, strata)
    moving = moving_rows(y, parts)
    labels = _relabelled(y, parts, permutations, seed)
    null = np.concatenate([_statistic(scores, chunk, kind) for chunk in labels])
    centre, spread = null.mean(axis=0), null.std(axis=0)
    varies = spread > TIE * np.maximum(np.abs(centre), 1)
    z = np.where(varies, (null - centre) / np.where(varies, spread, 1), 0)  # never varies: always 0, so p = 1
    p, adjusted = step_down(z)
    return MaxT(null[0], z[0], p, adjusted, moving, centre)


def step_down(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """z [1 + B, K], the observed one first -> plain p and adjusted p, [K] each."""
    floor = z[0] - TIE
    order = np.argsort(-z[0], kind="stable")
    weakest_first = np.maximum.accumulate(z[:, order[::-1]], axis=1)
    successive = (weakest_first[:, ::-1] >= floor[order]).mean(axis=0)
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate(successive)
    return (z >= floor).mean(axis=0), adjusted


def moving_rows(y: np.ndarray, parts: list[np.ndarray]) -> int:
    """How many of the labels [N] can change where groups in `parts` (see `blocks`) are exchanged. Raises ProbeError."""
    if all(len(part) == 1 for part in parts):
        sizes = ", ".join(str(part.shape[1]) for part in parts)
        raise ProbeError(
            f"no two of the {len(parts)} pictures have the same number of rows ({sizes}), so no labels can be"
            " exchanged; give every picture the same number of decisions"
        )
    moving = sum(part.size for part in parts if (y[part] != y[part[:1]]).any())
    if not moving:
        raise ProbeError(
            f"all pictures of one size have the same labels in the same order, so permuting pictures moves none of the"
            f" {len(y)} labels; order the rows of a picture by something that does not follow the label"
        )
    return moving


def _relabelled(y: np.ndarray, parts: list[np.ndarray], permutations: int, seed: int) -> Iterator[np.ndarray]:
    """Labels as they are, then permuted ones: chunks of [b, N], 1 + B rows in all."""
    rng = np.random.default_rng(seed)
    held = y.astype(np.int8) if y.dtype.kind in "iu" and 0 <= y.min() <= y.max() < 128 else y  # these move faster
    yield y[None]
    for start in range(0, permutations, STEP):
        yield exchanged(parts, min(STEP, permutations - start), rng, held)


def _statistic(scores: Statistic, labels: np.ndarray, kind: str) -> np.ndarray:
    """Labels [b, N] -> the mean over rows, or the correlation, of every layer [b, K]."""
    if callable(scores):
        return scores(labels)
    n = labels.shape[1]
    if kind == "number":
        centred = scores - scores.mean(axis=1, keepdims=True)
        truth = labels[0] - labels[0].mean()
        length = np.linalg.norm(centred, axis=1) * np.linalg.norm(truth)
        safe = np.where(length > 0, length, 1)
        return (labels - labels[0].mean()) @ (centred / safe[:, None]).T
    right = np.tile(scores[..., 0].sum(axis=1) / n, (len(labels), 1))
    for c in range(1, scores.shape[2]):  # what each row gains over saying class 0, so that two classes cost one product
        right += (labels == c).astype(np.float64) @ (scores[..., c] - scores[..., 0]).T / n
    return right


def two_sided(value: float, null: np.ndarray) -> float:
    """Twice the smaller tail, at most 1: how often draws [B], the value one of them, lie as far above or below it."""
    beyond = min((null >= value - TIE).sum(), (null <= value + TIE).sum())
    return min(1.0, 2 * float(1 + beyond) / (1 + len(null)))


def holm(p: np.ndarray) -> np.ndarray:
    """Adjusted p of Holm 1979, same shape: in ascending order max over i <= j of (m - i + 1) p_(i), at most 1."""
    flat = np.asarray(p, np.float64).ravel()
    if not ((flat >= 0) & (flat <= 1)).all():
        raise ProbeError(f"{int((~((flat >= 0) & (flat <= 1))).sum())} of {flat.size} p values are not within 0 and 1")
    order = np.argsort(flat, kind="stable")
    adjusted = np.empty_like(flat)
    adjusted[order] = np.minimum(np.maximum.accumulate(flat[order] * np.arange(flat.size, 0, -1)), 1)
    return adjusted.reshape(np.shape(p))


def holm_within(p: Sequence[float | None], families: Sequence[Hashable]) -> list[float | None]:
    """The same within each family by itself; None, for a row without a test, stays None and counts for nothing."""
    members: dict[Hashable, list[int]] = {}
    for i, (one, family) in enumerate(zip(p, families, strict=True)):
        if one is not None:
            members.setdefault(family, []).append(i)
    found: list[float | None] = [None] * len(p)
    for rows in members.values():
        for i, adjusted in zip(rows, holm(np.asarray([p[i] for i in rows])).tolist(), strict=True):
            found[i] = adjusted
    return found


def _known(kind: str) -> None:
    if kind not in KINDS:
        raise ProbeError(f"kind of target '{kind}' cannot be permuted; {choices(kind, KINDS)}")


def _fit_together(
    scores: Statistic,
    y: np.ndarray,
    groups: np.ndarray,
    order: np.ndarray,
    kind: str,
    permutations: int,
) -> None:
    _known(kind)
    if permutations < 1:
        raise ProbeError(f"permutations={permutations} must be at least 1")
    if callable(scores):
        return
    if scores.ndim != (2 if kind == "number" else 3) or any(a.shape != scores.shape[1:2] for a in (y, groups, order)):
        raise ProbeError(
            f"{kind} scores of shape {scores.shape} do not fit y {y.shape}, groups {groups.shape}, order {order.shape}"
        )
    bad = int((~np.isfinite(scores)).sum())
    if bad:
        raise ProbeError(f"{bad} of {scores.size} scores are not finite; a permutation test needs numbers")
    fits = np.isfinite(y) if kind == "number" else np.isin(y, np.arange(scores.shape[2]))
    if not fits.all():
        allowed = "finite numbers" if kind == "number" else f"0 to {scores.shape[2] - 1}"
        raise ProbeError(
            f"{int((~fits).sum())} of {len(y)} labels such as {y[~fits][0]} are wrong; allowed are {allowed}"
        )


def blocks(groups: np.ndarray, order: np.ndarray | None = None, strata: np.ndarray | None = None) -> list[np.ndarray]:
    """Rows of the groups [N] of each size, and make-up of `strata` [N], [groups, size]; inside a group by stratum, then
    in ascending `order` [N], else as they come.

    Where labels are exchanged `order` must say nothing about them: a digest does, true before false does not.
    """
    _, member, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    stratum = np.zeros(len(member), int) if strata is None else np.unique(strata, return_inverse=True)[1]
    within = np.arange(len(member)) if order is None else order
    alike: dict[tuple[int, ...], list[np.ndarray]] = {}
    for rows in np.split(np.lexsort((within, stratum, member)), np.cumsum(sizes)[:-1]):
        alike.setdefault((len(rows), *stratum[rows].tolist()), []).append(rows)
    return [np.stack(alike[kind]) for kind in sorted(alike)]


def exchanged(
    parts: list[np.ndarray], draws: int, rng: np.random.Generator, held: np.ndarray | None = None
) -> np.ndarray:
    """What each row has then of `held` [N], if not given the row that its content comes from: [B, N]. Groups change
    places within `parts` alone, so that each draw is as likely as the rows are where such groups are exchangeable. A
    group that is a part of its own stays."""
    rows = np.concatenate([part.ravel() for part in parts])
    held = np.arange(len(rows)) if held is None else held
    turns = (rng.permuted(np.tile(np.arange(len(part)), (draws, 1)), axis=1) for part in parts)
    moved = [held[part].take(turn, axis=0).reshape(draws, -1) for part, turn in zip(parts, turns, strict=True)]
    return np.concatenate(moved, axis=1).take(np.argsort(rows), axis=1)


def handed_on(groups: np.ndarray, order: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same once [N], and no group stays for its size: all rows in a drawn order of the groups are dealt out to the
    rows in the order of the groups. Groups of one size change places whole; others are cut where sizes differ."""
    _, member = np.unique(groups, return_inverse=True)
    turn = rng.permutation(member.max(initial=0) + 1)
    source = np.empty(len(member), dtype=np.int64)
    source[np.lexsort((order, member))] = np.lexsort((order, turn[member]))
    return source


@dataclass(frozen=True)
class Flips:
    """p of each difference [K], and p adjusted over all of them."""

    p: np.ndarray
    p_adjusted: np.ndarray


def max_t_flips(sums: np.ndarray, permutations: int = 9999, seed: int = 0, greater: bool = False) -> Flips:
    """Step-down max-T (Westfall and Young 1993) of differences summed by picture [K, G].

    Where the arms are exchangeable, a picture's differences change their sign together in all layers with even chance,
    so what layers have in common stays in the null. The statistic is |sum| over its deviation under flips, the root of
    the sum of squares; p = (1 + #{flipped >= observed}) / (B + 1), over all patterns where few pictures differ.
    A layer without any difference gets p = 1. `greater`: one-sided, for a sum above 0, with the sum itself in place of
    its size.
    """
    scale = np.linalg.norm(sums, axis=1, keepdims=True)
    unit = sums / np.where(scale > 0, scale, 1)
    unit = unit[:, np.any(unit != 0, axis=0)]
    flipped = signs(unit.shape[1], permutations, seed) @ unit.T
    return Flips(*step_down(flipped if greater else np.abs(flipped)))


def signs(pictures: int, permutations: int, seed: int) -> np.ndarray:
    """[1 + B, G] of 1 and -1, the observed pattern first."""
    if pictures <= EXACT:
        bits = np.arange(2**pictures)[:, None] >> np.arange(pictures) & 1
    else:
        bits = np.random.default_rng(seed).integers(0, 2, (1 + permutations, pictures), dtype=np.int8)
        bits[0] = 0
    return 1 - 2 * bits.astype(np.float32)
