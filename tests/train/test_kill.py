"""A training process, killed for real at random moments and resumed, ends with the same bits.

With all that could go astray: dropout, images decoded by several threads, shuffled, cropped and
mirrored at random, a test net with a place of its own in its data, an early stop that counts tests.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from netc.weights import read_state, read_weights
from netc.weights.atomic import TEMPORARY
from tests.support.nets import require

NET = """
name: "small"
layer { name: "data" type: "ImageData" top: "data" top: "label" include { phase: TRAIN }
        transform_param { scale: 0.0039 crop_size: 12 mirror: true }
        image_data_param { source: "list.txt" batch_size: 8 shuffle: true is_color: false } }
layer { name: "data" type: "ImageData" top: "data" top: "label" include { phase: TEST }
        transform_param { scale: 0.0039 crop_size: 12 }
        image_data_param { source: "list.txt" batch_size: 7 is_color: false } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 8 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "drop" type: "Dropout" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
        inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
ITERATIONS = 120
BACKENDS = ("cpu", "reference")
# Threads that wait must not keep the cores from those that decode images, nor from other tests.
ENVIRONMENT = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kill")
    rng = np.random.default_rng(0)
    for i in range(50):
        assert cv2.imwrite(str(path / f"{i}.png"), rng.integers(0, 255, (16, 16), dtype=np.uint8))
    lines = "".join(f"{path}/{i}.png {i % 4}\n" for i in range(50))
    (path / "list.txt").write_text(lines)
    (path / "net.prototxt").write_text(NET)
    return path


def command(folder: Path, prefix: str, backend: str, *extra: str) -> list[str]:
    solver = folder / f"{prefix}.prototxt"
    solver.write_text(
        f'net: "net.prototxt" base_lr: 0.01 momentum: 0.9 weight_decay: 0.001 lr_policy: "inv"\n'
        f"gamma: 0.01 power: 0.75 max_iter: {ITERATIONS} snapshot: 7 random_seed: 5\n"
        f'snapshot_prefix: "{folder}/{prefix}" average_loss: 5\n'
        f"test_iter: 1 test_interval: 10 patience: 1000 keep_best: true keep_last: 3"
    )
    arguments = ["train", "-solver", str(solver), "-backend", backend, *extra]
    return [sys.executable, "-m", "netc", *arguments]


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, check=True, capture_output=True, text=True, timeout=120, env=ENVIRONMENT
    )


def newest(folder: Path, prefix: str) -> Path | None:
    states = list(folder.glob(f"{prefix}_iter_*.solverstate"))
    return max(states, key=lambda p: int(re.findall(r"\d+", p.stem)[-1]), default=None)


@pytest.fixture(scope="module")
def uninterrupted(folder: Path) -> Callable[[str], str]:
    """What runs on a backend end with, by the prefix of their files."""
    done: set[str] = set()

    def prefix_of(backend: str) -> str:
        require(backend)
        prefix = f"whole_{backend}"
        if backend not in done:
            run(command(folder, prefix, backend))
            done.add(backend)
        return prefix

    return prefix_of


def same_end(folder: Path, prefix: str, whole: str, seed: object) -> None:
    for name in (f"iter_{ITERATIONS}", "best"):
        one, other = (folder / f"{p}_{name}" for p in (prefix, whole))
        ours, theirs = (list(read_weights(f"{path}.caffemodel")) for path in (one, other))
        assert [label for label, _ in ours] == [label for label, _ in theirs]
        for (label, blobs), (_, others) in zip(ours, theirs, strict=True):
            for a, b in zip(blobs, others, strict=True):
                assert (a is None) == (b is None)
                if a is not None and b is not None:
                    np.testing.assert_array_equal(a, b, err_msg=f"{name} {label}, seed {seed}")
        ours_state, theirs_state = (read_state(f"{path}.solverstate") for path in (one, other))
        assert ours_state.iter == theirs_state.iter
        assert ours_state.extensions == theirs_state.extensions, f"seed {seed}"


def is_writing(folder: Path, prefix: str) -> bool:
    """Say whether a snapshot of a run is under way, or was when its process died."""
    names = os.listdir(folder)
    return any(TEMPORARY.fullmatch(name) and f".{prefix}_iter_" in name for name in names)


def interrupted(
    folder: Path,
    prefix: str,
    backend: str,
    number: signal.Signals,
    rng: random.Random,
    *,
    writing: bool = False,
) -> int:
    """Run to the end, with interruptions; return how many processes it took.

    `writing`: the signals come while a snapshot is being written. A process that was killed there
    leaves the evidence behind; until that has happened the attempts go on.
    """
    final = folder / f"{prefix}_iter_{ITERATIONS}.solverstate"
    processes = hits = 0
    while not final.exists():
        processes += 1
        state = newest(folder, prefix)
        resume = ["-snapshot", str(state)] if state else []
        process = subprocess.Popen(
            command(folder, prefix, backend, *resume),
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=ENVIRONMENT,
        )
        if processes <= 2 or (writing and not hits):
            # Somewhere between the first snapshot of this process and a moment later: in an
            # iteration, or in the middle of writing a file.
            deadline = time.monotonic() + 60
            while newest(folder, prefix) == state and time.monotonic() < deadline:
                if process.poll() is not None:
                    break
                time.sleep(0.002)
            time.sleep(rng.random() * 0.05)
            while writing and process.poll() is None and not is_writing(folder, prefix):
                pass
            process.send_signal(number)
            if number is signal.SIGHUP:
                # Asks for a snapshot, from which the next process then goes on.
                time.sleep(rng.random() * 0.05)
                process.kill()
        process.wait(timeout=120)
        hits += is_writing(folder, prefix)
        assert processes < 12, "the run makes no progress"
    assert hits or not writing, "no process was killed in the middle of a snapshot"
    return processes


@pytest.mark.slow
@pytest.mark.parametrize(("number", "backend"), [*zip(SIGNALS, BACKENDS * 2, strict=True)], ids=str)
def test_an_interrupted_run_ends_with_the_same_bits(
    folder: Path, uninterrupted: Callable[[str], str], number: signal.Signals, backend: str
) -> None:
    whole = uninterrupted(backend)
    seed = int.from_bytes(os.urandom(4), "little")
    prefix = f"cut_{number.name}"
    processes = interrupted(folder, prefix, backend, number, random.Random(seed))
    assert processes > 1, "the process was through before it could be interrupted"
    same_end(folder, prefix, whole, seed)


@pytest.mark.slow
def test_a_kill_during_a_snapshot_loses_nothing(
    folder: Path, uninterrupted: Callable[[str], str]
) -> None:
    whole = uninterrupted("cpu")
    seed = int.from_bytes(os.urandom(4), "little")
    interrupted(folder, "torn", "cpu", signal.SIGKILL, random.Random(seed), writing=True)
    same_end(folder, "torn", whole, seed)


@pytest.mark.nightly
@pytest.mark.parametrize("round_", range(50))
def test_many_killed_runs(folder: Path, uninterrupted: Callable[[str], str], round_: int) -> None:
    """Every signal on both backends, every second one in the middle of a snapshot."""
    backend, prefix, rng = BACKENDS[round_ // 4 % 2], f"nightly_{round_}", random.Random(round_)
    whole = uninterrupted(backend)
    number = SIGNALS[round_ % 4]
    # Signals other than SIGKILL let the snapshot be finished.
    writing = number is signal.SIGKILL and round_ % 8 < 4
    interrupted(folder, prefix, backend, number, rng, writing=writing)
    same_end(folder, prefix, whole, round_)


def test_ctrl_c_ends_with_a_snapshot_and_a_word_about_it(folder: Path) -> None:
    process = subprocess.Popen(
        command(folder, "ctrl_c", "auto"), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
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
