"""What runs inside a convolution or an inner product: chosen, and equal to the reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from netc.backends import find_backend
from netc.graph.types import Graph
from netc.layers.types import Phase
from netc.plan import Plan, plan
from netc.plan.types import Step
from netc.runtime import Executor
from tests.backends.cpu.test_equality import agree, run_both
from tests.support.nets import executor_of, graph_of, net_texts, require, set_inputs


@pytest.fixture(autouse=True)
def _works() -> None:
    require("cpu")


def net(
    behind: str, channels: int = 20, product: str = "", kind: str = "Convolution", group: int = 1
) -> str:
    """Return a net with a product of x, something behind it that makes y, and z beside it."""
    product = product or (
        f"convolution_param {{ num_output: {channels} kernel_size: 3 pad: 1 group: {group} "
        "weight_filler { type: 'xavier' } bias_filler { type: 'gaussian' } }"
    )
    shape = (
        f"shape {{ dim: 2 dim: {channels} {'' if kind == 'InnerProduct' else 'dim: 6 dim: 5'} }}"
    )
    return f"""
    layer {{ name: "in" type: "Input" top: "x" top: "z" input_param {{ {shape} {shape} }} }}
    layer {{ name: "first" type: "{kind}" bottom: "x" top: "a" {product} }}
    {behind}
    """


NORM = """
layer { name: "bn" type: "BatchNorm" bottom: "a" top: "a" }
layer { name: "scale" type: "Scale" bottom: "a" top: "a" scale_param {
        bias_term: true
        filler { type: 'gaussian' std: 1 } bias_filler { type: 'gaussian' std: 1 } } }
"""
SUM = 'layer { name: "sum" type: "Eltwise" bottom: "z" bottom: "a" top: "s" }\n'
RELU = 'layer { name: "relu" type: "ReLU" bottom: "%s" top: "y" }\n'
INNER = (
    "inner_product_param { num_output: %d weight_filler { type: 'xavier' } "
    "bias_filler { type: 'gaussian' } }"
)

BEHIND = {
    "norm": NORM,
    "norm, relu": NORM + RELU % "a",
    "norm, sum": NORM + SUM,
    "norm, sum, relu": NORM + SUM + RELU % "s",
    "norm alone": NORM.split("\n")[1],
    "scale": NORM.split("\n", 2)[2],
    "bias": 'layer { name: "b" type: "Bias" bottom: "a" top: "a" bias_param { '
    "filler { type: 'gaussian' std: 1 } } }\n" + RELU % "a",
    "sum, relu": SUM + RELU % "s",
    "leaky": 'layer { name: "l" type: "ReLU" bottom: "a" top: "y" '
    "relu_param { negative_slope: 0.1 } }",
    "flipped": 'layer { name: "l" type: "ReLU" bottom: "a" top: "y" '
    "relu_param { negative_slope: -1 } }",
    "prelu": 'layer { name: "p" type: "PReLU" bottom: "a" top: "y" prelu_param { '
    "filler { type: 'gaussian' std: 1 } } }",
    "one prelu": 'layer { name: "p" type: "PReLU" bottom: "a" top: "y" '
    "prelu_param { channel_shared: true } }",
    "elu": 'layer { name: "e" type: "ELU" bottom: "a" top: "y" }',
    "sigmoid": NORM + 'layer { name: "e" type: "Sigmoid" bottom: "a" top: "y" }',
    "tanh": 'layer { name: "e" type: "TanH" bottom: "a" top: "y" }',
    "swish": 'layer { name: "e" type: "Swish" bottom: "a" top: "y" }',
    "pspnet's norm": 'layer { name: "bn" type: "BN" bottom: "a" top: "y" bn_param { '
    "slope_filler { type: 'gaussian' std: 1 } bias_filler { type: 'gaussian' std: 1 } } }",
    "segnet's norm": 'layer { name: "bn" type: "BN" bottom: "a" top: "y" bn_param { '
    "bn_mode: INFERENCE scale_filler { type: 'gaussian' std: 1 } } }",
}


def units(p: Plan) -> list[tuple[str, str]]:
    """Return the types that each forward step runs, and the backend."""
    return [
        ("+".join(p.graph.nodes[i].type for i in step.nodes), step.kernel)
        for step in p.forward
        if isinstance(step, Step)
    ]


def set_statistics(nets: tuple[Executor, ...], seed: int = 3) -> None:
    """Give the params of all nets other values: statistics of one sum, positive variances."""
    graph = nets[0].plan.graph
    rng = np.random.default_rng(seed)
    for i, param in enumerate(graph.params):
        values = rng.standard_normal(param.shape).astype("float32")
        if graph.nodes[param.owner].type in ("BatchNorm", "BN"):
            values = np.abs(values) + 0.5
        for one in nets:
            one.set_param(i, values)


def both(graph: Graph) -> tuple[Executor, ...]:
    names = ("reference", "cpu")
    return tuple(executor_of(graph, train=False, backend_name=name) for name in names)


def check_inference(graph: Graph, expected: list[tuple[str, str]]) -> None:
    nets = tuple(
        executor_of(graph, train=False, backend_name=name) for name in ("reference", "cpu")
    )
    assert units(nets[1].plan) == expected
    for seed in (0, 1):
        if seed:
            set_statistics(nets)
        for one in nets:
            one._arena.view("float32")[...] = np.nan
            set_inputs(one, seed)
            one.forward()
        for key in graph.outputs:
            agree(nets[1].data(key), nets[0].data(key), f"{key} with params {seed}")


@pytest.mark.parametrize("channels", [3, 16, 20])
@pytest.mark.parametrize("behind", BEHIND)
def test_a_convolution_for_inference_takes_in_what_follows(behind: str, channels: int) -> None:
    """Twice: with the first params, and after all of them have changed."""
    graph = graph_of(net(BEHIND[behind], channels), Phase.TEST)
    chain = "+".join(node.type for node in graph.nodes if node.type != "Input")
    check_inference(graph, [(chain, "cpu")])


@pytest.mark.parametrize("behind", ["norm, sum, relu", "prelu", "sigmoid"])
def test_a_grouped_convolution_likewise(behind: str) -> None:
    graph = graph_of(net(BEHIND[behind], 16, group=16), Phase.TEST)
    chain = "+".join(node.type for node in graph.nodes if node.type != "Input")
    check_inference(graph, [(chain, "cpu")])


@pytest.mark.parametrize("behind", ["norm, sum, relu", "scale", "prelu", "one prelu", "tanh"])
def test_an_inner_product_likewise(behind: str) -> None:
    graph = graph_of(net(BEHIND[behind], 20, INNER % 20, "InnerProduct"), Phase.TEST)
    chain = "+".join(node.type for node in graph.nodes if node.type != "Input")
    check_inference(graph, [(chain, "cpu")])


#: In training: the layers behind the convolution, the top that has a loss, and the units.
TRAINED = {
    "sum, relu": (SUM + RELU % "s", "y", ["Convolution+Eltwise+ReLU"]),
    "sum": (SUM, "s", ["Convolution+Eltwise"]),
    "norm, sum, relu": (
        NORM + SUM + RELU % "s",
        "y",
        ["Convolution", "BatchNorm+Scale", "Eltwise+ReLU"],
    ),
    "tanh": (BEHIND["tanh"], "y", ["Convolution+TanH"]),
    "swish": (BEHIND["swish"], "y", ["Convolution", "Swish"]),
    "prelu": (BEHIND["prelu"], "y", ["Convolution", "PReLU"]),
}


@pytest.mark.parametrize("what", TRAINED)
def test_training_takes_in_what_backward_can_do_without(what: str) -> None:
    behind, top, expected = TRAINED[what]
    # The shortcut comes from a param too, so that a gradient flows there.
    text = net(
        'layer { name: "z" type: "PReLU" bottom: "z" top: "z" }\n'
        f"{behind}\n"
        'layer { name: "t" type: "Input" top: "t" '
        "input_param { shape { dim: 2 dim: 20 dim: 6 dim: 5 } } }\n"
        f'layer {{ name: "loss" type: "EuclideanLoss" bottom: "{top}" bottom: "t" top: "loss" }}'
    )
    graph = graph_of(text)
    reference, ours = run_both(graph)
    behind_z = [kind for kind, _ in units(ours.plan)]
    behind_z.remove("PReLU")
    assert [kind for kind in behind_z if kind != "EuclideanLoss"] == expected
    for i in range(len(graph.params)):
        found, wanted = ours.param_diff_array(i), reference.param_diff_array(i)
        assert (found is None) == (wanted is None)
        if wanted is not None:
            agree(found, wanted, f"gradient of param {i}")


ALONE = {
    "the batch's statistics": 'layer { name: "bn" type: "BatchNorm" bottom: "a" top: "y" '
    "batch_norm_param { use_global_stats: false } }",
    "a product": SUM.replace('top: "s"', 'top: "s" eltwise_param { operation: PROD }'),
    "a weighted sum": SUM.replace('top: "s"', 'top: "s" eltwise_param { coeff: 1 coeff: -1 }'),
    "three bottoms": SUM.replace('bottom: "z"', 'bottom: "z" bottom: "x"'),
    "the convolution twice": SUM.replace('bottom: "z"', 'bottom: "a"'),
    "a factor that is a blob": 'layer { name: "s" type: "Scale" bottom: "a" bottom: "x" top: "y" '
    "scale_param { axis: 0 } }",
    "factors of another axis": 'layer { name: "s" type: "Scale" bottom: "a" top: "y" '
    "scale_param { axis: 2 } }",
}


@pytest.mark.parametrize("what", ALONE)
def test_what_does_not_fit_runs_by_itself(what: str) -> None:
    graph = graph_of(net(ALONE[what]), Phase.TEST)
    p = plan(graph, find_backend("cpu"))
    assert units(p)[0] == ("Convolution", "cpu")
    nets = both(graph)
    for one in nets:
        set_inputs(one)
        one.forward()
    for key in graph.outputs:
        agree(nets[1].data(key), nets[0].data(key), key)


def test_a_blob_that_somebody_looks_at_ends_the_chain() -> None:
    graph = graph_of(
        net(NORM.replace('top: "a" scale_param', 'top: "b" scale_param') + RELU % "b"), Phase.TEST
    )
    assert len(units(plan(graph, find_backend("cpu")))) == 1
    kept = plan(graph, find_backend("cpu"), keep=["b"])
    assert units(kept) == [("Convolution+BatchNorm+Scale", "cpu"), ("ReLU", "cpu")]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=net_texts())
def test_random_nets_for_inference(text: str) -> None:
    graph = graph_of(text, Phase.TEST)
    nets = tuple(
        executor_of(graph, train=False, backend_name=name) for name in ("reference", "cpu")
    )
    set_statistics(nets)
    for one in nets:
        one._arena.view("float32")[...] = np.nan
        set_inputs(one)
        one.forward()
    for key in graph.outputs:
        agree(nets[1].data(key), nets[0].data(key), key)
