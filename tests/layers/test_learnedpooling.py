"""Pooling with a learned gate, against loops over windows and their pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.layers.learnedpooling import (
    GatedMaxAve,
    GatedPooling,
    TreepoolKernel1L,
    TreepoolMaxAve,
)
from netc.layers.types import BlobType, Refusal
from tests.support.audit import definition
from tests.support.layer_harness import check_layer, distinct, forward, smooth
from tests.support.lowering import check_lowering
from tests.support.nets import executor_of, graph_of

TYPES = [TreepoolKernel1L, TreepoolMaxAve, GatedMaxAve]


def places(size: int, kernel: int, stride: int) -> int:
    return math.ceil((size - kernel) / stride) + 1


def mixed(layer: GatedPooling, pixels: np.ndarray, params: list[np.ndarray]) -> float:
    """Return the top for the pixels (rows, columns) of one window, those inside the image."""
    kernel = layer.kernel_size[0]
    flat = [(r, c, pixels[r, c]) for r in range(pixels.shape[0]) for c in range(pixels.shape[1])]
    weights = [p.reshape(kernel, kernel) for p in params]
    if isinstance(layer, GatedMaxAve):
        response = sum(params[-1].reshape(-1)[i] * x for i, (_, _, x) in enumerate(flat))
    else:
        response = sum(weights[-1][r, c] * x for r, c, x in flat)
    gate = 1 / (1 + math.exp(-response))
    if isinstance(layer, TreepoolMaxAve):
        sums = [pixels.max(), pixels.mean()]
    else:
        sums = [sum(w[r, c] * x for r, c, x in flat) for w in weights[:2]]
    return float(gate * sums[0] + (1 - gate) * sums[1])


@definition("TreepoolKernel1L", "TreepoolMaxAve", "GatedMaxAve")
def pooled(layer: GatedPooling, x: np.ndarray, params: list[np.ndarray]) -> np.ndarray:
    kernel, stride = layer.kernel_size[0], (*layer.stride, 1)[0]
    n, channels, height, width = x.shape
    rows, columns = places(height, kernel, stride), places(width, kernel, stride)
    top = np.zeros((n, channels, rows, columns))
    for i, c, row, column in np.ndindex(*top.shape):
        up, left = row * stride, column * stride
        window = x[i, c, up : up + kernel, left : left + kernel]
        top[i, c, row, column] = mixed(layer, window, params)
    return top


@pytest.mark.parametrize("kind", TYPES)
@settings(max_examples=10)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 4), st.integers(0, 4))
def test_the_gate_mixes_the_sums(
    kind: type[GatedPooling], kernel: int, stride: int, height: int, width: int
) -> None:
    stride = min(stride, kernel)
    layer = kind(kernel_size=(kernel,), stride=(stride,))
    x = distinct(2, 3, kernel + height, kernel + width)
    params = [smooth(1, 1, kernel, kernel, seed=i + 1) for i in range(kind.kernels)]
    run = check_layer(layer, [x], params)
    np.testing.assert_allclose(run.tops[0], pooled(layer, x, params), rtol=1e-10, atol=1e-12)


def test_a_window_over_the_right_edge_counts_its_pixels() -> None:
    """Row by row: the second row of a window two pixels wide begins at the third weight."""
    x, gate = np.zeros((1, 1, 3, 4)), np.zeros((1, 1, 3, 3))
    x[0, 0, 1, 2] = 1.0
    gate[0, 0, 0, 2] = 5.0
    plain, counted = (
        forward(kind(kernel_size=(3,), stride=(2,)), [x], [gate]).tops[0]
        for kind in (TreepoolMaxAve, GatedMaxAve)
    )
    np.testing.assert_array_equal(plain[..., 0], counted[..., 0])
    assert math.isclose(plain[0, 0, 0, 1], 0.5 + 0.5 / 6)
    opened = 1 / (1 + math.exp(-5))
    assert math.isclose(counted[0, 0, 0, 1], opened + (1 - opened) / 6)


def test_pixels_that_equal_the_maximum_share_nothing() -> None:
    """Each of them has the whole gradient, as in the fork."""
    layer = TreepoolMaxAve(kernel_size=(2,))
    run = forward(layer, [np.ones((1, 1, 2, 2))], [np.zeros((1, 1, 2, 2))])
    [dx] = run.backward([np.ones((1, 1, 1, 1))]).bottoms
    np.testing.assert_allclose(dx, np.full((1, 1, 2, 2), 0.5 + 0.5 / 4))


def test_kernels_may_stride_over_the_edge() -> None:
    layer = TreepoolKernel1L(kernel_size=(1,), stride=(3,))
    run = check_layer(layer, [distinct(1, 2, 3, 2)])
    assert run.tops[0].shape == (1, 2, 2, 2)
    assert not run.tops[0][:, :, 1:].any() and not run.tops[0][..., 1:].any()


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("size", [(5, 5), (6, 6), (4, 6), (3, 3), (6, 3)])
def test_onnx(kind: type[GatedPooling], size: tuple[int, int]) -> None:
    layer = kind(kernel_size=(3,), stride=(2,))
    x, other = smooth(2, 3, *size), smooth(4, 3, *size, seed=5)
    found = check_lowering(layer, [x], other_batch=[other])
    assert found.count("Conv") == (3 if kind is TreepoolKernel1L else found.count("Conv"))
    assert found.count("Sigmoid") == 1


def test_onnx_of_a_single_narrow_column() -> None:
    check_lowering(GatedMaxAve(kernel_size=(3,), stride=(3,)), [smooth(1, 2, 4, 4)])


def test_a_net_learns_its_gates() -> None:
    text = """
        layer { name: "x" type: "Input" top: "x"
          input_param { shape { dim: 2 dim: 3 dim: 5 dim: 5 } } }
        layer { name: "pool" type: "GatedMaxAve" bottom: "x" top: "pool" param { lr_mult: 1 }
          convolution_param { kernel_size: 3 stride: 2
            weight_filler { type: "constant" value: 0.5 } } }
        layer { name: "t" type: "Input" top: "t"
          input_param { shape { dim: 2 dim: 3 dim: 2 dim: 2 } } }
        layer { name: "loss" type: "EuclideanLoss" bottom: "pool" bottom: "t" top: "loss" }
    """
    net = executor_of(graph_of(text))
    x = distinct(2, 3, 5, 5).astype(np.float32)
    net.data("x")[...] = x
    net.forward()
    net.backward()
    assert (net.params[0] == 0.5).all() and net.param_diffs[0].any()
    want = pooled(GatedMaxAve((3,), (2,)), x.astype(float), [np.full((1, 1, 3, 3), 0.5)])
    np.testing.assert_allclose(net.data("loss"), (want**2).sum() / 4, rtol=1e-5)


@pytest.mark.parametrize(
    ("layer", "shape", "setting"),
    [
        (TreepoolMaxAve(), (1, 1, 4, 4), "kernel_size"),
        (TreepoolMaxAve((2, 3)), (1, 1, 4, 4), "kernel_size"),
        (TreepoolMaxAve((5,)), (1, 1, 4, 4), "kernel_size"),
        (TreepoolMaxAve((2,)), (1, 4, 4), "kernel_size"),
        (TreepoolMaxAve((2,), (0,)), (1, 1, 4, 4), "stride"),
        (GatedMaxAve((1,), (3,)), (1, 1, 3, 2), "stride"),
    ],
)
def test_refusals(layer: GatedPooling, shape: tuple[int, ...], setting: str) -> None:
    with pytest.raises(Refusal) as caught:
        layer.infer(BlobType(shape))
    assert caught.value.setting == setting and caught.value.expected and caught.value.got


def test_cost_and_coordinates() -> None:
    x = BlobType((2, 3, 5, 5))
    for kind, kernels in zip(TYPES, (3, 1, 1), strict=True):
        layer = kind((3,), (2,))
        assert layer.cost((x,), layer.infer(x)) == 2 * 3 * 4 * 9 * kernels
        found = layer.coordinates()
        assert found is not None and found.scale == (0.5,)
