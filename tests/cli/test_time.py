"""`netc time`: the table, the plan, and nets without their data."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from netc.threads import processors
from tests.cli.conftest import Netc


def test_the_table(folder: Path, netc: Netc) -> None:
    told = netc("time", "-model", "net.prototxt", "-iterations", "3", "-backend", "reference")
    assert told.code == 0
    lines = told.out.splitlines()
    assert lines[0] == "net tiny, phase TRAIN, backend reference: mean of 3 iterations"
    assert re.fullmatch(
        r"conv1 +Convolution +reference +\d+\.\d{3} +\d+\.\d{3} +[\d.]+ %", lines[4]
    )
    assert re.fullmatch(r"images +Data +- +\d+\.\d{3} +- +[\d.]+ %", lines[3])
    assert re.fullmatch(r"total +\d+\.\d{3} +\d+\.\d{3} +\d+\.\d{3} ms", lines[-1])
    assert len(re.findall(r"\] Iteration: \d forward-backward time: [\d.]+ ms\.", told.err)) == 3


def test_json_adds_up(folder: Path, netc: Netc) -> None:
    told = netc("time", "-model", "net.prototxt", "-iterations", "2", "-format", "json")
    found = json.loads(told.out)
    assert found["iterations"] == 2
    for way in ("forward_ms", "backward_ms"):
        parts = [row[way] for row in found["rows"] if row[way] is not None]
        assert all(part > 0 for part in parts)
        assert abs(sum(parts) - found[way]) < 1e-6
    assert abs(found["forward_ms"] + found["backward_ms"] - found["total_ms"]) < 1e-6


def test_inputs_are_filled(folder: Path, netc: Netc) -> None:
    told = netc("time", "-model", "deploy.prototxt", "-iterations", "1", "-format", "markdown")
    assert told.code == 0
    assert "| layer | type | kernel | forward ms | backward ms | share |" in told.out


def test_absent_data_is_made_up(folder: Path, netc: Netc) -> None:
    net = Path("net.prototxt")
    net.write_text(net.read_text().replace('source: "db"', 'source: "away"'))
    told = netc("time", "-model", "net.prototxt", "-shape", "data=3,3,8,8", "-iterations", "1")
    assert told.code == 0
    notes = [line for line in told.out.splitlines() if line.startswith("note: ")]
    assert notes == [
        "note: net.prototxt:2:1: database 'away' does not exist: its shape is the one given",
        "note: layer 'images' (Data) gives random values, and no data is read",
    ]


def test_another_shape_than_that_of_the_data(folder: Path, netc: Netc) -> None:
    told = netc("time", "-model", "net.prototxt", "-shape", "data=3,3,12,12", "-iterations", "1")
    assert told.code == 0
    assert "gives random values, and no data is read" in told.out


def test_the_plan(folder: Path, netc: Netc) -> None:
    told = netc("time", "-model", "net.prototxt", "-plan")
    assert told.code == 0
    assert re.search(r"^forward +'conv1' \(Convolution\)", told.out, re.M)
    assert re.search(r"^backward +'ip' \(InnerProduct\)", told.out, re.M)
    assert re.search(r"^memory: ", told.out, re.M)


def test_iterations_are_at_least_one(netc: Netc) -> None:
    assert netc("time", "-model", "net.prototxt", "-iterations", "0").code == 2


def test_a_gpu_that_is_asked_for_is_not_used_in_silence(folder: Path, netc: Netc) -> None:
    told = netc("time", "-model", "deploy.prototxt", "-iterations", "1", "-gpu", "all")
    assert "-gpu all: this version of netc has no GPU backend" in told.err


def test_threads(folder: Path, netc: Netc) -> None:
    most = processors()
    flags = ("-model", "net.prototxt", "-iterations", "1", "-threads")
    # In a process of its own: the bits of what this one computes hang on how many threads it has.
    subprocess.run([sys.executable, "-m", "netc", "time", *flags, str(most)], check=True)
    told = netc("time", *flags, str(most + 1))
    assert told.code == 1
    assert f"{most + 1} threads cannot compute here" in told.err
    assert f"1 to {most}: the processors that this process may use" in told.err
    told = netc("time", *flags, "0")
    assert told.code == 2
    assert "which is no whole number from 1 on" in told.err
