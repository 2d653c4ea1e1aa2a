"""Activations of straight pieces: slopes that are drawn, hinges that are learned."""

from __future__ import annotations

import math

import numpy as np
import pytest

from netc.layers.fillers import Filler
from netc.layers.piecewise import APL, RReLU
from netc.layers.types import BlobType, Layer, Phase, Refusal
from tests.support.audit import definition, note
from tests.support.layer_harness import check_layer, distinct, forward, smooth
from tests.support.lowering import check_lowering
from tests.support.nets import executor_of, graph_of


@definition("RReLU")
@pytest.mark.parametrize(("lb", "ub"), [(5.0, 10.0), (3.0, 8.0), (-4.0, -2.0), (-1.0, 2.0)])
def test_rrelu_of_the_test_phase(lb: float, ub: float) -> None:
    layer, x = RReLU(lb, ub, Phase.TEST), distinct(2, 3, 4)
    run = check_layer(layer, [x])
    divisor = (ub - lb) / (math.log(abs(ub)) - math.log(abs(lb)))
    np.testing.assert_allclose(run.tops[0], np.maximum(x, 0) + np.minimum(x, 0) / divisor)
    assert check_lowering(layer, [x]) == ["LeakyRelu"]


@pytest.mark.parametrize(("lb", "ub"), [(5.0, 10.0), (3.0, 8.0)])
def test_rrelu_draws_a_divisor_for_each_element(lb: float, ub: float) -> None:
    x, dy = distinct(20, 30), smooth(20, 30)
    run = forward(RReLU(lb, ub), [x])
    divisors = x[x < 0] / run.tops[0][x < 0]
    assert lb <= divisors.min() < divisors.max() <= ub
    assert len(np.unique(divisors.round(9))) == len(divisors)
    np.testing.assert_array_equal(run.tops[0][x > 0], x[x > 0])
    slopes = np.where(x > 0, 1, run.tops[0] / x)
    np.testing.assert_allclose(run.backward([dy]).bottoms[0], dy * slopes)
    # The mean of the draws is what the test phase takes.
    expected = math.log(ub / lb) / (ub - lb)
    assert math.isclose((1 / divisors).mean(), expected, rel_tol=0.05)
    note("gradient", "RReLU")


def test_rrelu_draws_anew_in_each_pass_and_again_when_resumed() -> None:
    text = """
        layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 dim: 5 } } }
        layer { name: "act" type: "RReLU" bottom: "x" top: "y" rrelu_param { lb: 3 ub: 8 } }
    """
    seen = []
    for _ in range(2):
        net = executor_of(graph_of(text), keep="all")
        net.data("x")[...] = -1
        for _ in range(2):
            net.forward()
            seen.append(np.array(net.data("y")))
    np.testing.assert_array_equal(seen[0], seen[2])
    np.testing.assert_array_equal(seen[1], seen[3])
    assert not np.array_equal(seen[0], seen[1])


@definition("APL")
@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 2, 2), (0, 3)])
@pytest.mark.parametrize("sums", [1, 2, 5])
def test_apl(shape: tuple[int, ...], sums: int) -> None:
    layer, x = APL(sums), distinct(*shape)
    units = math.prod(shape[1:])
    slope, offset = (smooth(1, 1, sums, units, seed=i) for i in (1, 2))
    run = check_layer(layer, [x], [slope, offset])
    flat, found = x.reshape(shape[0], units), run.tops[0].reshape(shape[0], units)
    for n, k in np.ndindex(*flat.shape):
        want = max(0.0, flat[n, k])
        for s in range(sums):
            want += slope.flat[k * sums + s] * max(0.0, offset.flat[k * sums + s] - flat[n, k])
        assert math.isclose(found[n, k], want, abs_tol=1e-12)
    if shape[0]:
        assert check_lowering(layer, [x], other_batch=[smooth(5, *shape[1:])])[-1] == "Add"


def test_apl_params() -> None:
    slope, offset = APL(5).infer(BlobType((2, 3, 4))).params
    assert slope.shape == offset.shape == (1, 1, 5, 12)
    assert (slope.filler, offset.filler) == (
        Filler("uniform", min=-0.1, max=0.1),
        Filler("gaussian", std=0.5),
    )
    given = Filler(value=2.0)
    assert APL(slope_filler=given).infer(BlobType((2, 3))).params[0].filler is given


def test_apl_does_not_mind_save_mem() -> None:
    net = executor_of(
        graph_of(
            """
            layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 } } }
            layer { name: "act" type: "APL" bottom: "x" top: "x"
              apl_param { sums: 1 save_mem: true slope_filler { value: -1 }
                offset_filler { value: 3 } } }
            """
        )
    )
    net.data("x")[...] = [[2, -1]]
    net.forward()
    assert net.data("x#1").tolist() == [[1, -4]]


@pytest.mark.parametrize(
    ("layer", "shape", "setting"),
    [
        (RReLU(), (3,), ""),
        (RReLU(2, 2), (3, 2), "lb"),
        (RReLU(0, 2), (3, 2), "lb"),
        (RReLU(-1, 0), (3, 2), "lb"),
        (RReLU(-2, 2), (3, 2), "lb"),
        (APL(), (3,), ""),
        (APL(0), (3, 2), "sums"),
    ],
)
def test_refusals(layer: Layer, shape: tuple[int, ...], setting: str) -> None:
    with pytest.raises(Refusal) as caught:
        layer.infer(BlobType(shape))
    assert caught.value.setting == setting and caught.value.expected and caught.value.got


def test_cost() -> None:
    x = BlobType((2, 3))
    assert APL(2).cost((x,), APL(2).infer(x)) == 6 * 5
