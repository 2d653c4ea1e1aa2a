"""Nets written in Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

import netc.pycaffe as caffe
from netc.errors import NetcError
from netc.pycaffe import layers as L
from netc.pycaffe import params as P
from netc.pycaffe.net_spec import assign_proto, param_name_dict
from netc.pycaffe.proto import caffe_pb2


def lenet() -> caffe.NetSpec:
    n = caffe.NetSpec()
    n.data, n.label = L.Input(
        shape=[{"dim": [4, 1, 12, 12]}, {"dim": 4}],
        ntop=2,
    )
    n.conv1 = L.Convolution(
        n.data,
        kernel_size=5,
        num_output=3,
        weight_filler=dict(type="xavier"),
        param=[dict(lr_mult=1), dict(lr_mult=2)],
    )
    n.relu1 = L.ReLU(n.conv1, in_place=True)
    n.pool1 = L.Pooling(n.relu1, kernel_size=2, stride=2, pool=P.Pooling.AVE)
    n.score = L.InnerProduct(n.pool1, num_output=3, weight_filler=dict(type="xavier"))
    n.loss = L.SoftmaxWithLoss(
        n.score, n.label, loss_param=dict(normalization=P.Loss.VALID), include=dict(phase=0)
    )
    return n


TEXT = """
layer { name: "data" type: "Input" top: "data" top: "label"
        input_param { shape { dim: 4 dim: 1 dim: 12 dim: 12 } shape { dim: 4 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
        param { lr_mult: 1 } param { lr_mult: 2 }
        convolution_param { kernel_size: 5 num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
        pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
layer { name: "score" type: "InnerProduct" bottom: "pool1" top: "score"
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss"
        loss_param { normalization: VALID } include { phase: TRAIN } }
"""


def test_a_net_becomes_its_text(tmp_path: Path) -> None:
    expected = text_format.Parse(TEXT, caffe_pb2.NetParameter())
    made = lenet().to_proto()
    assert made == expected
    (tmp_path / "net.prototxt").write_text(str(made))
    net = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TRAIN)
    assert list(net.params) == ["conv1", "score"]
    assert np.isfinite(net.forward()["loss"])


def test_what_has_no_name_gets_one_from_its_type() -> None:
    data = L.DummyData(shape=dict(dim=[2, 3]), data_filler=dict(type="constant"))
    one = L.InnerProduct(data, num_output=2)
    two = L.InnerProduct(L.ReLU(one, in_place=True), num_output=2)
    proto = caffe.to_proto(L.Eltwise(one, two), one)
    assert [layer.name for layer in proto.layer] == [
        "DummyData1",
        "InnerProduct1",
        "ReLU1",
        "InnerProduct2",
        "Eltwise1",
    ]
    assert list(proto.layer[-1].bottom) == ["InnerProduct1", "InnerProduct2"]
    assert list(proto.layer[2].top) == ["InnerProduct1"]
    assert one.to_proto() == caffe.to_proto(one)


def test_tops_of_one_layer_have_the_names_given_to_them() -> None:
    n = caffe.NetSpec()
    n.x = L.Input(shape=dict(dim=[2, 4]))
    n.a, n.b = L.Slice(n.x, ntop=2, slice_point=1)
    n.silence = L.Silence(n.b, ntop=0)
    n["with-dash"] = L.Power(n.a, power=2)
    assert "a" in n
    assert n["a"] is n.a
    proto = n.to_proto()
    assert [(layer.name, list(layer.top)) for layer in proto.layer] == [
        ("x", ["x"]),
        ("a", ["a", "b"]),
        ("silence", []),
        ("with-dash", ["with-dash"]),
    ]
    del n["with-dash"]
    del n.silence
    assert len(n.to_proto().layer) == 2
    with pytest.raises(AttributeError, match="did you mean 'x'"):
        _ = n.X


def test_layers_come_before_those_that_read_them_in_nets_of_any_depth() -> None:
    n = caffe.NetSpec()
    n.x = L.Input(shape=dict(dim=[2]))
    top = n.x
    for _ in range(3000):
        top = L.Power(top)
    n.end = L.Eltwise(top, n.x)
    proto = n.to_proto()
    assert len(proto.layer) == 3002
    seen: set[str] = set()
    for layer in proto.layer:
        assert set(layer.bottom) <= seen
        seen.update(layer.top)


def test_messages_and_types_unknown_to_netc_are_written() -> None:
    filler = caffe_pb2.FillerParameter(type="msra")
    x = L.DummyData(shape=dict(dim=[1, 2]))
    proto = caffe.to_proto(
        L.InnerProduct(x, num_output=1, weight_filler=filler, inner_product_param=dict(axis=1)),
        L.Python(x, module="m", layer="l"),
        L.MyOwn(x, loss_weight=2),
    )
    by_type = {layer.type: layer for layer in proto.layer}
    assert by_type["InnerProduct"].inner_product_param.weight_filler == filler
    assert by_type["InnerProduct"].inner_product_param.axis == 1
    assert by_type["Python"].python_param.module == "m"
    assert list(by_type["MyOwn"].loss_weight) == [2]


def test_constants() -> None:
    assert P.Pooling.MAX == caffe_pb2.PoolingParameter.MAX
    assert P.Data.LMDB == 1
    with pytest.raises(AttributeError, match="no message PolingParameter"):
        _ = P.Poling
    with pytest.raises(AttributeError):
        _ = P.Pooling.MAXIMUM


@pytest.mark.parametrize(
    ("write", "match"),
    [
        (lambda x: L.Convolution(x, num_outputs=3), "(?s)no setting 'num_outputs'.*'num_output'"),
        (lambda x: L.Convlution(x, num_output=3), "(?s)no setting 'num_output'.*'Convolution'"),
        (lambda x: L.Convolution(x, num_output="3"), "cannot have this value: num_output"),
        (lambda x: L.Convolution(x, weight_filler="xavier"), "this value: weight_filler"),
        (
            lambda x: L.Convolution(x, weight_filler=dict(typ="xavier")),
            "(?s)no setting 'typ'.*FillerParameter.*'type'",
        ),
        (lambda x: L.Eltwise(x, 3), "(?s)Eltwise input 1 is not a Top.*'int'.*3"),
        (lambda x: L.ReLU(L.Slice(x, ntop=2)), "(?s)input 0.*a tuple of them"),
        (lambda x: L.Eltwise(x, x, in_place=True), "a layer in place has one input"),
    ],
)
def test_mistakes(write: object, match: str) -> None:
    with pytest.raises(NetcError, match=match):
        write(L.DummyData(shape=dict(dim=[1, 2]))).to_proto()


def test_an_input_that_is_no_blob_is_a_type_error() -> None:
    data = L.DummyData(ntop=2)
    with pytest.raises(TypeError, match=r"Silence input 0 is not a Top \(type is <class 'tuple'>"):
        L.Silence(data, ntop=0)
    L.Silence(*data, ntop=0)


def test_names_and_settings_as_in_ssds_caffe() -> None:
    n = caffe.NetSpec()
    n.data = L.DummyData(shape=dict(dim=[1, 2]))
    n["a/b"] = L.InnerProduct(n.data, num_output=2)
    n.end = L.Silence(n["a/b"], ntop=0)
    assert n.keys() == ["data", "a/b", "end"] and n.vals()[2] is n.end
    n.update(n.keys()[1], dict(num_output=5, bias_term=False))
    n.update("end", dict(propagate_down=False))
    _, ip, end = n.to_proto().layer
    assert (ip.inner_product_param.num_output, ip.inner_product_param.bias_term) == (5, False)
    assert list(end.propagate_down) == [False]
    with pytest.raises(KeyError, match=r"no blob 'dat' yet\. did you mean 'data'"):
        _ = n["dat"]


def test_settings_of_a_message() -> None:
    known = param_name_dict()
    assert known["InnerProduct"] == "inner_product" and known["ELU"] == "elu"
    layer = caffe.proto.caffe_pb2.LayerParameter()
    assign_proto(layer, "param", [dict(lr_mult=1), dict(lr_mult=2, decay_mult=0)])
    assign_proto(layer, "top", "y")
    assign_proto(layer, "convolution_param", dict(kernel_size=3, weight_filler=dict(std=0.5)))
    assert [p.lr_mult for p in layer.param] == [1, 2] and list(layer.top) == ["y"]
    assert layer.convolution_param.kernel_size == [3]
    assert layer.convolution_param.weight_filler.std == 0.5
    with pytest.raises(NetcError, match="no setting 'tops'"):
        assign_proto(layer, "tops", "y")


def test_what_is_no_blob() -> None:
    n = caffe.NetSpec()
    with pytest.raises(NetcError, match="'x' is given something that is no blob"):
        n.x = 3
    with pytest.raises(NetcError, match=r"(?s)give each of them a name.*L\.Slice"):
        n.x = L.Slice(L.DummyData(), ntop=2)
