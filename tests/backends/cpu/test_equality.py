"""The CPU backend against the reference: random nets, whole nets, and training."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from netc.backends import find_backend
from netc.graph.types import Graph
from netc.plan import plan
from netc.runtime import Executor
from tests.support.nets import executor_of, graph_of, net_texts, require, set_inputs

# float32 in another order of summation, through up to ten layers; the floor is that of the largest
# value, below which cancellation leaves nothing to compare.
RTOL, ATOL = 1e-3, 2e-5


@pytest.fixture(autouse=True)
def _works() -> None:
    require("cpu")


def agree(ours: np.ndarray, expected: np.ndarray, what: str) -> None:
    atol = ATOL * max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(ours, expected, rtol=RTOL, atol=atol, err_msg=what)


def run_both(graph: Graph, keep: str = "", poison: bool = True) -> tuple[Executor, Executor]:
    nets = []
    for name in ("reference", "cpu"):
        net = executor_of(graph, keep=keep, backend_name=name)
        if poison:
            net._arena.view("float32")[...] = np.nan
        set_inputs(net)
        net.forward()
        net.clear_param_diffs()
        net.backward()
        nets.append(net)
    return nets[0], nets[1]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=net_texts())
def test_random_nets_have_the_same_outputs_and_gradients(text: str) -> None:
    graph = graph_of(text)
    reference, cpu = run_both(graph)
    for key in graph.outputs:
        agree(cpu.data(key), reference.data(key), key)
    for i in range(len(graph.params)):
        ours, expected = cpu.param_diff_array(i), reference.param_diff_array(i)
        assert (ours is None) == (expected is None)
        if expected is not None:
            agree(ours, expected, f"gradient of param {i}")
        agree(cpu.param_array(i), reference.param_array(i), f"param {i}")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=net_texts())
def test_every_blob_is_the_same_where_all_are_kept(text: str) -> None:
    graph = graph_of(text)
    reference, cpu = run_both(graph, keep="all")
    for key in graph.blobs:
        agree(cpu.data(key), reference.data(key), key)
    for key in reference.plan.diff:
        agree(cpu.diff(key), reference.diff(key), f"diff {key}")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=net_texts())
def test_passes_repeat_bit_for_bit_and_gradients_add_up(text: str) -> None:
    net = executor_of(graph_of(text), backend_name="cpu")
    set_inputs(net)
    params = [net.param_array(i).copy() for i in range(len(net.params))]
    found = []
    for clear in (True, True, False):
        net.forward_pass = 7
        for i, values in enumerate(params):
            net.set_param(i, values)  # BatchNorm's statistics move with every pass
        if clear:
            net.clear_param_diffs()
        net.forward()
        net.backward()
        found.append([d.copy() for d in net.param_diffs if d is not None])
    for first, second, twice in zip(*found, strict=True):
        np.testing.assert_array_equal(first, second)
        np.testing.assert_allclose(twice, 2 * first, rtol=1e-6)


BLOCKED = """
layer { name: "in" type: "Input" top: "x" top: "t"
        input_param { shape { dim: 2 dim: 3 dim: 12 dim: 12 } shape { dim: 2 dim: 10 } } }
layer { name: "a" type: "Convolution" bottom: "x" top: "a"
        convolution_param { num_output: 20 kernel_size: 3 pad: 1
                            weight_filler { type: "xavier" } } }
layer { name: "ra" type: "ReLU" bottom: "a" top: "a" }
layer { name: "b" type: "Convolution" bottom: "a" top: "b"
        convolution_param { num_output: 32 kernel_size: 3 pad: 1
                            weight_filler { type: "xavier" } } }
layer { name: "c" type: "Convolution" bottom: "a" top: "c"
        convolution_param { num_output: 16 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "p" type: "Pooling" bottom: "a" top: "p" pooling_param { kernel_size: 3 pad: 1 } }
layer { name: "cat" type: "Concat" bottom: "b" bottom: "c" bottom: "p" top: "cat" }
layer { name: "bn" type: "BatchNorm" bottom: "cat" top: "bn" }
layer { name: "sc" type: "Scale" bottom: "bn" top: "bn" scale_param { bias_term: true } }
layer { name: "rb" type: "ReLU" bottom: "bn" top: "bn" }
layer { name: "d" type: "Convolution" bottom: "bn" top: "d"
        convolution_param { num_output: 68 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "sum" type: "Eltwise" bottom: "cat" bottom: "d" top: "sum" }
layer { name: "rs" type: "ReLU" bottom: "sum" top: "sum" }
layer { name: "pool" type: "Pooling" bottom: "sum" top: "pool"
        pooling_param { pool: AVE kernel_size: 3 stride: 2 } }
layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc"
        inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "fc" bottom: "t" top: "loss" }
"""


@pytest.mark.parametrize("keep", ["", "all"])
def test_padded_blocks_branches_and_chains(keep: str) -> None:
    """Channels that fill no block, a blob with three readers, a residual, chains of three."""
    graph = graph_of(BLOCKED)
    reference, cpu = run_both(graph, keep)
    agree(cpu.data("loss"), reference.data("loss"), "loss")
    for i in range(len(graph.params)):
        ours, expected = cpu.param_diff_array(i), reference.param_diff_array(i)
        assert (ours is None) == (expected is None)
        if expected is not None:
            agree(ours, expected, f"gradient of param {i}")


def test_params_lie_as_the_kernels_want_and_are_told_in_c_order() -> None:
    graph = graph_of(BLOCKED)
    net = executor_of(graph, backend_name="cpu")
    c = next(use.param for node in graph.nodes if node.name == "c" for use in node.params)
    assert net.plan.param_layouts[c] is not None
    assert net.params[c].ndim == 1
    values = np.random.default_rng(0).standard_normal(graph.params[c].shape).astype("float32")
    net.set_param(c, values)
    np.testing.assert_array_equal(net.param_array(c), values)
    # The memory is larger than the array: the channels are padded to whole blocks, with zeros.
    assert net.params[c].size > values.size
    assert np.count_nonzero(net.params[c]) == values.size


def test_params_of_a_cpu_net_can_be_shared_with_one_for_tests() -> None:
    graph = graph_of(BLOCKED)
    backend = find_backend("cpu")
    trained = executor_of(graph, backend_name="cpu")
    layouts = dict(enumerate(trained.plan.param_layouts))
    shared = dict(enumerate(trained.params))
    net = Executor(plan(graph, backend, param_layouts=layouts), backend, params=shared)
    assert all(a is b for a, b in zip(net.params, trained.params, strict=True))
    for n in (net, trained):
        set_inputs(n)
        n.forward()
    agree(net.data("loss"), trained.data("loss"), "loss")


def test_arrays_in_c_order_are_taken_over_by_value() -> None:
    graph = graph_of(BLOCKED)
    reference = executor_of(graph)
    backend = find_backend("cpu")
    net = Executor(plan(graph, backend), backend, params=dict(enumerate(reference.params)))
    for i, expected in enumerate(reference.params):
        np.testing.assert_array_equal(net.param_array(i), expected)


@pytest.mark.parametrize(
    "settings",
    [
        "label_smoothing: 0.2",
        "label_smoothing: 0.2 ignore_label: 1",
        "weight_by_label_freqs: true class_weighting: [0.5, 2, 3]",
        "weight_by_label_freqs: true class_weighting: [0.5, 2, 3] ignore_label: 2 "
        "label_smoothing: 0.1",
    ],
)
def test_the_loss_follows_its_settings(settings: str) -> None:
    graph = graph_of(f"""
        layer {{ name: "in" type: "Input" top: "x" top: "label"
                 input_param {{ shape {{ dim: 8 dim: 5 }} shape {{ dim: 8 }} }} }}
        layer {{ name: "ip" type: "InnerProduct" bottom: "x" top: "y"
                 inner_product_param {{ num_output: 3 weight_filler {{ type: "xavier" }} }} }}
        layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "y" bottom: "label" top: "loss"
                 loss_param {{ {settings} }} }}
    """)
    nets = [executor_of(graph, backend_name=name) for name in ("reference", "cpu")]
    assert nets[1].plan.forward[-1].kernel == "cpu"
    for net in nets:
        set_inputs(net)
        net.data("label")[...] = np.arange(8) % 3
        net.forward()
        net.clear_param_diffs()
        net.backward()
    reference, cpu = nets
    agree(cpu.data("loss"), reference.data("loss"), "loss")
    for i in range(2):
        ours, expected = cpu.param_diff_array(i), reference.param_diff_array(i)
        assert ours is not None and expected is not None
        agree(ours, expected, f"gradient of param {i}")


def test_a_scale_writes_no_nan_into_the_padding_of_channels() -> None:
    # The convolution before it multiplies the padding of the gradient with zeros.
    graph = graph_of("""
    layer { name: "in" type: "Input" top: "x" top: "t" input_param {
      shape { dim: 2 dim: 1 dim: 3 dim: 3 } shape { dim: 2 dim: 9 } } }
    layer { name: "first" type: "Convolution" bottom: "x" top: "first" convolution_param {
      num_output: 1 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
    layer { name: "twice" type: "Eltwise" bottom: "first" bottom: "first" top: "twice" }
    layer { name: "second" type: "Convolution" bottom: "twice" top: "y" convolution_param {
      num_output: 1 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
    layer { name: "scale" type: "Scale" bottom: "y" top: "y" scale_param {
      bias_term: true filler { type: "gaussian" } } }
    layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "t" top: "loss" }""")
    reference, cpu = run_both(graph)
    for i in range(len(graph.params)):
        agree(cpu.param_diff_array(i), reference.param_diff_array(i), f"gradient of param {i}")
