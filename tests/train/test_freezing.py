"""What is trained when and how fast: by patterns, checked against the net."""

from __future__ import annotations

import numpy as np
import pytest

from netc.errors import NetcError
from netc.graph.types import Graph
from netc.layers.types import Phase
from netc.train.freezing import AS_TEXT, Freeze, Rate, Schedule, Unfreeze, Wishes
from tests.support.nets import executor_of, graph_of

NET = """
layer { name: "data" type: "Input" top: "data"
        input_param { shape { dim: 2 dim: 3 dim: 4 dim: 4 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
        param { lr_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
        convolution_param { num_output: 2 kernel_size: 3 pad: 1 } }
layer { name: "bn1" type: "BatchNorm" bottom: "conv1" top: "conv1" }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "conv2" type: "Convolution" bottom: "conv1" top: "conv2" param { name: "w" }
        convolution_param { num_output: 2 kernel_size: 3 pad: 1 bias_term: false } }
layer { name: "conv3" type: "Convolution" bottom: "conv2" top: "conv3" param { name: "w" }
        convolution_param { num_output: 2 kernel_size: 3 pad: 1 bias_term: false } }
layer { name: "fixed" type: "InnerProduct" bottom: "conv3" top: "fixed" param { lr_mult: 0 }
        inner_product_param { num_output: 2 bias_term: false } }
layer { name: "fc" type: "InnerProduct" bottom: "fixed" top: "fc"
        inner_product_param { num_output: 2 } }
layer { name: "loss" type: "Reduction" bottom: "fc" top: "loss" loss_weight: 1 }
"""


@pytest.fixture(scope="module")
def graph() -> Graph:
    return graph_of(NET)


def wishes(freeze: str = "", unfreeze: str = "", rates: str = "") -> Wishes:
    def pairs(text: str) -> list[list[str]]:
        return [part.split("=") for part in text.split()]

    return Wishes(
        tuple(map(Freeze, freeze.split())),
        tuple(Unfreeze(name, int(at)) for name, at in pairs(unfreeze)),
        tuple(Rate(name, float(factor)) for name, factor in pairs(rates)),
    )


def rates(graph: Graph) -> dict[str, list[tuple[float, float]]]:
    return {
        node.name: [
            (param.lr_mult, param.decay_mult)
            for param in (graph.params[use.param] for use in node.params)
        ]
        for node in graph.nodes
        if node.params
    }


def test_frozen_layers_have_neither_rate_nor_decay(graph: Graph) -> None:
    schedule = Schedule(graph, wishes("conv1 bn*"))
    found = schedule.applied(graph, 0)
    found.verify()
    assert rates(found)["conv1"] == [(0, 0), (0, 0)]
    assert rates(found)["fc"] == rates(graph)["fc"] == [(1, 1), (1, 1)]
    (norm,) = (node for node in found.nodes if node.name == "bn1")
    assert norm.layer.backward_reads() != graph.nodes[2].layer.backward_reads()
    assert schedule.frozen(10**9) == ("conv1", "bn1")


def test_frozen_layers_can_be_trained_from_some_iteration_on(graph: Graph) -> None:
    schedule = Schedule(graph, wishes("conv* bn1", "conv*=5 conv1=9"), max_iter=10)
    assert schedule.until == {"conv1": 9, "bn1": None, "conv2": 5, "conv3": 5}
    assert schedule.changes == (5, 9)
    assert [schedule.stage(i) for i in (0, 4, 5, 8, 9)] == [0, 0, 1, 1, 2]
    assert schedule.frozen(5) == ("conv1", "bn1")
    assert rates(schedule.applied(graph, 5))["conv2"] == rates(graph)["conv2"]
    assert list(schedule.describe()) == [
        "Not trained: bn1",
        "Not trained before iteration 5: conv2, conv3",
        "Not trained before iteration 9: conv1",
    ]


def test_rates_are_factors_of_those_in_the_text(graph: Graph) -> None:
    found = Schedule(graph, wishes(rates="*=0.5 conv1=10")).applied(graph, 0)
    assert rates(found)["conv1"] == [(10, 1), (20, 0)]
    assert rates(found)["conv2"] == rates(found)["conv3"] == [(0.5, 1)]
    assert rates(found)["fixed"] == [(0, 1)]
    assert rates(found)["bn1"] == rates(graph)["bn1"]


def test_no_wishes_change_nothing(graph: Graph) -> None:
    assert Schedule(graph, AS_TEXT).applied(graph, 0) == graph


@pytest.mark.parametrize(
    ("said", "says"),
    [
        (wishes("cnov1"), "did you mean 'conv1'"),
        (wishes("conv1 !covn2"), "or 'conv2' or"),
        (wishes("relu*"), "have nothing to freeze"),
        (wishes("fixed"), "have nothing to freeze"),
        (wishes("*"), "nothing would be trained"),
        (wishes("conv1 !conv*"), "all frozen layers are taken out again"),
        (wishes("conv2"), "share a param and are treated differently"),
        (wishes("conv*", "conv3=5"), "share a param"),
        (wishes(rates="conv3=5"), "trained at 5 times the rate"),
        (wishes("conv1", "fc=5"), "matches no layer that is frozen"),
        (wishes("conv1", "conv9=5"), "no layer of the net"),
        (wishes("conv1", "conv1=0"), "would be frozen at no iteration"),
        (wishes("conv1", "conv1=100"), "the run ends before"),
        (wishes(rates="relu1=5"), "have no rate"),
        (wishes(rates="bn1=5"), "have no rate"),
        (wishes(rates="fc=0"), 'freeze: "fc"'),
        (wishes(rates="fc=-1"), "no positive factor"),
        (wishes(rates="fc=nan"), "no positive factor"),
        (wishes(rates="fc=2 f*=3"), "has no effect"),
        (wishes("conv1", rates="conv1=3"), "is given a rate, and is frozen"),
    ],
)
def test_wishes_that_make_no_sense(graph: Graph, said: Wishes, says: str) -> None:
    with pytest.raises(NetcError) as caught:
        Schedule(graph, said, max_iter=100)
    assert says in str(caught.value)


def test_a_rate_counts_once_a_layer_is_no_longer_frozen(graph: Graph) -> None:
    schedule = Schedule(graph, wishes("conv1", "conv1=5", "conv1=3"), max_iter=10)
    assert rates(schedule.applied(graph, 4))["conv1"] == [(0, 0), (0, 0)]
    assert rates(schedule.applied(graph, 5))["conv1"] == [(3, 1), (6, 0)]


def test_all_mistakes_are_told_at_once(graph: Graph) -> None:
    with pytest.raises(NetcError) as caught:
        Schedule(graph, wishes("cnov1", "fc=1", "relu1=2"))
    assert len(caught.value.problems) == 3


NORMS = {
    "caffe": 'type: "BatchNorm"',
    "nvidia": 'type: "BatchNorm" batch_norm_param { scale_bias: true }',
    "pspnet": 'type: "BN" bn_param { momentum: 0.8 }',
}


@pytest.mark.parametrize("kind", NORMS)
def test_a_frozen_layer_of_statistics_works_as_in_phase_test(kind: str) -> None:
    text = f"""
    layer {{ name: "data" type: "Input" top: "x"
            input_param {{ shape {{ dim: 3 dim: 2 dim: 4 dim: 4 }} }} }}
    layer {{ name: "first" type: "Convolution" bottom: "x" top: "y"
            convolution_param {{ num_output: 2 kernel_size: 1 }} }}
    layer {{ name: "norm" bottom: "y" top: "z" {NORMS[kind]} }}
    layer {{ name: "loss" type: "Reduction" bottom: "z" top: "loss" loss_weight: 1 }}
    """
    graph = graph_of(text)
    frozen = executor_of(Schedule(graph, wishes("norm")).applied(graph, 0), keep=["z"])
    tested = executor_of(graph_of(text, Phase.TEST), train=False, keep=["z"])
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 2, 4, 4)).astype(np.float32)
    for net in (frozen, tested):
        net.data("x")[...] = x
        for param in net.params:
            values = np.random.default_rng(param.size).uniform(0.5, 2, param.shape)
            param[...] = values
    before = [param.copy() for param in frozen.params]
    frozen.forward()
    tested.forward()
    np.testing.assert_array_equal(frozen.data("z"), tested.data("z"))
    for x, y in zip(before, frozen.params, strict=True):
        np.testing.assert_array_equal(x, y)
    # Its gradient is that of constants: it passes on to the convolution before it.
    frozen.backward()
    owners = {
        graph.nodes[param.owner].name
        for param, diff in zip(graph.params, frozen.param_diffs, strict=True)
        if diff is not None
    }
    assert owners == {"first"}
