"""`netc check`: what it prints, and the exit code. What it finds is tested with netc.checking."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Netc


def spoil(path: str, right: str, wrong: str) -> None:
    text = Path(path).read_text(encoding="utf-8")
    assert right in text
    Path(path).write_text(text.replace(right, wrong, 1), encoding="utf-8")


def test_files_without_mistakes(folder: Path, netc: Netc) -> None:
    told = netc("check", "net.prototxt", "solver.prototxt", "deploy.prototxt")
    assert told.code == 0
    assert told.out == (
        "net.prototxt: ok (net 'tiny', TRAIN 5 layers, TEST 6 layers)\n"
        "solver.prototxt: ok (SGD solver, net 'tiny', TRAIN 5 layers, TEST 6 layers)\n"
        "deploy.prototxt: ok (net 'tiny_deploy', 5 layers)\n"
        "  note: deploy.prototxt: input 'data' rewritten as a layer of type Input\n"
    )
    assert not told.err


def test_every_mistake_with_line_and_caret(folder: Path, netc: Netc) -> None:
    spoil("net.prototxt", "num_output: 5", "num_outputs: 5")
    spoil("net.prototxt", "kernel_size: 3", "kernel_size: three")
    told = netc("check", "net.prototxt")
    assert told.code == 1
    lines = told.out.splitlines()
    assert lines[0].startswith("net.prototxt:25:50: layer 'conv1' (Convolution): ")
    assert "kernel_size" in lines[0]
    assert lines[1:3] == [
        "    |   convolution_param { num_output: 4 kernel_size: three weight_filler "
        '{ type: "xavier" } }',
        f"    | {' ' * 49}^",
    ]
    assert "  hint      did you mean 'num_output'?" in lines
    assert lines[-1] == "2 mistakes in 1 file"


def test_a_mistake_is_told_once_for_all_phases_and_files(folder: Path, netc: Netc) -> None:
    spoil("net.prototxt", 'bottom: "conv1"\n  top: "ip"', 'bottom: "conv2"\n  top: "ip"')
    told = netc("check", "net.prototxt", "solver.prototxt")
    assert told.code == 1
    assert told.out.count("unknown bottom blob 'conv2'") == 1
    assert told.out.endswith(
        "solver.prototxt: not ok, see the mistakes in net.prototxt\n1 mistake in 2 files\n"
    )


def test_json_for_editors(folder: Path, netc: Netc) -> None:
    spoil("net.prototxt", "num_output: 5", "num_outputs: 5")
    told = netc("check", "net.prototxt", "solver.prototxt", "-format", "json")
    assert told.code == 1
    (found,) = json.loads(told.out)
    assert list(found) == [
        *("file", "line", "column", "message", "layer", "expected", "got", "hint"),
    ]
    assert (found["file"], found["line"], found["column"]) == ("net.prototxt", 33, 25)
    assert found["layer"] == "'ip' (InnerProduct)"
    assert found["hint"] == "did you mean 'num_output'?"


def test_json_of_no_mistakes(folder: Path, netc: Netc) -> None:
    told = netc("check", "net.prototxt", "--format=json")
    assert (told.code, json.loads(told.out), told.err) == (0, [], "")


def test_what_was_assumed_is_told(folder: Path, netc: Netc) -> None:
    spoil("net.prototxt", 'source: "db"', 'source: "away"')
    spoil("net.prototxt", "scale: 0.00390625", "crop_size: 8")
    told = netc("check", "net.prototxt")
    assert told.code == 0
    assert told.out.splitlines()[1] == (
        "  note: net.prototxt:2:1: database 'away' does not exist: images of shape (3, 8, 8) are "
        "assumed, from crop_size"
    )
    told = netc("check", "net.prototxt", "-format", "json")
    assert told.out == "[]\n"
    assert told.err.startswith("note: net.prototxt:2:1: database 'away' does not exist")


def test_a_shape_stands_for_data_that_is_absent(folder: Path, netc: Netc) -> None:
    spoil("net.prototxt", 'source: "db"', 'source: "away"')
    told = netc("check", "net.prototxt")
    assert told.code == 0
    assert "shapes behind it are not checked (-shape data=... tells them)\n" in told.out
    assert netc("check", "net.prototxt", "-shape", "data=2,3,8,8").code == 0
    told = netc("check", "net.prototxt", "-shape", "data=2,3,2,2")
    assert told.code == 1
    assert "the kernel is larger than the bottom" in told.out


def test_no_file_is_a_wrong_call(netc: Netc) -> None:
    told = netc("check")
    assert told.code == 2
    assert told.err.startswith("netc check: FILE is missing")
