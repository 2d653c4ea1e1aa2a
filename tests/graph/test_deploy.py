"""Choosing the outputs of a net. What `deploy` itself does is tested with `build`."""

from __future__ import annotations

import pytest

from netc.errors import NetcError
from netc.graph.deploy import deploy, select
from netc.layers.types import Phase
from tests.support.nets import executor_of, graph_of, set_inputs

NET = """
name: "n"
layer { name: "i" type: "Input" top: "x" top: "y"
  input_param { shape { dim: 2 dim: 3 } shape { dim: 2 dim: 3 } } }
layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" param { name: "w" } param { name: "v" }
  inner_product_param { num_output: 3 } }
layer { name: "r" type: "ReLU" bottom: "a" top: "a" }
layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" inner_product_param { num_output: 4 } }
layer { name: "c" type: "InnerProduct" bottom: "y" top: "c" param { name: "w" } param { name: "v" }
  inner_product_param { num_output: 3 } }
layer { name: "s" type: "Slice" bottom: "c" top: "s1" top: "part2"
  slice_param { axis: 1 slice_point: 1 } }
"""


def test_a_blob_that_others_read_may_be_an_output_beside_theirs() -> None:
    graph = select(graph_of(NET, Phase.TEST), ["b", "a"])
    graph.verify()
    assert graph.outputs == ("a#1", "b"), "in the order of production; the last version of a"
    assert graph.inputs == ("x",)
    assert [node.name for node in graph.nodes] == ["i", "a", "r", "b"]
    assert len(graph.params) == 4


def test_what_the_outputs_do_not_need_goes() -> None:
    graph = select(graph_of(NET, Phase.TEST), ["part2"])
    graph.verify()
    assert [node.name for node in graph.nodes] == ["i", "c", "s"]
    assert graph.outputs == ("part2",), "the other top of the layer is none"
    assert graph.inputs == ("y",)
    assert [param.owner for param in graph.params] == [1, 1]


def test_chosen_outputs_keep_their_values_through_a_pass() -> None:
    whole = executor_of(graph_of(NET, Phase.TEST), train=False, keep="all")
    part = executor_of(select(whole.plan.graph, ["a", "b", "s1"]), train=False)
    for net in (whole, part):
        set_inputs(net)
        for param in net.params:
            param[...] = 0.25
        net.forward()
    for key in part.plan.graph.outputs:
        assert (part.data(key) == whole.data(key)).all()


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(NetcError, match="has no blob 'part3' to give out") as told:
        select(graph_of(NET, Phase.TEST), ["b", "part3"])
    assert told.value.problems[0].hint == "did you mean 'part2'?"


JUDGED = """
layer { name: "i" type: "Input" top: "x" top: "t"
  input_param { shape { dim: 2 dim: 3 } shape { dim: 2 } } }
layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" inner_product_param { num_output: 4 } }
layer { name: "acc" type: "Accuracy" bottom: "a" bottom: "t" top: "acc" }
"""


def test_what_is_only_judged_is_the_output() -> None:
    graph = deploy(graph_of(JUDGED, Phase.TEST))
    graph.verify()
    assert graph.outputs == ("a",)
    assert graph.inputs == ("x",)


def test_what_is_judged_beside_a_loss_is_not() -> None:
    more = """
      layer { name: "s" type: "Softmax" bottom: "a" top: "s" }
      layer { name: "acc2" type: "Accuracy" bottom: "s" bottom: "t" top: "acc2" }
      layer { name: "loss" type: "SoftmaxWithLoss" bottom: "a" bottom: "t" top: "loss" }
    """
    assert deploy(graph_of(JUDGED + more, Phase.TEST)).outputs == ("prob",)
