"""The executor: partial passes, accumulation, random streams, sharing, and whom an error names."""

from __future__ import annotations

import numpy as np
import pytest

from netc.assemble import shared_params
from netc.backends import find_backend
from netc.errors import NetcError
from netc.layers.types import Phase
from netc.plan import plan
from netc.runtime import Executor
from netc.runtime.executor import generator
from tests.support.nets import executor_of, graph_of, set_inputs

NET = """
layer { name: "in" type: "Input" top: "x" top: "t"
        input_param { shape { dim: 4 dim: 3 } shape { dim: 4 dim: 2 } } }
layer { name: "a" type: "InnerProduct" bottom: "x" top: "a"
        inner_product_param { num_output: 5 weight_filler { type: "gaussian" } } }
layer { name: "drop" type: "Dropout" bottom: "a" top: "d" }
layer { name: "b" type: "InnerProduct" bottom: "d" top: "b"
        inner_product_param { num_output: 2 weight_filler { type: "gaussian" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "b" bottom: "t" top: "loss" loss_weight: 3 }
"""


def diffs(net: Executor) -> list[np.ndarray]:
    return [d.copy() for d in net.param_diffs if d is not None]


def test_gradients_add_up_until_they_are_cleared() -> None:
    net = executor_of(graph_of(NET))
    set_inputs(net)
    net.forward()
    net.backward()
    once = diffs(net)
    net.forward_pass = 0  # the same pass again, with the same dropout
    net.forward()
    net.backward()
    for two, one in zip(diffs(net), once, strict=True):
        np.testing.assert_allclose(two, 2 * one, rtol=1e-6)
    net.clear_param_diffs()
    assert all((d == 0).all() for d in diffs(net))


def test_partial_passes_do_their_part() -> None:
    graph = graph_of(NET)
    whole, parts = executor_of(graph, keep="all"), executor_of(graph, keep="all")
    for net in (whole, parts):
        set_inputs(net)
    whole.forward()
    whole.backward()
    drop = graph.node_index("drop")
    parts.forward(last=drop)
    parts.forward_pass -= 1  # a pass in two parts is one pass
    parts.forward(first=drop + 1)
    parts.backward(last=drop + 1)
    parts.backward(first=drop)
    for key in graph.blobs:
        np.testing.assert_array_equal(whole.data(key), parts.data(key))
    for a, b in zip(diffs(whole), diffs(parts), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_loss_is_weighted() -> None:
    net = executor_of(graph_of(NET))
    set_inputs(net)
    net.forward()
    assert net.loss() == pytest.approx(3 * float(net.data("loss")))


def test_random_layers_depend_on_seed_layer_and_pass_alone() -> None:
    def dropped(seed: int, number: int) -> np.ndarray:
        net = executor_of(graph_of(NET), keep="all", seed=seed)
        net.data("x")[...] = 1
        net.forward_pass = number
        net.forward()
        return np.asarray(net.data("d") == 0)

    np.testing.assert_array_equal(dropped(1, 5), dropped(1, 5))
    assert (dropped(1, 5) != dropped(1, 6)).any()
    assert (dropped(1, 5) != dropped(2, 5)).any()


def test_a_stream_of_random_numbers_is_the_same_for_ever() -> None:
    """Snapshots of today must go on with the same numbers in years: these never change."""
    np.testing.assert_allclose(
        generator(1, "conv1", 2).random(3),
        [0.22786442066711443, 0.36450693608897156, 0.9237783811429598],
        rtol=0,
        atol=0,
    )


def test_a_test_net_shares_the_params_of_its_training_net() -> None:
    trained = executor_of(graph_of(NET))
    graph = graph_of(NET, Phase.TEST)
    backend = find_backend("reference")
    net = Executor(plan(graph, backend), backend, params=shared_params(graph, trained))
    assert all(a is b for a, b in zip(net.params, trained.params, strict=True))


def test_a_layer_that_refuses_its_data_is_named_with_its_place() -> None:
    net = executor_of(
        graph_of(
            'layer { name: "in" type: "Input" top: "x" top: "l"\n'
            "  input_param { shape { dim: 2 dim: 3 } shape { dim: 2 } } }\n"
            'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "x" bottom: "l" top: "loss" }\n'
        )
    )
    net.data("l")[...] = [0, 7]
    with pytest.raises(NetcError) as caught:
        net.forward()
    assert "net.prototxt:3:1: layer 'loss' (SoftmaxWithLoss)" in str(caught.value)
    assert "7" in str(caught.value)


def test_the_first_layer_with_a_nan_is_found() -> None:
    net = executor_of(graph_of(NET))
    set_inputs(net)
    net.params[2][0, 0] = np.nan
    net.forward()
    found = net.first_nonfinite()
    assert found is not None
    assert (found.node.name, found.blob) == ("b", "b")
    assert found.top.nan
    assert [bottom.finite for bottom in found.bottoms] == [True]
    net.params[2][0, 0] = 0
    net.forward()
    assert net.first_nonfinite() is None
