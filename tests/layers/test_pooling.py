from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.layers.pooling import LOWEST, Pooling, PoolMethod, RoundMode
from netc.layers.types import BlobType, Phase, Refusal
from tests.support.layer_harness import (
    assert_close,
    check_layer,
    check_refused,
    check_vector,
    distinct,
    forward,
    infer,
    load_vector,
    smooth,
    vector_names,
)
from tests.support.lowering import check_lowering

MAX, AVE, STOCHASTIC = PoolMethod.MAX, PoolMethod.AVE, PoolMethod.STOCHASTIC
EDGES = ["edge__pool_kernel_equals_padded_input", "edge__pool_kernel_larger_than_input_stride2"]


@pytest.mark.parametrize("name", [*vector_names("pooling"), *EDGES])
def test_golden_vector(name):
    check_vector(name)


# -- the definition --------------------------------------------------------------------------------


def spans(size, kernel, stride, pad, round_mode, padded):
    """Yield (first pixel, one behind the last, length that the mean divides by) of each window."""
    number = (size + 2 * pad - kernel) / stride
    places = (math.ceil if round_mode is RoundMode.CEIL else math.floor)(number) + 1
    if padded and (places - 1) * stride >= size + pad:
        places -= 1
    for place in range(places):
        start = place * stride - pad
        end = min(start + kernel, size + pad)
        yield max(start, 0), min(end, size), end - start


def pool(layer, x):
    """Return the top by the definition, or None where a window has nothing to say."""
    pads = [layer.pad_h or 0, layer.pad_w or 0]
    rows, columns = (
        list(spans(size, kernel, stride, pad, layer.round_mode, any(pads)))
        for size, kernel, stride, pad in zip(
            x.shape[2:],
            (layer.kernel_h, layer.kernel_w),
            (layer.stride_h, layer.stride_w),
            pads,
            strict=True,
        )
    )
    y = np.zeros((*x.shape[:2], len(rows), len(columns)))
    for i, (top, bottom, height) in enumerate(rows):
        for j, (left, right, width) in enumerate(columns):
            seen = x[:, :, top:bottom, left:right].reshape(*x.shape[:2], -1)
            if layer.pool is AVE:
                if seen.size == 0:
                    return None
                y[:, :, i, j] = seen.sum(axis=2) / (height * width)
            else:
                y[:, :, i, j] = seen.max(axis=2, initial=LOWEST)
    return y


@st.composite
def layer_and_sizes(draw):
    pair = lambda low, high: (draw(st.integers(low, high)), draw(st.integers(low, high)))  # noqa: E731
    (kernel_h, kernel_w), (stride_h, stride_w) = pair(1, 4), pair(1, 5)
    layer = Pooling(
        pool=draw(st.sampled_from([MAX, AVE])),
        kernel_h=kernel_h,
        kernel_w=kernel_w,
        stride_h=stride_h,
        stride_w=stride_w,
        pad_h=draw(st.integers(0, kernel_h - 1)),
        pad_w=draw(st.integers(0, kernel_w - 1)),
        round_mode=draw(st.sampled_from(RoundMode)),
    )
    return layer, pair(1, 9)


@given(layer_and_sizes())
@settings(max_examples=200)
def test_pooling_is_its_definition(layer_and_sizes):
    layer, sizes = layer_and_sizes
    x = distinct(2, 2, *sizes)
    want = pool(layer, x)
    if want is None or want.size == 0:
        with pytest.raises(Refusal):
            infer(layer, [x])
        return
    assert_close(forward(layer, [x]).tops[0], want, rtol=1e-12, atol=1e-12)


@given(layer_and_sizes())
@settings(max_examples=60)
def test_onnx_has_the_windows_and_divisors_of_the_definition(layer_and_sizes):
    layer, sizes = layer_and_sizes
    x = distinct(2, 2, *sizes)
    want = pool(layer, x)
    if want is not None and want.size:
        operators = check_lowering(layer, [x])
        assert set(operators) <= {"MaxPool", "AveragePool", "Mul", "Pad"}


# -- what every layer keeps ------------------------------------------------------------------------

CASES = {
    "2x2": ({"kernel_size": 2, "stride": 2}, (2, 3, 6, 4)),
    "overlapping": ({"kernel_size": 3, "stride": 2}, (2, 2, 7, 6)),
    "padded": ({"kernel_size": 3, "stride": 2, "pad": 1}, (2, 2, 6, 7)),
    "dense": ({"kernel_size": 3, "pad": 1}, (1, 2, 5, 4)),
    "over the edge": ({"kernel_size": 4, "stride": 3, "pad": 2}, (1, 2, 7, 6)),
    "h and w": (
        {"kernel_h": 3, "kernel_w": 2, "stride_h": 1, "stride_w": 3, "pad_h": 1, "pad_w": 0},
        (2, 2, 5, 7),
    ),
    "some pixels unseen": ({"kernel_size": 1, "stride": 3}, (1, 2, 7, 4)),
    "global": ({"global_pooling": True}, (2, 3, 4, 5)),
    "one window over the edge": ({"kernel_size": 4, "stride": 2}, (1, 2, 3, 3)),
    "many taps": ({"kernel_size": 16, "stride": 2}, (1, 1, 18, 18)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", [MAX, AVE])
def test_rules(method, case):
    options, shape = CASES[case]
    check_layer(Pooling(pool=method, **options), [distinct(*shape)])


@pytest.mark.parametrize(
    ("case", "method", "operators"),
    [
        ("2x2", MAX, ["MaxPool"]),
        ("2x2", AVE, ["AveragePool"]),
        ("overlapping", MAX, ["MaxPool"]),
        ("overlapping", AVE, ["AveragePool"]),
        ("padded", AVE, ["AveragePool", "Mul"]),
        ("dense", AVE, ["AveragePool"]),
        ("over the edge", MAX, ["MaxPool"]),
        ("global", MAX, ["GlobalMaxPool"]),
        ("global", AVE, ["GlobalAveragePool"]),
    ],
)
def test_onnx_operators(case, method, operators):
    options, shape = CASES[case]
    other = [distinct(3, *shape[1:])]
    layer = Pooling(pool=method, **options)
    assert check_lowering(layer, [distinct(*shape)], other_batch=other) == operators


# -- the mask --------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_mask_points_at_the_maximum(case):
    options, shape = CASES[case]
    x = distinct(*shape)
    layer = Pooling(top=("y", "mask"), **options)
    top, mask = check_layer(layer, [x], gradient=False).tops
    flat = x.reshape(*shape[:2], -1)
    found = np.take_along_axis(flat, mask.reshape(*shape[:2], -1).astype(int), axis=2)
    np.testing.assert_array_equal(found.reshape(top.shape), top)
    check_lowering(layer, [x])


def test_gradient_with_a_mask_is_that_without():
    x = distinct(1, 2, 5, 5)
    plain = forward(Pooling(kernel_size=3, stride=2), [x])
    masked = forward(Pooling(kernel_size=3, stride=2, top=("y", "mask")), [x])
    dy = smooth(*plain.tops[0].shape)
    np.testing.assert_array_equal(
        masked.backward([dy, np.full_like(dy, np.nan)]).bottoms[0], plain.backward([dy]).bottoms[0]
    )


def test_the_first_of_equal_pixels_counts():
    x = np.zeros((1, 1, 4, 4))
    run = forward(Pooling(kernel_size=2, stride=2, top=("y", "mask")), [x])
    assert run.tops[1].tolist() == [[[[0, 2], [8, 10]]]]
    whole = forward(Pooling(global_pooling=True, top=("y", "mask")), [x])
    assert whole.tops[1].item() == 0


def test_a_mask_of_windows_behind_the_image_is_minus_1_and_has_no_onnx_form():
    layer = Pooling(kernel_size=2, stride=3, top=("y", "mask"))
    x = distinct(1, 1, 6, 6)
    top, mask = forward(layer, [x]).tops
    assert (mask[0, 0, 2] == -1).all() and (top[0, 0, 2] == LOWEST).all()
    assert (mask[0, 0, :2, :2] >= 0).all()
    with pytest.raises(Exception, match="a mask over a window that lies wholly behind"):
        check_lowering(layer, [x])


def test_max_over_a_window_behind_the_image_has_no_gradient():
    vector = load_vector("pooling__max_empty_window")
    run = forward(Pooling(kernel_size=2, stride=3), [vector["input:x"]])
    with pytest.raises(Refusal, match="has no gradient"):
        run.backward([np.ones_like(vector["output:y"])])


# -- STOCHASTIC ------------------------------------------------------------------------------------


def test_expectation():
    x = np.array([[[[1.0, 3.0, 0.0, 0.0], [0.0, 4.0, 0.0, -2.0]]]])
    layer = Pooling(pool=STOCHASTIC, kernel_size=2, stride=2, phase=Phase.TEST)
    assert forward(layer, [x]).tops[0].tolist() == [[[[(1 + 9 + 16) / 8, 0]]]]


def test_rules_of_the_expectation():
    layer = Pooling(pool=STOCHASTIC, kernel_size=3, stride=2, phase=Phase.TEST)
    check_layer(layer, [distinct(2, 2, 6, 7) + 0.3])
    operators = check_lowering(layer, [distinct(2, 2, 6, 7)])
    assert operators.count("AveragePool") == 2


def test_rules_of_the_draw():
    layer = Pooling(pool=STOCHASTIC, kernel_size=3, stride=2)
    # All pixels positive and nearly alike: a step does not carry a running sum over the threshold.
    check_layer(layer, [1 + 1e-3 * distinct(2, 2, 6, 7)])


def test_pixels_are_drawn_as_often_as_they_are_large():
    x = np.tile([[1.0, 3.0], [0.0, 4.0]], (1, 1, 1, 5000)).reshape(1, 1, 2, -1)
    run = forward(Pooling(pool=STOCHASTIC, kernel_size=2, stride=2), [x])
    counts = {value: int((run.tops[0] == value).sum()) / 5000 for value in (0, 1, 3, 4)}
    # Three standard deviations of a share in 5,000 draws are at most 0.0212.
    assert counts[0] == 0
    for value in (1, 3, 4):
        assert abs(counts[value] - value / 8) < 0.0212
    dx = run.backward([np.ones_like(run.tops[0])]).bottoms[0]
    assert dx.sum() == 5000
    np.testing.assert_array_equal(dx.reshape(2, -1, 2).sum(axis=(0, 2)), 1)
    np.testing.assert_array_equal((dx * x).reshape(2, -1, 2).sum(axis=(0, 2)), run.tops[0].ravel())


def test_a_draw_from_nothing_positive_is_0_and_has_no_gradient():
    x = np.array([[[[0.0, -1.0], [-3.0, 0.0]]]])
    run = forward(Pooling(pool=STOCHASTIC, kernel_size=2), [x])
    assert run.tops[0].item() == 0
    assert not run.backward([np.ones((1, 1, 1, 1))]).bottoms[0].any()


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("pool_pad_not_less_than_kernel", "pad"),
        ("pool_kernel_size_and_kernel_h", "kernel_w"),
        ("pool_global_with_kernel", "kernel_size"),
        ("pool_global_with_stride", "stride"),
        ("pool_not_4d", ""),
    ],
)
def test_what_caffe_refuses(name, setting):
    check_refused(name, setting)


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        ({}, ""),
        ({"kernel_h": 2}, "kernel_h"),
        ({"kernel_size": 2, "kernel_h": 2}, "kernel_h"),
        ({"kernel_size": 0}, "kernel_size"),
        ({"kernel_size": 2, "stride": 0}, "stride"),
        ({"kernel_size": 2, "stride_w": 1}, "stride_w"),
        ({"kernel_size": 2, "stride": 1, "stride_h": 1, "stride_w": 1}, "stride_w"),
        ({"kernel_size": 2, "pad": 1, "pad_h": 1, "pad_w": 1}, "pad_w"),
        ({"kernel_size": 2, "pad_h": 1}, "pad_h"),
        ({"kernel_size": 7, "stride": 1}, "kernel_size"),
        ({"kernel_h": 2, "kernel_w": 7}, "kernel_w"),
        ({"kernel_size": 6, "stride": 2, "round_mode": RoundMode.FLOOR}, "kernel_size"),
        ({"kernel_size": 6, "stride": 2, "ceil_mode": False}, "kernel_size"),
        ({"kernel_size": 2, "ceil_mode": True, "round_mode": RoundMode.FLOOR}, "ceil_mode"),
        ({"kernel_size": 2, "pad": 1, "pool": STOCHASTIC}, "pad"),
        ({"kernel_size": 2, "pool": AVE, "top": ("y", "mask")}, "pool"),
        ({"kernel_size": 1, "stride": 5, "pool": AVE}, "round_mode"),
        ({"global_pooling": True, "pad_w": 1}, "pad_w"),
    ],
)
def test_settings_that_make_no_sense(options, setting):
    with pytest.raises(Refusal) as caught:
        Pooling(**options).infer(BlobType((1, 2, 5, 5)))
    assert caught.value.setting == setting


def test_global_pooling_may_repeat_its_only_stride_and_pad():
    layer = Pooling(global_pooling=True, stride=1, pad=0)
    assert layer.infer(BlobType((1, 2, 5, 7))).tops[0].shape == (1, 2, 1, 1)


def test_the_rule_of_the_last_window_holds_for_both_axes_if_one_is_padded():
    # Without padding along the width, its last window starts at the edge and is left out only
    # because the height is padded.
    layer = Pooling(kernel_h=2, kernel_w=1, stride_h=1, stride_w=2, pad_h=1, pad_w=0)
    assert layer.infer(BlobType((1, 1, 4, 4))).tops[0].shape == (1, 1, 5, 2)
    layer = Pooling(kernel_h=2, kernel_w=1, stride_h=1, stride_w=2)
    assert layer.infer(BlobType((1, 1, 4, 4))).tops[0].shape == (1, 1, 3, 3)


@pytest.mark.parametrize("pad", [0, 1])
@pytest.mark.parametrize("size", range(4, 9))
def test_ceil_mode_is_round_mode(size, pad):
    x = BlobType((1, 1, size, size))
    for ceil_mode, round_mode in ((True, RoundMode.CEIL), (False, RoundMode.FLOOR)):
        same = {"kernel_size": 3, "stride": 2, "pad": pad}
        forks = Pooling(**same, ceil_mode=ceil_mode).infer(x)
        assert forks == Pooling(**same, round_mode=round_mode).infer(x)


def test_the_choice_takes_a_byte_as_long_as_it_fits():
    x = BlobType((1, 1, 20, 20))
    assert Pooling(kernel_h=15, kernel_w=17).infer(x).kept[0].dtype == "uint8"
    assert Pooling(kernel_size=16).infer(x).kept[0].dtype == "int32"


def test_cost():
    x = BlobType((2, 3, 4, 4))
    for method, cost in ((MAX, 0), (AVE, 2 * 3 * 4 * 4)):
        layer = Pooling(pool=method, kernel_size=2, stride=2)
        assert layer.cost((x,), layer.infer(x)) == cost


def test_rounding_down_is_all_that_the_exported_pooling_needs():
    from netc.export import lower_layer

    layer = Pooling(kernel_size=3, stride=2)
    model = lower_layer(layer, [BlobType((1, 1, 8, 8))], [])
    [node] = model.graph.node
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    assert attributes["pads"] == [0, 0, 1, 1]
    assert "ceil_mode" not in attributes
