from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.layers.convolution import Convolution
from netc.layers.local import LocallyConnected
from netc.layers.types import BlobType, Refusal
from tests.support.audit import definition
from tests.support.layer_harness import check_layer, forward, smooth
from tests.support.lowering import check_lowering
from tests.support.nets import executor_of, graph_of, set_inputs


@settings(max_examples=20)
@given(
    n=st.integers(0, 2),
    channels=st.integers(1, 2),
    outputs=st.integers(1, 3),
    size=st.tuples(st.integers(3, 5), st.integers(3, 5)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pad=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    bias_term=st.booleans(),
)
@definition("LocallyConnected")
def test_definition_and_gradient(
    n: int,
    channels: int,
    outputs: int,
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pad: tuple[int, int],
    bias_term: bool,
) -> None:
    layer = LocallyConnected(
        num_output=outputs,
        bias_term=bias_term,
        kernel_h=kernel[0],
        kernel_w=kernel[1],
        stride_h=stride[0],
        stride_w=stride[1],
        pad_h=pad[0],
        pad_w=pad[1],
    )
    x = smooth(n, channels, *size)
    run = check_layer(layer, [x])
    weight, *bias = run.params
    padded = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in pad)))
    rows, columns = run.tops[0].shape[2:]
    for image, o, i, j in np.ndindex(*run.tops[0].shape):
        at = [slice(k * s, k * s + e) for k, s, e in zip((i, j), stride, kernel, strict=True)]
        place = i * columns + j
        y = padded[(image, slice(None), *at)].reshape(-1) @ weight[o, 0, :, place]
        y += bias[0][0, 0, o, place] if bias else 0
        np.testing.assert_allclose(run.tops[0][image, o, i, j], y, rtol=1e-11, atol=1e-12)
    assert layer.cost((BlobType(x.shape),), run.signature) == weight.size * n
    assert rows * columns == weight.shape[3]


def test_shared_weights_make_it_a_convolution() -> None:
    x, weight, bias = smooth(2, 3, 6, 5), smooth(4, 3, 3, 3, seed=1), smooth(4, seed=2)
    plain = Convolution(num_output=4, kernel_size=(3,), stride=(2,), pad=(1,))
    want = forward(plain, [x], [weight, bias]).tops[0]
    layer = LocallyConnected(num_output=4, kernel_size=3, stride=2, pad=1)
    places = want.shape[2] * want.shape[3]
    own = np.repeat(weight.reshape(4, 1, 27, 1), places, axis=3)
    biases = np.repeat(bias.reshape(1, 1, 4, 1), places, axis=3)
    np.testing.assert_allclose(forward(layer, [x], [own, biases]).tops[0], want, rtol=1e-11)


def test_onnx() -> None:
    layer = LocallyConnected(num_output=4, kernel_size=3, stride=2, pad_h=1, pad_w=0)
    x, more = smooth(2, 3, 6, 5), smooth(3, 3, 6, 5)
    operators = check_lowering(layer, [x], other_batch=[more])
    assert operators.count("Conv") == operators.count("MatMul") == operators.count("Add") == 1
    check_lowering(LocallyConnected(num_output=1, kernel_size=1, bias_term=False), [x])


@pytest.mark.parametrize(
    ("settings", "shape", "setting"),
    [
        ({"num_output": 0, "kernel_size": 1}, (1, 1, 2, 2), "num_output"),
        ({"num_output": 1}, (1, 1, 2, 2), "kernel_h"),
        ({"num_output": 1, "kernel_size": 0}, (1, 1, 2, 2), "kernel_size"),
        ({"num_output": 1, "kernel_size": 3}, (1, 1, 2, 2), "kernel_size"),
        ({"num_output": 1, "kernel_size": 1, "kernel_h": 1}, (1, 1, 2, 2), "kernel_h"),
        ({"num_output": 1, "kernel_size": 1, "pad": 1, "pad_w": 1}, (1, 1, 2, 2), "pad_w"),
        ({"num_output": 1, "kernel_size": 1, "stride": 0}, (1, 1, 2, 2), "stride"),
        ({"num_output": 1, "kernel_size": 1}, (1, 1, 2), ""),
    ],
)
def test_refuses(settings: dict[str, int], shape: tuple[int, ...], setting: str) -> None:
    with pytest.raises(Refusal) as caught:
        LocallyConnected(**settings).infer(BlobType(shape))
    assert caught.value.setting == setting


@pytest.mark.parametrize("name", ["Local", "LocallyConnected"])
def test_from_text(name: str) -> None:
    net = executor_of(
        graph_of(
            'layer { name: "x" type: "Input" top: "x"'
            " input_param { shape { dim: 2 dim: 3 dim: 5 dim: 5 } } }"
            f'layer {{ name: "y" type: "{name}" bottom: "x" top: "y" local_param {{'
            ' num_output: 2 kernel_size: 3 stride: 2 weight_filler { type: "xavier" } } }'
        ),
        train=False,
    )
    set_inputs(net)
    net.forward()
    assert net.data("y").shape == (2, 2, 2, 2)
    assert net.data("y").any()
