"""`netc upgrade`: what it prints. What it writes is tested with netc.upgrading."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Netc

OLD = """\
# a net of 2014
name: "old"
input: "data"
input_dim: 1 input_dim: 2 input_dim: 3 input_dim: 3
layers { name: "relu" type: RELU bottom: "data" top: "data" }
"""


def test_the_changes_are_told(folder: Path, netc: Netc) -> None:
    Path("old.prototxt").write_text(OLD)
    told = netc("upgrade", "old.prototxt", "new.prototxt")
    assert told.code == 0
    lines = told.out.splitlines()
    assert lines[0] == "old.prototxt: net, rewritten"
    assert any("layers of the form" in line or "layer of the form" in line for line in lines)
    assert "note: comments are not carried over: they are in old.prototxt only" in lines
    assert lines[-1] == "wrote new.prototxt"
    assert netc("check", "new.prototxt").out == "new.prototxt: ok (net 'old', 2 layers)\n"


def test_a_file_of_today(folder: Path, netc: Netc) -> None:
    told = netc("upgrade", "solver.prototxt", "solver.yaml")
    assert told.out == "solver.prototxt: solver, in the current form already\nwrote solver.yaml\n"
    assert netc("check", "solver.yaml").code == 0


def test_nothing_is_overwritten_unless_asked(folder: Path, netc: Netc) -> None:
    before = Path("net.prototxt").read_text()
    told = netc("upgrade", "solver.prototxt", "net.prototxt")
    assert told.code == 1
    assert told.err == ("net.prototxt: the file exists already\n  hint      -force replaces it\n")
    assert Path("net.prototxt").read_text() == before
    assert netc("upgrade", "solver.prototxt", "net.prototxt", "-force").code == 0


def test_both_files_are_needed(netc: Netc) -> None:
    told = netc("upgrade", "old.prototxt")
    assert told.code == 2
    assert told.err.startswith("netc upgrade: NEW is missing\n")
