"""Average precision by its definitions, and mean average precision of a net's outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netc.backends import find_backend
from netc.checking import check
from netc.errors import NetcError
from netc.schema import read_solver
from netc.train.detection import average_precision
from netc.train.solver import Solver
from netc.train.testing import test_all as run_tests

RIGHT = np.array([True, False, True, True, False])
SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.5], np.float32)


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        # Recalls 1/4, 1/4, 2/4, 3/4, 3/4 at precisions 1, 1/2, 2/3, 3/4, 3/5.
        ("Integral", (1 + 2 / 3 + 3 / 4) / 4),
        ("MaxIntegral", (1 + 3 / 4 + 3 / 4) / 4),
        ("11point", (3 * 1 + 5 * 3 / 4) / 11),
        ("101point", (26 * 1 + 50 * 3 / 4) / 101),
    ],
)
def test_average_precision_by_hand(version: str, expected: float) -> None:
    order = [3, 0, 4, 1, 2]
    found = average_precision(SCORES[order], RIGHT[order], 4, version)
    assert found == pytest.approx(expected)
    assert average_precision(SCORES, RIGHT, 0, version) == 0
    assert average_precision(SCORES[:0], RIGHT[:0], 4, version) == 0


@given(
    right=st.lists(st.booleans(), min_size=1, max_size=30),
    more=st.integers(0, 5),
    version=st.sampled_from(["Integral", "MaxIntegral", "11point", "101point"]),
)
def test_average_precision_point_by_point(right: list[bool], more: int, version: str) -> None:
    objects = max(sum(right) + more, 1)
    hits, points = 0, []
    for n, hit in enumerate(right, 1):
        hits += hit
        points.append((float(np.float32(hits) / np.float32(objects)), hits / n))
    expected, before = 0.0, 0.0
    if version.endswith("point"):
        count = int(version.removesuffix("point"))
        for step in range(count):
            at = step / (count - 1)
            expected += max((p for r, p in points if r >= at), default=0.0) / count
    else:
        for i, (recall, precision) in enumerate(points):
            best = max(p for _, p in points[i:]) if version == "MaxIntegral" else precision
            expected += best * (recall - before)
            before = recall
    scores = np.linspace(1, 0, len(right), dtype=np.float32)
    found = average_precision(scores, np.array(right), objects, version)
    assert found == pytest.approx(expected, abs=1e-6)


NET = """
layer { name: "x" type: "DummyData" top: "x"
        dummy_data_param { shape { dim: 1 dim: 1 } data_filler { value: 1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" include { phase: TRAIN }
        inner_product_param { num_output: 1 } }
layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "x" top: "loss"
        include { phase: TRAIN } }
layer { name: "quiet" type: "Silence" bottom: "x" include { phase: TEST } }
layer { name: "found" type: "Input" top: "found" include { phase: TEST }
        input_param { shape { dim: 1 dim: 1 dim: 3 dim: 7 } } }
layer { name: "objects" type: "Input" top: "objects" include { phase: TEST }
        input_param { shape { dim: 1 dim: 1 dim: 2 dim: 8 } } }
layer { name: "eval" type: "DetectionEvaluate" bottom: "found" bottom: "objects" top: "mAP"
        include { phase: TEST } detection_evaluate_param { num_classes: 4 } }
"""
SOLVER = """
net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" test_iter: 2 test_interval: 3
test_initialization: false eval_type: "detection" show_per_class_result: true
"""


def solver_in(folder: Path, net: str = NET, extra: str = "") -> Solver:
    (folder / "net.prototxt").write_text(net)
    (folder / "s.prototxt").write_text(SOLVER + extra)
    return Solver(read_solver(folder / "s.prototxt"), find_backend("reference"))


def test_a_detector_is_tested_by_its_mean_average_precision(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    solver = solver_in(tmp_path)
    caplog.set_level("INFO", "netc")
    net = solver.test_nets[0]
    here = (0.1, 0.1, 0.4, 0.4)
    # Class 1 is found where it is and where it is not, class 2 is missed, class 3 is nowhere.
    net.data("found")[...] = np.array(
        [[0, 1, 0.9, *here], [0, 1, 0.8, 0.6, 0.6, 0.9, 0.9], [0, 3, 0.5, *here]]
    )
    net.data("objects")[...] = np.array([[0, 1, 0, *here, 0], [0, 2, 0, *here, 0]])
    run_tests(solver)
    # Two passes: two objects, found by the two best of four detections.
    assert solver.scores[0].outputs == (("mAP", (pytest.approx(1 / 3),), 0.0),)
    log = caplog.messages
    assert "class AP 1: 1" in log
    assert "class AP 2: 0" in log
    assert "class AP 3: 0" in log
    assert "class 2: no detection" in log
    assert any(line.strip().startswith("Test net output #0: mAP = 0.333333") for line in log)


def test_tests_are_counted_from_the_offset(tmp_path: Path) -> None:
    solver = solver_in(tmp_path, extra="test_offset: 4")
    solver.test_nets[0].data("found")[...] = -1
    solver.test_nets[0].data("objects")[...] = -1
    tested = []
    for _ in range(9):
        solver.scores = []
        solver.step(1)
        if solver.scores:
            tested.append(solver.iter - 1)
    assert tested == [1, 4, 7]


def test_an_output_that_holds_no_detections_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NetcError) as caught:
        solver_in(
            tmp_path,
            NET.replace('layer { name: "quiet"', 'layer { name: "y"').replace(
                'type: "Silence" bottom: "x"', 'type: "Power" bottom: "x" top: "y"'
            ),
        )
    message = str(caught.value)
    assert "cannot judge the test net's output 'y'" in message
    assert "shape (1, 1)" in message
    assert "Silence" in message


def test_check_tells_it_too(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(NET.replace('type: "Silence"', 'type: "ReLU" top: "y"'))
    (tmp_path / "s.prototxt").write_text(SOLVER)
    (report,) = check([str(tmp_path / "s.prototxt")])
    assert [p.what for p in report.problems] == [
        "eval_type detection cannot judge the test net's output 'y'"
    ]
