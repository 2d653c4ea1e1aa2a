"""`netc parse_log`: tables beside a log, or in a folder."""

from __future__ import annotations

import csv
from pathlib import Path

from tests.cli.conftest import Netc


def test_the_log_of_a_run_becomes_tables(folder: Path, netc: Netc) -> None:
    told = netc("train", "-solver", "solver.prototxt", "display=2", "test_interval=3")
    Path("train.log").write_text(told.err)
    told = netc("parse_log", "train.log")
    assert told.out == "train.log.train: 3 rows\ntrain.log.test: 3 rows\n"
    rows = list(csv.DictReader(Path("train.log.test").read_text().splitlines()))
    assert [row["NumIters"] for row in rows] == ["0.0", "3.0", "6.0"]
    assert list(rows[0]) == ["NumIters", "Seconds", "LearningRate", "accuracy", "loss"]


def test_json_lines_become_tables_elsewhere(folder: Path, netc: Netc) -> None:
    assert not netc("train", "-solver", "solver.prototxt", "json_log=run.jsonl").code
    Path("tables").mkdir()
    told = netc("parse_log", "run.jsonl", "tables", "-delimiter", ";")
    assert told.code == 0
    assert Path("tables/run.jsonl.test").read_text().startswith("NumIters;Seconds;accuracy;loss\n")


def test_mistakes(folder: Path, netc: Netc) -> None:
    assert "no outputs of a training" in netc("parse_log", "net.prototxt").err
    assert "one character" in netc("parse_log", "net.prototxt", "-delimiter", "ab").err
    assert "cannot be read" in netc("parse_log", "nothing.log").err
