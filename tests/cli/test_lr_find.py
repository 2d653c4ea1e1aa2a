"""`netc lr_find`: a curve, a suggestion, and no weights."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Netc


def test_a_page_and_a_suggestion(folder: Path, netc: Netc) -> None:
    before = {path.name for path in folder.iterdir()}
    told = netc("lr_find", "-solver", "solver.prototxt", "-iterations", "60", "-max_lr", "100")
    assert told.code == 0
    assert told.out.startswith("suggestion: base_lr = ")
    assert told.out.endswith("  curve    solver_lr.html\n")
    assert {path.name for path in folder.iterdir()} - before == {"solver_lr.html"}
    text = Path("solver_lr.html").read_text()
    assert "<svg" in text
    assert "Learning rates for solver.prototxt" in text


def test_a_picture_alone_from_weights(folder: Path, netc: Netc) -> None:
    weights = Path("run_iter_6.caffemodel").read_bytes()
    told = netc(
        *("lr_find", "-solver", "solver.prototxt", "-weights", "run_iter_6.caffemodel"),
        *("-iterations", "20", "-output", "lr.svg", "momentum=0.5"),
    )
    assert told.code == 0
    assert Path("lr.svg").read_text().startswith("<svg")
    assert Path("run_iter_6.caffemodel").read_bytes() == weights


def test_mistakes(folder: Path, netc: Netc) -> None:
    solver = ("lr_find", "-solver", "solver.prototxt")
    assert "this is no sweep" in netc(*solver, "-min_lr", "1", "-max_lr", "0.1").err
    assert "the output is .html or .svg" in netc(*solver, "-output", "lr.png").err
    assert "which is no number above 0" in netc(*solver, "-min_lr", "0").err
    assert netc(*solver, "-output", "no/such/folder/lr.html").code == 1
