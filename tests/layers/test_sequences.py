"""CTPN's types: against NumPy, a loop over the definition, LSTM's own rules and ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from netc.errors import NetcError
from netc.layers.recurrent import LSTM
from netc.layers.sequences import ContinuationIndicator, Lstm, Reverse, Transpose
from netc.layers.types import BlobType, Refusal
from tests.support.audit import definition
from tests.support.layer_harness import check_layer, distinct, forward, smooth
from tests.support.lowering import check_lowering
from tests.support.nets import executor_of, graph_of, set_inputs


@pytest.mark.parametrize("dim", [(3, 2, 0, 1), (0, 1, 2, 3), (2, 3, 1, 0)])
@definition("Transpose")
def test_transpose_is_permute(dim: tuple[int, ...]) -> None:
    (part,) = Transpose(dim=dim).expand(BlobType((2, 3, 4, 5)))
    x = distinct(2, 3, 4, 5)
    np.testing.assert_array_equal(check_layer(part.layer, [x]).tops[0], x.transpose(dim))
    check_lowering(part.layer, [x])


@pytest.mark.parametrize("dim", [(), (0, 1), (0, 1, 2, 2), (0, 1, 2, 4), (-1, 0, 1, 2)])
def test_transpose_names_every_axis_once(dim: tuple[int, ...]) -> None:
    with pytest.raises(Refusal, match="each axis once") as caught:
        Transpose(dim=dim).expand(BlobType((2, 3, 4, 5)))
    assert caught.value.setting == "dim" and caught.value.expected.startswith("the numbers 0..3")


@pytest.mark.parametrize(("axis", "shape"), [(0, (5, 2, 3)), (-1, (2, 4)), (1, (2, 1, 3))])
@definition("Reverse")
def test_reverse(axis: int, shape: tuple[int, ...]) -> None:
    x = distinct(*shape)
    run = check_layer(Reverse(axis=axis), [x])
    np.testing.assert_array_equal(run.tops[0], np.flip(x, axis))
    check_lowering(Reverse(axis=axis), [x])


def test_reverse_needs_its_axis() -> None:
    for shape in ((2, 3), ()):
        with pytest.raises(Refusal):
            Reverse(axis=2).infer(BlobType(shape))


# -- ContinuationIndicator -------------------------------------------------------------------------


@definition("ContinuationIndicator")
def marks(steps: int, batch: int) -> np.ndarray:
    """0 where a sequence begins, 1 where it goes on, for each time step and sequence."""
    return np.array([[1.0 if t > 0 else 0.0 for _ in range(batch)] for t in range(steps)])


@pytest.mark.parametrize(("axis", "batch"), [(None, 3), (1, 2), (-1, 4)])
def test_continuation_indicator_counts_on_its_bottom(axis: int | None, batch: int) -> None:
    layer, x = ContinuationIndicator(time_step=5, axis=axis), smooth(3, 2, 4)
    run = check_layer(layer, [x], gradient=False)
    np.testing.assert_array_equal(run.tops[0], marks(5, batch))
    check_lowering(layer, [x])


@pytest.mark.parametrize("steps", [1, 4])
def test_continuation_indicator_without_a_bottom(steps: int) -> None:
    layer = ContinuationIndicator(time_step=steps, batch_size=2)
    np.testing.assert_array_equal(check_layer(layer, [], gradient=False).tops[0], marks(steps, 2))
    check_lowering(layer, [])


@pytest.mark.parametrize(
    ("settings", "shapes", "setting"),
    [
        ({"batch_size": 2}, [], "time_step"),
        ({"time_step": 3}, [], "batch_size"),
        ({"time_step": 3, "batch_size": 0}, [], "batch_size"),
        ({"time_step": 3, "batch_size": 2, "axis": 0}, [], "axis"),
        ({"time_step": 3, "batch_size": 2}, [(2, 3)], "batch_size"),
        ({"time_step": 3, "axis": 2}, [(2, 3)], "axis"),
        ({"time_step": 3}, [()], "bottom"),
    ],
)
def test_continuation_indicator_refuses(settings, shapes, setting: str) -> None:
    with pytest.raises(Refusal) as caught:
        ContinuationIndicator(**settings).infer(*map(BlobType, shapes))
    assert caught.value.setting == setting


def test_continuation_indicator_starts_an_lstm_anew() -> None:
    graph = graph_of(
        """
        layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 dim: 2 dim: 3 } } }
        layer { name: "c" type: "ContinuationIndicator" bottom: "x" top: "c"
          continuation_indicator_param { time_step: 4 axis: 1 } }
        layer { name: "l" type: "LSTM" bottom: "x" bottom: "c" top: "y"
          recurrent_param { num_output: 2 weight_filler { type: "xavier" } } }
        """
    )
    net = executor_of(graph)
    set_inputs(net)
    net.forward()
    first = net.data("y").copy()
    net.forward()
    assert first.any()
    np.testing.assert_array_equal(net.data("y"), first)


# -- Lstm ------------------------------------------------------------------------------------------


@definition("Lstm")
def by_definition(x: np.ndarray, params, cont: np.ndarray) -> np.ndarray:
    """The outputs, one value at a time."""
    weight_x, weight_h, bias = params
    steps, batch = x.shape[:2]
    d = weight_h.shape[1]
    y, c = np.zeros((steps, batch, d)), np.zeros((batch, d))
    for t in range(steps):
        for n in range(batch):
            h = y[t - 1, n] * cont[t, n] if t else np.zeros(d)
            z = weight_x @ x[t, n].ravel() + weight_h @ h + bias
            for j in range(d):
                i, f, o = (1 / (1 + np.exp(-z[k * d + j])) for k in range(3))
                c[n, j] = f * c[n, j] * cont[t, n] + i * np.tanh(z[3 * d + j])
                y[t, n, j] = o * np.tanh(c[n, j])
    return y


@pytest.mark.parametrize("shape", [(4, 2, 3), (1, 3, 2), (3, 1, 2, 2)])
def test_lstm_alone(shape: tuple[int, ...]) -> None:
    layer, x = Lstm(num_output=2), smooth(*shape)
    cont = np.ones(shape[:2])
    cont[0] = 0
    run = check_layer(layer, [x])
    np.testing.assert_allclose(run.tops[0], by_definition(x, run.params, cont), rtol=1e-12)
    assert "LSTM" in check_lowering(layer, [x])


def test_lstm_with_marks_goes_on_where_it_stopped() -> None:
    layer = Lstm(num_output=3)
    x, cont = smooth(5, 2, 4), np.array([[0, 0], [1, 1], [1, 0], [1, 1], [0, 1]], float)
    run = check_layer(layer, [x, cont])
    np.testing.assert_allclose(run.tops[0], by_definition(x, run.params, cont), rtol=1e-12)
    pieces = forward(layer, [x[:2], cont[:2]], run.params)
    rest = forward(layer, [x[2:], cont[2:]], run.params, kept=[
        *(np.zeros(k.shape) for k in layer.infer(BlobType((3, 2, 4)), BlobType((3, 2))).kept[:2]),
        *pieces.kept[2:],
    ])  # fmt: skip
    np.testing.assert_allclose(rest.tops[0], run.tops[0][2:], rtol=1e-12)
    with pytest.raises(NetcError, match="carried from one batch to the next"):
        check_lowering(layer, [x, cont])


def test_the_gradients_are_those_of_lstm_with_its_params_in_another_order() -> None:
    x, cont, dy = smooth(4, 2, 3), np.ones((4, 2)), smooth(4, 2, 5, seed=9)
    cont[0] = 0
    ours = forward(Lstm(num_output=5), [x], [smooth(20, 3), smooth(20, 5), smooth(20)])
    weight_x, weight_h, bias = ours.params
    theirs = forward(LSTM(num_output=5), [x, cont], [weight_x, bias, weight_h])
    mine, other = ours.backward([dy]), theirs.backward([dy])
    np.testing.assert_allclose(ours.tops[0], theirs.tops[0])
    np.testing.assert_allclose(mine.bottoms[0], other.bottoms[0])
    for a, b in zip(mine.params, (other.params[0], other.params[2], other.params[1]), strict=True):
        np.testing.assert_allclose(a, b)


def test_gradients_of_the_gates_are_limited() -> None:
    x, dy = smooth(1, 2, 3), 100 * smooth(1, 2, 5, seed=9)
    params = [smooth(20, 3), smooth(20, 5), smooth(20)]
    free = forward(Lstm(num_output=5), [x], params).backward([dy])
    held = forward(Lstm(num_output=5, clipping_threshold=0.5), [x], params).backward([dy])
    # One step: the gradient of the bias is the sum over the batch of those of the gates.
    assert np.abs(free.params[2]).max() > 1 >= np.abs(held.params[2]).max() > 0
    loose = forward(Lstm(num_output=5, clipping_threshold=1e6), [x], params).backward([dy])
    np.testing.assert_array_equal(loose.params[2], free.params[2])


@pytest.mark.parametrize(
    ("layer", "shapes", "setting"),
    [
        (Lstm(), [(4, 2, 3)], "num_output"),
        (Lstm(num_output=2, clipping_threshold=-1), [(4, 2, 3)], "clipping_threshold"),
        (Lstm(num_output=2), [(4,)], "bottom"),
        (Lstm(num_output=2), [(0, 2, 3)], "bottom"),
        (Lstm(num_output=2), [(4, 2, 3), (4, 3)], "bottom"),
    ],
)
def test_what_does_not_fit_is_refused(layer: Lstm, shapes, setting: str) -> None:
    with pytest.raises(Refusal) as caught:
        layer.infer(*map(BlobType, shapes))
    assert caught.value.setting == setting


@pytest.mark.parametrize("settings", [{"batch_size": 3}, {"batch_size": 0}])
def test_rows_that_are_no_sequences_side_by_side_are_refused(settings) -> None:
    with pytest.raises(Refusal, match="divide the rows") as caught:
        Lstm(num_output=2, **settings).expand(BlobType((8, 5)), BlobType((8, 1)))
    assert caught.value.setting == "batch_size"


@pytest.mark.parametrize("marked", [False, True])
def test_lstm_of_rows_of_time_steps(marked: bool) -> None:
    bottoms = 'bottom: "x" bottom: "marks"' if marked else 'bottom: "x"'
    graph = graph_of(
        f"""
        input: "x" input_shape {{ dim: 6 dim: 4 }}
        input: "marks" input_shape {{ dim: 6 dim: 1 }}
        layer {{ name: "q" type: "Silence" bottom: "marks" }}
        layer {{ name: "l" type: "Lstm" {bottoms} top: "y"
          lstm_param {{ num_output: 3 batch_size: 2 weight_filler {{ type: "gaussian" }} }} }}
        """
    )
    net = executor_of(graph)
    set_inputs(net)
    # Without marks each batch begins anew; with them, a second sequence begins at the last step.
    cont = np.array([[0, 0], [1, 1], [1, not marked]], float)
    net.data("marks")[...] = cont.reshape(6, 1)
    net.forward()
    params = [net.param_array(i) for i in range(3)]
    expected = by_definition(net.data("x").reshape(3, 2, 4), params, cont)
    np.testing.assert_allclose(net.data("y"), expected.reshape(6, 3), rtol=1e-4, atol=1e-6)
    assert {node.name for node in graph.nodes if node.params} == {"l"}


def test_the_two_ways_to_read_of_ctpn() -> None:
    graph = graph_of(
        """
        input: "x" input_shape { dim: 1 dim: 6 dim: 4 dim: 5 }
        layer { name: "t" type: "Transpose" bottom: "x" top: "t"
          transpose_param { dim: 3 dim: 2 dim: 0 dim: 1 } }
        layer { name: "r" type: "Reshape" bottom: "t" top: "r"
          reshape_param { shape { dim: -1 } axis: 1 num_axes: 2 } }
        layer { name: "back" type: "Reverse" bottom: "r" top: "back" reverse_param { axis: 0 } }
        layer { name: "lstm" type: "Lstm" bottom: "back" top: "lstm"
          lstm_param { num_output: 3 clipping_threshold: 1 weight_filler { type: "gaussian" } } }
        """
    )
    assert graph.blobs["t"].shape == (5, 4, 1, 6)
    assert graph.blobs["lstm"].shape == (5, 4, 3)
    assert [use.shape for use in graph.nodes[-1].params] == [(12, 6), (12, 3), (12,)]
