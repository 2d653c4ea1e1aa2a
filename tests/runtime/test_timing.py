"""Measured times: every step that there is, and the mean of those that count."""

from __future__ import annotations

import time

import pytest

from netc.plan.types import Direction
from netc.runtime.timing import measure
from tests.support.nets import executor_of, graph_of, set_inputs

NET = """
layer { name: "i" type: "Input" top: "x" top: "t"
  input_param { shape { dim: 2 dim: 3 } shape { dim: 2 dim: 3 } } }
layer { name: "f" type: "InnerProduct" bottom: "x" top: "f" inner_product_param { num_output: 3 } }
layer { name: "l" type: "EuclideanLoss" bottom: "f" bottom: "t" top: "l" }
"""
FORWARD, BACKWARD = Direction.FORWARD, Direction.BACKWARD


def test_every_step_has_a_time() -> None:
    net = executor_of(graph_of(NET))
    set_inputs(net)
    found = measure(net, 2)
    assert found.keys() == {(FORWARD, 1), (FORWARD, 2), (BACKWARD, 1), (BACKWARD, 2)}
    assert all(seconds > 0 for seconds in found.values())
    assert net.forward_pass == 3, "one iteration more, which does not count"


def test_a_net_without_a_loss_runs_forward_only() -> None:
    net = executor_of(graph_of(NET[: NET.index('layer { name: "l"')]), train=False)
    assert {direction for direction, _ in measure(net, 1)} == {FORWARD}


def test_the_mean_is_over_what_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    net = executor_of(graph_of(NET), train=False)
    # The clock is read twice for each of the two steps; the first iteration is slow.
    durations = [9.0, 9.0, 1.0, 2.0, 3.0, 4.0]
    ticks = iter([0.0])
    now = 0.0
    stamps = []
    for duration in durations:
        stamps += [now, now + duration]
        now += duration
    ticks = iter(stamps)
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    told = []
    found = measure(net, 2, lambda i, seconds: told.append((i, seconds)))
    assert found == {(FORWARD, 1): 2.0, (FORWARD, 2): 3.0}
    assert told == [(1, 3.0), (2, 7.0)]
