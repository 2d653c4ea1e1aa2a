"""`netc summary`: phases, forms, and shapes that are given."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Netc


def test_the_table(folder: Path, netc: Netc) -> None:
    told = netc("summary", "-model", "net.prototxt")
    assert told.code == 0
    assert (
        told.out
        == """\
net tiny, phase TRAIN
layer   type             bottoms  tops       params  multiply-adds   memory
------  ---------------  -------  ---------  ------  -------------  -------
images  Data             -        4x3x8x8 4       -              -  3.0 KiB
conv1   Convolution      4x3x8x8  4x4x6x6       112         15,552  2.2 KiB
relu1   ReLU             4x4x6x6  4x4x6x6         -            576        -
ip      InnerProduct     4x4x6x6  4x5           725          2,880     80 B
loss    SoftmaxWithLoss  4x5 4    scalar          -             20      4 B
------  ---------------  -------  ---------  ------  -------------  -------
total   5 layers                                837         19,028  5.3 KiB
"""
        + "\n".join(told.out.splitlines()[-1:])
        + "\n"
    )
    assert told.out.splitlines()[-1].startswith("as planned, in all: ")


def test_the_other_phase(folder: Path, netc: Netc) -> None:
    told = netc("summary", "-model", "net.prototxt", "-phase", "test", "-format", "json")
    found = json.loads(told.out)
    assert found["phase"] == "TEST"
    assert [row["type"] for row in found["rows"]][-2:] == ["Accuracy", "SoftmaxWithLoss"]
    assert found["rows"][0]["tops"] == [[10, 3, 8, 8], [10]]


def test_a_given_shape_goes_through_the_net(folder: Path, netc: Netc) -> None:
    told = netc("summary", "-model", "net.prototxt", "-shape", "data=2,3,10,10", "-format=json")
    rows = json.loads(told.out)["rows"]
    assert rows[0]["tops"] == [[2, 3, 10, 10], [2]], "labels have the batch of the images"
    assert rows[1]["tops"] == [[2, 4, 8, 8]]


def test_a_shape_for_a_blob_that_is_not_there(folder: Path, netc: Netc) -> None:
    told = netc("summary", "-model", "net.prototxt", "-shape", "dat=2,3,10,10")
    assert told.code == 1
    assert "did you mean 'data'?" in told.err


def test_markdown(folder: Path, netc: Netc) -> None:
    told = netc("summary", "-model", "deploy.prototxt", "-format", "markdown")
    lines = told.out.splitlines()
    assert lines[0] == "## net tiny_deploy, phase TRAIN"
    assert lines[2].startswith("| layer | type | bottoms | tops |")
    assert lines[3] == "| --- | --- | --- | --- | ---: | ---: | ---: |"
    assert lines[-1] == "note: deploy.prototxt: input 'data' rewritten as a layer of type Input"


def test_stages(folder: Path, netc: Netc) -> None:
    net = Path("net.prototxt")
    extra = '\\nlayer { name: "s" type: "Silence" bottom: "ip" include { stage: "quiet" } }\\n'
    net.write_text(net.read_text() + extra.replace("\\n", "\n"))
    assert "Silence" not in netc("summary", "-model", "net.prototxt").out
    assert "Silence" in netc("summary", "-model", "net.prototxt", "-stage", "a,quiet").out


def test_a_mistake_in_the_net(folder: Path, netc: Netc) -> None:
    net = Path("net.prototxt")
    net.write_text(net.read_text().replace('type: "ReLU"', 'type: "RelU"'))
    told = netc("summary", "-model", "net.prototxt")
    assert told.code == 1
    assert not told.out
    assert "hint      did you mean 'ReLU'?" in told.err
