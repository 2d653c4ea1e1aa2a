"""Interpolation: by its definition, and as OpenCV and ONNX Runtime do it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.layers.interp import CropAndResize, Interp, Method
from netc.layers.types import Refusal
from tests.support.audit import definition
from tests.support.layer_harness import assert_close, check_layer, forward, infer, smooth
from tests.support.lowering import check_lowering

# float32 in OpenCV, which rounds positions too.
OPENCV = 1e-5


@definition("Interp")
def by_definition(x: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the bilinear value of each new pixel, one at a time."""

    def around(i: int, new: int, old: int) -> tuple[int, int, float]:
        at = i * (old - 1) / (new - 1) if new > 1 else 0.0
        # A hair more, as at is a fraction: a whole position has to stay one.
        first = min(int(at + 1e-9), old - 1)
        return first, min(first + 1, old - 1), max(at - first, 0.0)

    y = np.empty((*x.shape[:2], height, width))
    for i in range(height):
        a, b, v = around(i, height, x.shape[2])
        for j in range(width):
            c, d, w = around(j, width, x.shape[3])
            above = x[:, :, a, c] * (1 - w) + x[:, :, a, d] * w
            below = x[:, :, b, c] * (1 - w) + x[:, :, b, d] * w
            y[:, :, i, j] = above * (1 - v) + below * v
    return y


SIZES = st.tuples(*[st.integers(1, 7)] * 2)


@given(SIZES, SIZES)
@settings(max_examples=40)
def test_every_size_becomes_every_size(old: tuple[int, int], new: tuple[int, int]) -> None:
    x = smooth(2, 3, *old)
    layer = Interp(height=new[0], width=new[1])
    run = check_layer(layer, [x])
    assert_close(run.tops[0], by_definition(x, *new), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(3,), (3, 2), (2, 3, 4)])
def test_missing_axes_have_size_one(shape: tuple[int, ...]) -> None:
    x = smooth(*shape)
    layer = Interp(height=5, width=2)
    run = check_layer(layer, [x])
    whole = x.reshape(shape + (1,) * (4 - len(shape)))
    assert_close(run.tops[0], by_definition(whole, 5, 2), rtol=1e-9, atol=1e-9)
    check_lowering(layer, [x])


@given(SIZES, SIZES)
@settings(max_examples=12)
def test_onnx_gives_the_same(old: tuple[int, int], new: tuple[int, int]) -> None:
    layer = Interp(height=new[0], width=new[1])
    operators = check_lowering(layer, [smooth(2, 3, *old)], other_batch=[smooth(4, 3, *old)])
    # The sizes are put together from that of the batch.
    assert operators in (["Shape", "Slice", "Concat", "Resize"], ["Identity"])


@pytest.mark.parametrize(
    ("old", "new"), [((6, 6), (60, 60)), ((60, 45), (13, 7)), ((3, 2), (9, 5))]
)
def test_opencv_gives_the_same(old: tuple[int, int], new: tuple[int, int]) -> None:
    text = f"""
        input: "x" input_shape {{ dim: 1 dim: 2 dim: {old[0]} dim: {old[1]} }}
        layer {{ name: "y" type: "Interp" bottom: "x" top: "y"
                 interp_param {{ height: {new[0]} width: {new[1]} }} }}"""
    x = smooth(1, 2, *old).astype(np.float32)
    net = cv2.dnn.readNetFromCaffe(np.frombuffer(text.encode(), np.uint8))
    net.setInput(x)
    y = forward(Interp(height=new[0], width=new[1]), [x]).tops[0]
    assert_close(y, net.forward(), rtol=OPENCV, atol=OPENCV)


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (Interp(zoom_factor=8), (41, 33)),
        (Interp(shrink_factor=4), (2, 2)),
        (Interp(shrink_factor=2, zoom_factor=3), (7, 7)),
        (Interp(height=9, width=2), (9, 2)),
        (Interp(height=41, width=33, zoom_factor=8), (41, 33)),
        (Interp(pad_beg=-1, pad_end=-2, zoom_factor=2), (5, 3)),
        (Interp(pad_beg=-1, pad_end=-1, height=4, width=3), (4, 3)),
        (Interp(pad_beg=-1, height=3, width=7), (3, 7)),
    ],
)
def test_the_size_is_what_the_fields_say(layer: Interp, size: tuple[int, int]) -> None:
    x = smooth(2, 1, 6, 5)
    run = check_layer(layer, [x])
    assert run.tops[0].shape[2:] == size
    cut = x[:, :, -layer.pad_beg : 6 + layer.pad_end, -layer.pad_beg : 5 + layer.pad_end]
    assert_close(run.tops[0], by_definition(cut, *size), rtol=1e-9, atol=1e-9)
    check_lowering(layer, [x])


def test_the_size_may_be_that_of_another_blob() -> None:
    x = [smooth(2, 3, 4, 5), smooth(1, 7, 9, 8)]
    layer = Interp(use_blob_size=True)
    run = check_layer(layer, x)
    assert_close(run.tops[0], by_definition(x[0], 9, 8), rtol=1e-9, atol=1e-9)
    check_lowering(layer, x)


def test_large_sizes_place_whole_positions_exactly() -> None:
    x = smooth(1, 1, 60, 60).astype(np.float32)
    y = forward(Interp(zoom_factor=8), [x]).tops[0]
    np.testing.assert_array_equal(y[:, :, ::8, ::8], x)


@pytest.mark.parametrize(
    ("layer", "setting", "shapes"),
    [
        (Interp(), "height", [(1, 1, 4, 4)]),
        (Interp(height=3), "width", [(1, 1, 4, 4)]),
        (Interp(height=0, width=3), "height", [(1, 1, 4, 4)]),
        (Interp(zoom_factor=0), "zoom_factor", [(1, 1, 4, 4)]),
        (Interp(shrink_factor=-1), "shrink_factor", [(1, 1, 4, 4)]),
        (Interp(zoom_factor=2, height=9), "height", [(1, 1, 4, 4)]),
        (Interp(pad_beg=1, zoom_factor=2), "pad_beg", [(1, 1, 4, 4)]),
        (Interp(pad_end=-4, zoom_factor=2), "pad_end", [(1, 1, 4, 4)]),
        (Interp(zoom_factor=2), "", [(1, 1, 1, 4, 4)]),
        (Interp(zoom_factor=2), "use_blob_size", [(1, 1, 4, 4), (1, 1, 2, 2)]),
        (Interp(use_blob_size=True), "use_blob_size", [(1, 1, 4, 4)]),
        (Interp(use_blob_size=True, height=3), "height", [(1, 1, 4, 4), (1, 1, 2, 2)]),
        (Interp(use_blob_size=True), "", [(1, 1, 4, 4), (1, 2)]),
    ],
)
def test_sizes_that_make_no_sense_are_refused(
    layer: Interp, setting: str, shapes: list[tuple[int, ...]]
) -> None:
    with pytest.raises(Refusal) as caught:
        infer(layer, [np.zeros(shape) for shape in shapes])
    assert caught.value.setting == setting
    assert caught.value.expected and caught.value.got != ""


# -- CropAndResize ---------------------------------------------------------------------------------


@definition("CropAndResize")
def crop_by_definition(
    x: np.ndarray, boxes: np.ndarray, height: int, width: int, outside: float, method: Method
) -> np.ndarray:
    """Return the crops as TensorFlow's documentation defines them, pixel by pixel."""
    n_rows, n_columns = x.shape[2:]
    y = np.empty((len(boxes), x.shape[1], height, width))
    for r, (image, x1, y1, x2, y2) in enumerate(boxes):
        for i in range(height):
            part = i / (height - 1) if height > 1 else 0.5
            v = (y1 + part * (y2 - y1)) * (n_rows - 1)
            for j in range(width):
                part = j / (width - 1) if width > 1 else 0.5
                w = (x1 + part * (x2 - x1)) * (n_columns - 1)
                if not (0 <= v <= n_rows - 1 and 0 <= w <= n_columns - 1):
                    y[r, :, i, j] = outside
                    continue
                own = x[int(image)]
                if method is Method.NEAREST:
                    y[r, :, i, j] = own[:, int(np.floor(v + 0.5)), int(np.floor(w + 0.5))]
                    continue
                a, c = int(v), int(w)
                b, d = min(a + 1, n_rows - 1), min(c + 1, n_columns - 1)
                above = own[:, a, c] * (1 - w + c) + own[:, a, d] * (w - c)
                below = own[:, b, c] * (1 - w + c) + own[:, b, d] * (w - c)
                y[r, :, i, j] = above * (1 - v + a) + below * (v - a)
    return y


BOXES = np.array(
    [
        [0, 0.05, 0.1, 0.9, 0.8],
        [1, 0.93, 0.21, 0.12, 0.88],  # mirrored
        [1, -0.21, -0.33, 0.57, 1.29],  # partly outside
        [0, 0.41, 0.37, 0.41, 0.37],  # a point
        [1, 1.31, 1.22, 1.73, 1.64],  # outside
    ]
)


@pytest.mark.parametrize("method", list(Method))
@pytest.mark.parametrize("size", [(3, 4), (1, 1), (5, 1)])
@pytest.mark.parametrize("outside", [0.0, 2.5])
def test_boxes_are_cropped_and_resized(
    method: Method, size: tuple[int, int], outside: float
) -> None:
    x = smooth(2, 3, 6, 5)
    layer = CropAndResize(
        crop_h=size[0], crop_w=size[1], extrapolation_value=outside, method=method
    )
    run = check_layer(layer, [x, BOXES])
    want = crop_by_definition(x, BOXES, *size, outside, method)
    assert_close(run.tops[0], want, rtol=1e-9, atol=1e-9)
    check_lowering(layer, [x, BOXES])


def test_a_crop_of_the_whole_image_in_its_size_is_the_image() -> None:
    x = smooth(1, 2, 4, 6)
    y = forward(CropAndResize(crop_h=4, crop_w=6), [x, np.array([[0.0, 0, 0, 1, 1]])]).tops[0]
    assert_close(y, x, rtol=1e-12)


def test_a_box_of_an_image_that_is_not_there_is_refused() -> None:
    with pytest.raises(Refusal, match="image"):
        forward(CropAndResize(crop_h=2, crop_w=2), [smooth(1, 1, 3, 3), np.ones((1, 5))])


@pytest.mark.parametrize("missing", ["crop_h", "crop_w"])
def test_a_crop_without_a_size_is_refused(missing: str) -> None:
    sizes = {"crop_h": 2, "crop_w": 2} | {missing: 0}
    with pytest.raises(Refusal) as caught:
        infer(CropAndResize(**sizes), [smooth(1, 1, 3, 3), np.zeros((1, 5))])
    assert caught.value.setting == missing
