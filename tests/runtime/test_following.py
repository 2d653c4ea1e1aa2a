"""Shapes that only the data tell: at the start of a pass, and in the midst of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.assemble import PLANS, Plans
from netc.errors import NetcError
from netc.export.batch import with_batch
from netc.layers.types import Phase
from netc.plan import Direction
from netc.runtime import Executor
from tests.support.nets import executor_of, graph_of, net_of, require
from tests.test_conformance_layers import VECTORS

# What is before the filter goes item by item, so that it makes no difference whether items are left
# out before it or behind.
INPUT = """
layer { name: "in" type: "Input" top: "x" top: "label" top: "selector"
  input_param { shape { dim: %d dim: 3 dim: 6 dim: 6 } shape { dim: %d } shape { dim: %d } } }
"""
BEFORE = """
layer { name: "conv1" type: "Convolution" bottom: "x" top: "conv1" convolution_param {
  num_output: 16 kernel_size: 3 pad: 1 weight_filler { type: "gaussian" std: 0.3 } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "norm1" type: "LRN" bottom: "conv1" top: "norm1" lrn_param { local_size: 3 } }
layer { name: "conv2" type: "Convolution" bottom: "norm1" top: "conv2" convolution_param {
  num_output: 16 kernel_size: 1 weight_filler { type: "gaussian" std: 0.3 } } }
layer { name: "sum" type: "Eltwise" bottom: "conv1" bottom: "conv2" top: "sum" }
layer { name: "pool" type: "Pooling" bottom: "sum" top: "pool" pooling_param {
  kernel_size: 2 stride: 2 } }
"""
FILTER = """
layer { name: "filter" type: "Filter" bottom: "pool" bottom: "label" bottom: "selector"
  top: "some" top: "labels" }
"""
BEHIND = """
layer { name: "conv3" type: "Convolution" bottom: "%s" top: "conv3" convolution_param {
  num_output: 8 kernel_size: 3 weight_filler { type: "gaussian" std: 0.3 } } }
layer { name: "relu3" type: "ReLU" bottom: "conv3" top: "conv3" }
layer { name: "ip" type: "InnerProduct" bottom: "conv3" top: "ip" inner_product_param {
  num_output: 4 weight_filler { type: "gaussian" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "%s" top: "loss"
  loss_weight: 0.5 propagate_down: true propagate_down: false }
layer { name: "all" type: "InnerProduct" bottom: "pool" top: "all" inner_product_param {
  num_output: 2 weight_filler { type: "gaussian" std: 0.1 } } }
"""
N = 4
FILTERED = INPUT % (N, N, N) + BEFORE + FILTER + BEHIND % ("some", "labels")


def batch(seed: int, count: int = N) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 3, 6, 6), dtype=np.float32)
    return x, rng.integers(0, 4, count).astype(np.float32)


def run(net: Executor, x: np.ndarray, label: np.ndarray, selector: np.ndarray) -> None:
    for key, values in (("x", x), ("label", label), ("selector", selector)):
        net.data(key)[...] = values
    net.clear_param_diffs()
    net.forward()
    net.backward()


def gradients(net: Executor) -> list[np.ndarray]:
    count = len(net.plan.graph.params)
    found = [net.param_diff_array(i) for i in range(count)]
    return [np.zeros(()) if diff is None else diff.copy() for diff in found]


def poison(net: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what lies in the arena be lost whenever another plan goes on."""
    use = net.use

    def use_poisoned(*args: object, **kwargs: object) -> None:
        use(*args, **kwargs)
        net._arena[...] = 255

    monkeypatch.setattr(net, "use", use_poisoned)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("keep", [("ip", "all"), "all"], ids=["shared", "kept"])
def test_a_filtered_batch_is_the_smaller_batch(
    backend: str, keep: str | tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    require(backend)
    net = executor_of(net_of(FILTERED), backend_name=backend, keep=keep)
    if keep != "all":
        poison(net, monkeypatch)
    smaller: dict[int, Executor] = {}
    rng = np.random.default_rng(3)
    selections = [[1, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1], *(rng.random((5, N)) < 0.5).tolist()]
    for seed, selection in enumerate(selections):
        chosen = np.flatnonzero(selection)
        count = len(chosen)
        if not count:
            continue
        x, label = batch(seed)
        run(net, x, label, np.float32(selection))
        assert net.data("some").shape[0] == count == net.data("ip").shape[0]
        if count not in smaller:
            text = INPUT % (count, count, count) + BEFORE + BEHIND % ("pool", "label")
            smaller[count] = executor_of(graph_of(text), keep="all")
            for i in range(len(net.params)):
                smaller[count].set_param(i, net.param_array(i))
        other = smaller[count]
        run(other, x[chosen], label[chosen], np.ones(count))
        np.testing.assert_allclose(net.data("ip"), other.data("ip"), rtol=1e-4, atol=1e-4)
        assert net.loss() == pytest.approx(other.loss(), rel=1e-4)
        for ours, theirs in zip(gradients(net), gradients(other), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
        # The branch that is not filtered sees all items, whatever plan went on.
        assert net.data("all").shape == (N, 2)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_pass_without_items_is_none(backend: str) -> None:
    require(backend)
    net = executor_of(net_of(FILTERED), backend_name=backend, keep=("ip", "all"))
    run(net, *batch(0), np.ones(N))
    before = gradients(net)
    run(net, *batch(0), np.zeros(N))
    assert net.data("some").shape == (0, 16, 3, 3) and net.data("ip").shape == (0, 4)
    assert net.loss() == 0 and net.data("all").any()
    assert not any(gradient.any() for gradient in gradients(net))
    assert "none" in {step.kernel for step in net.plan.forward if hasattr(step, "kernel")}
    # Gradients that add up are left as they are.
    run(net, *batch(0), np.ones(N))
    net.data("selector")[...] = 0
    net.forward()
    net.backward()
    for once, twice in zip(before, gradients(net), strict=True):
        np.testing.assert_array_equal(once, twice)


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_every_type_takes_an_empty_batch_or_says_why_not(path: Path) -> None:
    vector = np.load(path)
    graph = graph_of(str(vector["prototxt"]), Phase[str(vector["phase"])])
    try:
        graph = with_batch(graph, 0)
    except NetcError as error:
        assert all(problem.got for problem in error.problems)
        return
    net = executor_of(graph, train=any(key.startswith("top_diff") for key in vector))
    net.forward()
    if net.plan.train:
        net.backward()
    assert np.isfinite(net.loss())
    assert all(np.isfinite(diff).all() for diff in net.param_diffs if diff is not None)


CHAIN = """
layer { name: "in" type: "Input" top: "x" top: "a" top: "b"
  input_param { shape { dim: 5 dim: 2 } shape { dim: 5 } shape { dim: 5 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param {
  num_output: 3 weight_filler { type: "gaussian" } } }
layer { name: "one" type: "Filter" bottom: "ip" bottom: "b" bottom: "a" top: "one" top: "b1" }
layer { name: "two" type: "Filter" bottom: "one" bottom: "b1" top: "two"
  propagate_down: true propagate_down: false }
layer { name: "relu" type: "ReLU" bottom: "two" top: "relu" }
layer { name: "loss" type: "Reduction" bottom: "relu" top: "loss" loss_weight: 1
  reduction_param { operation: SUMSQ } }
"""


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.lists(st.booleans(), min_size=5, max_size=5)] * 2), min_size=1))
def test_filters_in_a_row(passes: list[tuple[list[bool], list[bool]]]) -> None:
    net = executor_of(net_of(CHAIN), keep=("ip", "two"))
    rng = np.random.default_rng(1)
    plain = [net.param_array(i).copy() for i in range(2)]
    for a, b in passes:
        x = rng.standard_normal((5, 2)).astype(np.float32)
        net.data("x")[...], net.data("a")[...], net.data("b")[...] = x, a, b
        net.clear_param_diffs()
        net.forward()
        net.backward()
        chosen = np.logical_and(a, b)
        y = (x @ plain[0].T + plain[1])[chosen]
        np.testing.assert_allclose(net.data("two"), y, rtol=1e-5, atol=1e-6)
        dy = 2 * np.maximum(y, 0)
        np.testing.assert_allclose(net.param_diff_array(0), dy.T @ x[chosen], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(net.param_diff_array(1), dy.sum(axis=0), rtol=1e-4, atol=1e-5)


def test_plans_are_remembered_up_to_a_bound() -> None:
    text = INPUT % (2 * PLANS, 2 * PLANS, 2 * PLANS) + BEFORE + FILTER
    net = executor_of(net_of(text), train=False)
    plans = net.replan
    assert isinstance(plans, Plans)
    seen = {}
    for count in (*range(1, 2 * PLANS), 3, 2 * PLANS - 1):
        net.data("selector")[...] = np.arange(2 * PLANS) < count
        net.forward()
        assert net.data("some").shape[0] == count and len(plans) <= PLANS
        if count in seen:
            assert (net.plan is seen[count]) == (count == 2 * PLANS - 1)
        seen[count] = net.plan


def test_a_net_that_cannot_follow_says_so() -> None:
    # Params that depend on the number of items cannot: the text is wrong, and is told with its
    # place.
    text = CHAIN.partition('layer { name: "relu"')[0] + (
        'layer { name: "flat" type: "Flatten" bottom: "two" top: "flat" flatten_param { axis: 0 } }'
        '\nlayer { name: "last" type: "InnerProduct" bottom: "flat" top: "y"'
        " inner_product_param { num_output: 1 axis: 0 } }"
    )
    net = executor_of(net_of(text), train=False)
    for key in ("a", "b"):
        net.data(key)[...] = 1
    net.forward()
    net.data("a")[...] = [1, 0, 1, 1, 1]
    with pytest.raises(NetcError, match="param 0 depends on the shape of the data") as error:
        net.forward()
    assert "layer 'last' (InnerProduct)" in str(error.value)


def test_parts_of_a_pass_follow_too() -> None:
    net = executor_of(net_of(CHAIN), keep="all")
    whole = executor_of(net_of(CHAIN), keep="all")
    one = net.plan.graph.node_index("one")
    for selector in ([1, 0, 1, 1, 0], [0, 1, 0, 0, 1]):
        for each in (net, whole):
            each.data("x")[...] = np.arange(10).reshape(5, 2)
            each.data("a")[...], each.data("b")[...] = selector, [1, 1, 0, 1, 0]
        whole.forward()
        net.forward(last=one)
        assert net.data("one").shape == whole.data("one").shape
        net.forward(first=one + 1)
        np.testing.assert_array_equal(net.data("relu"), whole.data("relu"))
        assert net.loss() == whole.loss()
    assert [d for d, _, _ in net.timed()].count(Direction.FORWARD) == len(net.plan.forward)
