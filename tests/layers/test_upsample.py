"""Undoing a pooling: with its mask, without one, and by spreading values over windows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.errors import NetcError
from netc.layers.pooling import Pooling
from netc.layers.types import BlobType, Layer, Refusal
from netc.layers.upsample import Unpooling, UnpoolMethod, Upsample
from tests.support.audit import definition
from tests.support.layer_harness import assert_close, check_layer, distinct, forward, infer, smooth
from tests.support.lowering import check_lowering

AVE, TILE = UnpoolMethod.AVE, UnpoolMethod.TILE


def pooled(x: np.ndarray, **window: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the maxima of an image's windows and their mask."""
    maximum, mask = forward(Pooling(top=("y", "mask"), **window), [x]).tops
    return maximum, mask


@definition("Upsample")
def put_back(x: np.ndarray, mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return each value at its place, one at a time."""
    y = np.zeros((*x.shape[:2], height, width))
    for index in np.ndindex(*x.shape):
        row, column = divmod(int(mask[index]), width)
        y[(*index[:2], row, column)] = x[index]
    return y


SIZES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(2, 9), st.integers(2, 9))


@given(SIZES)
@settings(max_examples=25)
def test_what_was_pooled_returns_to_its_place(shape: tuple[int, ...]) -> None:
    x = distinct(*shape)
    _, mask = pooled(x, kernel_size=2, stride=2)
    layer = Upsample(upsample_h=shape[2], upsample_w=shape[3])
    if Upsample().infer(*[BlobType(mask.shape)] * 2).tops[0].shape == shape:
        layer = Upsample()
    values = smooth(*mask.shape, seed=5)
    run = check_layer(layer, [values, mask])
    np.testing.assert_array_equal(run.tops[0], put_back(values, mask, *shape[2:]))
    unpooling = Unpooling(kernel_size=2, stride=2, unpool_h=shape[2], unpool_w=shape[3])
    np.testing.assert_array_equal(check_layer(unpooling, [values, mask]).tops[0], run.tops[0])


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (Upsample(), (8, 6)),
        (Upsample(scale=3), (12, 9)),
        (Upsample(scale_h=2, scale_w=4), (8, 12)),
        (Upsample(scale=2, pad_out_h=True), (7, 6)),
        (Upsample(pad_out_w=True), (8, 5)),
        (Upsample(upsample_h=9, upsample_w=5), (9, 5)),
        (Upsample(scale=2, upsample_h=7, upsample_w=6), (7, 6)),
    ],
)
def test_with_a_mask_the_size_is_what_the_fields_say(
    layer: Upsample, size: tuple[int, int]
) -> None:
    x = [smooth(2, 3, 4, 3), np.broadcast_to(np.arange(12.0).reshape(4, 3), (2, 3, 4, 3))]
    run = check_layer(layer, x)
    np.testing.assert_array_equal(run.tops[0], put_back(*x, *size))
    other = [smooth(3, 3, 4, 3), np.broadcast_to(x[1][:1], (3, 3, 4, 3))]
    assert "ScatterElements" in check_lowering(layer, x, other_batch=other)


def test_of_two_values_in_one_place_the_last_counts_and_both_get_the_gradient() -> None:
    x = [np.array([[[[1.0, 2.0]]]]), np.array([[[[3.0, 3.0]]]])]
    run = forward(Upsample(), x)
    np.testing.assert_array_equal(run.tops[0].ravel(), [0, 0, 0, 2, 0, 0, 0, 0])
    [dx, _] = run.backward([smooth(1, 1, 2, 4)]).bottoms
    assert dx[0, 0, 0, 0] == dx[0, 0, 0, 1] == smooth(1, 1, 2, 4)[0, 0, 0, 3]


@pytest.mark.parametrize("place", [-1, 24])
@pytest.mark.parametrize("layer", [Upsample(), Unpooling(kernel_size=2, unpool_h=4, unpool_w=6)])
def test_a_place_outside_the_top_is_refused(layer: Layer, place: int) -> None:
    mask = np.full((1, 1, 2, 3), 23.0)
    mask[0, 0, 1, 1] = place
    with pytest.raises(Refusal, match="outside") as caught:
        forward(layer, [smooth(1, 1, 2, 3), mask])
    assert caught.value.got.startswith(f"{place},")
    assert caught.value.expected.startswith("0..23")


@pytest.mark.parametrize("layer", [Upsample(), Upsample(scale=3), Upsample(scale_h=1, scale_w=2)])
def test_without_a_mask_pixels_are_repeated(layer: Upsample) -> None:
    x = smooth(2, 3, 4, 5)
    down, across = layer._factors()
    run = check_layer(layer, [x])
    np.testing.assert_array_equal(run.tops[0], x.repeat(down, axis=2).repeat(across, axis=3))
    assert check_lowering(layer, [x], other_batch=[smooth(5, 3, 4, 5)]) == ["Resize"]


X, XX = [(1, 2, 3, 4)], [(1, 2, 3, 4)] * 2


@pytest.mark.parametrize(
    ("layer", "setting", "shapes"),
    [
        (Upsample(upsample_h=4), "upsample_h", XX),
        (Upsample(scale_w=4), "scale_w", XX),
        (Upsample(upsample_h=1, upsample_w=4), "upsample_h", XX),
        (Upsample(upsample_h=4, upsample_w=4), "upsample_h", X),
        (Upsample(upsample_h=4, upsample_w=4, pad_out_w=True), "pad_out_w", XX),
        (Upsample(scale=1), "scale", XX),
        (Upsample(scale=0), "scale", X),
        (Upsample(scale_h=2, scale_w=1), "scale_w", XX),
        (Upsample(scale=2, scale_h=2, scale_w=2), "scale", XX),
        (Upsample(scale=3, pad_out_h=True), "pad_out_h", XX),
        (Upsample(pad_out_h=True), "pad_out_h", X),
        (Upsample(), "", [(1, 2, 3)]),
        (Upsample(), "", [(1, 2, 3, 4), (1, 2, 3, 5)]),
        (Unpooling(), "kernel_size", X),
        (Unpooling(kernel_h=2), "kernel_h", X),
        (Unpooling(kernel_size=2, kernel_h=2, kernel_w=2), "kernel_size", X),
        (Unpooling(kernel_size=0), "kernel_size", X),
        (Unpooling(kernel_size=2, stride_w=2), "stride_w", X),
        (Unpooling(kernel_size=2, stride=0), "stride", X),
        (Unpooling(kernel_size=2, unpool_size=4, unpool_h=4, unpool_w=4), "unpool_size", X),
        (Unpooling(kernel_size=2, pad=1), "pad", X),
        (Unpooling(kernel_size=2, unpool=AVE), "unpool", XX),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    layer: Layer, setting: str, shapes: list[tuple[int, ...]]
) -> None:
    with pytest.raises(Refusal) as caught:
        infer(layer, [np.zeros(shape) for shape in shapes])
    assert caught.value.setting == setting
    assert caught.value.expected and caught.value.got != ""


# -- Unpooling -------------------------------------------------------------------------------------


@definition("Unpooling")
def spread(layer: Unpooling, x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the sum over windows, pixel by pixel."""
    kernel, stride = layer.kernel_size or 0, layer.stride or 1
    y = np.zeros((*x.shape[:2], *size))
    for i, j in np.ndindex(*x.shape[2:]):
        window = (
            ...,
            slice(i * stride, min(i * stride + kernel, size[0])),
            slice(j * stride, min(j * stride + kernel, size[1])),
        )
        if layer.unpool is UnpoolMethod.MAX:
            y[..., min(i * stride, size[0] - 1), min(j * stride, size[1] - 1)] = x[..., i, j]
            continue
        area = max(y[window][0, 0].size, 1) if layer.unpool is AVE else 1
        y[window] += x[..., i, j][..., None, None] / area
    return y


@given(
    st.sampled_from(list(UnpoolMethod)),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 3),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
@settings(max_examples=40)
def test_windows_are_filled(
    method: UnpoolMethod, kernel: int, stride: int, more: int, size: tuple[int, int]
) -> None:
    x = smooth(2, 2, *size)
    plain = Unpooling(unpool=method, kernel_size=kernel, stride=stride)
    found = plain.infer(BlobType(x.shape)).tops[0].shape[2:]
    assert found == tuple(max((n - 1) * stride + kernel, n * stride + 1) for n in size)
    enough = tuple((n - 1) * stride + 1 + more for n in size)
    sized = Unpooling(
        unpool=method, kernel_size=kernel, stride=stride, unpool_h=enough[0], unpool_w=enough[1]
    )
    for layer, top in ((plain, found), (sized, enough)):
        run = check_layer(layer, [x])
        assert_close(run.tops[0], spread(layer, x, top), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", list(UnpoolMethod))
@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 2), (2, 3)])
@pytest.mark.parametrize("size", [None, 5, 9])
def test_windows_are_filled_in_onnx(
    method: UnpoolMethod, kernel: int, stride: int, size: int | None
) -> None:
    layer = Unpooling(unpool=method, kernel_size=kernel, stride=stride, unpool_size=size)
    if size == 5 and stride == 3 and method is UnpoolMethod.MAX:
        with pytest.raises(NetcError, match="several windows"):
            check_lowering(layer, [smooth(2, 3, 3, 3)])
        return
    check_lowering(layer, [smooth(2, 3, 3, 3)], other_batch=[smooth(4, 3, 3, 3)])


def test_unpooling_puts_back_what_was_pooled_in_onnx_too() -> None:
    x = distinct(2, 3, 7, 6)
    values, mask = pooled(x, kernel_size=3, stride=2)
    layer = Unpooling(kernel_size=3, stride=2, unpool_h=7, unpool_w=6)
    run = forward(layer, [values, mask])
    np.testing.assert_array_equal(run.tops[0], np.where(run.tops[0] == 0, 0, x))
    # Windows overlap, and those that meet at one pixel hold the same value.
    check_lowering(layer, [values, mask])
