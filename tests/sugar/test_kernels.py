"""Alignment kernels against tslearn, counted alignments, closed forms, naive recursion and finite differences."""

import warnings

import numpy as np
import pytest
import torch

from mllm_probe.errors import ProbeError
from mllm_probe.sugar.kernels import local_kernel, log_gak, width
from mllm_probe.sugar.pairwise import Sequences, similarities

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tslearn.metrics import gak, unnormalized_gak

DELANNOY = {1: (1, 1), 2: (3, 3), 3: (13, 5), 4: (63, 7), 5: (321, 9), 6: (1683, 11)}  # n x n and n x 2


def naive(local: np.ndarray) -> float:
    """Theorem 1 of Chow et al. 2024, cell by cell."""
    n, m = local.shape
    grid = np.zeros((n + 1, m + 1))
    grid[0, 0] = 1
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            grid[i, j] = local[i - 1, j - 1] * (grid[i, j - 1] + grid[i - 1, j - 1] + grid[i - 1, j])
    return float(np.log(grid[n, m]))


def drawn(count: int, seed: int = 0, most: int = 5, dimension: int = 6) -> Sequences:
    rng = np.random.default_rng(seed)
    lengths = torch.from_numpy(rng.integers(1, most + 1, count))
    return Sequences(torch.from_numpy(rng.normal(size=(count, most, dimension))), lengths)


def unit(sequences: Sequences, i: int) -> np.ndarray:
    values = sequences.a[i, : int(sequences.lengths[i])].numpy()
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@pytest.mark.parametrize("n", list(DELANNOY))
def test_where_every_step_counts_one_alignments_are_counted(n: int) -> None:
    square, narrow = (
        log_gak(torch.zeros(1, n, m, dtype=torch.float64), torch.tensor([n]), torch.tensor([m])) for m in (n, 2)
    )
    assert square.exp().item() == pytest.approx(DELANNOY[n][0])
    if n > 1:
        assert narrow.exp().item() == pytest.approx(DELANNOY[n][1])


def test_all_lengths_at_once_equal_the_recursion_cell_by_cell() -> None:
    rng = np.random.default_rng(0)
    local = torch.from_numpy(-3 * rng.random((40, 7, 5)))
    a, b = torch.from_numpy(rng.integers(1, 8, 40)), torch.from_numpy(rng.integers(1, 6, 40))
    expected = [naive(np.exp(local[p, : a[p], : b[p]].numpy())) for p in range(40)]
    np.testing.assert_allclose(log_gak(local, a, b), expected, rtol=1e-12)


def test_gradients_are_those_of_finite_differences_and_visits_add_up() -> None:
    torch.manual_seed(0)
    local = (-3 * torch.rand(6, 4, 5, dtype=torch.float64)).requires_grad_(True)
    a, b = torch.tensor([4, 3, 1, 2, 4, 1]), torch.tensor([5, 2, 5, 1, 3, 1])
    assert torch.autograd.gradcheck(lambda x: log_gak(x, a, b), (local,))
    log_gak(local, a, b).sum().backward()
    visits = local.grad
    assert visits is not None
    first, last = visits[:, 0, 0], visits[torch.arange(6), a - 1, b - 1]
    torch.testing.assert_close(first, torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(last, torch.ones(6, dtype=torch.float64))
    assert (visits[1, 3:] == 0).all() and (visits[1, :, 2:] == 0).all(), "nothing beyond a pair's own lengths"


def test_forty_slices_overflow_nothing() -> None:
    x = torch.nn.functional.normalize(torch.randn(1, 40, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    phi = 2 * (1 - x @ x.transpose(1, 2))
    n = torch.tensor([40])
    found = log_gak(local_kernel(phi, width(1.0, n, n)[:, None, None]), n, n)
    exact = naive(np.exp(local_kernel(phi.double(), float(np.sqrt(40)))[0].numpy()))
    assert found.item() == pytest.approx(exact, rel=1e-5) and found.item() > 50


@pytest.mark.parametrize(
    ("delta", "values"),
    [(1.0, {0.8: 0.6931, 0.5: 0.4353, 0.0: 0.2254}), (0.5, {0.8: 0.2898, 0.5: 0.0726, 0.0: 0.0092})],
)
def test_one_slice_each_has_a_closed_form(delta: float, values: dict[float, float]) -> None:
    one = torch.tensor([1])
    for cosine, expected in values.items():
        phi = torch.tensor([[[2 * (1 - cosine)]]], dtype=torch.float64)
        s = np.exp(-(1 - cosine) / delta**2)
        found = log_gak(local_kernel(phi, width(delta, one, one)[:, None, None]), one, one).exp().item()
        assert found == pytest.approx(s / (2 - s)) and found == pytest.approx(expected, abs=1e-4)


def test_similarities_are_tslearns() -> None:
    """Its distance is the squared Euclidean one, 2 (1 - cos) of unit vectors; sigma is the pair's."""
    sequences = drawn(9)
    found = similarities(sequences, 0.7, cosine=False)
    for i in range(9):
        for j in range(9):
            n, m = int(sequences.lengths[i]), int(sequences.lengths[j])
            sigma = 0.7 * np.sqrt((n + m) / 2)
            assert found[i, j].item() == pytest.approx(
                gak(unit(sequences, i), unit(sequences, j), sigma=sigma), rel=1e-9
            )
    x, y = 2 * (1 - sequences.cosines(torch.tensor([0]), torch.tensor([1]), 5)), sequences.lengths
    raw = log_gak(local_kernel(x, 1.3), y[:1], y[1:2]).exp().item()
    assert raw == pytest.approx(unnormalized_gak(unit(sequences, 0), unit(sequences, 1), sigma=1.3), rel=1e-9)


def test_similarities_are_symmetric_bounded_and_one_at_home() -> None:
    found = similarities(drawn(40, seed=1), 0.6, cosine=False)
    torch.testing.assert_close(found, found.T)
    torch.testing.assert_close(found.diagonal(), torch.ones(40, dtype=torch.float64))
    assert found.min() > 0 and found.max() <= 1 + 1e-12


def test_order_counts() -> None:
    forth = drawn(1, seed=2, most=5).a.repeat(2, 1, 1)
    forth[1] = forth[0].flip(0)
    assert similarities(Sequences(forth, torch.tensor([5, 5])), 0.7)[0, 1] < 0.5


def test_single_slices_rank_as_their_cosine_does_and_are_replaced_by_it() -> None:
    sequences = drawn(30, seed=3, most=1)
    kernel, cosine = (similarities(sequences, 0.7, cosine=replaced) for replaced in (False, True))
    plain = np.asarray([[unit(sequences, i)[0] @ unit(sequences, j)[0] for j in range(30)] for i in range(30)])
    np.testing.assert_allclose(cosine, plain, atol=1e-12)
    upper = np.triu_indices(30, 1)
    assert (np.argsort(kernel.numpy()[upper]) == np.argsort(plain[upper])).all()


def test_the_triple_kernel_looks_at_one_block() -> None:
    """Within a modality at a alone, across modalities at b alone; and the matrix need not be positive."""
    rng = np.random.default_rng(4)
    kinds = torch.tensor([[0], [0], [1], [1]])
    a, b = (torch.from_numpy(rng.normal(size=(4, 1, 5))) for _ in range(2))
    cos = lambda x, i, j: float(torch.cosine_similarity(x[i, 0], x[j, 0], dim=0))  # noqa: E731
    found = similarities(Sequences(a, torch.ones(4, dtype=int), b, kinds), 1.0)
    for i in range(4):
        for j in range(4):
            assert found[i, j].item() == pytest.approx(cos(a if kinds[i] == kinds[j] else b, i, j))
    apart = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[1.0, 0.0]]], dtype=torch.float64)
    alike = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]], [[1.0, 0.0]]], dtype=torch.float64)
    gram = similarities(Sequences(apart, torch.ones(3, dtype=int), alike, torch.tensor([[0], [0], [1]])), 1.0)
    assert torch.linalg.eigvalsh(gram).min().item() == pytest.approx(1 - np.sqrt(2))


def test_what_cannot_be_aligned_is_one_sentence() -> None:
    one = torch.ones(2, 3, 4)
    with pytest.raises(ProbeError, match="1 of 2 sequences have no slice"):
        Sequences(one, torch.tensor([3, 0]))
    with pytest.raises(ProbeError, match="1 slices are vectors of zeros"):
        Sequences(torch.cat([one[:, :2], torch.zeros(2, 1, 4)], dim=1), torch.tensor([3, 2]))
    with pytest.raises(ProbeError, match="delta=0 must be above 0"):
        similarities(Sequences(one, torch.tensor([3, 2])), 0)
    with pytest.raises(ProbeError, match="a sequence has no slice"):
        log_gak(torch.zeros(1, 2, 2), torch.tensor([0]), torch.tensor([2]))
