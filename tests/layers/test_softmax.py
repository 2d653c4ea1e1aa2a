from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.layers.softmax import Softmax
from netc.layers.types import BlobType, Reads, Refusal
from tests.support.layer_harness import check_layer, forward, smooth, vector_names
from tests.support.lowering import check_lowering
from tests.support.vectors import check_bound_vector, refusal_of


@pytest.mark.parametrize("name", vector_names("softmax"))
def test_golden_vectors(name: str) -> None:
    check_bound_vector(name)


@settings(max_examples=40)
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple), data=st.data())
def test_definition_and_gradient(shape: tuple[int, ...], data: st.DataObject) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1), "axis")
    x = smooth(*shape)
    run = check_layer(Softmax(axis=axis), [x])
    lines = np.moveaxis(x, axis, -1)
    found = np.moveaxis(run.tops[0], axis, -1)
    for place in np.ndindex(lines.shape):
        total = sum(math.exp(value) for value in lines[place[:-1]])
        assert found[place] == pytest.approx(math.exp(lines[place]) / total, rel=1e-12)


def test_large_scores_do_not_overflow() -> None:
    x = np.array([[1e30, -1e30, 1e30], [-3e38, -3e38, -3e38], [500, 0, -500]], np.float32)
    y = forward(Softmax(), [x]).tops[0]
    np.testing.assert_allclose(y, [[0.5, 0, 0.5], [1 / 3] * 3, [1, 0, 0]], rtol=1e-6)


def test_an_empty_batch() -> None:
    assert forward(Softmax(), [np.zeros((0, 3))]).tops[0].shape == (0, 3)


def test_it_runs_in_place() -> None:
    # The scores need not be kept: the gradient is told from the probabilities.
    assert Softmax().in_place
    assert Softmax().backward_reads() is Reads.TOP


def test_refusals() -> None:
    assert "axis 2 is out of range" in refusal_of("axis_out_of_range")
    with pytest.raises(Refusal, match="no classes") as refusal:
        Softmax().infer(BlobType((3, 0, 2)))
    assert refusal.value.setting == "axis"
    with pytest.raises(Refusal, match="axis 1 is out of range"):
        Softmax().infer(BlobType(()))


@pytest.mark.parametrize("axis", [1, -1, 2, 0])
def test_lowering(axis: int) -> None:
    x = smooth(2, 3, 4, 2)
    other = None if axis == 0 else [smooth(5, 3, 4, 2, seed=1)]
    assert check_lowering(Softmax(axis=axis), [x], other_batch=other) == ["Softmax"]
