"""Training and testing on data whose shape changes from batch to batch."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

from netc.assemble import PLANS, Plans
from netc.backends import find_backend
from netc.schema import read_solver
from netc.train import tuning
from netc.train.finetuning import Asked
from netc.train.solver import Solver
from tests.support.nets import require

SIZES = [(8, 8), (6, 9), (8, 8), (11, 5), (6, 9), (7, 7)]
NET = """
name: "fully convolutional"
layer { name: "data" type: "ImageData" top: "data" top: "label" transform_param { mirror: true }
        image_data_param { source: "images.txt" batch_size: 1 shuffle: true } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" convolution_param {
        num_output: 16 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "drop" type: "Dropout" bottom: "conv1" top: "conv1" }
layer { name: "conv2" type: "Convolution" bottom: "conv1" top: "score" convolution_param {
        num_output: 3 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "pool" type: "Pooling" bottom: "score" top: "pool"
        pooling_param { pool: AVE global_pooling: true } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "pool" bottom: "label" top: "loss" }
layer { name: "show" type: "Power" bottom: "score" top: "map" include { phase: TEST } }
"""
SOLVER = """
net: "net.prototxt" base_lr: 0.001 momentum: 0.9 lr_policy: "fixed" max_iter: 10 random_seed: 5
test_iter: 6 test_interval: 5 test_initialization: false snapshot_prefix: "snap"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    lines = []
    for i, size in enumerate(SIZES):
        cv2.imwrite(f"{i}.png", rng.integers(0, 255, (*size, 3), dtype=np.uint8))
        lines.append(f"{i}.png {i % 3}\n")
    Path("images.txt").write_text("".join(lines))
    Path("net.prototxt").write_text(NET)
    return tmp_path


def solver_of(extra: str = "", backend: str = "reference") -> Solver:
    Path("solver.prototxt").write_text(SOLVER + extra)
    return Solver(read_solver("solver.prototxt"), find_backend(backend))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("extra", ["", "iter_size: 2", "clip_gradients: 5"])
def test_a_resumed_run_is_the_whole_run(
    folder: Path, extra: str, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    require(backend)
    whole = solver_of(extra, backend)
    memory = [param.ctypes.data for param in whole.net.params]
    with caplog.at_level(logging.INFO, logger="netc"):
        whole.solve()
    plans = whole.net.replan
    assert isinstance(plans, Plans)
    assert len(plans) == len(set(SIZES))
    assert memory == [param.ctypes.data for param in whole.net.params]
    # Every image is seen in its own size by the test net; the map of scores has no average.
    assert {name for name, _, _ in whole.scores[0].outputs} == {"loss"}
    assert "map: its number of values changes with the data" in caplog.text

    part = solver_of(extra, backend)
    part.step(4)
    _, state = part.snapshot()
    resumed = solver_of(extra, backend)
    tuning.start(resumed, Asked(), str(state))
    assert resumed.iter == 4
    resumed.solve()
    for ours, theirs in zip(resumed.net.params, whole.net.params, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(resumed.rule.history, whole.rule.history, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert resumed.scores == whole.scores


def test_images_of_one_size_at_a_time_give_the_same_gradients(folder: Path) -> None:
    solver = solver_of()
    for _ in range(len(SIZES)):
        solver.net.forward()
        shape = solver.net.data("data").shape
        assert shape[2:] in SIZES
        Path("alone.prototxt").write_text(
            NET.replace(
                NET[NET.index("layer {") : NET.index('layer { name: "conv1"')],
                f"""layer {{ name: "data" type: "Input" top: "data" top: "label" input_param {{
                shape {{ {" ".join(f"dim: {n}" for n in shape)} }} shape {{ dim: 1 }} }} }}""",
            )
        )
        Path("alone_solver.prototxt").write_text(SOLVER.replace("net.proto", "alone.proto"))
        alone = Solver(read_solver("alone_solver.prototxt"), find_backend("reference"))
        for i in range(len(solver.net.params)):
            alone.net.set_param(i, solver.net.param_array(i))
        for key in ("data", "label"):
            alone.net.data(key)[...] = solver.net.data(key)
        alone.net.forward_pass = solver.net.forward_pass - 1
        alone.net.forward()
        assert alone.net.loss() == solver.net.loss()
    assert len(set(SIZES)) < PLANS
