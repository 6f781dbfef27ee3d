"""Cells of a picture, and the share of each that a mask covers. Knows arrays only: no model, no data set."""

import numpy as np


def covered(mask: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """The share [T] float64, 0 to 1, of the area of each cell that `mask` [H, W] bool covers.

    `cells` [T, 4] float: left, top, right and bottom as shares 0..1 of the picture's width and height. What of a cell
    is outside the picture is not covered. nan for a cell of no area, or with an edge that is not a finite number.

    Edges may fall anywhere in a pixel: the sums of a summed-area table (Crow 1984, SIGGRAPH) are bilinear between the
    corners of a pixel, so the shares are exact.
    """
    height, width = mask.shape
    table = np.zeros((height + 1, width + 1))
    table[1:, 1:] = mask.cumsum(0, dtype=float).cumsum(1)
    edges = np.asarray(cells, float) * (width, height, width, height)
    left, top, right, bottom = edges.T
    known = np.isfinite(edges).all(1) & (left < right) & (top < bottom)
    left, top, right, bottom = edges[known].T
    inside = _sum(table, right, bottom) - _sum(table, left, bottom) - _sum(table, right, top) + _sum(table, left, top)
    shares = np.full(len(edges), np.nan)
    shares[known] = np.clip(inside / ((right - left) * (bottom - top)), 0, 1)
    return shares


def _sum(table: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The covered area [T], in pixels, left of x [T] and above y [T], in pixels, of which the picture's edges are the
    last; `table` [H + 1, W + 1] holds it at the corners of pixels."""
    height, width = table.shape[0] - 1, table.shape[1] - 1
    x, y = np.clip(x, 0, width), np.clip(y, 0, height)
    i, j = np.minimum(y.astype(int), height - 1), np.minimum(x.astype(int), width - 1)
    up = table[i, j] + (table[i, j + 1] - table[i, j]) * (x - j)
    down = table[i + 1, j] + (table[i + 1, j + 1] - table[i + 1, j]) * (x - j)
    return up + (down - up) * (y - i)
