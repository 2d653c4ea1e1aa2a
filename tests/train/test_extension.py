"""Extensions: at which points they are called, when they stop a run, what they remember."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from netc.backends import find_backend
from netc.layers.types import Array
from netc.schema import read_solver
from netc.train.extension import Extension, Point, every
from netc.train.solver import Action, Solver

NET = """
layer { name: "data" type: "DummyData" top: "data" top: "label"
        dummy_data_param { shape { dim: 4 dim: 5 } shape { dim: 4 }
                           data_filler { type: "gaussian" } data_filler { type: "constant" } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = """
net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 4 random_seed: 1
test_iter: 1 test_interval: 2
"""


def solver_in(folder: Path, extra: str = "") -> Solver:
    (folder / "net.prototxt").write_text(NET)
    (folder / "solver.prototxt").write_text(f'{SOLVER} snapshot_prefix: "{folder}/snap" {extra}')
    return Solver(read_solver(folder / "solver.prototxt"), find_backend("reference"))


def test_the_points_come_in_the_order_of_caffes_loop(tmp_path: Path) -> None:
    solver = solver_in(tmp_path, "iter_size: 2 snapshot: 2")
    seen: list[tuple[str, int]] = []
    for point in Point:
        solver.on(point, lambda solver, name=point.name: seen.append((name, solver.iter)))  # type: ignore[misc]
    solver.solve()
    assert seen[:2] == [("SOLVE", 0), ("STEP", 0)]
    passes = ["FORWARD", "LOSS", "PASSED"] * 2
    iteration = ["ITERATION", *passes, "GRADIENTS", "UPDATE", "UPDATED", "ITERATED"]
    tested = ["TEST", "TESTED", "BEFORE", *iteration, "AFTER"]
    saved = ["BEFORE", *iteration, "SNAPSHOT", "AFTER"]
    assert [name for name, _ in seen[2:-4]] == [*tested, *saved, *tested, *saved]
    assert [name for name, _ in seen[-4:]] == ["TEST", "TESTED", "REACHED", "END"]
    assert [i for name, i in seen if name == "UPDATED"] == [0, 1, 2, 3]
    assert [i for name, i in seen if name == "ITERATED"] == [1, 2, 3, 4]


def test_a_trigger_follows_the_settings(tmp_path: Path) -> None:
    solver = solver_in(tmp_path)
    seen: list[int] = []
    solver.on(
        Point.ITERATION,
        lambda solver: seen.append(solver.iter),
        every(lambda settings: settings.display),
    )
    solver.step(3)
    assert seen == []
    solver.source.message.display = 2
    solver.settings = type(solver.settings)(**{**vars(solver.settings), "display": 2})
    solver.step(4)
    assert seen == [4, 6]


@pytest.mark.parametrize(("point", "iterations"), [(Point.TESTED, 2), (Point.ITERATED, 3)])
def test_an_extension_ends_the_run_and_says_why(
    tmp_path: Path, point: Point, iterations: int
) -> None:
    solver = solver_in(tmp_path)

    def enough(solver: Solver) -> None:
        if solver.iter > 1 and (point is Point.TESTED or solver.iter == 3):
            solver.stop("that is enough")
            solver.stop("nobody asks why twice")

    solver.on(point, enough)
    solver.solve()
    assert solver.iter == iterations
    assert solver.stopped == "that is enough"
    assert (tmp_path / f"snap_iter_{iterations}.solverstate").exists()


def test_a_snapshot_asked_for_during_a_test_is_made(tmp_path: Path) -> None:
    solver = solver_in(tmp_path, "snapshot_after_train: false")
    asked = [Action.SNAPSHOT]  # the first question comes before the first test
    solver.action = lambda: asked.pop() if asked else Action.NONE
    solver.solve()
    assert [path.name for path in sorted(tmp_path.glob("snap*"))] == [
        "snap_iter_1.caffemodel",
        "snap_iter_1.solverstate",
    ]


class Counter(Extension):
    """Counts iterations, in a message and in an array."""

    name = "counter"

    def __init__(self) -> None:
        self.count = 0
        self.sums = np.zeros(2, np.float32)

    def attach(self, solver: Solver) -> None:
        solver.on(Point.ITERATED, self.add)

    def add(self, solver: Solver) -> None:
        self.count += 1
        self.sums += solver.iter

    def state(self) -> bytes:
        return str(self.count).encode()

    def restore(self, state: bytes) -> None:
        self.count = int(state)

    def arrays(self) -> Mapping[str, Array]:
        return {"sums": self.sums}


@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
def test_what_an_extension_remembers_is_in_the_snapshot(
    tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    first, counter = solver_in(tmp_path, f"snapshot_format: {form}"), Counter()
    first.extend(counter)
    first.step(3)
    _, state = first.snapshot()
    second, again = solver_in(tmp_path), Counter()
    second.extend(again)
    sums = again.sums
    second.restore(state)
    assert again.count == 3
    assert again.sums is sums
    np.testing.assert_array_equal(sums, [6, 6])
    with caplog.at_level(logging.WARNING, logger="netc"):
        solver_in(tmp_path).restore(state)
    assert "remembers 'counter', which this solver does not use" in caplog.text
