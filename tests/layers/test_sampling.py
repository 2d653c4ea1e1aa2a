from __future__ import annotations

import math

import numpy as np
import pytest

from netc.export import Session, lower_layer
from netc.layers.sampling import Sampling, Spread
from netc.layers.types import BlobType, Phase, Refusal
from tests.support.audit import definition
from tests.support.layer_harness import check_layer, forward, smooth
from tests.support.lowering import check_lowering
from tests.support.nets import executor_of, graph_of, set_inputs

STD = {
    Spread.LOG_VARIANCE: lambda s: np.exp(s / 2),
    Spread.VARIANCE: np.sqrt,
    Spread.STD: lambda s: s,
}


@pytest.mark.parametrize("spread", Spread)
@pytest.mark.parametrize("shape", [(), (0, 2), (2, 3), (2, 3, 4, 1)])
@definition("Sampling")
def test_definition_and_gradient(spread: Spread, shape: tuple[int, ...]) -> None:
    mean, s = smooth(*shape), smooth(*shape, seed=1) ** 2 + 0.1
    run = check_layer(Sampling(spread), [mean, s])
    np.testing.assert_allclose(run.tops[0], mean + STD[spread](s) * run.kept[0], rtol=1e-12)


@pytest.mark.parametrize("spread", Spread)
def test_samples_have_the_mean_and_the_spread_asked_for(spread: Spread) -> None:
    n = 100_000
    s = {Spread.LOG_VARIANCE: math.log(4), Spread.VARIANCE: 4, Spread.STD: 2}[spread]
    y = forward(Sampling(spread), [np.full(n, 3.0), np.full(n, s)]).tops[0]
    # Five standard errors of a mean and of a standard deviation.
    assert abs(y.mean() - 3) < 5 * 2 / math.sqrt(n)
    assert abs(y.std() - 2) < 5 * 2 / math.sqrt(2 * n)


def test_the_mean_in_tests() -> None:
    mean, s = smooth(2, 3), smooth(2, 3, seed=1)
    layer = Sampling(phase=Phase.TEST)
    run = check_layer(layer, [mean, s])
    np.testing.assert_array_equal(run.tops[0], mean)
    assert check_lowering(layer, [mean, s]) == ["Identity"]
    sampled = forward(Sampling(phase=Phase.TEST, sample_in_test=True), [mean, s])
    assert (sampled.tops[0] != mean).all()


@pytest.mark.parametrize("spread", Spread)
def test_onnx_samples_too(spread: Spread) -> None:
    shape = BlobType((50_000,))
    layer = Sampling(spread, sample_in_test=True, phase=Phase.TEST)
    model = lower_layer(layer, [shape, shape], [])
    s = {Spread.LOG_VARIANCE: math.log(4), Spread.VARIANCE: 4, Spread.STD: 2}[spread]
    given = {
        i.name: np.full(shape.shape, value, np.float32)
        for i, value in zip(model.graph.input, (3, s), strict=True)
    }
    [y] = Session(model, threads=1).run(given).values()
    # Looser than in the reference: these draws differ on every run.
    assert abs(y.mean() - 3) < 0.1 and abs(y.std() - 2) < 0.1


def test_refuses_shapes_that_differ() -> None:
    with pytest.raises(Refusal, match="differ in shape"):
        Sampling().infer(BlobType((2, 3)), BlobType((2, 4)))


def test_variational_autoencoder_trains_from_text() -> None:
    net = executor_of(
        graph_of(
            """
            layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 dim: 6 } } }
            layer { name: "mu" type: "InnerProduct" bottom: "x" top: "mu"
              inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
            layer { name: "s" type: "InnerProduct" bottom: "x" top: "s"
              inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
            layer { name: "z" type: "Sampling" bottom: "mu" bottom: "s" top: "z" }
            layer { name: "y" type: "InnerProduct" bottom: "z" top: "y"
              inner_product_param { num_output: 6 weight_filler { type: "xavier" } } }
            layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "x" top: "loss" }
            """
        )
    )
    set_inputs(net)
    net.forward()
    net.backward()
    assert all(d.any() for d in net.param_diffs)
