from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from netc.assemble import load_graph, load_net, timed_executor
from netc.backends import find_backend
from netc.errors import NetcError
from netc.export import Session, lower_layer
from netc.export.deliver import deliver
from netc.layers.dynamic import ChannelFilter, Filter
from netc.layers.types import BackwardCall, BlobType, ForwardCall, Phase, Refusal
from tests.support.audit import definition
from tests.support.layer_harness import (
    assert_close,
    check_layer,
    forward,
    load_vector,
    smooth,
    vector_names,
)
from tests.support.lowering import check_lowering
from tests.support.nets import executor_of, graph_of


def select(layer: Filter, *bottoms: np.ndarray) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Run forward as a caller does that follows the data; return the tops and what is kept."""
    kept = np.zeros(len(bottoms[-1]), bool)
    call = ForwardCall(np, bottoms, (), (kept,), (), np.random.default_rng)
    return layer.forward(call), kept


def spread(
    layer: Filter, bottoms: tuple[np.ndarray, ...], kept: np.ndarray, *top_diffs: np.ndarray
) -> tuple[np.ndarray | None, ...]:
    wants = layer.gradient_bottoms(len(bottoms))
    unread = tuple(np.full(b.shape, np.nan) for b in bottoms)
    call = BackwardCall(np, unread, (), (), (kept,), top_diffs, wants, ())
    return layer.backward(call).bottoms


@pytest.mark.parametrize("name", vector_names("filter"))
def test_golden_vectors(name: str) -> None:
    # The selected items go through half the sum of their squares, whose gradient is y.
    vector = load_vector(name)
    bottoms = vector["param:parameter:0"], vector["input:s"]
    layer = Filter(("y",))
    (y,), kept = select(layer, *bottoms)
    assert_close(y, vector["blob:y"])
    dx, nothing = spread(layer, bottoms, kept, y)
    assert_close(dx, vector["grad_param:parameter:0"])
    assert nothing is None


@pytest.mark.parametrize("selector", [[0, 0, 0, 0], [0, -1, 0, 0.5], [1, 1, 0, 1], [1, 1, 1, 1]])
@pytest.mark.parametrize("extra", [(), (1, 1)])
def test_definition(selector: list[float], extra: tuple[int, ...]) -> None:
    a, b = smooth(4, 3), smooth(4, seed=1)
    s = np.array(selector).reshape(4, *extra)
    layer = Filter(("ya", "yb"))
    assert [t.shape for t in layer.infer(*(BlobType(x.shape) for x in (a, b, s))).tops] == [
        (4, 3),
        (4,),
    ]
    (ya, yb), kept = select(layer, a, b, s)
    chosen = [i for i in range(4) if selector[i] != 0]
    assert ya.tolist() == [a[i].tolist() for i in chosen]
    assert yb.tolist() == [b[i] for i in chosen]
    da, db, ds = spread(layer, (a, b, s), kept, ya, yb)
    for i in range(4):
        assert da[i].tolist() == (a[i].tolist() if i in chosen else [0, 0, 0])
        assert db[i] == (b[i] if i in chosen else 0)
    assert ds is None


def test_everything_selected_is_an_ordinary_layer() -> None:
    check_layer(Filter(("a", "b")), [smooth(3, 2), smooth(3, 1, 2), np.array([1.0, -1, 0.1])])


def test_buffers_of_the_largest_shape_cannot_hold_fewer_items() -> None:
    # One item would be spread over all places of the buffer without a word.
    with pytest.raises(Refusal, match="leaves items out") as caught:
        forward(Filter(("y",)), [smooth(3, 2), np.array([0.0, 1, 0])])
    assert caught.value.got == "1 of 3 items selected"


@pytest.mark.parametrize(
    ("tops", "shapes", "what"),
    [
        (("y", "z"), [(5, 2), (5,)], "number of tops"),
        (("y",), [(5, 2), (5, 2), (5,)], "number of tops"),
        (("y",), [(5, 2), (5, 2)], "more than one value"),
        (("y",), [(5, 2), ()], "more than one value"),
        (("y",), [(4, 2), (5,)], "not as many items"),
        (("y", "z"), [(5, 2), (), (5,)], "not as many items"),
    ],
)
def test_refusals(tops: tuple[str, ...], shapes: list[tuple[int, ...]], what: str) -> None:
    with pytest.raises(Refusal, match=what) as caught:
        Filter(tops).infer(*map(BlobType, shapes))
    assert caught.value.expected and caught.value.got


def test_onnx_leaves_items_out() -> None:
    a, s = smooth(4, 3).astype(np.float32), np.array([0, 2, 0, -1], np.float32)
    layer = Filter(("y",))
    model = lower_layer(layer, [BlobType((4, 3)), BlobType((4,))], batch="dynamic")
    got = Session(model, threads=1).run({"bottom0": a, "bottom1": s})
    np.testing.assert_array_equal(got["top0"], a[[1, 3]])


def test_onnx() -> None:
    a, b, s = smooth(4, 3), smooth(4, 2), np.ones((4, 1))
    got = check_lowering(Filter(("y", "z")), [a, b, s], other_batch=[a[:2], b[:2], s[:2]])
    assert got == ["Reshape", "Cast", "Compress", "Compress"]


NET = """
input: "data" input_shape { dim: 4 dim: 3 dim: 8 dim: 8 }
input: "wanted" input_shape { dim: 4 }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param {
  num_output: 8 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "some" type: "Filter" bottom: "conv" bottom: "wanted" top: "some" }
layer { name: "pool" type: "Pooling" bottom: "some" top: "pool" pooling_param {
  kernel_size: 3 stride: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip" inner_product_param {
  num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    (tmp_path / "net.prototxt").write_text(NET)
    return tmp_path / "net.prototxt"


def test_a_net_that_selects_is_exported(net: Path) -> None:
    graph = load_graph(net, Phase.TEST)
    backend, file = find_backend("reference"), net.with_name("net.onnx")
    proof = deliver(graph, [], file, backend, fill=True)
    assert proof.ok and file.exists()
    session = Session(onnx.load(file), threads=1)
    x = smooth(4, 3, 8, 8).astype(np.float32)
    whole = session.run({"data": x, "wanted": np.ones(4, np.float32)})["prob"]
    for wanted in ([0, 1, 0, 2], [0] * 4):
        got = session.run({"data": x, "wanted": np.float32(wanted)})["prob"]
        np.testing.assert_allclose(got, whole[np.flatnonzero(wanted)], rtol=1e-5)
    assert session_shape(file) == ["some", 5]


def session_shape(file: Path) -> list[object]:
    [output] = onnx.load(file).graph.output
    return [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim]


@pytest.mark.parametrize("batch", [None, 4, "dynamic"])
def test_the_batch_may_be_open_or_not(net: Path, batch: object) -> None:
    graph = load_graph(net, Phase.TEST)
    file = net.with_name("net.onnx")
    assert deliver(graph, [], file, find_backend("reference"), fill=True, batch=batch).ok
    [first, _] = onnx.load(file).graph.input
    dim = first.type.tensor_type.shape.dim[0]
    assert (dim.dim_param or dim.dim_value) == ("N" if batch == "dynamic" else 4)
    assert session_shape(file) == ["some", 5]


@pytest.mark.parametrize("operation", ["SUM", "ASUM", "SUMSQ", "MEAN"])
def test_a_number_of_what_was_selected(net: Path, operation: str) -> None:
    net.write_text(
        NET + 'layer { name: "last" type: "Reduction" bottom: "ip" top: "y" '
        f"reduction_param {{ operation: {operation} }} }}"
    )
    graph, file = load_graph(net, Phase.TEST), net.with_name("net.onnx")
    assert deliver(graph, [], file, find_backend("reference"), fill=True).ok


def test_what_does_not_follow_is_not_exported(net: Path) -> None:
    net.write_text(
        NET + 'layer { name: "last" type: "Eltwise" bottom: "some" bottom: "conv" top: "y" }'
    )
    graph, file = load_graph(net, Phase.TEST), net.with_name("net.onnx")
    with pytest.raises(NetcError, match="does not follow the items that 'some'") as error:
        deliver(graph, [], file, find_backend("reference"), fill=True)
    assert "layer 'last' (Eltwise)" in str(error.value)
    assert deliver(graph, [], file, find_backend("reference"), fill=True, outputs=["ip"]).ok


def test_made_up_values_select_everything(net: Path) -> None:
    timed, _ = timed_executor(load_net(net, Phase.TEST), find_backend("reference"), train=False)
    timed.forward()
    assert timed.data("prob").shape == (4, 5)


@definition("ChannelFilter")
def kept_channels(x, selector):
    return np.stack([x[:, k] for k in range(x.shape[1]) if selector[k] != 0], axis=1)


@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 3, 2)])
def test_channels_that_pruning_left(shape) -> None:
    x, selector = smooth(*shape), np.array([1.0, 0, -2, 0, 0.5])
    layer = ChannelFilter(3)
    run = check_layer(layer, [x, 2 * x], [selector])
    for top, bottom in zip(run.tops, (x, 2 * x), strict=True):
        np.testing.assert_array_equal(top, kept_channels(bottom, selector))
    check_lowering(layer, [x], [selector])


def test_another_axis_may_be_filtered() -> None:
    x, selector = smooth(2, 3, 4), np.array([0.0, 1, 1, 0])
    run = check_layer(ChannelFilter(2, 2), [x], [selector])
    np.testing.assert_array_equal(run.tops[0], x[:, :, 1:3])


PRUNED = """
    input: "x" input_shape { dim: 2 dim: 5 dim: 3 dim: 3 }
    layer { name: "f" type: "Filter" bottom: "x" top: "y" filter_param { %s } }
    """


def test_a_filter_with_num_output_selects_channels() -> None:
    graph = graph_of(PRUNED % "num_output: 3")
    assert graph.nodes[-1].layer == ChannelFilter(3) and graph.blobs["y"].shape == (2, 3, 3, 3)
    net = executor_of(graph)
    net.fill_params()
    with pytest.raises(NetcError, match="another number of channels"):
        net.forward()
    net.set_param(0, np.array([0, 1, 0, 1, 1]))
    net.data("x")[...] = smooth(2, 5, 3, 3)
    net.forward()
    np.testing.assert_array_equal(net.data("y"), net.data("x")[:, [1, 3, 4]])


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("num_output: 6", "no number of channels"),
        ("num_output: 3 axis: 4", "no such axis"),
        ("axis: 1", "wrong number of bottoms"),
    ],
)
def test_filters_that_do_not_fit(text: str, what: str) -> None:
    with pytest.raises(NetcError, match=what):
        graph_of(PRUNED % text)


def test_a_selector_from_the_bottoms_has_no_axis() -> None:
    with pytest.raises(Refusal, match="selects items of axis 0"):
        Filter(("y",), axis=1).infer(BlobType((2, 3)), BlobType((2,)))
    with pytest.raises(Refusal, match="differ in what is selected from"):
        ChannelFilter(2).infer(BlobType((2, 3)), BlobType((2, 4)))
