"""Recurrent types against their formulas, one sequence and one number at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.errors import NetcError
from netc.export import lower_layer
from netc.layers.recurrent import LSTM, RNN, LSTMUnit, Recurrent
from netc.layers.types import BlobType, Refusal
from tests.support.audit import definition
from tests.support.layer_harness import (
    Run,
    check_layer,
    forward,
    infer,
    load_vector,
    smooth,
    vector_names,
)
from tests.support.lowering import check_lowering
from tests.support.nets import executor_of, graph_of
from tests.support.vectors import check_bound_vector, refusal_of

Array = np.ndarray


@pytest.mark.parametrize("name", vector_names("rnn", "lstm"))
def test_golden_vectors(name: str) -> None:
    check_bound_vector(name)


# -- by definition ---------------------------------------------------------------------------------


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def affine(w: Array, x: Sequence[float]) -> list[float]:
    return [math.fsum(a * b for a, b in zip(row, x, strict=True)) for row in w]


def by_definition(
    layer: Recurrent, bottoms: Sequence[Array], params: Sequence[Array], states: Sequence[Array]
) -> tuple[Array, list[Array]]:
    """Return y and the last states, given the states (N, D) to start from."""
    x, cont = bottoms[:2]
    w = list(params)
    weight_x, bias = w.pop(0), w.pop(0)
    weight_s = w.pop(0) if len(bottoms) > 2 + layer.expose_hidden * len(states) else None
    weight_h = w.pop(0)
    d = layer.num_output
    y = np.zeros((*x.shape[:2], d))
    last = [np.array(s) for s in states]
    for n in range(x.shape[1]):
        h, *c = ([float(v) for v in s[n]] for s in states)
        for t in range(len(x)):
            z = affine(weight_x, x[t, n].ravel())
            if weight_s is not None:
                z = [a + b for a, b in zip(z, affine(weight_s, bottoms[2][n].ravel()), strict=True)]
            past = affine(weight_h, [cont[t, n] * v for v in h])
            z = [a + b + p for a, b, p in zip(z, bias, past, strict=True)]
            if isinstance(layer, LSTM):
                i, f, o = ([sigmoid(v) for v in z[k * d : (k + 1) * d]] for k in range(3))
                g = [math.tanh(v) for v in z[3 * d :]]
                c = [[f[k] * cont[t, n] * c[0][k] + i[k] * g[k] for k in range(d)]]
                h = [o[k] * math.tanh(c[0][k]) for k in range(d)]
                y[t, n] = h
            else:
                h = [math.tanh(v) for v in z]
                out = affine(w[0], h)
                y[t, n] = [math.tanh(a + b) for a, b in zip(out, w[1], strict=True)]
        for state, values in zip(last, (h, *c), strict=True):
            state[n] = values
    return y, last


@st.composite
def sequences(draw: st.DrawFn, kind: type[Recurrent]) -> dict[str, Any]:
    steps, batch, d = (draw(st.integers(1, n)) for n in (4, 3, 3))
    features = draw(st.sampled_from([(1,), (3,), (2, 2)]))
    seed = draw(st.integers(0, 99))
    x = smooth(steps, batch, *features, seed=seed)
    cont = np.array(
        draw(
            st.lists(
                st.sampled_from([0.0, 1.0, 0.5]), min_size=steps * batch, max_size=steps * batch
            )
        )
    ).reshape(steps, batch)
    static = draw(st.sampled_from([None, (2,), (1, 3)]))
    bottoms = [x, cont]
    if static is not None:
        bottoms.append(smooth(batch, *static, seed=seed + 1))
    states = [smooth(batch, d, seed=seed + 2 + i) for i in range(len(kind.states))]
    return {"layer": kind(num_output=d), "bottoms": bottoms, "states": states}


def kept_with(layer: Recurrent, bottoms: Sequence[Array], states: Sequence[Array]) -> list[Array]:
    """Return the kept blobs of a layer that has the states from an earlier batch."""
    kept = [np.zeros(k.shape) for k in infer(layer, bottoms).kept]
    for blob, state in zip(kept, states, strict=False):
        blob[0] = state
    return kept


def params_for(layer: Recurrent, bottoms: Sequence[Array]) -> list[Array]:
    return [smooth(*p.shape, seed=i + 7) for i, p in enumerate(infer(layer, bottoms).params)]


@pytest.mark.parametrize("kind", [RNN, LSTM])
@settings(max_examples=25)
@given(data=st.data())
def test_definition_and_gradient(kind: type[Recurrent], data: st.DataObject) -> None:
    case = data.draw(sequences(kind))
    layer, bottoms, states = case["layer"], case["bottoms"], case["states"]
    params = params_for(layer, bottoms)
    run = check_layer(layer, bottoms, params, kept=kept_with(layer, bottoms, states))
    y, last = by_definition(layer, bottoms, params, states)
    np.testing.assert_allclose(run.tops[0], y, rtol=1e-10, atol=1e-12)
    for blob, state in zip(run.kept, last, strict=False):
        np.testing.assert_allclose(blob[0], state, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", [RNN, LSTM])
@settings(max_examples=15)
@given(data=st.data())
def test_exposed_states_are_bottoms_and_tops_without_gradient(
    kind: type[Recurrent], data: st.DataObject
) -> None:
    case = data.draw(sequences(kind))
    hidden, bottoms, states = case["layer"], case["bottoms"], case["states"]
    params = params_for(hidden, bottoms)
    layer = replace(hidden, expose_hidden=True)
    exposed = [*bottoms, *(s[None] for s in states)]
    own = forward(hidden, bottoms, params, kept=kept_with(hidden, bottoms, states))
    run = forward(layer, exposed, params)
    np.testing.assert_array_equal(run.tops[0], own.tops[0])
    for top, blob in zip(run.tops[1:], own.kept, strict=False):
        np.testing.assert_array_equal(top, blob)
    # Diffs of the states that go out change nothing: the gradient ends at the batch's border.
    dy = smooth(*own.tops[0].shape, seed=3)
    want = own.backward([dy])
    got = run.backward([dy, *(np.full(top.shape, 1e6) for top in run.tops[1:])])
    for a, b in zip(
        (*got.bottoms[: len(bottoms)], *got.params), (*want.bottoms, *want.params), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    n = len(bottoms)
    assert layer.gradient_bottoms(len(exposed)) == (
        *hidden.gradient_bottoms(n), *(False,) * len(states)
    )  # fmt: skip
    assert hidden.gradient_bottoms(n)[:2] == (True, False)


@pytest.mark.parametrize("kind", [RNN, LSTM])
def test_a_long_sequence_may_come_in_pieces(kind: type[Recurrent]) -> None:
    layer, x, cont = kind(num_output=3), smooth(6, 2, 4), np.ones((6, 2))
    cont[0] = cont[4, 1] = 0
    params = params_for(layer, [x, cont])
    whole = forward(layer, [x, cont], params)
    first = forward(layer, [x[:2], cont[:2]], params)
    start = kept_with(layer, [x[2:], cont[2:]], [k[0] for k in first.kept[: len(layer.states)]])
    rest = forward(layer, [x[2:], cont[2:]], params, kept=start)
    np.testing.assert_allclose(
        np.concatenate([first.tops[0], rest.tops[0]]), whole.tops[0], rtol=1e-12
    )


def test_the_state_goes_from_batch_to_batch_in_a_net() -> None:
    vector = load_vector("lstm__state_carries_over")
    net = executor_of(graph_of(str(vector["prototxt"])), train=False)
    for index in range(3):
        net.params[index][...] = vector[f"param:lstm:{index}"]
    for run in ("", "2"):
        for name in ("x", "cont"):
            net.data(name)[...] = vector[f"input{run}:{name}"]
        net.forward()
        np.testing.assert_allclose(net.data("y"), vector[f"output{run}:y"], rtol=1e-4, atol=1e-5)
    assert set(net.persistent()) == {"lstm.h", "lstm.c"}
    # Cutting all sequences makes the net forget.
    net.data("cont")[0] = 0
    net.forward()
    fresh = net.data("y").copy()
    for state in net.persistent().values():
        state[...] = 0
    net.forward()
    np.testing.assert_array_equal(net.data("y"), fresh)


def test_the_order_of_the_params_and_how_they_are_filled() -> None:
    text = """
        layer {{ name: "i" type: "Input" top: "x" top: "c" top: "s" input_param {{
                shape {{ dim: [5, 3, 4] }} shape {{ dim: [5, 3] }} shape {{ dim: [3, 7] }} }} }}
        layer {{ name: "r" type: "{}" bottom: "x" bottom: "c" bottom: "s" top: "y"
                param {{ lr_mult: 2 }} recurrent_param {{ num_output: 2
                weight_filler {{ type: "gaussian" }} bias_filler {{ value: 3 }} }} }}"""
    weight, bias = "gaussian", "constant"
    for kind, shapes, fillers in (
        (
            "RNN",
            [(2, 4), (2,), (2, 7), (2, 2), (2, 2), (2,)],
            [weight, bias, weight, weight, weight, bias],
        ),
        ("LSTM", [(8, 4), (8,), (8, 7), (8, 2)], [weight, bias, weight, weight]),
    ):
        graph = graph_of(text.format(kind))
        assert [p.shape for p in graph.params] == shapes
        assert [p.filler.type for p in graph.params] == fillers
        assert [p.lr_mult for p in graph.params] == [2, *[1] * (len(shapes) - 1)]


def test_cost() -> None:
    x, c, s = BlobType((5, 3, 4)), BlobType((5, 3)), BlobType((3, 7))
    for layer, want in (
        (LSTM(num_output=2), 3 * (5 * (8 * 4 + 8 * 2) + 8 * 7)),
        (RNN(num_output=2), 3 * (5 * (2 * 4 + 2 * 2 + 2 * 2) + 2 * 7)),
    ):
        assert layer.cost((x, c, s), layer.infer(x, c, s)) == want


# -- LSTMUnit --------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(n=st.integers(1, 4), d=st.integers(1, 4), seed=st.integers(0, 99))
@definition("LSTMUnit")
def test_lstm_unit(n: int, d: int, seed: int) -> None:
    c, z = smooth(1, n, d, seed=seed), smooth(1, n, 4 * d, seed=seed + 1)
    cont = np.random.default_rng(seed).choice([0.0, 1.0, 0.5], (1, n))
    run = check_layer(LSTMUnit(), [c, z, cont])
    for place in np.ndindex(n, d):
        item, k = place
        i, f, o = (sigmoid(z[0, item, b * d + k]) for b in range(3))
        cell = f * cont[0, item] * c[0, item, k] + i * math.tanh(z[0, item, 3 * d + k])
        assert run.tops[0][0, item, k] == pytest.approx(cell, rel=1e-12)
        assert run.tops[1][0, item, k] == pytest.approx(o * math.tanh(cell), rel=1e-12)
    assert LSTMUnit().gradient_bottoms(3) == (True, True, False)


def test_an_lstm_is_a_chain_of_units() -> None:
    layer, x = LSTM(num_output=2), smooth(3, 4, 5)
    cont = np.array([[0, 1, 1, 0], [1, 1, 0, 1], [0, 1, 1, 1.0]])
    params = params_for(layer, [x, cont])
    whole: Run = forward(layer, [x, cont], params)
    weight_x, bias, weight_h = params
    h, c = np.zeros((1, 4, 2)), np.zeros((1, 4, 2))
    for t in range(3):
        z = x[t : t + 1] @ weight_x.T + bias + (h * cont[t][None, :, None]) @ weight_h.T
        c, h = forward(LSTMUnit(), [c, z, cont[t : t + 1]]).tops
        np.testing.assert_allclose(h[0], whole.tops[0][t], rtol=1e-12)


# -- what is refused -------------------------------------------------------------------------------


def test_nets_that_caffe_refuses() -> None:
    message = refusal_of("lstm_cont_shape")
    assert "layer 'lstm' (LSTM): the sequence markers do not match the input" in message
    assert "cont of shape (3, 2)" in message
    assert "cont of shape (2, 3)" in message
    message = refusal_of("lstm_num_output_missing")
    assert "num_output is missing" in message
    assert "recurrent_param { num_output: N }" in message


@pytest.mark.parametrize(
    ("layer", "shapes", "what"),
    [
        (RNN(num_output=2), [(5, 3), (5, 3)], "not a batch of sequences of vectors"),
        (RNN(num_output=2), [(0, 3, 4), (0, 3)], "not a batch of sequences of vectors"),
        (LSTM(num_output=2), [(5, 3, 4), (5, 3, 1)], "markers do not match"),
        (LSTM(num_output=2), [(5, 3, 4), (5, 3), (2, 6)], "static input does not match"),
        (LSTM(num_output=2), [(5, 3, 4), (5, 3), (3,)], "static input does not match"),
        (LSTM(num_output=2), [(5, 3, 4), (5, 3), (3, 1), (1, 3, 2)], "wrong number of bottoms"),
        (RNN(num_output=2, expose_hidden=True), [(5, 3, 4), (5, 3)], "wrong number of bottoms"),
        (
            LSTM(num_output=2, expose_hidden=True),
            [(5, 3, 4), (5, 3), (1, 3, 2), (1, 3, 3)],
            "state c0 has the wrong shape",
        ),
        (RNN(num_output=2, top=("y", "h")), [(5, 3, 4), (5, 3)], "wrong number of tops"),
        (LSTMUnit(), [(2, 3, 4), (1, 3, 16), (1, 3)], "not that of one step"),
        (LSTMUnit(), [(1, 3, 4), (1, 3, 12), (1, 3)], "gates' input does not fit"),
        (LSTMUnit(), [(1, 3, 4), (1, 3, 16), (1, 2)], "markers do not fit"),
    ],
)
def test_refusals(layer: Recurrent, shapes: list[tuple[int, ...]], what: str) -> None:
    with pytest.raises(Refusal, match=what) as refusal:
        layer.infer(*map(BlobType, shapes))
    assert refusal.value.expected
    assert refusal.value.got


# -- ONNX ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RNN, LSTM])
@pytest.mark.parametrize("static", [None, (2,), (1, 3)])
@pytest.mark.parametrize("steps", [1, 4])
def test_lowering(kind: type[Recurrent], static: tuple[int, ...] | None, steps: int) -> None:
    features = (2, 2) if static else (3,)
    cont = np.random.default_rng(0).integers(0, 2, (steps, 3)).astype(float)
    bottoms = [smooth(steps, 3, *features), cont]
    if static:
        bottoms.append(smooth(3, *static, seed=1))
    bottoms += [smooth(1, 3, 2, seed=2 + i) for i in range(len(kind.states))]
    operators = check_lowering(kind(num_output=2, expose_hidden=True), bottoms)
    assert operators.count(kind.__name__) == steps


def test_a_state_between_runs_cannot_be_exported() -> None:
    with pytest.raises(NetcError, match="carried from one batch to the next") as error:
        params = params_for(LSTM(num_output=2), [smooth(2, 3, 4), smooth(2, 3)])
        lower_layer(LSTM(num_output=2), [BlobType((2, 3, 4)), BlobType((2, 3))], params)
    assert "expose_hidden: true, with bottoms h0, c0 and tops hT, cT" in str(error.value)


def test_lowering_of_lstm_unit() -> None:
    cont = np.array([[0.0, 1, 1]])
    check_lowering(LSTMUnit(), [smooth(1, 3, 2), smooth(1, 3, 8, seed=1), cont])
