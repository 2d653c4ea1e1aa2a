"""Made-up inputs: measurements are random, whatever is read as a whole number is 0."""

from __future__ import annotations

import numpy as np

from netc.runtime.standin import StandIn, fill_inputs
from tests.support.nets import executor_of, graph_of

NET = """
layer { name: "i" type: "Input" top: "x" top: "t"
  input_param { shape { dim: 50 dim: 20 } shape { dim: 50 } } }
layer { name: "l" type: "SoftmaxWithLoss" bottom: "x" bottom: "t" top: "l" }
"""


def test_inputs() -> None:
    net = executor_of(graph_of(NET))
    fill_inputs(net)
    x, t = net.data("x"), net.data("t")
    # 1000 normal values: these bounds are five standard errors away.
    assert abs(x.mean()) < 0.16
    assert abs(x.std() - 1) < 0.12
    assert not t.any()
    net.forward()
    assert np.isfinite(net.loss())


def test_the_same_seed_gives_the_same_values_and_arrays_are_filled_once() -> None:
    graph = graph_of(NET)
    outs = tuple(np.empty(graph.blobs[key].shape, np.float32) for key in graph.inputs)
    others = tuple(np.empty_like(out) for out in outs)
    feed = StandIn(graph, 0)
    feed.fill(outs)
    StandIn(graph, 0).fill(others)
    np.testing.assert_array_equal(outs[0], others[0])
    outs[0][...] = 7
    feed.fill(outs)
    assert (outs[0] == 7).all(), "a pass that reads no data takes no time for it"
    feed.fill(others)
    assert (others[0] != 7).any()
    feed.close()
