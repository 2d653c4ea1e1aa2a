"""Another batch size, and which layers allow it to be left open."""

from __future__ import annotations

import pytest

from netc.errors import NetcError
from netc.export.batch import batch_size, open_blobs, with_batch
from netc.graph.types import Graph
from netc.layers.types import Phase
from tests.support.nets import graph_of

INPUT = (
    'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 6 dim: 4 } } }\n'
)


def net(*layers: str) -> Graph:
    """A net with the input x of shape (2, 6, 4)."""
    return graph_of(INPUT + "\n".join(f"layer {{ {layer} }}" for layer in layers), Phase.TEST)


def shapes(graph: Graph) -> dict[str, tuple[int, ...]]:
    return {key: blob.shape for key, blob in graph.blobs.items()}


def ip(name: str, bottom: str, axis: int = 1) -> str:
    return (
        f'name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" '
        f"inner_product_param {{ num_output: 3 axis: {axis} }}"
    )


def test_every_shape_follows_the_batch_size() -> None:
    graph = net(ip("ip", "x"), 'name: "r" type: "ReLU" bottom: "ip" top: "ip"')
    assert batch_size(graph) == 2
    other = with_batch(graph, 5)
    other.verify()
    assert shapes(other) == {"x": (5, 6, 4), "ip": (5, 3), "ip#1": (5, 3)}
    assert [node.params for node in other.nodes] == [node.params for node in graph.nodes]
    assert open_blobs(graph) == {"x", "ip", "ip#1"}


def test_a_blob_that_does_not_depend_on_the_batch_is_not_open() -> None:
    graph = net(
        ip("ip", "x"),
        'name: "c" type: "DummyData" top: "c" dummy_data_param { shape { dim: 2 dim: 3 } }',
        'name: "s" type: "Silence" bottom: "c"',
    )
    assert open_blobs(graph) == {"x", "ip"}


def told(call) -> str:
    with pytest.raises(NetcError) as error:
        call()
    return str(error.value)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            'name: "flat" type: "Flatten" bottom: "x" top: "y" flatten_param { axis: 0 }',
            "layer 'flat' (Flatten): the batch axis is mixed with others",
        ),
        (
            'name: "rs" type: "Reshape" bottom: "x" top: "y" '
            "reshape_param { shape { dim: 1 dim: -1 } }",
            "layer 'rs' (Reshape): the batch axis is mixed with others",
        ),
        (
            'name: "rs" type: "Reshape" bottom: "x" top: "y" '
            "reshape_param { shape { dim: 2 dim: 24 } }",
            "layer 'rs' (Reshape): works with batch size 2 only; with 3:",
        ),
        (ip("ip", "x", axis=0), "layer 'ip' (InnerProduct): works with batch size 2 only; with 3:"),
    ],
)
def test_a_layer_that_mixes_or_fixes_the_batch_is_named(layer: str, message: str) -> None:
    text = told(lambda: open_blobs(net(layer)))
    assert message in text
    assert "net.prototxt:2:" in text
    assert "-batch 2" in text


def test_what_reads_a_mixed_blob_is_not_blamed_too() -> None:
    text = told(
        lambda: open_blobs(
            net(
                'name: "flat" type: "Flatten" bottom: "x" top: "y" flatten_param { axis: 0 }',
                'name: "relu" type: "ReLU" bottom: "y" top: "z"',
            )
        )
    )
    assert "'flat'" in text
    assert "'relu'" not in text


def test_params_that_depend_on_the_batch_size_are_told() -> None:
    text = told(lambda: with_batch(net(ip("ip", "x", axis=0)), 4))
    assert "layer 'ip' (InnerProduct): the params depend on the batch size" in text
    assert "(3, 48)" in text
    assert "(3, 96)" in text


def test_inputs_of_different_batch_sizes_are_refused() -> None:
    text = told(
        lambda: batch_size(
            graph_of(
                'layer { name: "in" type: "Input" top: "x" top: "rois" '
                "input_param { shape { dim: 1 dim: 3 } shape { dim: 300 dim: 5 } } }",
                Phase.TEST,
            )
        )
    )
    assert "'x' of shape (1, 3), 'rois' of shape (300, 5)" in text


def test_a_net_without_inputs_has_no_batch_size() -> None:
    assert "no inputs" in told(
        lambda: batch_size(
            graph_of(
                'layer { name: "c" type: "DummyData" top: "c" '
                "dummy_data_param { shape { dim: 2 } } }",
                Phase.TEST,
            )
        )
    )
