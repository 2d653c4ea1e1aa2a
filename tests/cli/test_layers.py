"""`netc layers`: the list, one type, and names that are unknown."""

from __future__ import annotations

import json

from tests.cli.conftest import Netc


def test_the_list(netc: Netc) -> None:
    told = netc("layers")
    assert told.code == 0
    lines = told.out.splitlines()
    assert lines[0].split() == ["type", "bottoms", "tops", "parameters", "ONNX", "backends"]
    assert any(line.startswith("Convolution ") for line in lines)
    count = int(lines[-1].split()[0])
    assert count == len(json.loads(netc("layers", "-format", "json").out))


def test_one_type(netc: Netc) -> None:
    told = netc("layers", "InnerProduct")
    assert told.code == 0
    assert told.out.startswith("InnerProduct\n")
    assert "inner_product_param.num_output" in told.out
    assert netc("layers", "InnerProduct", "-format", "markdown").out.startswith("### InnerProduct")


def test_an_unknown_type(netc: Netc) -> None:
    told = netc("layers", "InerProduct")
    assert told.code == 1
    assert "did you mean 'InnerProduct'?" in told.err


def test_help(netc: Netc) -> None:
    assert "netc layers [TYPE]" in netc("layers", "-help").out
