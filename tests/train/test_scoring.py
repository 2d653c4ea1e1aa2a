"""Outputs as scores: averages by hand, Caffe's words, and nets without a score."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from netc.errors import NetcError
from netc.layers.types import Phase
from netc.runtime import Executor
from netc.train.scoring import average_outputs, outputs_of, score, weighted
from tests.support.nets import executor_of, graph_of

NET = """
name: "n"
layer { name: "d" type: "DummyData" top: "a" top: "b" dummy_data_param { shape { dim: %d }
  data_filler { type: "uniform" min: 1 max: 2 } } }
layer { name: "p" type: "Power" bottom: "a" top: "p" power_param { scale: 10 } }
layer { name: "l" type: "EuclideanLoss" bottom: "b" bottom: "b" top: "l" loss_weight: 3 }
layer { name: "r" type: "Reduction" bottom: "b" top: "r" loss_weight: 0.5 }
"""


def net_of(count: int = 2) -> Executor:
    return executor_of(graph_of(NET % count, Phase.TEST), train=False)


def test_the_outputs_of_one_pass() -> None:
    net = net_of()
    net.forward()
    found = outputs_of(net)
    assert [name for name, _, _ in found] == ["l", "p", "r"], "by name, as Caffe numbers them"
    (l_values, l_weight), (p_values, p_weight), (r_values, r_weight) = (o[1:] for o in found)
    assert (len(p_values), p_weight) == (2, 0.0)
    assert all(10 <= value <= 20 for value in p_values)
    assert (l_values, l_weight) == ((0.0,), 3.0)
    assert 2 <= r_values[0] <= 4
    assert r_weight == 0.5


def test_averages() -> None:
    seen = []
    scores = average_outputs(net_of(), 3, lambda i, outputs: seen.append((i, outputs)))
    assert [i for i, _ in seen] == [0, 1, 2]
    for j, (name, values, weight) in enumerate(scores.outputs):
        assert {(o[j][0], o[j][2]) for _, o in seen} == {(name, weight)}
        np.testing.assert_allclose(values, np.mean([o[j][1] for _, o in seen], axis=0), rtol=1e-12)
    assert len({o[1][1] for _, o in seen}) == 3, "three passes over fresh random values"
    # float32 sums against float64 ones
    assert scores.loss == pytest.approx(0.5 * scores.outputs[2][1][0], rel=1e-6)


def test_caffes_words(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "netc")
    scores = score(net_of(), 2)
    _, (_, p, _), (_, (r,), _) = scores.outputs
    assert caplog.messages[0] == "Running for 2 iterations."
    assert [m.split(" = ")[0] for m in caplog.messages[1:9]] == [
        f"Batch {i}, {name}" for i in range(2) for name in ("l", "p", "p", "r")
    ]
    assert caplog.messages[9:] == [
        f"Loss: {scores.loss:g}",
        "l = 0 (* 3 = 0 loss)",
        f"p = {p[0]:g}",
        f"p = {p[1]:g}",
        f"r = {r:g} (* 0.5 = {0.5 * r:g} loss)",
    ]


def test_a_batch_of_features_does_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "netc")
    score(net_of(1001), 1)
    told = [message for message in caplog.messages if message.startswith(("Batch 0, p", "p"))]
    assert len(told) == 2
    assert all(": 1001 values, from 1" in message for message in told)


def test_an_output_of_one_value_is_a_number_in_json() -> None:
    found = average_outputs(net_of(), 1).as_dict()
    assert isinstance(found["outputs"]["l"], float)  # type: ignore[index]
    assert len(found["outputs"]["p"]) == 2  # type: ignore[index]


def test_the_weight_is_shown_where_there_is_one() -> None:
    assert weighted(0, 3.0) == ""
    assert weighted(0.5, 3.0) == " (* 0.5 = 1.5 loss)"


def test_a_net_with_inputs_is_refused() -> None:
    text = 'layer { name: "i" type: "Input" top: "x" input_param { shape { dim: 1 } } }'
    with pytest.raises(NetcError, match="nothing feeds this net"):
        score(executor_of(graph_of(text, Phase.TEST), train=False), 1)


def test_a_net_without_outputs_is_refused() -> None:
    text = """
    layer { name: "d" type: "DummyData" top: "a" dummy_data_param { shape { dim: 1 } } }
    layer { name: "s" type: "Silence" bottom: "a" }
    """
    with pytest.raises(NetcError, match="has no outputs to score"):
        score(executor_of(graph_of(text, Phase.TEST), train=False), 1)
