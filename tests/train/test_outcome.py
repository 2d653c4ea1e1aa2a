"""What is said at the end of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from netc.backends import find_backend
from netc.schema import read_solver
from netc.train.outcome import outcome
from netc.train.solver import Action, Solver
from tests.support.furnished import furnish


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(furnish(tmp_path))
    return tmp_path


def solver_of(path: Path | str, extra: str = "") -> Solver:
    text = Path(path).read_text(encoding="utf-8") + extra
    return Solver(read_solver(path, text), find_backend("reference"))


def test_a_run_that_ended(folder: Path) -> None:
    solver = solver_of("solver.prototxt")
    solver.solve()
    assert outcome(solver) == [
        "trained to iteration 6",
        "  weights  run_iter_6.caffemodel",
        "  go on    netc train -solver solver.prototxt -snapshot run_iter_6.solverstate",
        "  export   netc export -model net.prototxt -weights run_iter_6.caffemodel "
        "-output run_iter_6.onnx",
    ]


def test_a_run_that_was_stopped(folder: Path) -> None:
    solver = solver_of("solver.prototxt")
    solver.action = lambda: Action.STOP if solver.iter == 2 else Action.NONE
    solver.solve()
    first, *rest = outcome(solver)
    assert first == "stopped at iteration 2 of 6: asked to"
    assert len(rest) == 2, "nobody exports what is not ready"


def test_commands_work_from_another_folder_and_with_odd_names(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = folder / "my nets"
    odd.mkdir()
    furnish(odd)
    solver = solver_of("my nets/solver.prototxt", "snapshot_format: HDF5")
    solver.source.message.snapshot_prefix = "my nets/run"
    solver = Solver(solver.source, find_backend("reference"))
    solver.solve()
    assert outcome(solver)[-1] == (
        "  export   netc export -model 'my nets/net.prototxt' "
        "-weights 'my nets/run_iter_6.caffemodel.h5' -output 'my nets/run_iter_6.onnx'"
    )


def test_a_run_without_snapshot(folder: Path) -> None:
    solver = solver_of("solver.prototxt", "snapshot_after_train: false")
    solver.solve()
    assert outcome(solver)[1].startswith("no snapshot was written")
