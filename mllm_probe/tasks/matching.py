"""Exchange captions between pictures so that every text is equally often true and false. Knows nothing of prompts."""

from collections.abc import Callable, Mapping, Sequence
from random import Random

from mllm_probe.records.samples import Picture

Claim = tuple[Picture, str]
TRIES = 200  # partners looked at for one caption before it is given up


def strangers(first: Picture, second: Picture) -> bool:
    """Whether one picture may borrow from the other: what is said of a near-duplicate is as good as true."""
    return first.group != second.group


def exchange(
    claims: Sequence[Claim],
    contradicts: Callable[[Picture, str], bool],
    rng: Random,
    start: Mapping[int, int] | None = None,
    may_borrow: Callable[[Picture, Picture], bool] = strangers,
) -> list[Claim | None]:
    """For each true claim i a false one about the same picture, its text taken from another claim.

    The texts of the result are a permutation of the texts given, so a text alone says nothing about its label, and
    neither does a picture. A claim for which no exchange is found yields None, and then its own text is used for no
    other picture either. `start` is the permutation to fix, {claim: the claim whose text it takes}; None = a random
    one. `may_borrow` says of two pictures whether the first may take a text of the second.
    """
    order = list(range(len(claims)))
    rng.shuffle(order)
    # one long cycle: nobody keeps its own text
    source = dict(start) if start else {i: order[(k + 1) % len(order)] for k, i in enumerate(order)}

    def is_false(i: int, j: int) -> bool:
        return may_borrow(claims[i][0], claims[j][0]) and contradicts(claims[i][0], claims[j][1])

    for i in order:
        if not is_false(i, source[i]):
            _swap(i, source, is_false, rng)
    kept = _drop_true(source, is_false)
    return [(claims[i][0], claims[kept[i]][1]) if i in kept else None for i in range(len(claims))]


def _swap(i: int, source: dict[int, int], is_false: Callable[[int, int], bool], rng: Random) -> None:
    """Trade texts with a random other claim where both then hold a false one."""
    others = list(source)
    for _ in range(TRIES):
        k = rng.choice(others)
        if is_false(i, source[k]) and is_false(k, source[i]):
            source[i], source[k] = source[k], source[i]
            return


def _drop_true(source: dict[int, int], is_false: Callable[[int, int], bool]) -> dict[int, int]:
    """Take claims out of the permutation until all that is left is false.

    Where claim i holds the true text of claim j, leaving out i hands j's text to whoever held i's, and leaving out j
    hands i the text that j held. If neither is false there, both go.
    """
    kept = dict(source)
    while (i := next((i for i, j in kept.items() if not is_false(i, j)), None)) is not None:
        j = kept[i]
        holder = next(h for h, held in kept.items() if held == i)
        if i != j and is_false(holder, j):
            kept[holder] = j
            del kept[i]
        elif i != j and is_false(i, kept[j]):
            kept[i] = kept.pop(j)
        else:
            kept[holder] = kept[j]
            for claim in {i, j}:
                del kept[claim]
    return kept
