"""Codes and information against closed forms: a coin's mixture code, planted probabilities, exclusive or."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.special import betaln

from mllm_probe.errors import ProbeError
from mllm_probe.probes.logistic import Logistic
from mllm_probe.records.problems import LayerData, Problem
from mllm_probe.stats.bootstrap import Resamples
from mllm_probe.stats.coding import blocks, loss_curve, online_code, surplus
from mllm_probe.stats.information import information, surprisal


def logits_of(x: np.ndarray, y: np.ndarray, known: int) -> np.ndarray:
    """One probe fitted on the first `known` rows (a fifth of them for validation) -> logits of all rows."""
    place, fitted, data = np.arange(len(y)), known - known // 5, LayerData(torch.from_numpy(x))
    train, val = place < fitted, (place >= fitted) & (place < known)
    (fit,) = Logistic().fit(data, [Problem(np.where(train | val, y, 0), train, val)])
    return fit(data)


def coded(x: np.ndarray, y: np.ndarray, ends: np.ndarray) -> float:
    """Bits of the online code of rows in the order given."""
    losses = [surprisal(logits_of(x, y, a)[a:b], y[a:b]).sum() for a, b in pairwise(ends)]
    return online_code(np.asarray(losses), ends, 2, surprisal(logits_of(x, y, len(y)), y).sum()).bits


def test_blocks_end_with_pictures_and_every_row_is_sent_once() -> None:
    rng = np.random.default_rng(0)
    groups = np.asarray([f"p{i}" for i in rng.integers(0, 700, 4000)])
    cut = blocks(groups, seed=3)
    assert sorted(cut.order) == list(range(4000)) and cut.ends[-1] == 4000
    for end in cut.ends[:-1]:
        assert not set(groups[cut.order[:end]]) & set(groups[cut.order[end:]])
    largest = np.unique(groups, return_counts=True)[1].max()
    wanted = np.array([64, 128, 250, 500, 1000, 2000, 4000])
    assert len(cut.ends) == 7 and ((cut.ends >= wanted) & (cut.ends < wanted + largest)).all()
    again, other = blocks(groups, seed=3), blocks(groups, seed=4)
    assert (again.order == cut.order).all() and (other.order != cut.order).any()


def test_blocks_of_single_rows_are_the_released_fractions() -> None:
    ends = [40, 80, 160, 320, 640, 1280, 2500, 5000, 10_000, 20_000, 40_000]
    assert blocks(np.arange(40_000), floor=1).ends.tolist() == ends
    assert blocks(np.arange(100), fractions=(0.1, 0.5)).ends.tolist() == [64, 100]


def test_the_code_of_a_coin_is_its_mixture() -> None:
    """Blocks of one row under (ones + 1/2) / (n + 1): the code length is the Krichevsky-Trofimov mixture, exactly."""
    y = (np.random.default_rng(0).random(300) < 0.2).astype(int)
    ones = np.cumsum(y) - y
    p = (ones + 0.5) / (np.arange(300) + 1)
    bits = surprisal(np.log(p / (1 - p)), y)
    expected = -(betaln(y.sum() + 0.5, 300 - y.sum() + 0.5) - betaln(0.5, 0.5)) / np.log(2)
    code = online_code(bits[1:], np.arange(1, 301), 2, final=200.0)
    assert code.bits == pytest.approx(expected) and code.compression == pytest.approx(300 / expected)
    assert code.data_bits == 200 and code.model_bits == pytest.approx(expected - 200)


def test_a_probe_that_never_learns_compresses_by_one_and_a_perfect_one_by_all_but_the_first_block() -> None:
    ends = np.array([64, 128, 640])
    assert online_code(np.diff(ends) * np.log2(5), ends, 5, 0.0).compression == pytest.approx(1)
    assert online_code(np.zeros(2), ends, 5, 0.0).compression == pytest.approx(10)


def test_the_curve_and_the_surplus_by_hand() -> None:
    ends, losses = np.array([10, 30, 70]), np.array([16.0, 8.0])
    known, loss = loss_curve(losses, ends, 4)
    assert known.tolist() == [0, 10, 30] and loss.tolist() == [2.0, 0.8, 0.2]
    half = surplus(losses, ends, 4, 0.5)
    assert half.bits == pytest.approx(10 * 1.5 + 20 * 0.3) and half.rows == 30
    assert surplus(losses, ends, 4, 2.0).rows == 0 and surplus(losses, ends, 4, 2.0).bits == 0
    never = surplus(losses, ends, 4, 0.1)
    assert never.rows is None and never.bits == pytest.approx(19 + 14 + 4)
    assert surplus(losses, ends, 4, 0.0).bits == pytest.approx(online_code(losses, ends, 4, 0.0).bits)


def test_a_signal_compresses_and_less_where_it_is_buried() -> None:
    """A plain direction, the same among 80 columns of noise, and noise alone, which costs a bit a row or more."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 1200)
    easy = rng.normal(size=(1200, 8)) + 4 * np.eye(8)[0] * (2 * y - 1)[:, None]
    hard = easy @ np.linalg.qr(rng.normal(size=(8, 8)))[0]
    buried = np.hstack([hard, 2 * rng.normal(size=(1200, 80))])
    cut = blocks(np.arange(1200) // 4)
    bits = [coded(x[cut.order], y[cut.order], cut.ends) for x in (hard, buried, rng.normal(size=(1200, 8)))]
    assert bits[0] < bits[1] < 0.5 * bits[2] and bits[2] >= 1150


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"losses": np.ones(3)}, "do not fit"),
        ({"losses": np.array([1.0, -1.0])}, "1 of 2 block losses"),
        ({"ends": np.array([5, 5, 9])}, "must rise"),
        ({"classes": 1}, "classes=1"),
        ({"final": np.nan}, "final=nan"),
    ],
)
def test_bad_codes_are_named(change: dict[str, object], message: str) -> None:
    sound = {"losses": np.ones(2), "ends": np.array([2, 5, 9]), "classes": 2, "final": 1.0}
    with pytest.raises(ProbeError, match=message):
        online_code(**(sound | change))  # type: ignore[arg-type]


def test_bad_blocks_are_named() -> None:
    with pytest.raises(ProbeError, match="60 rows of 60 pictures make no two blocks"):
        blocks(np.arange(60))
    with pytest.raises(ProbeError, match="must be above 0 and at most 1"):
        blocks(np.arange(600), fractions=(0.1, 2.0))
    with pytest.raises(ProbeError, match="threshold=-1"):
        surplus(np.ones(1), np.array([1, 2]), 2, -1)


def test_surprisal_is_minus_log2_of_the_probability() -> None:
    logit = np.log(np.array([9.0, 9.0, 1.0]))
    assert surprisal(logit, np.array([1, 0, 1])) == pytest.approx(-np.log2([0.9, 0.1, 0.5]))
    assert surprisal(np.log([[0.5, 0.25, 0.25]]), np.array([1]), "classes") == pytest.approx([2.0])


def test_a_channel_of_known_capacity() -> None:
    """Nine of ten rows right at p = 0.9, over a baseline that says nothing: 1 - H(0.1) bits; the baseline itself: 0."""
    y = np.tile([0, 1], 100)
    flipped = np.where(np.arange(200) % 10 == np.arange(200) // 20, 1 - y, y)
    joint, draws = np.log(9.0) * (2 * flipped - 1)[None], Resamples(np.arange(200) // 4, 500)
    found = information(np.zeros((1, 200)), joint, y, draws)
    assert (flipped != y).sum() == 20
    assert found.bits == pytest.approx(1 + 0.9 * np.log2(0.9) + 0.1 * np.log2(0.1))
    assert found.low < found.bits < found.high and found.bits == pytest.approx(found.pointwise.mean())
    assert sorted(set(found.pointwise.round(6))) == pytest.approx([1 + np.log2(0.1), 1 + np.log2(0.9)], abs=1e-6)
    assert information(joint, joint, y, draws).bits == 0
    both = information(np.zeros((2, 200)), np.concatenate([joint, 0 * joint]), y, draws)
    assert both.bits == pytest.approx(found.bits / 2)
    with pytest.raises(ProbeError, match="3 labels do not fit the 200 rows"):
        information(joint, joint, y[:3], draws)


def test_what_a_layer_adds_is_seen_through_real_probes() -> None:
    """B holds a, R holds b, the label is a coin of odds a + b: R adds what only b tells, a copy of B adds nothing."""
    rng = np.random.default_rng(0)
    a, b = 2 * rng.normal(size=(2, 3000))
    y = (rng.random(3000) < 1 / (1 + np.exp(-a - b))).astype(int)
    alone, copied, joint = (np.column_stack(parts) for parts in ([a], [a, a + 0.1 * rng.normal(size=3000)], [a, b]))
    held = slice(1500, None)
    logits = [logits_of(x, y, 1500)[held][None] for x in (alone, copied, joint)]
    draws = Resamples(np.arange(1500), 500)
    adds, nothing = (information(logits[0], z, y[held], draws) for z in logits[:0:-1])
    truth = surprisal(logits[0][0], y[held]) - surprisal((a + b)[held], y[held])
    assert adds.bits == pytest.approx(truth.mean(), abs=0.01) and adds.low > 0.1
    assert abs(nothing.bits) < 0.005
