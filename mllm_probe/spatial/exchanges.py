"""Labels of tokens that belong elsewhere: to another token of the picture, or to another picture. Knows no layer.

Letters: T tokens, C categories.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from mllm_probe.spatial.field import Field


def within_pictures(field: Field, seed: int) -> np.ndarray:
    """Labels [T, C] bool, those of a token exchanged with another's of the same view of the same picture. The picture's
    labels stay its own, and their places say nothing."""
    drawn = np.random.default_rng(seed).random(len(field.pictures))
    found = np.empty_like(field.inside)
    found[np.lexsort((field.views, field.pictures))] = field.inside[np.lexsort((drawn, field.views, field.pictures))]
    return found


def between_pictures(field: Field, split: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels [T, C] bool, those of a picture exchanged with another's of its split [T] and of as many tokens in each
    view, of another group wherever there is one; and which tokens [T] bool have such labels.

    Tokens are matched in the order of their places: of whole pictures each gets the labels of its own place, of chosen
    tokens those of about that place.
    """
    order = np.lexsort((field.places[:, 1], field.places[:, 0], field.views, field.pictures))
    starts = np.flatnonzero(np.diff(field.pictures[order])) + 1
    alike: dict[tuple[object, ...], list[np.ndarray]] = defaultdict(list)
    for tokens in np.split(order, starts):
        alike[split[tokens[0]], field.views[tokens].tobytes()].append(tokens)
    found, counted = np.zeros_like(field.inside), np.zeros(len(order), bool)
    rng = np.random.default_rng(seed)
    for pictures in alike.values():
        groups = [field.groups[tokens[0]] for tokens in pictures]
        if len(set(groups)) > 1:
            for mine, its in _exchanged(pictures, groups, rng):
                found[mine], counted[mine] = field.inside[its], True
    return found, counted


def _exchanged(
    pictures: Sequence[np.ndarray], groups: Sequence[object], rng: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(tokens of a picture, those of the one whose labels they get). In a line of whole groups, the largest first,
    nobody who moves on by the largest group's size stays in his own, unless that is more than half of all."""
    members: dict[object, list[np.ndarray]] = defaultdict(list)
    for i in rng.permutation(len(pictures)):
        members[groups[i]].append(pictures[i])
    blocks = sorted(members.values(), key=len, reverse=True)
    line = [tokens for block in blocks for tokens in block]
    return [(mine, line[(i + len(blocks[0])) % len(line)]) for i, mine in enumerate(line)]


def among_alike(field: Field, seed: int) -> np.ndarray:
    """For each token one of another picture, of another group, whose labels it may get [T] int: for a token on an
    object one on an object, for one beside them one beside; -1 where there is none. A picture's tokens of a kind all
    get theirs from one picture."""
    found, rng = np.full(len(field.pictures), -1), np.random.default_rng(seed)
    on = field.inside.any(1)
    for kind in (on, ~on):
        order = np.flatnonzero(kind)[np.argsort(field.pictures[kind], kind="stable")]
        pictures = np.split(order, np.flatnonzero(np.diff(field.pictures[order])) + 1) if len(order) else []
        groups = [field.groups[tokens[0]] for tokens in pictures]
        if len(set(groups)) > 1:
            for mine, its in _exchanged(pictures, groups, rng):
                if field.groups[mine[0]] != field.groups[its[0]]:
                    found[mine] = rng.choice(its, len(mine))
    return found
