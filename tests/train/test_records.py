"""The log for machines: JSON lines and TensorBoard's event files."""

from __future__ import annotations

import builtins
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from netc.backends import find_backend
from netc.errors import NetcError
from netc.schema import read_solver
from netc.train.records import JsonLines
from netc.train.solver import Solver
from tests.support.furnished import furnish

BASE = """
net: "net.prototxt" base_lr: 0.01 momentum: 0.9 lr_policy: "fixed" random_seed: 1
max_iter: 4 display: 2 test_iter: 1 test_interval: 3 average_loss: 2
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(furnish(tmp_path))
    return tmp_path


def solver_in(folder: Path, extra: str) -> Solver:
    text = f'{BASE} snapshot_prefix: "{folder}/run" {extra}'
    return Solver(read_solver(folder / "own.prototxt", text), find_backend("reference"))


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_leaves_a_record_of_each_display_and_test(folder: Path) -> None:
    solver = solver_in(folder, 'json_log: "logs/run.jsonl"')
    solver.solve()
    found = records(folder / "logs" / "run.jsonl")
    assert [(r["event"], r["iter"]) for r in found] == [
        *[("start", 0), ("test", 0), ("train", 0), ("train", 2), ("test", 3), ("end", 4)]
    ]
    start, test, train, *_, end = found
    assert (start["type"], start["random_seed"], start["max_iter"]) == ("SGD", 1, 4)
    assert set(test["outputs"]) == {"accuracy", "loss"}
    assert test["loss"] == test["outputs"]["loss"]
    assert train["lr"] == 0.01
    assert train["smoothed_loss"] == train["outputs"]["loss"]
    assert train["images_per_s"] > 0
    assert 0 < train["data_wait_s"] < 60
    assert 1 < train["peak_memory_mib"] < 1 << 20
    assert end["stopped"] == ""


def test_a_resumed_run_goes_on_in_the_same_file(folder: Path) -> None:
    first = solver_in(folder, 'json_log: "run.jsonl"')
    first.step(3)
    _, state = first.snapshot()
    with open(folder / "run.jsonl", "a") as file:
        file.write('{"event": "tra')  # killed in the middle of a line
    second = solver_in(folder, 'json_log: "run.jsonl"')
    second.restore(state)
    second.solve()
    events = [(r["event"], r["iter"]) for r in records(folder / "run.jsonl")]
    assert events[-3:] == [("start", 3), ("test", 3), ("end", 4)]


def test_a_cut_off_line_is_found_however_long(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(b'{"a": 1}\n{"b": "' + b"x" * 200_000)
    log = JsonLines(path)
    log.write({"c": float("nan")})
    assert path.read_text() == '{"a": 1}\n{"c": null}\n'


def test_a_log_that_cannot_be_written_any_more_ends_no_training(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    solver = solver_in(folder, 'json_log: "run.jsonl"')

    def full(self: JsonLines, record: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(JsonLines, "write", full)
    with caplog.at_level(logging.WARNING, logger="netc"):
        solver.solve()
    assert solver.iter == 4
    assert len(caplog.messages) == 1
    assert "a training log is given up: [Errno 28] No space left on device" in caplog.text


def test_tensorboard_gets_the_numbers(folder: Path) -> None:
    pytest.importorskip("tensorboardX", reason="the extra `tensorboard` is not installed")
    from tensorboardX.proto.event_pb2 import Event

    solver_in(folder, 'tensorboard: "events"').solve()
    (path,) = (folder / "events").iterdir()
    data, seen = path.read_bytes(), {}
    while data:
        # TFRecord: length, its checksum, the event, its checksum.
        size = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + size])
        for value in event.summary.value:
            seen[value.tag, event.step] = value.simple_value
        data = data[16 + size :]
    assert seen["train/lr", 2] == pytest.approx(0.01)
    assert {("train/output/loss", 0), ("test0/output/accuracy", 3), ("test0/loss", 0)} <= set(seen)


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ('json_log: "net.prototxt/x.jsonl"', "the folder of a training log cannot be made"),
        ('json_log: "db"', "there is a directory of that name"),
    ],
)
def test_logs_that_cannot_be_are_refused_before_the_training(
    folder: Path, extra: str, says: str
) -> None:
    solver = solver_in(folder, extra)
    with pytest.raises(NetcError, match=says):
        solver.solve()
    assert solver.iter == 0


def test_without_tensorboardx_the_message_says_how_to_get_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_ = builtins.__import__

    def absent(name: str, *arguments: Any, **more: Any) -> Any:
        if name == "tensorboardX":
            raise ImportError("No module named 'tensorboardX'")
        return import_(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(NetcError) as caught:
        solver_in(folder, 'tensorboard: "events"')
    assert "need the package tensorboardX" in str(caught.value)
    assert "pip install 'netc[tensorboard]'" in str(caught.value)
