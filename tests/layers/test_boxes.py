from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.layers.boxes import CodeType, area, clipped, decode, encode, intersection, overlap
from netc.layers.boxes import suppress as survivors
from tests.support.layer_harness import assert_close

# Corners on a grid, so that boxes touch, coincide and are empty often.
corner = st.integers(0, 6).map(lambda n: n / 6)
box = st.tuples(corner, corner, corner, corner)
boxes = st.lists(box, min_size=1, max_size=6).map(lambda found: np.array(found, np.float64))


def pixels_of(found: np.ndarray) -> set[tuple[int, int]]:
    """The pixels of a box whose ends are pixels, both included."""
    x0, y0, x1, y1 = (int(v) for v in found)
    return set(itertools.product(range(x0, x1 + 1), range(y0, y1 + 1)))


@given(boxes)
@settings(deadline=None)
def test_overlap_by_counting_pixels(found: np.ndarray) -> None:
    ends = np.rint(found * 6)
    got = overlap(np, ends[:, None], ends, pixels=True)
    for (i, a), (j, b) in itertools.product(enumerate(ends), repeat=2):
        one, other = pixels_of(a), pixels_of(b)
        union = len(one | other)
        assert got[i, j] == pytest.approx(len(one & other) / union if union else 0)


@given(boxes)
@settings(deadline=None)
def test_overlap_by_counting_cells(found: np.ndarray) -> None:
    # Cell n of a grid is what lies between n and n + 1: a box without an extent has none.
    ends = np.rint(found * 6)
    inner = ends - np.array([0, 0, 1, 1])
    got, common = overlap(np, found[:, None], found), intersection(np, found[:, None], found)
    for (i, a), (j, b) in itertools.product(enumerate(inner), repeat=2):
        one, other = pixels_of(a), pixels_of(b)
        union = len(one | other)
        assert got[i, j] == pytest.approx(len(one & other) / union if union else 0)
        assert common[i, j] == pytest.approx(len(one & other) / 36)
        assert area(np, found)[i] == pytest.approx(len(one) / 36)


def real_boxes(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low = rng.uniform(-0.1, 0.8, (n, 2))
    return np.concatenate((low, low + rng.uniform(0.05, 0.5, (n, 2))), axis=1)


@pytest.mark.parametrize("code", CodeType)
def test_decode_undoes_encode(code: CodeType) -> None:
    found, priors = real_boxes(20), real_boxes(20, seed=1)
    numbers = encode(np, found, priors, code)
    assert_close(decode(np, numbers, priors, code), found, rtol=1e-12, atol=1e-12)
    assert not encode(np, priors, priors, code).any()


@pytest.mark.parametrize(("code", "numbers"), [
    (CodeType.CORNER, (0.1, 0.1, 0.1, -0.1)),
    (CodeType.CORNER_SIZE, (0.5, 0.25, 0.5, -0.25)),
    # The centre moves by half a width; the height is halved.
    (CodeType.CENTER_SIZE, (0.5, 0, 0, np.log(0.5))),
])  # fmt: skip
def test_a_box_by_hand(code: CodeType, numbers: tuple[float, ...]) -> None:
    prior = np.array([0.2, 0.2, 0.4, 0.6])
    got = decode(np, np.array(numbers), prior, code)
    assert_close(got, np.array([0.3, 0.3, 0.5, 0.5]), rtol=1e-12, atol=1e-12)


def test_clipped() -> None:
    assert clipped(np, np.array([-0.1, 0.2, 1.2, 0.9])).tolist() == [0, 0.2, 1, 0.9]


def slowly(found: np.ndarray, candidates: np.ndarray, threshold: float, eta: float) -> list[int]:
    kept: list[int] = []
    for i in np.flatnonzero(candidates):
        if all(overlap(np, found[i], found[j]) <= threshold for j in kept):
            kept.append(int(i))
            if eta < 1 and threshold > 0.5:
                threshold *= eta
    return kept


@given(st.integers(0, 30), st.floats(0, 1), st.sampled_from([1.0, 0.9, 0.5]), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_suppression(n: int, threshold: float, eta: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = np.stack([real_boxes(n, seed + row) for row in range(3)])
    candidates = rng.random((3, n)) < 0.8
    stays = survivors(np, found, candidates, threshold, eta)
    for row in range(3):
        want = slowly(found[row], candidates[row], threshold, eta)
        assert np.flatnonzero(stays[row]).tolist() == want
