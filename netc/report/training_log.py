"""Training logs as tables: those that Caffe and netc write for people, and netc's JSON lines.

    parse_log(path)   -> Log: rows of training and, for each test net, of tests
    to_csv(rows)      the tables that Caffe's tools/extra/parse_log.py gives

A row is what was logged of one iteration. As in Caffe's script its columns are NumIters, Seconds
since the start and LearningRate, then the outputs.
"""

from __future__ import annotations

import bisect
import csv
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from netc.errors import Span, fail

Row = dict[str, float]

_GLOG = re.compile(
    r"\s*[IWEF](?P<month>\d\d)(?P<day>\d\d) (?P<clock>\d\d:\d\d:\d\d)(?:\.(?P<micros>\d+))?\s"
)
_ITERATION = re.compile(r"Iteration (\d+)")
_NUMBER = r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|nan|inf)"
_OUTPUT = re.compile(
    rf"(?P<net>Train|Test) net output #(?P<index>\d+): (?P<name>.+?) = (?P<value>{_NUMBER})"
)
_RATE = re.compile(rf"\blr = ({_NUMBER})")
# As Caffe logged it before July 2014: outputs had no names, those of training were not logged.
_SCORE = re.compile(rf"Test score #(?P<index>\d+): (?P<value>{_NUMBER})")
_LOSS = re.compile(rf"Iteration \d+(?: \(.*\))?, loss = ({_NUMBER})")
_TEST_NET = re.compile(r"Testing net \(#(\d+)\)")
#: What a record of training has besides the rate and the outputs.
MEASURES = ("smoothed_loss", "images_per_s", "data_wait_s", "peak_memory_mib")
# A year that has a 29th of February: the lines of a log do not say theirs.
_YEAR = 2000


@dataclass
class Log:
    """The tables of a log: `tests` has one for each test net."""

    train: list[Row] = field(default_factory=list)
    tests: dict[int, list[Row]] = field(default_factory=dict)


def parse_log(path: str | Path) -> Log:
    """Read a log. Raises NetcError where the file is none, or says nothing of an iteration."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise fail("the log cannot be read", span=Span(str(path)), got=error.strerror) from None
    log = _of_json(text) if text.lstrip().startswith("{") else _of_glog(text)
    if not log.train and not log.tests:
        raise fail(
            "no outputs of a training are in this file",
            span=Span(str(path)),
            expected="a log of caffe train or netc train, or one of json_log",
            hint="Caffe and netc log to standard error: netc train ... 2>&1 | tee train.log",
        )
    return log


def to_csv(rows: Sequence[Row], delimiter: str = ",") -> str:
    """Return rows as CSV; a column of which a row has no value stays empty there."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


# -- the log for people ----------------------------------------------------------------------------


def _fill_rates(rows: Sequence[Row], known: dict[float, float]) -> None:
    """Give each row the rate of its iteration, else the one before, else the first after."""
    told = sorted(known)
    for row in rows:
        at = max(bisect.bisect_right(told, row["NumIters"]) - 1, 0)
        row["LearningRate"] = known[told[at]] if told else math.nan


def _of_glog(text: str) -> Log:
    log = Log()
    rates: dict[float, float] = {}
    losses: list[Row] = []
    iteration, net = -1.0, 0
    for seconds, line in _timed(text.splitlines()):
        if found := _ITERATION.search(line):
            iteration = float(found[1])
        if found := _TEST_NET.search(line):
            net = int(found[1])
            log.tests.setdefault(net, [])
        if iteration < 0:
            continue
        if found := _RATE.search(line):
            rates[iteration] = float(found[1])
        if found := _OUTPUT.search(line):
            rows = log.train if found["net"] == "Train" else log.tests.setdefault(net, [])
            _add(rows, iteration, seconds, found["name"], float(found["value"]), found["index"])
        if found := _SCORE.search(line):
            index, rows = found["index"], log.tests.setdefault(net, [])
            _add(rows, iteration, seconds, f"score #{index}", float(found["value"]), index)
        if found := _LOSS.search(line):
            _add(losses, iteration, seconds, "loss", float(found[1]), "0")
    log.train = log.train or losses
    for rows in (log.train, *log.tests.values()):
        _fill_rates(rows, rates)
    log.tests = {net: rows for net, rows in log.tests.items() if rows}
    return log


def _add(
    rows: list[Row], iteration: float, seconds: float, name: str, value: float, index: str
) -> None:
    """Add a value to the row of its iteration; output #0 begins one."""
    if not rows or rows[-1]["NumIters"] != iteration or index == "0":
        rows.append({"NumIters": iteration, "Seconds": seconds, "LearningRate": math.nan})
    row = rows[-1]
    # A blob of several values is logged as several outputs of one name.
    n, label = 1, name
    while label in row:
        label, n = f"{name}[{n}]", n + 1
    row[label] = value


def _timed(lines: Sequence[str]) -> Iterator[tuple[float, str]]:
    """Yield the lines of glog with the seconds since the start, which "Solving" marks."""
    start = last = None
    year = _YEAR
    found = [(match, line) for line in lines if (match := _GLOG.match(line))]
    has_mark = any("Solving" in line for _, line in found)
    for match, line in found:
        moment = _moment(match, year)
        if moment is None:
            continue
        if last is not None and moment.month < last.month:
            year += 1
            moment = _moment(match, year) or last + timedelta()
        last = moment
        if start is None and ("Solving" in line or not has_mark):
            start = moment
        yield (moment - start).total_seconds() if start else 0.0, line


def _moment(match: re.Match[str], year: int) -> datetime | None:
    month, day = int(match["month"]), int(match["day"])
    hour, minute, second = map(int, match["clock"].split(":"))
    micros = int((match["micros"] or "0").ljust(6, "0")[:6])
    try:
        return datetime(year, month, day, hour, minute, second, micros)
    except ValueError:
        return None


# -- the log for machines --------------------------------------------------------------------------


def _of_json(text: str) -> Log:
    log = Log()
    start: datetime | None = None
    for line in text.splitlines():
        try:
            record = json.loads(line)
            moment = datetime.fromisoformat(record["time"])
            event, iteration = record["event"], float(record["iter"])
        except (ValueError, KeyError, TypeError):
            continue  # the line of a process that was killed, or of somebody else
        start = start or moment
        if event == "start":
            # A run that goes on from here: what came behind is not part of it.
            for rows in (log.train, *log.tests.values()):
                rows[:] = [row for row in rows if row["NumIters"] < iteration]
        row = {"NumIters": iteration, "Seconds": (moment - start).total_seconds()}
        if event == "train":
            row |= _numbers(
                {"LearningRate": record.get("lr")} | {n: record.get(n) for n in MEASURES}
            )
            log.train.append(row | _numbers(record.get("outputs", {})))
        elif event == "test":
            rows = log.tests.setdefault(int(record.get("net", 0)), [])
            rows.append(row | _numbers(record.get("outputs", {})))
    return log


def _numbers(values: dict[str, Any]) -> Row:
    """Return values as columns, those of a list numbered; null was no number."""
    row: Row = {}
    for name, value in values.items():
        several = value if isinstance(value, list) else [value]
        for i, each in enumerate(several):
            row[f"{name}[{i}]" if i else name] = math.nan if each is None else float(each)
    return row
