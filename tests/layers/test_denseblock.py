"""DenseBlock: against the net of layers that it stands for, slowly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from netc.layers.denseblock import DenseBlock
from netc.layers.fillers import Filler
from netc.layers.types import BlobType, Phase, Refusal
from tests.support.audit import definition
from tests.support.layer_harness import check_layer, forward, infer, smooth
from tests.support.lowering import check_lowering

BLOCK = DenseBlock(numTransition=3, growthRate=2)
TESTED = replace(BLOCK, phase=Phase.TEST)
X = smooth(2, 3, 4, 5)


def params_of(layer: DenseBlock, x: np.ndarray, seed: int = 0) -> list[np.ndarray]:
    """Filters, scales and biases at random, variances above 0."""
    rng = np.random.default_rng(seed)
    n = layer.numTransition
    values = []
    for i, param in enumerate(infer(layer, [x]).params):
        drawn = rng.standard_normal(param.shape)
        values.append(np.abs(drawn) + 0.5 if i // n == 4 else drawn)
    return values


@definition("DenseBlock")
def block(layer: DenseBlock, x: np.ndarray, params: list[np.ndarray]) -> np.ndarray:
    count = layer.numTransition
    for t in range(count):
        w, scale, bias, mean, variance = (params[kind * count + t] for kind in range(5))
        if layer.phase is Phase.TRAIN:
            mean, variance = (f(x, axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.var))
        y = np.maximum(scale * (x - mean) / np.sqrt(variance + 1e-5) + bias, 0)
        n, _, rows, columns = x.shape
        padded = np.pad(y, ((0, 0), (0, 0), (1, 1), (1, 1)))
        new = np.zeros((n, layer.growthRate, rows, columns))
        for i, o, row, column in np.ndindex(new.shape):
            new[i, o, row, column] = (padded[i, :, row : row + 3, column : column + 3] * w[o]).sum()
        x = np.concatenate([x, new], axis=1)
    return x


@pytest.mark.parametrize("layer", [BLOCK, TESTED])
def test_a_block(layer: DenseBlock) -> None:
    params = params_of(layer, X)
    run = check_layer(layer, [X], params)
    np.testing.assert_allclose(run.tops[0], block(layer, X, params), atol=1e-12)


def test_onnx() -> None:
    params = params_of(TESTED, X)
    other = [smooth(3, 3, 4, 5, seed=2)]
    operators = check_lowering(TESTED, [X], params, other_batch=other)
    assert operators == ["BatchNormalization", "Relu", "Conv", "Concat"] * 3


def test_statistics_move_towards_those_of_the_batch() -> None:
    layer = replace(BLOCK, moving_average_fraction=0.25)
    params = params_of(layer, X)
    run = forward(layer, [X], params)
    count = X[:, 0].size
    mean, variance = X.mean(axis=(0, 2, 3)), X.var(axis=(0, 2, 3)) * count / (count - 1)
    np.testing.assert_allclose(run.params[9].ravel(), 0.75 * params[9].ravel() + 0.25 * mean)
    np.testing.assert_allclose(run.params[12].ravel(), 0.75 * params[12].ravel() + 0.25 * variance)
    assert not np.array_equal(run.params[14], params[14])
    for index in (0, 3, 6, 15):
        np.testing.assert_array_equal(run.params[index], params[index])
    assert [param.frozen for param in run.signature.params] == [False] * 9 + [True] * 7
    run = forward(layer.settled(), [X], params)
    np.testing.assert_array_equal(run.params[9], params[9])


def test_dropout() -> None:
    layer = replace(BLOCK, use_dropout=True, dropout_amount=0.25)
    x = smooth(2, 3, 10, 10)
    params = params_of(layer, x)
    run = check_layer(layer, [x], params)
    (mask,) = run.kept
    assert set(np.unique(mask)) == {0, np.float64(1 / 0.75)}
    assert (mask == 0).mean() == pytest.approx(0.25, abs=0.03)
    np.testing.assert_array_equal(run.tops[0][:, :3], x)
    assert ((run.tops[0][:, 3:] == 0) == (mask == 0)).all()
    assert not infer(replace(layer, phase=Phase.TEST), [x]).kept


def test_fillers() -> None:
    layer = replace(BLOCK, BN_Scaler_Filler=Filler(type="constant", value=1.0))
    fillers = [param.filler for param in infer(layer, [X]).params]
    assert fillers[3] == Filler(type="constant", value=1.0) == fillers[12]
    assert fillers[9] == Filler()


@pytest.mark.parametrize(
    ("settings", "shape", "setting"),
    [
        ({"numTransition": 0}, (2, 3, 4, 5), "numTransition"),
        ({"growthRate": 0}, (2, 3, 4, 5), "growthRate"),
        ({"dropout_amount": 1.0}, (2, 3, 4, 5), "dropout_amount"),
        ({"use_BC": True}, (2, 3, 4, 5), "use_BC"),
        ({}, (2, 3), "bottom"),
    ],
)
def test_refused(settings: dict[str, object], shape: tuple[int, ...], setting: str) -> None:
    with pytest.raises(Refusal) as error:
        replace(BLOCK, **settings).infer(BlobType(shape))  # type: ignore[arg-type]
    assert error.value.setting == setting
    assert error.value.expected and error.value.got
