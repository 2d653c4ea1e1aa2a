"""Logs of Caffe and of netc as tables."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from netc.errors import NetcError
from netc.report.training_log import Row, parse_log, to_csv

# In glog's form, with the turn of a year, a run of two test nets and a blob of two values.
GLOG = """\
Log file created at: 2015/12/31 23:59:50
I1231 23:59:50.100000  4242 caffe.cpp:185] Using GPUs 0
I1231 23:59:58.000000  4242 solver.cpp:279] Solving LeNet
I1231 23:59:58.000100  4242 solver.cpp:280] Learning Rate Policy: step
I1231 23:59:58.500000  4242 solver.cpp:337] Iteration 0, Testing net (#0)
I1231 23:59:59.000000  4242 solver.cpp:404]     Test net output #0: accuracy = 0.1
I1231 23:59:59.000010  4242 solver.cpp:404]     Test net output #1: loss = 2.3 (* 1 = 2.3 loss)
I1231 23:59:59.250000  4242 solver.cpp:337] Iteration 0, Testing net (#1)
I1231 23:59:59.500000  4242 solver.cpp:404]     Test net output #0: per_class = 0.25
I1231 23:59:59.500000  4242 solver.cpp:404]     Test net output #1: per_class = 0.75
I0101 00:00:00.000000  4242 solver.cpp:228] Iteration 0 (0 iter/s, 1s/50 iters), loss = 2.31
I0101 00:00:00.000000  4242 solver.cpp:244]     Train net output #0: loss = 2.31 (* 1 = 2.31 loss)
I0101 00:00:00.000000  4242 sgd_solver.cpp:106] Iteration 0, lr = 0.01
I0101 00:00:02.000000  4242 solver.cpp:228] Iteration 50, loss = 1.5e-05
I0101 00:00:02.000000  4242 solver.cpp:244]     Train net output #0: loss = 1.5e-05
I0101 00:00:02.000000  4242 sgd_solver.cpp:106] Iteration 50, lr = 0.001
I0101 00:00:04.000000  4242 solver.cpp:337] Iteration 100, Testing net (#0)
I0101 00:00:05.000000  4242 solver.cpp:404]     Test net output #0: accuracy = 0.9
I0101 00:00:05.000000  4242 solver.cpp:404]     Test net output #1: loss = nan (* 1 = nan loss)
I0101 00:00:05.000000  4242 solver.cpp:404]     Test net outp"""

JSON = """\
{"event": "start", "iter": 0, "time": "2026-01-01T00:00:00.000+00:00"}
{"event": "test", "iter": 0, "time": "2026-01-01T00:00:01.000+00:00", "net": 0, "loss": 2.3, \
"outputs": {"accuracy": 0.1, "loss": 2.3}}
{"event": "train", "iter": 0, "time": "2026-01-01T00:00:02.000+00:00", "smoothed_loss": 2.4, \
"lr": 0.1, "outputs": {"loss": 2.5, "two": [1, null]}, "images_per_s": 10, "data_wait_s": 0.5, \
"peak_memory_mib": 80}
{"event": "train", "iter": 50, "time": "2026-01-01T00:00:03.000+00:00", "outputs": {"loss": 9}}
{"event": "start", "iter": 50, "time": "2026-01-01T00:00:09.000+00:00"}
{"event": "train", "iter": 50, "time": "2026-01-01T00:00:10.000+00:00", "outputs": {"loss": 1}}
{"event": "trai"""


def written(folder: Path, text: str) -> Path:
    (folder / "run.log").write_text(text)
    return folder / "run.log"


def plain(rows: list[Row]) -> list[str]:
    return [" ".join(f"{name}={value:g}" for name, value in row.items()) for row in rows]


def test_a_log_of_caffe(tmp_path: Path) -> None:
    log = parse_log(written(tmp_path, GLOG))
    assert plain(log.train) == [
        "NumIters=0 Seconds=2 LearningRate=0.01 loss=2.31",
        "NumIters=50 Seconds=4 LearningRate=0.001 loss=1.5e-05",
    ]
    assert plain(log.tests[0]) == [
        "NumIters=0 Seconds=1 LearningRate=0.01 accuracy=0.1 loss=2.3",
        "NumIters=100 Seconds=7 LearningRate=0.001 accuracy=0.9 loss=nan",
    ]
    assert plain(log.tests[1]) == [
        "NumIters=0 Seconds=1.5 LearningRate=0.01 per_class=0.25 per_class[1]=0.75"
    ]


def test_a_log_of_an_old_caffe_pasted_with_indentation(tmp_path: Path) -> None:
    text = """
        I0830 23:08:00.0 796 solver.cpp:42] Solving SRCNN
        I0830 23:08:05.0 796 solver.cpp:232] Iteration 40, Testing net (#0)
        I0830 23:08:06.0 796 solver.cpp:270] Test score #0: 0.5
        I0830 23:08:06.0 796 solver.cpp:270] Test score #1: -nan
        I0830 23:08:07.0 796 solver.cpp:195] Iteration 40, loss = 0.25
        I0830 23:08:07.0 796 solver.cpp:365] Iteration 40, lr = 1e-05
    """
    log = parse_log(written(tmp_path, text))
    assert plain(log.train) == ["NumIters=40 Seconds=7 LearningRate=1e-05 loss=0.25"]
    assert plain(log.tests[0]) == [
        "NumIters=40 Seconds=6 LearningRate=1e-05 score #0=0.5 score #1=nan"
    ]


def test_json_lines_of_a_run_that_was_killed_and_resumed(tmp_path: Path) -> None:
    log = parse_log(written(tmp_path, JSON))
    assert plain(log.train) == [
        "NumIters=0 Seconds=2 LearningRate=0.1 smoothed_loss=2.4 images_per_s=10 data_wait_s=0.5 "
        "peak_memory_mib=80 loss=2.5 two=1 two[1]=nan",
        "NumIters=50 Seconds=10 LearningRate=nan smoothed_loss=nan images_per_s=nan "
        "data_wait_s=nan peak_memory_mib=nan loss=1",
    ]
    assert plain(log.tests[0]) == ["NumIters=0 Seconds=1 accuracy=0.1 loss=2.3"]


def test_the_columns_are_those_of_caffes_script(tmp_path: Path) -> None:
    text = to_csv(parse_log(written(tmp_path, GLOG)).tests[0], ";")
    rows = list(csv.DictReader(text.splitlines(), delimiter=";"))
    assert list(rows[0]) == ["NumIters", "Seconds", "LearningRate", "accuracy", "loss"]
    assert float(rows[1]["accuracy"]) == 0.9


def test_a_column_that_comes_later_is_empty_before() -> None:
    assert to_csv([{"a": 1.0}, {"a": 2.0, "b": 3.0}]) == "a,b\n1.0,\n2.0,3.0\n"


@pytest.mark.parametrize(
    "text", ["", "# Readme\n", "{}", "I0101 00:00:00.0 1 a.cpp:1] Iteration 5"]
)
def test_what_is_no_log(tmp_path: Path, text: str) -> None:
    with pytest.raises(NetcError, match="no outputs of a training are in this file"):
        parse_log(written(tmp_path, text))
