from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.layers import convolution
from netc.layers.convolution import Convolution, Deconvolution, Im2col
from netc.layers.types import BlobType, Refusal
from tests.support.layer_harness import (
    assert_close,
    check_layer,
    check_refused,
    check_vector,
    forward,
    infer,
    smooth,
    vector_names,
)
from tests.support.lowering import check_lowering


@pytest.mark.parametrize("name", vector_names("convolution", "deconvolution", "im2col"))
def test_golden_vector(name):
    check_vector(name)


# -- the definition --------------------------------------------------------------------------------


def windows(shape, places, kernel, stride, pad, dilation):
    """Yield (place, tap, pixel) wherever a tap of a window lies inside the image."""
    for place in np.ndindex(*places):
        for tap in np.ndindex(*kernel):
            pixel = tuple(
                p * s - d + t * r
                for p, s, d, t, r in zip(place, stride, pad, tap, dilation, strict=True)
            )
            if all(0 <= i < n for i, n in zip(pixel, shape, strict=True)):
                yield place, tap, pixel


def convolve(x, weight, bias, places, stride, pad, dilation, group):
    y = np.zeros((x.shape[0], weight.shape[0], *places))
    per_group = weight.shape[0] // group
    for place, tap, pixel in windows(x.shape[2:], places, weight.shape[2:], stride, pad, dilation):
        for o in range(weight.shape[0]):
            first = o // per_group * weight.shape[1]
            for c in range(weight.shape[1]):
                y[(slice(None), o, *place)] += (
                    weight[(o, c, *tap)] * x[(slice(None), first + c, *pixel)]
                )
    return y + bias.reshape(-1, *[1] * len(places))


def deconvolve(x, weight, bias, pixels, stride, pad, dilation, group):
    outputs = weight.shape[1]
    y = np.zeros((x.shape[0], outputs * group, *pixels))
    per_group = weight.shape[0] // group
    for place, tap, pixel in windows(pixels, x.shape[2:], weight.shape[2:], stride, pad, dilation):
        for c in range(weight.shape[0]):
            first = c // per_group * outputs
            for o in range(outputs):
                y[(slice(None), first + o, *pixel)] += (
                    weight[(c, o, *tap)] * x[(slice(None), c, *place)]
                )
    return y + bias.reshape(-1, *[1] * len(pixels))


@st.composite
def settings_of_a_kernel(draw):
    axes = draw(st.integers(0, 3))
    per_axis = lambda low, high: tuple(  # noqa: E731 - a def would need three lines to say less
        draw(st.lists(st.integers(low, high), min_size=axes, max_size=axes))
    )
    group = draw(st.integers(1, 2))
    return {
        "sizes": per_axis(1, 6),
        "kernel": per_axis(1, 3),
        "stride": per_axis(1, 3),
        "pad": per_axis(0, 2),
        "dilation": per_axis(1, 2),
        "group": group,
        "channels": group * draw(st.integers(1, 2)),
        "outputs": group * draw(st.integers(1, 2)),
    }


def layer_and_bottom(kind, s):
    layer = kind(
        num_output=s["outputs"],
        group=s["group"],
        kernel_size=s["kernel"],
        stride=s["stride"],
        pad=s["pad"],
        dilation=s["dilation"],
    )
    return layer, smooth(2, s["channels"], *s["sizes"])


def extents(s):
    return [d * (k - 1) + 1 for k, d in zip(s["kernel"], s["dilation"], strict=True)]


@given(settings_of_a_kernel())
@settings(max_examples=60)
def test_convolution_is_its_definition(s):
    layer, x = layer_and_bottom(Convolution, s)
    # C's division: towards zero.
    places = [
        math.trunc((n + 2 * p - e) / stride) + 1
        for n, p, e, stride in zip(s["sizes"], s["pad"], extents(s), s["stride"], strict=True)
    ]
    if min(places, default=1) < 1:
        with pytest.raises(Refusal, match="larger than the bottom"):
            infer(layer, [x])
        return
    w, b = (smooth(*p.shape, seed=3) for p in infer(layer, [x]).params)
    want = convolve(x, w, b, places, s["stride"], s["pad"], s["dilation"], s["group"])
    assert_close(forward(layer, [x], [w, b]).tops[0], want, rtol=1e-12, atol=1e-12)


@given(settings_of_a_kernel())
@settings(max_examples=60)
def test_deconvolution_is_its_definition(s):
    layer, x = layer_and_bottom(Deconvolution, s)
    pixels = [
        stride * (n - 1) + e - 2 * p
        for n, p, e, stride in zip(s["sizes"], s["pad"], extents(s), s["stride"], strict=True)
    ]
    if min(pixels, default=1) < 1:
        with pytest.raises(Refusal, match="nothing is left"):
            infer(layer, [x])
        return
    w, b = (smooth(*p.shape, seed=3) for p in infer(layer, [x]).params)
    want = deconvolve(x, w, b, pixels, s["stride"], s["pad"], s["dilation"], s["group"])
    assert_close(forward(layer, [x], [w, b]).tops[0], want, rtol=1e-12, atol=1e-12)


def test_im2col_is_what_a_convolution_multiplies():
    x = smooth(2, 3, 7, 6)
    shared = {"kernel_size": (3, 2), "stride": (2,), "pad": (1, 0), "dilation": (1, 2)}
    columns = forward(Im2col(**shared), [x]).tops[0]
    layer = Convolution(num_output=4, bias_term=False, **shared)
    weight = smooth(4, 3, 3, 2, seed=1)
    product = np.einsum("ok,nkp->nop", weight.reshape(4, -1), columns.reshape(2, 18, -1))
    want = forward(layer, [x], [weight]).tops[0]
    assert_close(product.reshape(want.shape), want, rtol=1e-12, atol=1e-12)


# -- what every layer keeps ------------------------------------------------------------------------

CASES = {
    "plain": ({"num_output": 4, "kernel_size": (3,)}, (2, 3, 6, 5)),
    "stride, pad, group": (
        {"num_output": 4, "kernel_size": (3,), "stride": (2,), "pad": (1,), "group": 2},
        (2, 4, 7, 6),
    ),
    "dilation, no bias": (
        {"num_output": 2, "kernel_size": (3,), "dilation": (2,), "pad": (2,), "bias_term": False},
        (2, 3, 6, 7),
    ),
    "depthwise": ({"num_output": 3, "kernel_size": (3,), "pad": (1,), "group": 3}, (2, 3, 4, 5)),
    "h and w": (
        {"num_output": 2, "kernel_h": 2, "kernel_w": 3, "stride_h": 2, "stride_w": 1, "pad_w": 2},
        (2, 3, 6, 5),
    ),
    "one spatial axis": ({"num_output": 2, "kernel_size": (3,), "stride": (2,)}, (2, 3, 8)),
    "three spatial axes": ({"num_output": 2, "kernel_size": (2,), "pad": (1,)}, (2, 2, 3, 2, 3)),
    "no spatial axis": ({"num_output": 2}, (3, 4)),
    "axis 2": ({"num_output": 3, "kernel_size": (2,), "axis": 2}, (2, 2, 3, 4, 4)),
    "axis 0": ({"num_output": 3, "kernel_size": (2,), "axis": 0}, (2, 4, 4)),
    "axis from the end": ({"num_output": 3, "kernel_size": (2,), "axis": -3}, (2, 2, 4, 4)),
    "some pixels unseen": ({"num_output": 2, "kernel_size": (2,), "stride": (3,)}, (1, 2, 6, 7)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", [Convolution, Deconvolution])
def test_rules(kind, case):
    options, shape = CASES[case]
    check_layer(kind(**options), [smooth(*shape)])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", [Convolution, Deconvolution])
def test_onnx(kind, case):
    options, shape = CASES[case]
    op = "Conv" if kind is Convolution else "ConvTranspose"
    operators = check_lowering(kind(**options), [smooth(*shape)])
    reshaped = case.startswith(("axis 2", "axis 0", "no spatial"))
    assert operators == (["Reshape", op, "Reshape"] if reshaped else [op])


def test_onnx_with_an_open_batch_size():
    layer = Convolution(num_output=2, kernel_size=(3,), pad=(1,))
    check_lowering(layer, [smooth(2, 3, 5, 5)], other_batch=[smooth(5, 3, 5, 5)])


def test_a_window_that_only_truncation_allows():
    # (3 - 4) / 2 + 1 is 1 in C. The window reaches over the edge, where zeros are.
    layer = Convolution(num_output=2, kernel_size=(4,), stride=(2,))
    run = check_layer(layer, [smooth(1, 2, 3, 3)])
    assert run.tops[0].shape == (1, 2, 1, 1)
    assert check_lowering(layer, [smooth(1, 2, 3, 3)]) == ["Conv"]


@pytest.mark.parametrize("kind", [Convolution, Deconvolution])
def test_several_bottoms_share_the_weights(kind):
    layer = kind(num_output=2, kernel_size=(2,))
    xs = [smooth(2, 3, 4, 4, seed=seed) for seed in range(2)]
    run = check_layer(layer, xs)
    for x, top in zip(xs, run.tops, strict=True):
        assert_close(top, forward(layer, [x], run.params).tops[0], rtol=1e-12, atol=1e-12)
    assert len(check_lowering(layer, xs)) == 2


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"kernel_size": (3,), "stride": (2,), "pad": (1,)}, (2, 3, 6, 5)),
        ({"kernel_size": (2,), "dilation": (2,)}, (2, 2, 7)),
        ({"kernel_size": (2,), "axis": 2}, (2, 2, 2, 4, 4)),
    ],
)
def test_im2col(options, shape):
    check_layer(Im2col(**options), [smooth(*shape)])
    assert "Conv" in check_lowering(Im2col(**options), [smooth(*shape)])


def test_few_images_at_a_time_are_as_good_as_all(monkeypatch):
    layer = Convolution(num_output=4, kernel_size=(3,), pad=(1,), group=2)
    x = smooth(5, 4, 6, 6)
    params = [smooth(*p.shape, seed=1) for p in infer(layer, [x]).params]
    whole = forward(layer, [x], params)
    gradients = whole.backward([smooth(*whole.tops[0].shape, seed=2)])
    for numbers in (1, 2 * 4 * 9 * 36):
        monkeypatch.setattr(convolution, "PATCH_NUMBERS", numbers)
        parts = forward(layer, [x], params)
        assert_close(parts.tops[0], whole.tops[0], rtol=1e-12, atol=1e-12)
        found = parts.backward([smooth(*whole.tops[0].shape, seed=2)])
        for a, b in zip(
            (*found.bottoms, *found.params), (*gradients.bottoms, *gradients.params), strict=True
        ):
            assert_close(a, b, rtol=1e-12, atol=1e-12)


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("conv_channels_not_divisible_by_group", "group"),
        ("conv_num_output_not_divisible_by_group", "group"),
        ("conv_no_kernel", "kernel_size"),
        ("conv_kernel_larger_than_input", "kernel_size"),
        ("conv_stride_zero", "stride"),
        ("conv_num_output_missing", "num_output"),
        ("conv_too_many_kernel_dims", "kernel_size"),
    ],
)
def test_what_caffe_refuses(name, setting):
    check_refused(name, setting)


def test_the_hint_for_a_wrong_group_names_the_right_ones():
    with pytest.raises(Refusal) as caught:
        Convolution(num_output=12, kernel_size=(1,), group=5).infer(BlobType((1, 20, 4, 4)))
    assert caught.value.what == "group does not divide the outputs"
    assert caught.value.hint == "use a divisor of 12: 1, 2, 3, 4, 6, 12"


@pytest.mark.parametrize("kind", [Convolution, Deconvolution, Im2col])
@pytest.mark.parametrize(
    ("options", "shape", "setting"),
    [
        ({"kernel_size": (3,), "kernel_h": 3, "kernel_w": 3}, (1, 2, 5, 5), "kernel_h"),
        ({"kernel_h": 3}, (1, 2, 5, 5), "kernel_h"),
        ({"kernel_w": 3}, (1, 2, 5, 5), "kernel_w"),
        ({"kernel_h": 3, "kernel_w": 3}, (1, 2, 5), "kernel_h"),
        ({"kernel_size": (3,), "stride_w": 2}, (1, 2, 5, 5), "stride_w"),
        ({"kernel_size": (3,), "pad": (1, 1, 1)}, (1, 2, 5, 5), "pad"),
        ({"kernel_size": (3,), "pad": (1,), "pad_h": 1}, (1, 2, 5, 5), "pad_h"),
        ({"kernel_size": (3,), "dilation": (0,)}, (1, 2, 5, 5), "dilation"),
        ({"kernel_size": (0,)}, (1, 2, 5, 5), "kernel_size"),
        ({"kernel_size": (3,), "axis": 4}, (1, 2, 5, 5), "axis"),
    ],
)
def test_settings_that_make_no_sense(kind, options, shape, setting):
    layer = kind(**options) if kind is Im2col else kind(num_output=2, **options)
    with pytest.raises(Refusal) as caught:
        layer.infer(BlobType(shape))
    assert caught.value.setting == setting


def test_pad_h_alone_leaves_the_width_without_padding():
    layer = Convolution(num_output=1, kernel_size=(1,), pad_h=2)
    assert layer.infer(BlobType((1, 1, 3, 3))).tops[0].shape == (1, 1, 7, 3)


def test_bottoms_of_different_shapes_are_refused():
    layer = Convolution(num_output=1, kernel_size=(1,))
    with pytest.raises(Refusal, match="differ in shape"):
        layer.infer(BlobType((1, 1, 3, 3)), BlobType((1, 1, 3, 4)))


def test_im2col_needs_a_spatial_axis():
    with pytest.raises(Refusal, match="no axis for the windows"):
        Im2col(kernel_size=(1,)).infer(BlobType((2, 3)))


@pytest.mark.parametrize("kind", [Convolution, Deconvolution])
def test_cost_counts_the_products_of_the_definition(kind):
    layer = kind(num_output=4, kernel_size=(3,), group=2)
    x = BlobType((2, 6, 7, 7))
    signature = layer.infer(x)
    # Without padding every tap of every window is inside: a product for each channel of the group.
    side = 5 if kind is Convolution else 7
    others = 6 // 2 * 4 if kind is Convolution else 4 // 2 * 6
    assert layer.cost((x,), signature) == 2 * others * 9 * side * side


def test_params_are_in_caffes_order_and_shape():
    weight, bias = (
        Deconvolution(num_output=6, kernel_size=(2, 3), group=3)
        .infer(BlobType((1, 9, 4, 4)))
        .params
    )
    assert (weight.shape, bias.shape) == ((9, 2, 2, 3), (6,))
