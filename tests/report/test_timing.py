"""The table of times: sums, shares, layers that do nothing or run with another."""

from __future__ import annotations

import dataclasses
import json

from netc.backends import find_backend
from netc.plan import plan
from netc.plan.types import Direction, Step
from netc.report.timing import render, timing
from tests.support.nets import graph_of

NET = """
name: "n"
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "f" type: "InnerProduct" bottom: "x" top: "f" inner_product_param { num_output: 4 } }
layer { name: "r" type: "ReLU" bottom: "f" top: "f" }
layer { name: "l" type: "EuclideanLoss" bottom: "f" bottom: "f" top: "l" }
"""
PLAN = plan(graph_of(NET), find_backend("reference"), train=True)
FORWARD, BACKWARD = Direction.FORWARD, Direction.BACKWARD
SECONDS = {(FORWARD, 1): 0.002, (FORWARD, 3): 0.001, (BACKWARD, 1): 0.005}


def test_sums_and_shares() -> None:
    found = timing(PLAN, SECONDS, backend="reference", iterations=7)
    assert (found.forward_ms, found.backward_ms) == (3.0, 5.0)
    lines = render(found).splitlines()
    assert lines == [
        "net n, phase TRAIN, backend reference: mean of 7 iterations",
        "layer  type           kernel     forward ms  backward ms     share",
        "-----  -------------  ---------  ----------  -----------  --------",
        "x      Input          -                   -            -         -",
        "f      InnerProduct   reference       2.000        5.000    87.5 %",
        "r      ReLU           reference           -            -         -",
        "l      EuclideanLoss  reference       1.000            -    12.5 %",
        "-----  -------------  ---------  ----------  -----------  --------",
        "total                                 3.000        5.000  8.000 ms",
    ]


def test_json_and_notes() -> None:
    found = timing(PLAN, SECONDS, backend="reference", iterations=7, notes=["made up"])
    read = json.loads(render(found, "json"))
    assert read["total_ms"] == 8.0
    assert read["rows"][0]["forward_ms"] is None
    assert render(found).splitlines()[-1] == "note: made up"
    assert render(found, "markdown").splitlines()[-2:] == ["", "note: made up"]


def test_a_layer_that_runs_with_another() -> None:
    steps = [step for step in PLAN.forward if isinstance(step, Step)]
    chain = dataclasses.replace(steps[0], nodes=(1, 2), kernel="fast")
    fused = dataclasses.replace(PLAN, forward=(chain, steps[-1]))
    found = timing(fused, SECONDS, backend="auto", iterations=1)
    by_name = {row.name: row for row in found.rows}
    assert (by_name["f"].kernel, by_name["f"].within) == ("fast", "")
    assert (by_name["r"].kernel, by_name["r"].within) == ("fast", "f")
    line = next(line for line in render(found).splitlines() if line.startswith("r "))
    assert line.split() == ["r", "ReLU", "fast", "with", "f", "with", "f", "-"]


def test_a_net_that_takes_no_time() -> None:
    assert render(timing(PLAN, {}, backend="auto", iterations=1)).endswith("0.000 ms")
