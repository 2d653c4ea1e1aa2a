"""The Split layers: where Caffe has them, under its names, and that they change no number."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings

from netc.backends import find_backend
from netc.graph.build import build, net_state
from netc.layers.types import Phase
from netc.plan import plan
from netc.pycaffe.layout import Layout, lay_out
from netc.runtime import Executor
from netc.schema import read_net
from tests.pycaffe.nets import SMALL
from tests.support.nets import executor_of, graph_of, net_texts, set_inputs


def layout_of(text: str, phase: Phase = Phase.TRAIN) -> Layout:
    source = read_net("net.prototxt", text=text)
    state = net_state(source.message, phase)
    layout = lay_out(build(source, state), filter(state.includes, source.message.layer))
    layout.graph.verify()
    return layout


def names(layout: Layout) -> list[str]:
    return [layer.name for layer in layout.layers]


def test_a_blob_with_two_readers_is_split_behind_its_last_version() -> None:
    layout = layout_of(SMALL)
    assert names(layout) == [
        "in",
        "conv",
        "power",
        "relu",
        "pool",
        "pool_pool_0_split",
        "side",
        "ip",
        "sum",
        "loss",
    ]
    assert list(layout.blobs) == [
        "data",
        "label",
        "conv",
        "pool",
        "pool_pool_0_split_0",
        "pool_pool_0_split_1",
        "side",
        "ip",
        "sum",
        "loss",
    ]
    assert layout.blobs["conv"] == ("conv", "conv#1", "conv#2")
    by_name = {layer.name: layer for layer in layout.layers}
    assert by_name["side"].bottoms == ("pool_pool_0_split_0",)
    assert by_name["ip"].bottoms == ("pool_pool_0_split_1",)
    assert by_name["pool_pool_0_split"].type == "Split"


def test_the_name_of_a_split_is_of_the_layer_in_place_and_the_index_of_the_top() -> None:
    layout = layout_of(
        """
        layer { name: "in" type: "Input" top: "a" top: "b"
                input_param { shape { dim: 2 dim: 3 } } }
        layer { name: "act" type: "ReLU" bottom: "b" top: "b" }
        layer { name: "s" type: "Eltwise" bottom: "a" bottom: "b" top: "s" }
        layer { name: "t" type: "Eltwise" bottom: "a" bottom: "b" bottom: "b" top: "t" }
        """
    )
    assert names(layout) == ["in", "a_in_0_split", "act", "b_act_0_split", "s", "t"]
    by_name = {layer.name: layer for layer in layout.layers}
    assert by_name["s"].bottoms == ("a_in_0_split_0", "b_act_0_split_0")
    assert by_name["t"].bottoms == ("a_in_0_split_1", "b_act_0_split_1", "b_act_0_split_2")
    assert layout.inputs == ("a", "b")
    assert layout.outputs == ("s", "t")


WEIGHTED = """
layer {{ name: "in" type: "Input" top: "x" top: "t" input_param {{ shape {{ dim: 2 dim: 3 }} }} }}
layer {{ name: "z_loss" type: "EuclideanLoss" bottom: "x" bottom: "t" top: "z" {} }}
layer {{ name: "again" type: "Power" bottom: "z" top: "a" }}
"""


def test_a_weight_in_the_text_makes_the_objective_a_reader() -> None:
    layout = layout_of(WEIGHTED.format("loss_weight: 0.5"))
    assert names(layout) == ["in", "z_loss", "z_z_loss_0_split", "again"]
    assert layout.outputs == ("a", "z_z_loss_0_split_0")
    blobs = layout.graph.blobs
    assert {key: blob.loss_weight for key, blob in blobs.items() if blob.loss_weight} == {
        "z_z_loss_0_split_0": 0.5
    }
    assert layout.layers[-1].bottoms == ("z_z_loss_0_split_1",)


def test_the_weight_that_a_loss_has_by_itself_does_not() -> None:
    layout = layout_of(WEIGHTED.format(""))
    assert names(layout) == ["in", "z_loss", "again"]
    assert layout.outputs == ("a",)


def test_a_loss_without_a_top_has_no_output() -> None:
    layout = layout_of(
        """
        layer { name: "in" type: "Input" top: "x" top: "t"
                input_param { shape { dim: 2 dim: 3 } } }
        layer { name: "first" type: "EuclideanLoss" bottom: "x" bottom: "t" }
        layer { name: "second" type: "EuclideanLoss" bottom: "x" bottom: "t" top: "loss" }
        """
    )
    assert layout.outputs == ("loss",)
    assert "(automatic)" in layout.blobs


def test_a_type_that_is_a_small_net_is_one_layer() -> None:
    layout = layout_of(
        """
        layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 dim: 8
                dim: 8 } } }
        layer { name: "spp" type: "SPP" bottom: "x" top: "y" spp_param { pyramid_height: 2 } }
        layer { name: "a" type: "Power" bottom: "y" top: "a" }
        layer { name: "b" type: "Power" bottom: "y" top: "b" }
        layer { name: "c" type: "Power" bottom: "x" top: "c" }
        """
    )
    assert names(layout) == ["in", "x_in_0_split", "spp", "y_spp_0_split", "a", "b", "c"]
    spp = layout.layers[2]
    assert spp.last > spp.first
    assert (spp.type, spp.bottoms, spp.tops) == ("SPP", ("x_in_0_split_0",), ("y",))
    assert [name for name in layout.blobs if "spp." in name] == []
    readers = layout.graph.readers["x_in_0_split_0"]
    assert len(readers) > 1
    assert {spp.first <= i <= spp.last for i in readers} == {True}


def test_layers_of_one_name_are_told_apart() -> None:
    layout = layout_of(
        """
        layer { name: "l" type: "Input" top: "x" input_param { shape { dim: 2 } } }
        layer { name: "l" type: "Power" bottom: "x" top: "y" }
        layer { name: "l" type: "Power" bottom: "y" top: "z" }
        """
    )
    assert [(layer.first, layer.type) for layer in layout.layers] == [
        (0, "Input"),
        (1, "Power"),
        (2, "Power"),
    ]


def test_a_blob_named_like_a_copy_stays_what_it_is() -> None:
    layout = layout_of(
        """
        layer { name: "in" type: "Input" top: "x" top: "x_in_0_split_1"
                input_param { shape { dim: 2 } } }
        layer { name: "a" type: "Power" bottom: "x" top: "a" }
        layer { name: "b" type: "Power" bottom: "x" top: "b" }
        """
    )
    assert layout.inputs == ("x", "x_in_0_split_1")
    assert layout.layers[1].bottoms == ("x",)


# float32 in another order of summation.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(net_texts())
def test_splits_change_no_number(text: str) -> None:
    graph, layout = graph_of(text), layout_of(text)
    plain = executor_of(graph)
    backend = find_backend("reference")
    split = Executor(plan(layout.graph, backend, train=True, keep="all"), backend, seed=1)
    for net in (plain, split):
        set_inputs(net)
        net.forward()
        net.backward()
    np.testing.assert_allclose(split.loss(), plain.loss(), rtol=1e-6)
    for ours, theirs in zip(split.param_diffs, plain.param_diffs, strict=True):
        if theirs is None:
            assert ours is None
            continue
        atol = CLOSE["atol"] * max(1, np.abs(theirs).max())
        np.testing.assert_allclose(ours, theirs, rtol=CLOSE["rtol"], atol=atol)
    assert all(len(readers) < 2 for readers in layout.graph.readers.values())
