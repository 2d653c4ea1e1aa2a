"""What becomes of the fields of forks: a note, an error at its place, never silence."""

from __future__ import annotations

import pytest

from netc.errors import NetcError
from tests.support.nets import graph_of

X = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 2, 8, 8] } } }\n'


def problems(text: str) -> list[tuple[str, int, str]]:
    with pytest.raises(NetcError) as caught:
        graph_of(text)
    return [(p.what, p.span.line, p.expected) for p in caught.value.problems if p.span]


def test_the_choice_of_an_implementation_is_noted() -> None:
    graph = graph_of(
        "default_forward_type: FLOAT16 global_grad_scale: 1000\n"
        + X
        + 'layer { name: "c" type: "Convolution" bottom: "x" top: "c" forward_type: FLOAT16\n'
        + '  convolution_param { num_output: 1 kernel_size: 3 conv_algorithm: "winograd" } }\n'
        + 'layer { name: "e" type: "Eltwise" bottom: "c" bottom: "c" top: "e"\n'
        + "  eltwise_param { engine: MKLDNN } forward_type: FLOAT16 }\n"
    )
    (note,) = graph.notes
    assert note.endswith(
        "default_forward_type, global_grad_scale, convolution_param.conv_algorithm, forward_type, "
        "eltwise_param.engine: a fork's choice of implementation, of no effect here"
    )


def test_nets_without_such_fields_have_no_note() -> None:
    assert graph_of(X).notes == ()


def test_values_of_other_forks_are_told_apart_from_unknown_ones() -> None:
    found = problems(
        X
        + 'layer { name: "e" type: "Eltwise" bottom: "x" bottom: "x" top: "e"\n'
        + "  eltwise_param { operation: SORT } }\n"
        + 'layer { name: "p" type: "Pooling" bottom: "x" top: "p"\n'
        + "  pooling_param { kernel_size: 2 pool: DEF_ALL } }\n"
    )
    assert found == [
        ("operation: SORT is not for this layer type", 3, "one of: PROD, SUM, MAX"),
        ("pool: DEF_ALL is not for this layer type", 5, "one of: MAX, AVE, STOCHASTIC"),
    ]


def test_settings_that_change_the_result_are_errors() -> None:
    found = problems(
        X
        + 'layer { name: "c" type: "Convolution" bottom: "x" top: "c"\n'
        + "  convolution_param { num_output: 1 kernel_size: 3 relu: true } }\n"
    )
    assert [(what, line) for what, line, _ in found] == [
        (
            "field 'convolution_param.relu' is set, but layer type Convolution does not read it",
            3,
        ),
    ]


def test_messages_of_other_layers_that_set_nothing_are_ignored() -> None:
    data = 'layer { name: "d" type: "MemoryData" top: "d" '
    sizes = "memory_data_param { batch_size: 1 channels: 1 height: 1 width: 1 } "
    assert graph_of(data + sizes + "data_param { } annotated_data_param { } }").notes == ()
    ((what, _, _),) = problems(data + sizes + "data_param { batch_size: 1 } }")
    assert what == "field 'data_param' is set, but layer type MemoryData does not read it"
