from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netc.layers.fillers import Filler
from netc.layers.input import BlobShape
from netc.layers.parameter import Parameter
from netc.layers.types import Refusal
from tests.support.layer_harness import check_layer, smooth, vector_names
from tests.support.lowering import check_lowering
from tests.support.nets import executor_of, graph_of
from tests.support.vectors import check_bound_vector

TEXT = """
layer { name: "weights" type: "Parameter" top: "w" parameter_param { shape { dim: 2 dim: 3 } }
        param { name: "shared" } }
layer { name: "again" type: "Parameter" top: "v" parameter_param { shape { dim: 2 dim: 3 } }
        param { name: "shared" } }
layer { name: "loss" type: "EuclideanLoss" bottom: "w" bottom: "v" top: "loss" }
layer { name: "sum" type: "Eltwise" bottom: "w" bottom: "v" top: "sum" loss_weight: 2 }
"""


@pytest.mark.parametrize("name", vector_names("parameter"))
def test_golden_vectors(name: str) -> None:
    check_bound_vector(name)


@given(shape=st.lists(st.integers(0, 3), max_size=4).map(tuple))
def test_the_top_is_the_param(shape: tuple[int, ...]) -> None:
    w = smooth(*shape)
    run = check_layer(Parameter(shape=BlobShape(shape)), [], [w])
    np.testing.assert_array_equal(run.tops[0], w)


def test_onnx() -> None:
    layer = Parameter(shape=BlobShape((2, 3)))
    assert check_lowering(layer, [], [smooth(2, 3)]) == ["Identity"]


def test_it_starts_at_zero_and_is_shared_like_a_weight() -> None:
    graph = graph_of(TEXT)
    assert [param.shape for param in graph.params] == [(2, 3)]
    net = executor_of(graph, keep="all")
    assert not net.params[0].any()
    net.params[0][...] = smooth(2, 3)
    net.forward()
    np.testing.assert_array_equal(net.data("w"), net.params[0])
    net.backward()
    # The two sides of the loss cancel; the sum counts each element twice, with weight 2.
    np.testing.assert_allclose(net.param_diffs[0], 4)


def test_a_negative_size() -> None:
    with pytest.raises(Refusal, match="negative size"):
        Parameter(shape=BlobShape((2, -1))).infer()


def test_it_may_start_as_a_filler_says() -> None:
    text = TEXT.replace("parameter_param {", "parameter_param { blob_filler { value: 3 }", 1)
    graph = graph_of(text)
    assert graph.params[0].filler == Filler(value=3.0)
