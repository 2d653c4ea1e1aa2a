"""The exported model as a whole: checked, described, reproducible; and every refusal in words."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest

from netc._version import __version__
from netc.errors import NetcError
from netc.export import model as model_module
from netc.export.builder import InvalidLowering
from netc.export.model import export, lower_layer, provenance, save
from netc.export.session import DEFAULT_OPSET, OLDEST_OPSET, Session, latest_opset
from netc.graph.types import Graph
from netc.layers.activation import ReLU
from netc.layers.innerproduct import InnerProduct
from netc.layers.types import Arity, BlobType, Layer, Part, Phase, Signature, between
from tests.support.nets import graph_of

NET = """name: "two layers"
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 4 } } }
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc"
  inner_product_param { num_output: 5 } }
layer { name: "relu" type: "ReLU" bottom: "fc" top: "fc" relu_param { negative_slope: 0.5 } }
"""


def net(text: str = NET, phase: Phase = Phase.TEST) -> tuple[Graph, list[np.ndarray]]:
    graph = graph_of(text, phase)
    rng = np.random.default_rng(0)
    return graph, [rng.standard_normal(p.shape).astype(np.float32) for p in graph.params]


def dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def told(call) -> str:
    with pytest.raises(NetcError) as error:
        call()
    return str(error.value)


# -- what is in it ---------------------------------------------------------------------------------


def test_the_model_computes_the_net() -> None:
    graph, (w, b) = net()
    x = np.random.default_rng(1).standard_normal((2, 3, 4)).astype(np.float32)
    y = x.reshape(2, 12) @ w.T + b
    got = Session(export(graph, [w, b]), threads=1).run({"data": x})
    np.testing.assert_allclose(got["fc"], np.where(y > 0, y, 0.5 * y), rtol=1e-4, atol=1e-5)


def test_the_model_says_what_it_is_and_from_where() -> None:
    model = export(*net(), metadata={"netc.model.sha256": "0123"})
    assert {p.key: p.value for p in model.metadata_props} == {
        "netc.version": __version__,
        "netc.net": "two layers",
        "netc.model.sha256": "0123",
    }
    assert (model.producer_name, model.producer_version) == ("netc", __version__)
    assert model.graph.name == "two layers"
    assert [(o.domain, o.version) for o in model.opset_import] == [("", DEFAULT_OPSET)]


def test_every_blob_has_its_shape_in_the_model() -> None:
    graph, params = net()
    model = export(graph, params)
    infos = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    found = {value.name: dims(value) for value in infos}
    assert found == {"data": [2, 3, 4], "fc/Flatten": [2, 12], "fc#0": [2, 5], "fc": [2, 5]}


def test_the_same_net_gives_the_same_bytes() -> None:
    first, second = (export(*net(), batch="dynamic").SerializeToString() for _ in range(2))
    assert first == second


def test_the_params_are_copied() -> None:
    graph, params = net()
    model = export(graph, params)
    before = model.SerializeToString()
    params[0][:] = 7
    assert model.SerializeToString() == before


def test_a_param_that_is_not_contiguous_is_exported_as_it_reads() -> None:
    graph, (w, b) = net()
    wide = np.zeros((5, 24), np.float32)
    wide[:, ::2] = w
    assert export(graph, [wide[:, ::2], b]) == export(graph, [w, b])


@pytest.mark.parametrize("opset", [OLDEST_OPSET, 15, DEFAULT_OPSET, 18, latest_opset()])
def test_the_opset_can_be_chosen(opset: int) -> None:
    model = export(*net(), opset=opset)
    assert model.opset_import[0].version == opset
    assert Session(model, threads=1).run({"data": np.ones((2, 3, 4), np.float32)})


@pytest.mark.parametrize("opset", [OLDEST_OPSET - 1, latest_opset() + 1])
def test_an_opset_out_of_range_is_refused_with_the_range(opset: int) -> None:
    text = told(lambda: export(*net(), opset=opset))
    assert f"opset {opset} is not supported" in text
    assert f"{OLDEST_OPSET} to {latest_opset()}" in text


def test_operators_that_no_output_needs_are_left_out() -> None:
    model = lower_layer(Wasteful(), [BlobType((2, 3))])
    assert [node.op_type for node in model.graph.node] == ["Neg"]
    assert not model.graph.initializer


# -- the batch size --------------------------------------------------------------------------------


def test_the_batch_size_can_be_left_open_or_set() -> None:
    graph, params = net()
    for batch, first in ((None, 2), (7, 7), ("dynamic", "N")):
        model = export(graph, params, batch=batch)
        assert dims(model.graph.input[0]) == [first, 3, 4]
        assert dims(model.graph.output[0]) == [first, 5]
        assert [dims(v)[0] for v in model.graph.value_info] == [first, first]
    session = Session(model, threads=1)
    x = np.random.default_rng(0).standard_normal((5, 3, 4)).astype(np.float32)
    whole = session.run({"data": x})["fc"]
    parts = [session.run({"data": x[i : i + 1]})["fc"] for i in range(5)]
    np.testing.assert_allclose(whole, np.concatenate(parts), rtol=1e-5, atol=1e-6)


def test_a_batch_size_below_one_is_refused() -> None:
    assert "batch size is not positive" in told(lambda: export(*net(), batch=0))


def test_a_layer_whose_onnx_form_fixes_the_batch_is_refused_by_name() -> None:
    x = [BlobType((2, 3))]
    assert lower_layer(FixedBatch(), x)
    text = told(lambda: lower_layer(FixedBatch(), x, batch="dynamic"))
    assert "'FixedBatch' (FixedBatch): its ONNX form fixes the batch size" in text
    assert "-batch 2" in text


def test_a_layer_that_sums_the_batch_up_is_refused_by_name() -> None:
    x = [BlobType((2, 3))]
    assert lower_layer(SumOfBatch(), x)
    text = told(lambda: lower_layer(SumOfBatch(), x, batch="dynamic"))
    assert "'SumOfBatch' (SumOfBatch): the batch axis is mixed" in text
    assert "(2, 3) to (3,)" in text


def test_a_blob_that_no_batch_reaches_stays_fixed() -> None:
    model = lower_layer(Priors(), [BlobType((2, 3))], batch="dynamic")
    assert dims(model.graph.input[0]) == ["N", 3]
    assert dims(model.graph.output[0]) == [4]


# -- refusals --------------------------------------------------------------------------------------


def with_layers(graph: Graph, **layers: Layer) -> Graph:
    """Replace the rules of layers by name; shapes stay."""
    nodes = tuple(
        dataclasses.replace(node, layer=layers.get(node.name, node.layer)) for node in graph.nodes
    )
    return dataclasses.replace(graph, nodes=nodes)


def test_everything_that_onnx_cannot_say_is_told_at_once_with_its_place() -> None:
    graph, params = net()
    text = told(lambda: export(with_layers(graph, fc=Unsayable(), relu=Unsayable()), params))
    assert "net.prototxt:3:1: layer 'fc' (Unsayable): this layer is beyond ONNX" in text
    assert "net.prototxt:5:1: layer 'relu' (Unsayable): this layer is beyond ONNX" in text
    assert "ask for less" in text


def test_a_type_without_an_onnx_form_says_so() -> None:
    assert "'Layer' (Layer): this type has no ONNX form" in told(
        lambda: lower_layer(NoForm(), [BlobType((2,))])
    ).replace("NoForm", "Layer")


def test_a_data_layer_is_refused_with_the_way_out() -> None:
    graph, params = net()
    text = told(lambda: export(with_layers(graph, fc=ReadsData()), params))
    assert "'fc' (ReadsData): an exported net does not read data" in text
    assert "deployed form" in text


def test_a_net_for_training_is_refused() -> None:
    assert "phase TRAIN" in told(lambda: export(*net(phase=Phase.TRAIN)))


def test_a_net_without_outputs_is_refused() -> None:
    inputs_only = "\n".join(NET.splitlines()[:2])
    assert "the net has no outputs" in told(lambda: export(*net(inputs_only)))


def test_a_blob_without_elements_is_refused() -> None:
    text = told(
        lambda: export(
            *net(
                'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 0 } } }'
                'layer { name: "r" type: "ReLU" bottom: "x" top: "y" }'
            )
        )
    )
    assert "layer 'in' (Input): blob 'x' has no elements" in text


def test_weights_beyond_the_limit_of_a_file_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # 65 floats: one too many for 256 bytes.
    monkeypatch.setattr(model_module, "_LARGEST", 256)
    assert "do not fit in an ONNX file" in told(lambda: export(*net()))
    monkeypatch.setattr(model_module, "_LARGEST", 260)
    assert export(*net())


def test_params_that_do_not_belong_to_the_net_are_a_bug_of_the_caller() -> None:
    graph, (w, _) = net()
    with pytest.raises(ValueError, match="1 arrays for 2 params"):
        export(graph, [w])
    with pytest.raises(ValueError, match=r"param 1 has shape \(5,\), not \(6,\)"):
        export(graph, [w, np.zeros(6, np.float32)])


# -- disagreement between netc and ONNX ------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("WrongShape", r"'WrongShape' \(WrongShape\): top 'top0' has shape \(2, 3\).*\(3, 2\)"),
        ("WrongType", "top 'top0' is int64, not float32"),
        ("TwoTops", "2 tops, not 1"),
        ("NoTensor", "a top is 'y'"),
        ("BadNode", r"'BadNode' \(BadNode\): Relu has no attribute slope"),
    ],
)
def test_a_rule_that_disagrees_with_onnx_is_an_internal_error_naming_the_layer(
    layer: str, message: str
) -> None:
    with pytest.raises(InvalidLowering, match=message):
        lower_layer(globals()[layer](), [BlobType((2, 3))])


def test_the_checker_compares_the_shapes_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    # As if the comparison of each top were not there.
    monkeypatch.setattr(model_module, "_settle", lambda *arguments: None)
    monkeypatch.setattr(WrongShape, "lower", _declares_the_wrong_shape)
    with pytest.raises(InvalidLowering, match="ONNX does not accept the model"):
        lower_layer(WrongShape(), [BlobType((2, 3))])


def _declares_the_wrong_shape(self: Layer, g: Any, bottoms: Any, params: Any) -> Any:
    y = g.op("Transpose", bottoms[0], perm=[1, 0])
    y.dims = (2, 3)
    return (y,)


# -- one layer -------------------------------------------------------------------------------------


def test_one_layer_has_inputs_and_outputs_named_by_position() -> None:
    layer = InnerProduct(num_output=4)
    model = lower_layer(
        layer, [BlobType((2, 3))], [np.ones((4, 3), np.float32), np.zeros(4, np.float32)]
    )
    assert [i.name for i in model.graph.input] == ["bottom0"]
    assert [o.name for o in model.graph.output] == ["top0"]
    assert [n.name for n in model.graph.node] == ["InnerProduct"]


def test_a_type_that_expands_is_exported_as_its_parts() -> None:
    ones = np.ones((4, 3), np.float32)
    model = lower_layer(
        Dense(), [BlobType((2, 3))], [ones, np.zeros(4, np.float32), np.eye(4, dtype=np.float32)]
    )
    assert [(n.name, n.op_type) for n in model.graph.node] == [
        ("Dense/first", "Gemm"),
        ("Dense/relu", "Relu"),
        ("Dense/second", "Gemm"),
    ]
    x = np.array([[1, 2, 3], [-1, -2, -3]], np.float32)
    got = Session(model, threads=1).run({"bottom0": x})["top0"]
    assert got.tolist() == [[6, 6, 6, 6], [0, 0, 0, 0]]


# -- files -----------------------------------------------------------------------------------------


def test_provenance_tells_the_files_by_name_and_hash(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("net.prototxt", "a.caffemodel", "b.caffemodel")]
    for path in paths:
        path.write_bytes(path.name.encode())
    digests = [hashlib.sha256(path.name.encode()).hexdigest() for path in paths]
    assert provenance(paths[0], paths[1:]) == {
        "netc.model.file": "net.prototxt",
        "netc.model.sha256": digests[0],
        "netc.weights.file": "a.caffemodel",
        "netc.weights.sha256": digests[1],
        "netc.weights2.file": "b.caffemodel",
        "netc.weights2.sha256": digests[2],
    }
    assert "no.prototxt" in told(lambda: provenance(tmp_path / "no.prototxt"))


def test_a_model_is_saved_whole(tmp_path: Path) -> None:
    model = export(*net())
    path = tmp_path / "net.onnx"
    path.write_bytes(b"the old one")
    save(model, path)
    assert onnx.load(str(path)) == model
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_a_model_that_cannot_be_saved_is_told(tmp_path: Path) -> None:
    text = told(lambda: save(export(*net()), tmp_path / "nowhere" / "net.onnx"))
    assert str(tmp_path / "nowhere") in text


# -- layer types for these tests -------------------------------------------------------------------


@dataclass(frozen=True)
class _Toy(Layer):
    """A type whose top has the bottom's shape."""

    def __init_subclass__(cls) -> None:
        cls.type = cls.__name__

    def infer(self, *bottoms: BlobType) -> Signature:
        return Signature((bottoms[0],))


class NoForm(_Toy):
    pass


class Wasteful(_Toy):
    def lower(self, g, bottoms, params):
        g.op("Add", bottoms[0], g.constant(1))
        return (g.op("Neg", bottoms[0]),)


class Unsayable(_Toy):
    bottoms: ClassVar[Arity] = between(0, 1)

    def lower(self, g, bottoms, params):
        raise g.refuse("this layer is beyond ONNX", hint="ask for less")


class ReadsData(_Toy):
    reads_data: ClassVar[bool] = True


class FixedBatch(_Toy):
    def lower(self, g, bottoms, params):
        shape = bottoms[0].shape
        return (g.op("Add", bottoms[0], g.constant(np.zeros(shape))),)


class SumOfBatch(_Toy):
    def infer(self, *bottoms):
        return Signature((BlobType(bottoms[0].shape[1:]),))

    def lower(self, g, bottoms, params):
        return (g.op("ReduceSum", bottoms[0], g.constant([0], "int64"), keepdims=0),)


class Priors(_Toy):
    """Its top follows from the bottom's shape behind the batch axis, not from its content."""

    def infer(self, *bottoms):
        return Signature((BlobType((4,)),))

    def lower(self, g, bottoms, params):
        return (g.constant([1, 2, 3, bottoms[0].shape[1]]),)


class WrongShape(_Toy):
    def lower(self, g, bottoms, params):
        return (g.op("Transpose", bottoms[0], perm=[1, 0]),)


class WrongType(_Toy):
    def lower(self, g, bottoms, params):
        return (g.cast(bottoms[0], "int64"),)


class TwoTops(_Toy):
    def lower(self, g, bottoms, params):
        return (bottoms[0], bottoms[0])


class NoTensor(_Toy):
    def lower(self, g, bottoms, params):
        return ("y",)


class BadNode(_Toy):
    def lower(self, g, bottoms, params):
        return (g.op("Relu", bottoms[0], slope=1),)


class Dense(_Toy):
    """Two fully connected layers with a ReLU between them."""

    def infer(self, *bottoms):
        return Signature((BlobType((bottoms[0].shape[0], 4)),))

    def expand(self, *bottoms):
        return (
            Part("/first", InnerProduct(num_output=4), ("$b0",), (".h",)),
            Part("/relu", ReLU(), (".h",), (".r",)),
            Part("/second", InnerProduct(num_output=4, bias_term=False), (".r",), ("$t0",)),
        )
