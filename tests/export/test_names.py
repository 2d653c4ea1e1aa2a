"""Names: the text's own for blobs and layers, readable ones for the rest, none of them twice."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.export.model import export
from netc.layers.types import Phase
from tests.support.nets import graph_of


def exported(text: str, **options: object) -> onnx.ModelProto:
    graph = graph_of(text, Phase.TEST)
    params = [np.zeros(param.shape, np.float32) for param in graph.params]
    return export(graph, params, **options)


def nodes(model: onnx.ModelProto) -> list[tuple[str, str, list[str], list[str]]]:
    return [(n.name, n.op_type, list(n.input), list(n.output)) for n in model.graph.node]


def constants(model: onnx.ModelProto) -> list[str]:
    return [constant.name for constant in model.graph.initializer]


INPUT = 'layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 2 dim: 6 } } }\n'
IP = (
    'layer {{ name: "{0}" type: "InnerProduct" bottom: "{1}" top: "{2}" '
    "inner_product_param {{ num_output: 6 }} {3} }}\n"
)


def ip(name: str, bottom: str, top: str, rest: str = "") -> str:
    return IP.format(name, bottom, top, rest)


def layer(kind: str, name: str, bottom: str, *tops: str) -> str:
    written = " ".join(f'top: "{top}"' for top in tops)
    return f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" {written} }}\n'


def test_blobs_layers_and_params_keep_their_names() -> None:
    model = exported(INPUT + ip("fc1", "data", "hidden") + ip("fc2", "hidden", "score"))
    assert nodes(model) == [
        ("fc1", "Gemm", ["data", "fc1.weight", "fc1.bias"], ["hidden"]),
        ("fc2", "Gemm", ["hidden", "fc2.weight", "fc2.bias"], ["score"]),
    ]
    assert constants(model) == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]


def test_the_last_version_of_a_blob_has_the_plain_name() -> None:
    model = exported(
        INPUT
        + ip("fc1", "data", "fc1")
        + layer("ReLU", "relu1", "fc1", "fc1")
        + layer("TanH", "tanh1", "fc1", "fc1")
        + ip("fc2", "fc1", "fc2")
        + layer("ReLU", "relu2", "fc2", "fc2")
    )
    assert [(n, o) for n, _, _, [o] in nodes(model)] == [
        ("fc1", "fc1#0"),
        ("relu1", "fc1#1"),
        ("tanh1", "fc1"),
        ("fc2", "fc2#0"),
        ("relu2", "fc2"),
    ]


def test_an_input_that_is_written_in_place_keeps_its_name() -> None:
    model = exported(INPUT + layer("ReLU", "relu", "data", "data") + ip("fc", "data", "fc"))
    assert [i.name for i in model.graph.input] == ["data"]
    assert nodes(model)[0] == ("relu", "Relu", ["data"], ["data#1"])


def test_layers_that_do_nothing_leave_no_node_and_no_name() -> None:
    model = exported(
        INPUT
        + ip("fc1", "data", "fc1")
        + layer("Dropout", "drop1", "fc1", "fc1")
        + layer("Split", "split", "fc1", "a", "b")
        + ip("fc2", "a", "fc2")
        + ip("fc3", "b", "fc3")
    )
    assert [(n, i[0], o) for n, _, i, [o] in nodes(model)] == [
        ("fc1", "data", "fc1"),
        ("fc2", "fc1", "fc2"),
        ("fc3", "fc1", "fc3"),
    ]


def test_outputs_have_their_names_also_where_a_layer_does_nothing() -> None:
    model = exported(INPUT + ip("fc1", "data", "fc1") + layer("Split", "split", "fc1", "a", "b"))
    assert [o.name for o in model.graph.output] == ["a", "b"]
    assert [(n, kind, i[0], o) for n, kind, i, [o] in nodes(model)] == [
        ("fc1", "Gemm", "data", "a"),
        ("split", "Identity", "a", "b"),
    ]


def test_an_output_that_is_an_input_or_a_constant_goes_through_an_identity() -> None:
    model = exported(
        INPUT
        + layer("Dropout", "drop", "data", "y")
        + 'layer { name: "p" type: "Parameter" top: "w" parameter_param { shape { dim: 3 } } }'
    )
    assert nodes(model) == [
        ("drop", "Identity", ["data"], ["y"]),
        ("p", "Identity", ["p.weight"], ["w"]),
    ]


def test_an_input_that_nobody_reads_stays_an_input_only() -> None:
    model = exported(
        'layer { name: "in" type: "Input" top: "data" top: "info" '
        "input_param { shape { dim: 2 dim: 6 } } }" + ip("fc", "data", "fc")
    )
    assert [i.name for i in model.graph.input] == ["data", "info"]
    assert [o.name for o in model.graph.output] == ["fc"]


def test_layers_of_one_name_get_different_node_and_param_names() -> None:
    model = exported(INPUT + ip("fc", "data", "a") + ip("fc", "a", "b"))
    assert [n for n, *_ in nodes(model)] == ["fc", "fc_1"]
    assert constants(model) == ["fc.weight", "fc.bias", "fc.weight_1", "fc.bias_1"]


def test_a_shared_param_is_one_constant_named_after_its_owner() -> None:
    share = 'param { name: "w" } param { name: "b" }'
    model = exported(INPUT + ip("fc1", "data", "a", share) + ip("fc2", "a", "b", share))
    assert constants(model) == ["fc1.weight", "fc1.bias"]
    assert [i[1:] for _, _, i, _ in nodes(model)] == [["fc1.weight", "fc1.bias"]] * 2


def test_a_shared_param_of_another_shape_is_named_apart() -> None:
    share = 'param { name: "w" share_mode: PERMISSIVE } param { lr_mult: 1 }'
    wide = 'layer { name: "in2" type: "Input" top: "x" input_param { shape { dim: 1 dim: 9 } } }'
    model = exported(
        INPUT
        + wide
        + ip("fc1", "data", "a", share)
        + ip("fc2", "x", "b", share).replace("num_output: 6", "num_output: 4")
    )
    assert constants(model) == ["fc1.weight", "fc1.bias", "fc2.B", "fc2.bias"]


def test_constants_are_named_after_their_layer_and_use() -> None:
    model = exported(
        INPUT + 'layer { name: "rs" type: "Reshape" bottom: "data" top: "y" '
        "reshape_param { shape { dim: 0 dim: 2 dim: 3 } } }"
    )
    assert nodes(model) == [("rs", "Reshape", ["data", "rs.shape"], ["y"])]


def test_the_further_nodes_of_a_layer_are_named_below_it() -> None:
    model = exported(
        'layer { name: "in" type: "Input" top: "x" '
        "input_param { shape { dim: 2 dim: 3 dim: 2 } } }" + ip("fc", "x", "y")
    )
    assert [(n, o) for n, _, _, [o] in nodes(model)] == [
        ("fc/Flatten", "fc/Flatten"),
        ("fc", "y"),
    ]


NAMES = st.sampled_from(["x", "x#0", "y", "y#0", "x.weight", "x/MatMul", "x_1", ""])


@settings(max_examples=60)
@given(st.lists(st.tuples(NAMES, NAMES, st.sampled_from(["ReLU", "Dropout", "InnerProduct"]))))
def test_no_name_is_given_twice_whatever_the_text_calls_its_blobs(
    drawn: list[tuple[str, str, str]],
) -> None:
    text = (
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 dim: 3 } } }'
    )
    last, made = "x", {"x"}
    for name, top, kind in drawn:
        # A blob is written in place, or has a new name: Caffe allows nothing else.
        top = top if top and top not in made else last
        if kind == "InnerProduct" and top == last:
            kind = "ReLU"
        rest = "inner_product_param { num_output: 3 axis: 2 }" if kind == "InnerProduct" else ""
        text += f'layer {{ name: "{name}" type: "{kind}" bottom: "{last}" top: "{top}" {rest} }}'
        last = top
        made.add(top)
    text += f'layer {{ name: "end" type: "TanH" bottom: "{last}" top: "the end" }}'
    model = exported(text)  # ONNX's checker refuses a tensor name that is given twice
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert [i.name for i in model.graph.input] == ["x"]
    assert [o.name for o in model.graph.output] == ["the end"]
    tensors = [*constants(model), *(o for n in model.graph.node for o in n.output), "x"]
    assert len(set(tensors)) == len(tensors)
