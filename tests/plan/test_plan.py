"""The planner: who needs a gradient, what may share memory, and that sharing changes nothing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from netc.backends import find_backend
from netc.errors import NetcError
from netc.graph.types import Graph
from netc.layers.types import Reads
from netc.plan import Plan, Updates, plan
from netc.plan.types import Update
from tests.support.nets import executor_of, graph_of, net_texts, require, set_inputs

LENET_HEAD = """
layer { name: "in" type: "Input" top: "x" top: "t"
        input_param { shape { dim: 4 dim: 3 } shape { dim: 4 dim: 2 } } }
layer { name: "ip1" type: "InnerProduct" bottom: "x" top: "h"
        inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "h" top: "h" }
layer { name: "ip2" type: "InnerProduct" bottom: "h" top: "y" %s
        inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "t" top: "loss" }
"""


def planned(text: str, keep: str = "", train: bool = True) -> Plan:
    return plan(graph_of(text), find_backend("reference"), train=train, keep=keep)


def test_no_gradient_is_computed_for_the_data() -> None:
    p = planned(LENET_HEAD % "")
    assert "x" not in p.diff
    assert "t" not in p.diff
    assert p.need.params[1] == (True, True)


def test_frozen_layers_below_a_propagate_down_false_do_not_run_backward() -> None:
    p = planned(LENET_HEAD % "propagate_down: false")
    assert [p.graph.nodes[s.node].name for s in p.backward] == ["loss", "ip2"]


def test_an_in_place_relu_shares_memory_and_a_kept_plan_does_not() -> None:
    p = planned(LENET_HEAD % "")
    assert p.buffers[p.data["h"]].storage == p.buffers[p.data["h#1"]].storage
    assert p.buffers[p.diff["h"]].storage == p.buffers[p.diff["h#1"]].storage
    kept = planned(LENET_HEAD % "", keep="all")
    assert kept.buffers[kept.data["h"]].storage != kept.buffers[kept.data["h#1"]].storage
    assert kept.arena_bytes == 0


def test_a_blob_that_backward_reads_is_not_overwritten() -> None:
    text = (
        (LENET_HEAD % "")
        .replace('"ReLU"', '"Power"')
        .replace('bottom: "h" top: "h"', 'bottom: "h" top: "h" power_param { power: 2 }')
    )
    p = planned(text)
    assert p.buffers[p.data["h"]].storage != p.buffers[p.data["h#1"]].storage


def test_views_cost_no_step() -> None:
    text = (LENET_HEAD % "").replace(
        'type: "ReLU" bottom: "h" top: "h"', 'type: "Flatten" bottom: "h" top: "f"'
    )
    p = planned(text.replace('bottom: "h" top: "y"', 'bottom: "f" top: "y"'))
    assert p.graph.nodes[2].type == "Flatten"
    assert 2 not in [step.node for step in p.forward]
    assert p.buffers[p.data["h"]].storage == p.buffers[p.data["f"]].storage


def test_inference_uses_less_memory_than_training() -> None:
    assert planned(LENET_HEAD % "", train=False).arena_bytes < planned(LENET_HEAD % "").arena_bytes


def test_a_label_that_depends_on_params_is_refused() -> None:
    text = """
    layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 4 dim: 3 } } }
    layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y"
            inner_product_param { num_output: 2 } }
    layer { name: "label" type: "InnerProduct" bottom: "x" top: "l"
            inner_product_param { num_output: 1 } }
    layer { name: "loss" type: "SoftmaxWithLoss" bottom: "y" bottom: "l" top: "loss" }
    """
    with pytest.raises(NetcError) as caught:
        planned(text)
    assert "'loss' (SoftmaxWithLoss)" in str(caught.value)
    assert "propagate_down: false" in str(caught.value)


def test_the_printed_plan_names_layers_kernels_and_memory() -> None:
    text = planned(LENET_HEAD % "").render()
    assert "forward  'ip1' (InnerProduct)  [reference]" in text
    assert "diff of param 0" in text
    assert "memory: arena" in text


def lifetimes(p: Plan) -> list[tuple[int, int, str]]:
    """Compute (first, last, buffer name) of data and diffs from the steps.

    Independently of the planner.
    """
    graph: Graph = p.graph
    n = len(graph.nodes)
    life: dict[str, list[int]] = {}

    def touch(name: str, time: int) -> None:
        life.setdefault(name, []).append(time)

    for i, node in enumerate(graph.nodes):
        for key in (*node.bottoms, *node.tops):
            touch(key, i)
        if not p.need.runs[i]:
            continue
        back = 2 * n - 1 - i
        reads = node.layer.backward_reads()
        for key in node.bottoms if Reads.BOTTOM in reads else ():
            touch(key, back)
        for key in node.tops if Reads.TOP in reads else ():
            touch(key, back)
        for key in node.tops:
            touch(f"diff {key}", back)
        for key, want in zip(node.bottoms, p.need.bottoms[i], strict=True):
            if want:
                touch(f"diff {key}", back)
        for kept in node.kept:
            touch(f"{node.name}.{kept.name}", i)
            touch(f"{node.name}.{kept.name}", back)
    return [(min(times), max(times), name) for name, times in life.items()]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=net_texts())
def test_live_buffers_never_overlap(text: str) -> None:
    p = planned(text)
    by_name = {buffer.name: buffer for buffer in p.buffers}
    alive = [(a, b, by_name[name]) for a, b, name in lifetimes(p) if name in by_name]
    for (a1, b1, one), (a2, b2, two) in itertools.combinations(alive, 2):
        if a1 > b2 or a2 > b1 or one.storage == two.storage:
            continue
        first, second = p.storages[one.storage], p.storages[two.storage]
        if first.offset is None or second.offset is None:
            continue
        assert (
            first.offset + first.nbytes <= second.offset
            or second.offset + second.nbytes <= first.offset
        ), f"{one.name} and {two.name} overlap"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=net_texts())
def test_sharing_memory_changes_no_number(text: str) -> None:
    """The shared plan, its arena full of NaN, agrees bit for bit with one that keeps every blob."""
    graph = graph_of(text)
    shared, kept = executor_of(graph), executor_of(graph, keep="all")
    shared._arena.view("float32")[...] = np.nan
    for net in (shared, kept):
        set_inputs(net)
        net.forward()
        net.backward()
    for key in graph.outputs:
        np.testing.assert_array_equal(shared.data(key), kept.data(key))
    for a, b in zip(shared.param_diffs, kept.param_diffs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=net_texts(shared=True))
def test_gradients_that_share_memory_are_the_same(backend: str, text: str) -> None:
    """Each is complete when it is handed over, and its param is not read again in that pass.

    Who takes it spoils both, as an update would.
    """
    require(backend)
    graph = graph_of(text)
    apart = executor_of(graph, backend_name=backend)
    shared = executor_of(graph, backend_name=backend, updates=Updates.WHOLE)
    set_inputs(apart)
    apart.clear_param_diffs()
    apart.forward()
    apart.backward()
    for _ in range(2):  # the second time with what the first one left behind
        taken: dict[int, np.ndarray] = {}

        def take(
            index: int, start: int, gradient: np.ndarray, taken: dict[int, np.ndarray] = taken
        ) -> None:
            assert index not in taken
            assert start == 0
            taken[index] = gradient.copy()
            gradient[...] = np.nan
            shared.params[index][...] = np.nan

        shared.on_gradient = take
        for ours, theirs in zip(shared.params, apart.params, strict=True):
            ours[...] = theirs
        shared._arena[...] = 255  # NaN in every format
        set_inputs(shared)
        shared.forward_pass = 0
        shared.clear_param_diffs()
        shared.forward()
        shared.backward()
        expected = {i: diff for i, diff in enumerate(apart.param_diffs) if diff is not None}
        assert taken.keys() == expected.keys()
        for index, diff in expected.items():
            np.testing.assert_array_equal(taken[index], diff)


def test_gradients_that_are_used_at_once_need_memory_for_one() -> None:
    layers = [
        f"""
    layer {{ name: "ip{i}" type: "InnerProduct" bottom: "{f"h{i}" if i else "x"}" top: "h{i + 1}"
            inner_product_param {{ num_output: 64 weight_filler {{ type: "xavier" }} }} }}"""
        for i in range(6)
    ]
    text = (
        """
    layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 64 } } }
    """
        + "".join(layers)
        + """
    layer { name: "sum" type: "Reduction" bottom: "h6" top: "sum" loss_weight: 1 }"""
    )
    backend = find_backend("reference")
    p = plan(graph_of(text), backend, train=True, updates=Updates.WHOLE)
    weights = 64 * 64 * 4
    assert weights <= p.arena_bytes < 2 * weights
    updates = [step.param for step in p.backward if isinstance(step, Update)]
    assert sorted(updates) == list(range(12))
    assert "update   param 0 of 'ip5' (InnerProduct)" in p.render()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=net_texts())
def test_a_second_pass_repeats_the_first(text: str) -> None:
    net = executor_of(graph_of(text))
    set_inputs(net)
    results = []
    for _ in range(2):
        net.forward_pass = 7
        net.clear_param_diffs()
        params = [param.copy() for param in net.params]
        net.forward()
        net.backward()
        results.append([d.copy() for d in net.param_diffs if d is not None])
        for param, before in zip(net.params, params, strict=True):
            param[...] = before  # BatchNorm's statistics move with every pass
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("layer", "settings"),
    [
        ("Crop", ""),
        ("Interp", "interp_param { use_blob_size: true }"),
        ("Upsample", "upsample_param { scale: 2 }"),
    ],
)
def test_a_bottom_that_gives_a_shape_or_a_place_ends_the_gradient(
    layer: str, settings: str
) -> None:
    """As in the forks, whose nets lead trained blobs there without a propagate_down."""
    conv = "convolution_param { num_output: 1 kernel_size: 1 }"
    p = planned(
        f"""
        layer {{ name: "in" type: "Input" top: "x"
                input_param {{ shape {{ dim: 1 dim: 1 dim: 4 dim: 4 }} }} }}
        layer {{ name: "a" type: "Convolution" bottom: "x" top: "a" {conv} }}
        layer {{ name: "b" type: "Convolution" bottom: "x" top: "b" {conv} }}
        layer {{ name: "l" type: "{layer}" bottom: "a" bottom: "b" top: "y" {settings} }}
        layer {{ name: "sum" type: "Reduction" bottom: "y" top: "sum" loss_weight: 1 }}
        """
    )
    assert "a" in p.diff
    assert "b" not in p.diff
