"""The permutohedral lattice: against its definition, point by point, and the sum it is for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.layers.lattice import Lattice
from netc.layers.types import Refusal
from tests.support.layer_harness import smooth


def by_definition(features: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return what the paper's three steps give, with a dictionary of corners.

    The enclosing simplex is found by trying every corner of colour 0 around a point, its corners by
    walking along the sorted coordinates.
    """
    d = features.shape[1]
    basis = np.zeros((d + 1, d))
    for i in range(d):
        basis[: i + 1, i] = 1
        basis[i + 1, i] = -(i + 1)
        basis[:, i] /= np.sqrt((i + 1) * (i + 2))
    elevated = features @ basis.T * (d + 1) * np.sqrt(2 / 3)

    def corners(point: np.ndarray) -> list[tuple[tuple[int, ...], float]]:
        low = np.floor(point / (d + 1)).astype(int)
        for up in itertools.product((0, 1), repeat=d + 1):
            origin = (low + up) * (d + 1)
            if origin.sum():
                continue
            rest = point - origin
            order = np.argsort(-rest, kind="stable")
            ordered = rest[order]
            weights = np.empty(d + 1)
            weights[1:] = (ordered[:-1] - ordered[1:])[::-1] / (d + 1)
            weights[0] = 1 - (ordered[0] - ordered[-1]) / (d + 1)
            if weights[0] < -1e-9:
                continue
            found = []
            for colour in range(d + 1):
                corner = origin + colour
                corner[order[d + 1 - colour :]] -= d + 1
                found.append((tuple(int(v) for v in corner), weights[colour]))
            return found
        raise AssertionError("no simplex around the point")

    homes = [corners(point) for point in elevated]
    held: dict[tuple[int, ...], np.ndarray] = {}
    for i, home in enumerate(homes):
        for corner, weight in home:
            held[corner] = held.get(corner, 0) + weight * values[:, i]
    for axis in range(d + 1):
        step = -np.ones(d + 1, int)
        step[axis] += d + 1
        none = np.zeros(len(values))
        held = {
            corner: value
            + 0.5 * held.get(tuple(int(v) for v in corner + step), none)
            + 0.5 * held.get(tuple(int(v) for v in corner - step), none)
            for corner, value in held.items()
        }
    result = np.zeros(values.shape)
    for i, home in enumerate(homes):
        for corner, weight in home:
            result[:, i] += weight * held[corner] / (1 + 2.0**-d)
    return result


@given(
    st.integers(1, 5), st.integers(1, 30), st.integers(0, 1000), st.sampled_from([0.2, 1.0, 5.0])
)
@settings(max_examples=40)
def test_the_three_steps_are_those_of_the_paper(d: int, n: int, seed: int, width: float) -> None:
    features = smooth(n, d, seed=seed) * width
    values = smooth(3, n, seed=seed + 1)
    got = Lattice(np, features).filter(values)
    np.testing.assert_allclose(got, by_definition(features, values), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_the_transpose_is_the_transpose(d: int) -> None:
    lattice = Lattice(np, smooth(40, d) * 1.5)
    x, y = smooth(1, 40, seed=1), smooth(1, 40, seed=2)
    forth = (lattice.filter(x) * y).sum()
    back = (x * lattice.filter(y, transposed=True)).sum()
    assert forth == pytest.approx(back, rel=1e-12)


def test_it_comes_near_the_gaussian_sum() -> None:
    # Positions on a grid, as densely as images have them; the rims, where corners lack, left out.
    side, spread = 40, 3.0
    rows, columns = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    features = np.stack([rows.ravel(), columns.ravel()], axis=1) / spread
    values = smooth(1, side * side)
    near = np.exp(-0.5 * ((features[:, None] - features[None]) ** 2).sum(axis=2))
    exact = (near @ values[0]) / near.sum(axis=1)
    lattice = Lattice(np, features)
    got = (lattice.filter(values) / lattice.filter(np.ones((1, side * side))))[0]
    inner = np.zeros((side, side), bool)
    inner[8:-8, 8:-8] = True
    # An approximation: its error is a tenth of what it approximates.
    error = np.abs(got - exact)[inner.ravel()].mean()
    assert error < 0.1 * np.abs(values).mean()
    assert np.corrcoef(got[inner.ravel()], exact[inner.ravel()])[0, 1] > 0.95


def test_float32_stays_float32() -> None:
    lattice = Lattice(np, smooth(10, 2).astype(np.float32))
    assert lattice.filter(smooth(2, 10).astype(np.float32)).dtype == np.float32


def test_features_without_end_are_refused() -> None:
    with pytest.raises(Refusal, match="too narrow"):
        Lattice(np, smooth(4, 5) * 1e5)
