"""A training process, killed for real at random moments and resumed, ends with the same bits."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from netc.data import write_datums
from netc.schema import netc_pb2
from netc.weights import read_weights

NET = """
name: "small"
layer { name: "data" type: "Data" top: "data" top: "label" transform_param { scale: 0.0039 }
        data_param { source: "db" backend: LMDB batch_size: 8 } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 8 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "drop" type: "Dropout" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
        inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
ITERATIONS = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kill")
    rng = np.random.default_rng(0)
    write_datums(
        path / "db",
        (
            netc_pb2.Datum(
                channels=1,
                height=12,
                width=12,
                data=rng.integers(0, 255, 144, dtype=np.uint8).tobytes(),
                label=int(i % 4),
            )
            for i in range(50)
        ),
    )
    (path / "net.prototxt").write_text(NET)
    return path


def command(folder: Path, prefix: str, *extra: str) -> list[str]:
    solver = folder / f"{prefix}.prototxt"
    solver.write_text(
        f'net: "net.prototxt" base_lr: 0.01 momentum: 0.9 weight_decay: 0.001 lr_policy: "inv"\n'
        f"gamma: 0.01 power: 0.75 max_iter: {ITERATIONS} snapshot: 7 random_seed: 5\n"
        f'snapshot_prefix: "{folder}/{prefix}" average_loss: 5'
    )
    return [sys.executable, "-m", "netc", "train", "-solver", str(solver), *extra]


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, check=True, capture_output=True, text=True, timeout=120)


def newest(folder: Path, prefix: str) -> Path | None:
    states = list(folder.glob(f"{prefix}_iter_*.solverstate"))
    return max(states, key=lambda p: int(re.findall(r"\d+", p.stem)[-1]), default=None)


@pytest.fixture(scope="module")
def uninterrupted(folder: Path) -> list[np.ndarray]:
    run(command(folder, "whole"))
    return weights(folder, "whole")


def weights(folder: Path, prefix: str) -> list[np.ndarray]:
    read = read_weights(folder / f"{prefix}_iter_{ITERATIONS}.caffemodel")
    return [np.array(blob) for _, blobs in read for blob in blobs if blob is not None]


def interrupted(folder: Path, prefix: str, number: signal.Signals, rng: random.Random) -> int:
    """Run to the end, with interruptions; return how many processes it took."""
    final = folder / f"{prefix}_iter_{ITERATIONS}.solverstate"
    processes = 0
    while not final.exists():
        processes += 1
        state = newest(folder, prefix)
        resume = ["-snapshot", str(state)] if state else []
        process = subprocess.Popen(
            command(folder, prefix, *resume), stderr=subprocess.PIPE, stdout=subprocess.PIPE
        )
        if processes <= 2:
            # Somewhere between the first snapshot of this process and a moment later: in an
            # iteration, or in the middle of writing a file.
            deadline = time.monotonic() + 60
            while newest(folder, prefix) == state and time.monotonic() < deadline:
                if process.poll() is not None:
                    break
                time.sleep(0.002)
            time.sleep(rng.random() * 0.05)
            process.send_signal(number)
        process.communicate(timeout=120)
        assert processes < 8, "the run makes no progress"
    return processes


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_with_the_same_bits(
    folder: Path, uninterrupted: list[np.ndarray], number: signal.Signals
) -> None:
    seed = int.from_bytes(os.urandom(4), "little")
    prefix = f"cut_{number.name}"
    processes = interrupted(folder, prefix, number, random.Random(seed))
    assert processes > 1, "the process was through before it could be interrupted"
    for ours, whole in zip(weights(folder, prefix), uninterrupted, strict=True):
        np.testing.assert_array_equal(ours, whole, err_msg=f"seed {seed}")


@pytest.mark.nightly
@pytest.mark.parametrize("round_", range(50))
def test_many_killed_runs(folder: Path, uninterrupted: list[np.ndarray], round_: int) -> None:
    prefix = f"nightly_{round_}"
    number = random.Random(round_).choice([signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
    interrupted(folder, prefix, number, random.Random(round_))
    for ours, whole in zip(weights(folder, prefix), uninterrupted, strict=True):
        np.testing.assert_array_equal(ours, whole)


def test_ctrl_c_ends_with_a_snapshot_and_a_word_about_it(folder: Path) -> None:
    process = subprocess.Popen(
        command(folder, "ctrl_c"), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    while newest(folder, "ctrl_c") is None and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
    assert "Optimization stopped early." in log
    state = newest(folder, "ctrl_c")
    assert state is not None
    assert str(state) in log
    assert "Traceback" not in log
