"""Pictures of a NetParameter, as pycaffe draws them."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf import text_format

import netc.pycaffe as caffe
from netc.errors import NetcError
from netc.pycaffe.proto import caffe_pb2

TEXT = """
name: "LeNet"
layer { name: "train" type: "Data" top: "data" top: "label" include { phase: TRAIN }
        data_param { batch_size: 64 source: "x" } }
layer { name: "test" type: "Data" top: "data" top: "label" include { phase: TEST stage: "s" }
        data_param { batch_size: 100 source: "x" } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" param { lr_mult: 1 }
        param { lr_mult: 2 } convolution_param { num_output: 20 kernel_size: 5 stride: 2 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" exclude { phase: TEST } }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool"
        pooling_param { pool: AVE kernel_size: 3 pad: 1 } }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip"
        inner_product_param { num_output: 10 } }
layer { name: "acc" type: "Accuracy" bottom: "ip" bottom: "label" top: "acc"
        include { stage: "s" } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


@pytest.fixture
def net() -> caffe_pb2.NetParameter:
    return text_format.Merge(TEXT, caffe_pb2.NetParameter())


def words(svg: bytes) -> list[str]:
    return [text.text or "" for text in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def layers(net: caffe_pb2.NetParameter, phase: int | None) -> set[str]:
    names = {layer.name for layer in net.layer}
    return names & set(words(caffe.draw.draw_net(net, "TB", "svg", phase)))


def test_layers_of_a_phase_or_all(net: caffe_pb2.NetParameter) -> None:
    every = {layer.name for layer in net.layer}
    assert layers(net, None) == every
    assert layers(net, caffe.TRAIN) == every - {"test"}
    assert layers(net, caffe.TEST) == every - {"train", "relu"}
    net.layer[2].include.add().phase = caffe.TRAIN
    net.layer[2].exclude.add().phase = caffe.TEST
    with pytest.raises(ValueError, match="layer conv has both include and exclude"):
        layers(net, caffe.TRAIN)


def test_what_a_box_and_an_arrow_say(net: caffe_pb2.NetParameter) -> None:
    shown = words(caffe.draw.draw_net(net, "LR", "svg", caffe.TRAIN, display_lrm=True))
    for word in ("LeNet", "(Convolution)", "kernel size: 5", "stride: 2", "pad: 0", "(Pooling AVE)",
                 "lr mult: 1.0, 2.0", "lr mult: 1.0, 1.0", "Batch 64", "20", "10"):  # fmt: skip
        assert word in shown, word
    label = caffe.draw.get_layer_label(net.layer[4], "TB")
    assert label == "pool (Pooling AVE) kernel size: 3 stride: 1 pad: 1"
    assert caffe.draw.get_layer_label(net.layer[2], "LR", display_lrm=True).split("\n")[-1] == (
        "lr mult: 1.0, 2.0"
    )
    assert caffe.draw.get_edge_label(net.layer[3]) == ""
    assert caffe.draw.get_pooling_types_dict()[1] == "AVE"
    with pytest.raises(ValueError, match="ReLU layers do not have a learning rate"):
        caffe.draw.get_layer_lr_mult(net.layer[3])
    colours = [caffe.draw.choose_color_by_layertype(layer.type) for layer in net.layer]
    assert colours[2] == colours[5] != colours[4] != colours[3] and colours[0] == colours[1]
    assert caffe.draw.choose_color_by_layertype("NobodyKnows").startswith("#")


@pytest.mark.parametrize(
    ("ending", "start"),
    [("png", b"\x89PNG"), ("svg", b"<svg"), ("raw", b"digraph"), ("dot", b"digraph")],
)
def test_files(net: caffe_pb2.NetParameter, tmp_path: Path, ending: str, start: bytes) -> None:
    file = tmp_path / f"net.{ending}"
    caffe.draw.draw_net_to_file(net, str(file))
    assert file.read_bytes().startswith(start)


def test_old_nets_are_drawn_too() -> None:
    old = text_format.Merge(
        'layers { name: "c" type: CONVOLUTION bottom: "x" top: "y" convolution_param { '
        "num_output: 3 kernel_size: 7 } }",
        caffe_pb2.NetParameter(),
    )
    assert "kernel size: 7" in words(caffe.draw.draw_net(old, "TB", "svg"))
    assert len(old.layers) == 1


def test_the_graph_of_pydot(net: caffe_pb2.NetParameter) -> None:
    graph = caffe.draw.get_pydot_graph(net, "LR", phase=caffe.TRAIN)
    nodes = {node.get_name() for node in graph.get_nodes()}
    assert len(nodes) == 7 + 7  # layers, and the blobs data, label, conv, pool, ip, acc, loss
    ends = [(edge.get_source(), edge.get_destination()) for edge in graph.get_edges()]
    assert ('"data_blob"', "layer1") in ends and ("layer1", '"conv_blob"') in ends
    assert {end for pair in ends for end in pair} == nodes
    assert "Batch 64" in graph.to_string()
    plain = caffe.draw.get_pydot_graph(net, "LR", label_edges=False)
    assert "Batch 64" not in plain.to_string()


def test_other_forms_are_graphvizs(
    net: caffe_pb2.NetParameter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # where there is no program `dot`
    with pytest.raises(RuntimeError, match=r"Graphviz cannot draw(.|\n)*svg, png, dot"):
        caffe.draw.draw_net(net, "LR", "pdf")
    monkeypatch.setitem(sys.modules, "pydot", None)
    monkeypatch.setitem(sys.modules, "pydotplus", None)
    calls: list[Callable[[], object]] = [
        lambda: caffe.draw.draw_net(net, "LR", "pdf"),
        lambda: caffe.draw.get_pydot_graph(net, "LR"),
    ]
    for call in calls:
        with pytest.raises(RuntimeError, match=r"pydot is not installed(.|\n)*netc\[draw\]"):
            call()
    with pytest.raises(NetcError, match="TB, LR, BT, RL"):
        caffe.draw.draw_net(net, "up")


def test_pydot_is_not_needed_to_import() -> None:
    code = "import sys, netc.pycaffe; print('pydot' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"
