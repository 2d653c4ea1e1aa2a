from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.layers.convolution import Convolution
from netc.layers.depthwise import ConvolutionDepthwise
from netc.layers.types import BlobType, Refusal
from tests.support.audit import definition
from tests.support.layer_harness import check_layer, forward, smooth
from tests.support.lowering import check_lowering
from tests.support.nets import graph_of


@definition("ConvolutionDepthwise")
def slow_depthwise(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int, pad: int
) -> np.ndarray:
    """One output at a time: each sees the channel whose group it is in."""
    n, channels, height, width = x.shape
    outputs, _, kernel, _ = weight.shape
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    rows, columns = ((size + 2 * pad - kernel) // stride + 1 for size in (height, width))
    y = np.zeros((n, outputs, rows, columns))
    for image, o, i, j in np.ndindex(*y.shape):
        window = padded[
            image,
            o * channels // outputs,
            i * stride : i * stride + kernel,
            j * stride : j * stride + kernel,
        ]
        y[image, o, i, j] = (window * weight[o, 0]).sum() + bias[o]
    return y


@settings(max_examples=20)
@given(
    n=st.integers(1, 2),
    channels=st.integers(1, 4),
    multiple=st.integers(1, 2),
    size=st.integers(3, 5),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    pad=st.integers(0, 1),
)
def test_definition_and_gradient(
    n: int, channels: int, multiple: int, size: int, kernel: int, stride: int, pad: int
) -> None:
    multiple = multiple if channels > 1 else 1  # then group 1 says nothing
    layer = ConvolutionDepthwise(
        num_output=multiple * channels,
        group=channels if multiple > 1 else 1,
        kernel_size=(kernel,),
        stride=(stride,),
        pad=(pad,),
    )
    x = smooth(n, channels, size, size + 1)
    run = check_layer(layer, [x])
    want = slow_depthwise(x, *run.params, stride, pad)
    np.testing.assert_allclose(run.tops[0], want, rtol=1e-11, atol=1e-12)


def test_is_a_convolution_with_a_group_for_each_channel() -> None:
    common = dict(num_output=6, kernel_size=(3,), stride=(2,), pad=(1,), bias_term=False)
    layer, plain = ConvolutionDepthwise(**common), Convolution(group=6, **common)
    x, weight = smooth(2, 6, 7, 5), smooth(6, 1, 3, 3)
    shape = BlobType(x.shape)
    assert layer.infer(shape) == plain.infer(shape)
    assert layer.cost((shape,), layer.infer(shape)) == plain.cost((shape,), plain.infer(shape))
    np.testing.assert_array_equal(
        forward(layer, [x], [weight]).tops[0], forward(plain, [x], [weight]).tops[0]
    )
    assert dataclasses.replace(layer, bias_term=True).group == 6


@pytest.mark.parametrize("name", ["ConvolutionDepthwise", "DepthwiseConvolution"])
@pytest.mark.parametrize("group", ["", "group: 4"])
def test_from_text(name: str, group: str) -> None:
    graph = graph_of(
        'layer { name: "x" type: "Input" top: "x"'
        " input_param { shape { dim: 1 dim: 4 dim: 5 dim: 5 } } }"
        f'layer {{ name: "y" type: "{name}" bottom: "x" top: "y" '
        f"convolution_param {{ num_output: 4 kernel_size: 3 {group} }} }}"
    )
    assert [p.shape for p in graph.params] == [(4, 1, 3, 3), (4,)]
    assert graph.blobs["y"].shape == (1, 4, 3, 3)


def test_onnx() -> None:
    layer = ConvolutionDepthwise(num_output=3, kernel_size=(3,), pad=(1,))
    x = smooth(2, 3, 4, 4)
    assert check_lowering(layer, [x], other_batch=[smooth(3, 3, 4, 4)]) == ["Conv"]


@pytest.mark.parametrize(
    ("num_output", "group", "setting"),
    [(6, 1, "num_output"), (4, 2, "group"), (3, 3, "num_output"), (0, 1, "num_output")],
)
def test_refuses_what_is_not_depthwise(num_output: int, group: int, setting: str) -> None:
    layer = ConvolutionDepthwise(num_output=num_output, group=group, kernel_size=(1,))
    with pytest.raises(Refusal) as caught:
        layer.infer(BlobType((1, 4, 2, 2)))
    assert caught.value.setting == setting


def test_refuses_outputs_that_the_channels_do_not_divide() -> None:
    layer = ConvolutionDepthwise(num_output=6, group=4, kernel_size=(1,))
    with pytest.raises(Refusal, match="group does not divide"):
        layer.infer(BlobType((1, 4, 2, 2)))
