"""Shares of cells against counted pixels, finer pixels and counted points."""

import numpy as np
import pytest

from mllm_probe.data.cells import covered

HEIGHT, WIDTH, FINER = 9, 14, 7


@pytest.fixture(params=[0, 1, 2])
def mask(request: pytest.FixtureRequest) -> np.ndarray:
    """A blob, every second pixel or so, hardly any."""
    rng = np.random.default_rng(request.param)
    return rng.random((HEIGHT, WIDTH)) < (0.8, 0.5, 0.05)[request.param]


def boxes(rng: np.random.Generator, wide: int, high: int) -> np.ndarray:
    """[60, 4] whole numbers: left, top, right, bottom on a grid of that size."""
    x, y = (np.sort(np.stack([rng.permutation(n + 1)[:2] for _ in range(60)]), axis=1) for n in (wide, high))
    return np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1)


@pytest.mark.parametrize("finer", [1, FINER])
def test_a_share_is_the_mean_of_the_pixels_or_of_finer_ones(mask: np.ndarray, finer: int) -> None:
    pixels = mask.repeat(finer, 0).repeat(finer, 1)
    high, wide = pixels.shape
    whole = boxes(np.random.default_rng(7), wide, high)
    expected = [pixels[top:bottom, left:right].mean() for left, top, right, bottom in whole]
    np.testing.assert_allclose(covered(mask, whole / (wide, high, wide, high)), expected, atol=1e-12)


def test_of_any_cell_it_is_the_share_of_its_points(mask: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    for left, top, right, bottom in np.sort(rng.uniform(-0.2, 1.2, (20, 2, 2)), axis=1).reshape(20, 4):
        hits = 0
        for y in np.linspace(top, bottom, 401)[:-1] + (bottom - top) / 800:
            x = np.linspace(left, right, 401)[:-1] + (right - left) / 800
            if 0 <= y < 1:
                hits += mask[int(y * HEIGHT), (x[(x >= 0) & (x < 1)] * WIDTH).astype(int)].sum()
        share = covered(mask, np.array([[left, top, right, bottom]]))[0]
        assert share == pytest.approx(hits / 400**2, abs=0.01)


def test_the_cells_of_a_grid_share_the_mask_among_them(mask: np.ndarray) -> None:
    x, y = np.linspace(0, 1, 6), np.linspace(0, 1, 5)
    grid = np.array([[x[j], y[i], x[j + 1], y[i + 1]] for i in range(4) for j in range(5)])
    assert covered(mask, grid).mean() == pytest.approx(mask.mean())
    assert covered(mask, grid.astype(np.float32)).mean() == pytest.approx(mask.mean(), abs=1e-5)


def test_full_empty_and_outside() -> None:
    full = np.ones((HEIGHT, WIDTH), dtype=bool)
    cells = np.array([[0, 0, 1, 1], [0.31, 0.2, 0.77, 0.9], [1, 0, 1.5, 1], [-0.5, 0, 0.5, 1], [-3, -3, -2, -2]])
    np.testing.assert_allclose(covered(full, cells), [1, 1, 0, 0.5, 0], atol=1e-12)
    assert not covered(~full, cells).any() and covered(full, cells).max() <= 1


def test_cells_without_an_area_are_nan() -> None:
    full, nan, inf = np.ones((HEIGHT, WIDTH), dtype=bool), np.nan, np.inf
    cells = [[0.5, 0, 0.5, 1], [0, 1, 1, 0], [0, nan, 1, 1], [nan] * 4, [0, 0, inf, 1], [0.4, 0, 0.2, -1], [0, 0, 1, 1]]
    np.testing.assert_array_equal(covered(full, np.array(cells)), [nan] * 6 + [1])
    assert covered(full, np.zeros((0, 4))).shape == (0,)
