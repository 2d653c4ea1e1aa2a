"""`netc draw`: pictures of nets, and names that no picture has."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Netc


@pytest.mark.parametrize(
    ("form", "start"), [("svg", b"<svg"), ("PNG", b"\x89PNG"), ("dot", b"digraph")]
)
def test_a_picture_in_each_form(folder: Path, netc: Netc, form: str, start: bytes) -> None:
    told = netc("draw", "-model", "net.prototxt", "-output", f"net.{form}", "-direction", "lr")
    assert (told.code, told.out.startswith(f"wrote net.{form} (")) == (0, True)
    picture = (folder / f"net.{form}").read_bytes()
    assert picture.startswith(start)
    if form != "PNG":
        assert b"conv1" in picture and b"relu1: ReLU" in picture and b"phase TRAIN" in picture


def test_phase_and_shapes_are_the_nets(folder: Path, netc: Netc) -> None:
    told = netc("draw", "-model", "net.prototxt", "-phase", "TEST", "-output", "net.svg")
    assert told.code == 0 and "Accuracy" in (folder / "net.svg").read_text()


def test_names_that_no_picture_has(folder: Path, netc: Netc) -> None:
    for name in ("net.gif", "net"):
        told = netc("draw", "-model", "net.prototxt", "-output", name)
        assert told.code == 1 and ".svg, .png, .dot" in told.err
    told = netc("draw", "-model", "net.prototxt", "-output", "nowhere/net.svg")
    assert told.code == 1 and "nowhere" in told.err
    told = netc("draw", "-model", "net.prototxt", "-output", "net.svg", "-direction", "up")
    assert told.code == 2 and "TB|LR|BT|RL" in told.err
