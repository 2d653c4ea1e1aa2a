from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.layers.permute import Permute
from netc.layers.types import BlobType, Refusal
from tests.support.audit import definition
from tests.support.layer_harness import check_layer, distinct, forward
from tests.support.lowering import check_lowering


@st.composite
def permutations(draw: st.DrawFn) -> tuple[Permute, tuple[int, ...]]:
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=5)))
    order = draw(st.permutations(range(len(shape))))
    return Permute(tuple(order[: draw(st.integers(0, len(order)))])), shape


@given(permutations())
@settings(max_examples=40, deadline=None)
@definition("Permute")
def test_element_by_element(drawn: tuple[Permute, tuple[int, ...]]) -> None:
    layer, shape = drawn
    x = distinct(*shape)
    run = check_layer(layer, [x])
    rest = [axis for axis in range(len(shape)) if axis not in layer.order]
    order = [*layer.order, *rest]
    for place in np.ndindex(*run.tops[0].shape):
        source = [0] * len(shape)
        for axis, index in zip(order, place, strict=True):
            source[axis] = index
        assert run.tops[0][place] == x[tuple(source)]


def test_onnx() -> None:
    x, y = distinct(2, 3, 4, 5), distinct(3, 3, 4, 5)
    assert check_lowering(Permute((0, 2, 3, 1)), [x], other_batch=[y]) == ["Transpose"]
    assert check_lowering(Permute((2,)), [x]) == ["Transpose"]


def test_the_order_of_the_bottom_costs_no_operator() -> None:
    assert "Transpose" not in check_lowering(Permute((0, 1)), [distinct(2, 3, 4)])
    assert Permute().infer(BlobType((2, 3))).tops == (BlobType((2, 3)),)


def test_what_ssd_nets_do_with_it() -> None:
    scores = np.arange(24.0).reshape(1, 6, 2, 2)
    (moved,) = forward(Permute((0, 2, 3, 1)), [scores]).tops
    np.testing.assert_array_equal(moved[0, 0, 0], scores[0, :, 0, 0])


@pytest.mark.parametrize("order", [(0, 4), (1, 1)])
def test_refused(order: tuple[int, ...]) -> None:
    with pytest.raises(Refusal) as caught:
        Permute(order).infer(BlobType((1, 2, 3, 4)))
    assert caught.value.setting == "order"
    assert ", ".join(map(str, order)) in caught.value.got
