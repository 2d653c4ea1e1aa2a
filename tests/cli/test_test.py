"""`netc test`: Caffe's lines, JSON, and what cannot be scored."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.conftest import Netc, Told

WEIGHTS = ("-weights", "run_iter_6.caffemodel")


def lines_of(told: Told) -> list[str]:
    """Return the log without glog's prefix."""
    return [
        re.sub(r"^[IW]\d{4} [\d:.]+ +\d+ \w+\.py:\d+\] ", "", line)
        for line in told.err.splitlines()
    ]


def test_the_scores_are_worded_as_caffes(folder: Path, netc: Netc) -> None:
    told = netc("test", "-model", "net.prototxt", *WEIGHTS, "-iterations", "2")
    assert told.code == 0
    assert not told.out
    lines = lines_of(told)
    at = lines.index("Running for 2 iterations.")
    shapes = [re.sub(r"(?<= )[\d.]+(?=$| )", "x", line) for line in lines[at + 1 :]]
    assert shapes == [
        "Batch 0, accuracy = x",
        "Batch 0, loss = x",
        "Batch 1, accuracy = x",
        "Batch 1, loss = x",
        "Loss: x",
        "accuracy = x",
        "loss = x (* x = x loss)",
    ]
    batches = [float(line.split()[-1]) for line in lines if re.match(r"Batch ., accuracy", line)]
    (mean,) = (float(line.split()[-1]) for line in lines if line.startswith("accuracy"))
    assert mean == pytest.approx(sum(batches) / 2, abs=1e-5)


def test_the_scores_are_those_of_the_solver(folder: Path, netc: Netc) -> None:
    trained = netc("train", "-solver", "solver.prototxt", "-quiet")
    last = [line for line in lines_of(trained) if "Test net output" in line][-2:]
    told = netc("test", "-model", "net.prototxt", *WEIGHTS, "-iterations", "2")
    for line in last:
        assert line.partition(": ")[2] in lines_of(told)


def test_json_for_programs(folder: Path, netc: Netc) -> None:
    told = netc("test", "-model", "net.prototxt", *WEIGHTS, "-iterations=2", "-format=json")
    found = json.loads(told.out)
    assert found["iterations"] == 2
    assert set(found["outputs"]) == {"accuracy", "loss"}
    assert found["loss"] == found["outputs"]["loss"]


def test_random_weights_are_allowed_where_asked_for(folder: Path, netc: Netc) -> None:
    told = netc("test", "-model", "net.prototxt", "-random_weights", "-iterations", "1")
    assert told.code == 0
    assert "0 layers copied, 2 freshly filled, 0 in the weights but unused" in lines_of(told)


def test_weights_are_needed(folder: Path, netc: Netc) -> None:
    told = netc("test", "-model", "net.prototxt")
    assert told.code == 2
    assert told.err.startswith("netc test: the flag -weights is missing\n")


def test_weights_that_lack_a_layer_are_refused(folder: Path, netc: Netc) -> None:
    net = Path("net.prototxt")
    net.write_text(net.read_text().replace('name: "ip"', 'name: "ip_new"'))
    told = netc("test", "-model", "net.prototxt", *WEIGHTS)
    assert told.code == 1
    assert "layer 'ip_new': the weights do not have this layer" in told.err
    assert netc("test", "-model", "net.prototxt", *WEIGHTS, "-random_weights").code == 0


def test_a_net_that_nothing_feeds(folder: Path, netc: Netc) -> None:
    told = netc("test", "-model", "deploy.prototxt", *WEIGHTS)
    assert told.code == 1
    assert "nothing feeds this net: its inputs are set by a program" in told.err
    assert "give the train_test text with its TEST data" in told.err


def test_absent_data_is_an_error_here(folder: Path, netc: Netc) -> None:
    net = Path("net.prototxt")
    net.write_text(net.read_text().replace('source: "db"', 'source: "db1"'))
    told = netc("test", "-model", "net.prototxt", *WEIGHTS)
    assert told.code == 1
    assert "database 'db1' does not exist" in told.err
    assert "did you mean 'db'?" in told.err
    assert "-shape" not in told.err
