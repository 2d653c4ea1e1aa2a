"""`debug_info` logs the lines of Caffe, with the same numbers on both backends."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pytest

from netc.backends import find_backend
from netc.schema import read_solver
from netc.train.solver import Solver
from tests.support.nets import require

NET = """
layer { name: "data" type: "DummyData" top: "data" top: "label"
        dummy_data_param { shape { dim: 4 dim: 3 dim: 6 dim: 6 } shape { dim: 4 }
                           data_filler { type: "gaussian" } data_filler { type: "constant" } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" param { name: "w" }
        convolution_param { num_output: 7 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" param { lr_mult: 0 }
        inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = """
net: "net.prototxt" base_lr: 0.1 momentum: 0.9 lr_policy: "fixed" random_seed: 1 max_iter: 2
debug_info: true
"""


def logged(
    folder: Path, backend: str, caplog: pytest.LogCaptureFixture
) -> tuple[Solver, list[str]]:
    require(backend)
    (folder / "net.prototxt").write_text(NET)
    source = read_solver(folder / "solver.prototxt", SOLVER)
    solver = Solver(source, find_backend(backend))
    with caplog.at_level(logging.INFO, logger="netc"):
        caplog.clear()
        solver.step(1)
    return solver, [m for m in caplog.messages if m.startswith("    [")]


def test_the_lines_are_caffes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, lines = logged(tmp_path, "reference", caplog)
    number = r"(?<!L)-?[\d.]+(?:e[+-]\d+)?"
    shown = [re.sub(number + r"(?=[;,) ]|$)", "#", line) for line in lines]
    assert shown == [
        "    [Forward] Layer data, top blob data data: #",
        "    [Forward] Layer data, top blob label data: #",
        "    [Forward] Layer conv, top blob conv data: #",
        "    [Forward] Layer conv, param blob w data: #",
        "    [Forward] Layer conv, param blob # data: #",
        "    [Forward] Layer relu, top blob conv data: #",
        "    [Forward] Layer ip, top blob ip data: #",
        "    [Forward] Layer ip, param blob # data: #",
        "    [Forward] Layer ip, param blob # data: #",
        "    [Forward] Layer loss, top blob loss data: #",
        "    [Backward] Layer loss, bottom blob ip diff: #",
        "    [Backward] Layer ip, bottom blob conv diff: #",
        "    [Backward] Layer ip, param blob # diff: #",
        "    [Backward] Layer relu, bottom blob conv diff: #",
        "    [Backward] Layer conv, param blob # diff: #",
        "    [Backward] Layer conv, param blob # diff: #",
        "    [Backward] All net params (data, diff): L1 norm = (#, #); L2 norm = (#, #)",
        "    [Update] Layer conv, param w data: #; diff: #",
        "    [Update] Layer conv, param # data: #; diff: #",
        "    [Update] Layer ip, param # data: #; diff: #",
        "    [Update] Layer ip, param # data: #; diff: #",
    ]


def test_the_numbers_are_means_of_what_the_net_holds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    solver, lines = logged(tmp_path, "reference", caplog)
    net, text = solver.net, "\n".join(lines)

    def shown(line: str) -> float:
        match = re.search(re.escape(line) + r": (\S+)$", text, re.M)
        assert match, line
        return float(match[1])

    relu = net.data("conv#1")
    assert shown("Layer relu, top blob conv data") == pytest.approx(np.abs(relu).mean(), rel=1e-4)
    assert shown("Layer conv, top blob conv data") > np.abs(relu).mean(), "before the ReLU"
    # Without momentum yet, the update is the rate times the gradient.
    gradient = shown("Layer conv, param blob 0 diff")
    match = re.search(r"\[Update\] Layer conv, param w data: \S+; diff: (\S+)", text)
    assert match
    assert float(match[1]) == pytest.approx(0.1 * gradient, rel=1e-3)
    frozen = re.search(r"\[Update\] Layer ip, param 0 data: \S+; diff: (\S+)", text)
    assert frozen
    assert float(frozen[1]) == 0


def test_both_backends_log_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, ours = logged(tmp_path, "reference", caplog)
    _, theirs = logged(tmp_path, "cpu", caplog)
    numbers = re.compile(r"(?<=[ (])\d[\d.]*(?:e[+-]\d+)?(?=[;,)]|$)")
    assert [numbers.sub("#", line) for line in ours] == [numbers.sub("#", line) for line in theirs]
    for a, b in zip(ours, theirs, strict=True):
        one, other = (list(map(float, numbers.findall(line))) for line in (a, b))
        # Sums in another order, in six digits.
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7, err_msg=a)
