"""Solver trajectories computed with BVLC Caffe: losses, rates.

Params and history over 25 iterations.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from netc.backends import find_backend
from netc.schema import read_solver
from netc.train.extension import Point
from netc.train.solver import Progress, Solver
from tests.support.nets import require

VECTORS = sorted((Path(__file__).parents[1] / "conformance" / "solvers").glob("*.npz"))
BATCH, BATCHES = 8, 3

# float32 in another summation order, as the README beside the vectors gives it: the errors of 25
# iterations add up.
AFTER_25 = {"rtol": 5e-4, "atol": 5e-5}
AFTER_1 = {"rtol": 1e-4, "atol": 1e-5}
RATE = {"rtol": 1e-5, "atol": 0.0}


def test_the_vectors_are_here() -> None:
    assert len(VECTORS) == 34


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_trajectory(path: Path, backend: str, tmp_path: Path) -> None:
    require(backend)
    with np.load(path) as arrays:
        z = dict(arrays)
    (tmp_path / "net.prototxt").write_text(str(z["net_prototxt"]))
    (tmp_path / "solver.prototxt").write_text(str(z["solver_prototxt"]))
    solver = Solver(read_solver(tmp_path / "solver.prototxt"), find_backend(backend))
    graph = solver.net.plan.graph
    places = {
        (node.name, i): use.param for node in graph.nodes for i, use in enumerate(node.params)
    }

    def index_of(key: str) -> int:
        _, layer, i = key.split(":")
        return places[layer, int(i)]

    def param(key: str) -> np.ndarray:
        return np.array(solver.net.param_array(index_of(key)))

    for key in z:
        if key.startswith("param_init:"):
            solver.net.set_param(index_of(key), z[key])

    passes = 0

    def feed(solver: Solver) -> None:
        nonlocal passes
        batch = slice(BATCH * (passes % BATCHES), BATCH * (passes % BATCHES) + BATCH)
        solver.net.data("data")[...] = z["data"][batch]
        solver.net.data("label")[...] = z["label"][batch]
        passes += 1

    seen: list[Progress] = []
    solver.on(Point.FORWARD, feed)
    solver.on(Point.ITERATED, lambda solver: seen.append(solver.progress()))
    solver.step(1)
    for key in z:
        if key.startswith("param_iter1:"):
            np.testing.assert_allclose(param(key), z[key], **AFTER_1, err_msg=key)
    solver.step(24)
    np.testing.assert_allclose([p.loss for p in seen], z["loss"], **AFTER_25)
    np.testing.assert_allclose([p.rate for p in seen], z["lr"], **RATE)
    checked = 0
    for key in z:
        if key.startswith("param:"):
            np.testing.assert_allclose(param(key), z[key], **AFTER_25, err_msg=key)
            checked += 1
    assert checked
    history = [z[f"history:{i}"] for i in range(sum(key.startswith("history:") for key in z))]
    assert len(history) == len(solver.rule.history)
    for i, (raw, caffes) in enumerate(zip(solver.rule.history, history, strict=True)):
        ours = solver.net.to_plain(i % len(solver.net.params), raw)
        np.testing.assert_allclose(ours, caffes, **AFTER_25, err_msg=f"history {i}")
