"""Shares of attention against loops over tokens, of maps made by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mllm_probe.results.lenses.attention import ABOVE, AREA, LAST, NEUTRAL, OBJECT, OWN, PICTURE, RELATIVE, Attention
from mllm_probe.spatial.lenses.asked import Statements
from mllm_probe.spatial.lenses.masses import Masses, relative

BLANK = Attention(*[""] * 9, 1, "attn", 0.5, LAST)
IMAGE = (1, 2, 3, 4, 5)  # of eight tokens; the last of the picture's stands for no place
PLACED = np.arange(4)
rng = np.random.default_rng(0)


def attended(mean: np.ndarray, heads: np.ndarray | None = None) -> Any:
    """[B, S, L] of a prompt."""
    return SimpleNamespace(mean=mean, picture=mean[..., list(IMAGE)], heads=heads)


def masses(own: list[Any], neutral: list[Any], objects: list[np.ndarray | None]) -> Masses:
    """Two statements a picture, each picture a group."""
    n = len(own)
    owner = np.arange(n) // 2
    made = Statements((), owner, ("",) * n, tuple(objects), (), owner, (PLACED,) * len(neutral))
    return Masses(made, own, neutral)


def drawn(n: int, *shape: int) -> list[np.ndarray]:
    return [rng.dirichlet(np.ones(8), shape).astype(np.float32) for _ in range(n)]


def test_shares_equal_those_of_loops_over_tokens() -> None:
    """Two blocks, two spans; the second statement is about no object in its picture."""
    own, plain = drawn(6, 2, 2), drawn(3, 2, 2)
    objects: list[np.ndarray | None] = [rng.random(5).astype(np.float32) for _ in range(6)]
    objects[1] = None
    found = masses([attended(one) for one in own], [attended(one) for one in plain], objects)
    rows = {(row.metric, row.kind): row for row in found.rows(1, 0, BLANK)}
    assert set(rows) == {(PICTURE, OWN), *((m, k) for m in (OBJECT, ABOVE) for k in (OWN, NEUTRAL, RELATIVE))}
    on_picture, shares, areas = [], {OWN: [], NEUTRAL: [], RELATIVE: []}, []
    for n in range(6):
        on_picture.append(sum(own[n][1, 0, token] for token in IMAGE))
        on = objects[n]
        if on is None:
            continue
        areas.append(sum(on[t] for t in range(4)) / 4)
        a, b = own[n][1, 0, 1:5], plain[n // 2][1, 0, 1:5]
        for name, seen in ((OWN, a), (NEUTRAL, b), (RELATIVE, [x / y for x, y in zip(a, b, strict=True)])):
            shares[name].append(sum(seen[t] * on[t] for t in range(4)) / sum(seen[t] for t in range(4)))
    assert rows[PICTURE, OWN].value == pytest.approx(np.mean(on_picture), abs=1e-6)
    assert rows[PICTURE, OWN].n == 6 and rows[PICTURE, OWN].n_groups == 3
    for name, each in shares.items():
        assert rows[OBJECT, name].value == pytest.approx(np.mean(each), abs=1e-6)
        assert rows[OBJECT, name].n == 5
        assert rows[ABOVE, name].value == pytest.approx(np.mean(each) - np.mean(areas), abs=1e-6)
    (area,) = found.area(BLANK)
    assert (area.metric, area.value) == (AREA, pytest.approx(np.mean(areas), abs=1e-6))


def test_attention_that_looks_nowhere_in_particular_lies_on_the_object_by_its_area() -> None:
    even = [np.full((1, 1, 8), 1 / 8, np.float32) for _ in range(8)]
    objects = [rng.random(5).astype(np.float32) for _ in range(8)]
    found = masses([attended(one) for one in even], [attended(one) for one in even[:4]], objects)
    for row in found.rows(0, 0, BLANK):
        if row.metric == ABOVE:
            assert abs(row.value) < 1e-6


def test_attention_on_the_object_alone_is_all_of_it_and_a_question_like_the_neutral_one_is_even_beside_it() -> None:
    on = np.asarray([0, 1, 0, 0, 0], np.float32)
    spike = np.full((1, 1, 8), 0, np.float32)
    spike[..., 2], spike[..., 7] = 0.25, 0.75
    same = drawn(4, 1, 1)
    rows = {
        (r.metric, r.kind): r
        for r in masses([attended(spike)] * 8, list(map(attended, same)), [on] * 8).rows(0, 0, BLANK)
    }
    assert rows[OBJECT, OWN].value == 1 and rows[ABOVE, OWN].value == 0.75
    assert rows[PICTURE, OWN].value == pytest.approx(0.25)
    twice = [attended(same[n // 2]) for n in range(8)]
    rows = {(r.metric, r.kind): r for r in masses(twice, list(map(attended, same)), [on] * 8).rows(0, 0, BLANK)}
    assert rows[OBJECT, RELATIVE].value == pytest.approx(0.25), "the ratio is 1 everywhere"


def test_a_span_that_sees_no_picture_counts_for_no_object_and_objects_nowhere_leave_no_rows() -> None:
    blind = [np.zeros((1, 1, 8), np.float32) for _ in range(4)]
    on = np.ones(5, np.float32)
    metrics = [
        row.metric for row in masses([attended(x) for x in blind], [attended(blind[0])] * 2, [on] * 4).rows(0, 0, BLANK)
    ]
    assert metrics == [PICTURE]
    none = masses([attended(x) for x in blind], [attended(blind[0])] * 2, [None] * 4)
    assert [row.metric for row in none.rows(0, 0, BLANK)] == [PICTURE] and not list(none.area(BLANK))
    assert np.array_equal(relative(np.ones(2), np.asarray([0.5, 0])), [2, 0])


def test_heads_are_told_of_one_by_one() -> None:
    heads = [rng.random((1, 1, 3, 5)).astype(np.float32) / 9 for _ in range(4)]
    objects = [rng.random(5).astype(np.float32) for _ in range(4)]
    own = [attended(one, head) for one, head in zip(drawn(4, 1, 1), heads, strict=True)]
    found = list(masses(own, [attended(one) for one in drawn(2, 1, 1)], objects).head_rows(0, 0, BLANK))
    assert [(row.head, row.metric) for row in found] == [(h, m) for h in range(3) for m in (PICTURE, OBJECT)]
    naive = [sum(one[0, 0, 2, t] for t in range(5)) for one in heads]
    assert found[4].value == pytest.approx(np.mean(naive), abs=1e-6)
    naive = [
        sum(one[0, 0, 2, t] * on[t] for t in range(4)) / one[0, 0, 2, :4].sum()
        for one, on in zip(heads, objects, strict=True)
    ]
    assert found[5].value == pytest.approx(np.mean(naive), abs=1e-6)
