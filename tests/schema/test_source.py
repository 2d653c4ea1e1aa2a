"""Files that are nets, and files that are something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from netc.errors import NetcError
from netc.schema import (
    is_binary_net,
    netc_pb2,
    parse_binary,
    read_net,
    read_net_binary,
    read_solver,
)

NET = 'name: "n"\nlayer {\n\tname: "a"\n\ttype: "ReLU" # é\n}\n'


def told(path: Path, read: object = read_net) -> str:
    with pytest.raises(NetcError) as caught:
        read(path)
    return str(caught.value).replace(str(path), "FILE").replace(str(path.parent), "FOLDER")


@pytest.mark.parametrize(
    "data",
    [
        NET.encode(),
        NET.replace("\n", "\r\n").encode(),
        NET.replace("\n", "\r").encode(),
        b"\xef\xbb\xbf" + NET.encode(),
        NET.encode("latin-1"),  # in a comment, where it does no harm
        NET.replace("é", "\x0c\x0b").encode(),
    ],
    ids=["unix", "dos", "mac", "byte order mark", "latin-1 comment", "form feed"],
)
def test_encodings_and_line_ends(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "n.prototxt").write_bytes(data)
    source = read_net(tmp_path / "n.prototxt")
    assert [(layer.name, layer.type) for layer in source.message.layer] == [("a", "ReLU")]
    span = source.span("layer", 0, "type")
    assert (span.line, span.column) == (4, 8)


def test_text_in_place_of_a_file() -> None:
    source = read_net("nowhere/net.prototxt", NET)
    assert source.file == "nowhere/net.prototxt"
    assert str(source.span("layer", 0)) == "nowhere/net.prototxt:2:1"


def test_format_by_suffix(tmp_path: Path) -> None:
    for suffix, text in {
        ".yaml": "layer: [{name: a}]",
        ".YML": "layer:\n- name: a\n",
        ".json": '{\t"layer":\t[{"name": "a"}]}',
        ".txt": 'layer { name: "a" }',
        "": 'layer { name: "a" }',
    }.items():
        path = tmp_path / f"net{suffix}"
        path.write_text(text)
        assert read_net(path).message.layer[0].name == "a"


def test_missing_file(tmp_path: Path) -> None:
    (tmp_path / "train_test.prototxt").write_text("")
    assert told(tmp_path / "train_tets.prototxt") == (
        "FILE: no such file\n  hint      did you mean 'train_test.prototxt'?"
    )
    assert "there is no folder" in told(tmp_path / "no" / "net.prototxt")
    assert "this is a folder" in told(tmp_path)
    assert "name is too long" in told(tmp_path / ("n" * 300))
    assert "no such file" in told(Path("a\0b"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "this file is empty"),
        (b" \n\t\n", "this file is empty"),
        (b"\xef\xbb\xbf", "this file is empty"),
        (b"\x89HDF\r\n\x1a\n", "this is an HDF5 file, not text"),
        (b"\x1f\x8b\x08", "this is a gzip archive, not text"),
        ("name: 'x'".encode("utf-16"), "this text is in UTF-16"),
        (b"name\0\1", "this is a binary file, not text"),
        (b"\n<!DOCTYPE html>\n<html>", "this is a web page, not prototxt"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a placeholder of Git LFS"),
        (b'name: "\xe9"', "not UTF-8"),
        (b'n\xe9: "x"', "not UTF-8"),
    ],
)
def test_other_files(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "f").write_bytes(data)
    assert message in told(tmp_path / "f")


def test_yaml_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "n.yaml").write_bytes(b"name: \xe9\n")
    assert "n.yaml:1:7: the text is not UTF-8" in told(tmp_path / "n.yaml").replace(
        "FILE", "n.yaml"
    )


def test_weights_in_place_of_a_net(tmp_path: Path) -> None:
    net = netc_pb2.NetParameter()
    for i in range(3):
        net.layer.add(name=str(i)).blobs.add(data=[0.0])
    (tmp_path / "w.caffemodel").write_bytes(net.SerializeToString())
    text = told(tmp_path / "w.caffemodel")
    assert "this is a file of weights (a caffemodel of 3 layers), not the text of a net" in text
    assert "-weights" in text
    assert is_binary_net(net.SerializeToString())
    assert not is_binary_net(NET.encode())
    assert read_net_binary(tmp_path / "w.caffemodel").message == net


def test_binary_files_that_are_no_nets(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(netc_pb2.NetParameter(name="x").SerializeToString()[:-1])
    assert "not a serialised NetParameter, or it is cut off" in told(
        tmp_path / "f", read_net_binary
    )
    with pytest.raises(NetcError, match="not a serialised SolverState"):
        parse_binary(b"\xf8\x07\x01", netc_pb2.SolverState)
    assert parse_binary(b"", netc_pb2.SolverState) == netc_pb2.SolverState()


def test_net_and_solver_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "n").write_text(NET)
    (tmp_path / "s").write_text('net: "n"\nbase_lr: 0.1\n')
    assert "this is a net, not a solver" in told(tmp_path / "n", read_solver)
    assert "this is a solver, not a net" in told(tmp_path / "s")
    (tmp_path / "labelmap.prototxt").write_text('item { name: "cat" label: 1 }\nitem { label: 2 }')
    assert told(tmp_path / "labelmap.prototxt").count("this is a label map, not a net") == 1
    assert "this is a label map, not a solver" in told(tmp_path / "labelmap.prototxt", read_solver)


def test_message_shows_the_text_that_was_read(tmp_path: Path) -> None:
    path = tmp_path / "n.prototxt"
    path.write_text("nam: 1\n")
    with pytest.raises(NetcError) as caught:
        read_net(path)
    path.write_text("changed since\n")
    assert "    | nam: 1\n    | ^\n" in str(caught.value)
