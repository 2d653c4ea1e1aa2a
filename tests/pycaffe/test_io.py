"""Conversions of messages, images from files, and what is done to them on the way in."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

import netc.pycaffe as caffe
from netc.errors import NetcError
from netc.pycaffe.proto import caffe_pb2

FILES = Path(__file__).parents[1] / "conformance" / "files"
FLOATS = st.floats(-1e6, 1e6, width=32)


@given(arrays(np.float32, array_shapes(max_dims=5, max_side=4), elements=FLOATS))
def test_arrays_survive_a_blob(array: np.ndarray) -> None:
    blob = caffe.io.array_to_blobproto(array, -array)
    np.testing.assert_array_equal(caffe.io.blobproto_to_array(blob), array)
    np.testing.assert_array_equal(caffe.io.blobproto_to_array(blob, return_diff=True), -array)
    text = caffe.io.arraylist_to_blobprotovector_str([array, 2 * array])
    one, two = caffe.io.blobprotovector_str_to_arraylist(text)
    np.testing.assert_array_equal(one, array)
    np.testing.assert_array_equal(two, 2 * array)


def test_values_are_float64_as_in_pycaffe() -> None:
    blob = caffe.io.array_to_blobproto(np.ones((2, 3), np.float32))
    assert caffe.io.blobproto_to_array(blob).dtype == np.float64


def test_a_blob_without_a_shape_is_a_number() -> None:
    assert caffe.io.blobproto_to_array(caffe_pb2.BlobProto(data=[123])) == 123
    with pytest.raises(ValueError, match="shape does not agree"):
        caffe.io.blobproto_to_array(caffe_pb2.BlobProto(data=[1, 2]))


def test_the_mean_image_of_caffe() -> None:
    blob = caffe_pb2.BlobProto()
    blob.ParseFromString((FILES / "mean.binaryproto").read_bytes())
    mean = caffe.io.blobproto_to_array(blob)
    images = np.load(FILES / "images_reference.npz")
    stored = next(images[key] for key in images.files if images[key].ndim == 4)
    assert mean.shape == (1, *stored.shape[1:])
    np.testing.assert_allclose(mean[0], stored.mean(0), rtol=1e-4, atol=1e-3)


def test_what_is_no_blob() -> None:
    blob = caffe_pb2.BlobProto(data=[1, 2, 3])
    blob.shape.dim.extend([2, 2])
    with pytest.raises(NetcError, match="shape does not agree"):
        caffe.io.blobproto_to_array(blob)


@given(
    st.sampled_from([np.uint8, np.float32]).flatmap(
        lambda kind: arrays(
            kind,
            array_shapes(min_dims=3, max_dims=3, max_side=5),
            elements=FLOATS if kind is np.float32 else st.integers(0, 255),
        )
    ),
    st.one_of(st.none(), st.integers(0, 1000)),
)
def test_arrays_survive_a_datum(array: np.ndarray, label: int | None) -> None:
    datum = caffe.io.array_to_datum(array, label)
    assert datum.HasField("label") == (label is not None)
    assert datum.label == (label or 0)
    back = caffe.io.datum_to_array(caffe_pb2.Datum.FromString(datum.SerializeToString()))
    assert back.dtype == (np.uint8 if array.dtype == np.uint8 else np.float64)
    np.testing.assert_array_equal(back, array)
    back[...] = 0


def test_datums_that_are_none() -> None:
    with pytest.raises(NetcError, match=r"Incorrect array shape\."):
        caffe.io.array_to_datum(np.zeros((2, 2)))
    with pytest.raises(NetcError, match="shape does not agree"):
        caffe.io.datum_to_array(caffe_pb2.Datum(channels=1, height=2, width=2, data=b"abc"))
    with pytest.raises(NetcError, match="cannot be decoded"):
        caffe.io.datum_to_array(caffe_pb2.Datum(encoded=True, data=b"abc"))


def test_an_image_file_in_a_datum_is_decoded() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    datum = caffe_pb2.Datum(encoded=True, data=cv2.imencode(".png", pixels)[1].tobytes())
    np.testing.assert_array_equal(caffe.io.datum_to_array(datum), pixels.transpose(2, 0, 1))


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_images_are_read_as_red_green_blue(tmp_path: Path, dtype: type) -> None:
    largest = np.iinfo(dtype).max
    bgr = np.zeros((2, 3, 3), dtype)
    bgr[0, 0] = [0, largest // 5, largest]
    cv2.imwrite(str(tmp_path / "x.png"), bgr)
    image = caffe.io.load_image(str(tmp_path / "x.png"))
    assert (image.shape, image.dtype) == ((2, 3, 3), np.float32)
    np.testing.assert_allclose(image[0, 0], [1, 0.2, 0], rtol=1e-4)
    grey = caffe.io.load_image(tmp_path / "x.png", color=False)
    assert grey.shape == (2, 3, 1)
    np.testing.assert_allclose(grey[0, 0], 0.2125 + 0.7154 * 0.2, rtol=1e-4)


def test_grey_and_transparent_images(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((2, 2), 51, np.uint8))
    for color, channels in ((True, 3), (False, 1)):
        image = caffe.io.load_image(str(tmp_path / "grey.png"), color)
        assert image.shape == (2, 2, channels)
        np.testing.assert_allclose(image, 0.2, rtol=1e-6)
    cv2.imwrite(str(tmp_path / "alpha.png"), np.full((2, 2, 4), [0, 0, 255, 7], np.uint8))
    image = caffe.io.load_image(str(tmp_path / "alpha.png"))
    np.testing.assert_array_equal(image[0, 0], [1, 0, 0])


def test_files_that_are_no_images(tmp_path: Path) -> None:
    with pytest.raises(NetcError, match=r"x\.png: the image cannot be read"):
        caffe.io.load_image(str(tmp_path / "x.png"))
    (tmp_path / "x.png").write_text("picture")
    with pytest.raises(NetcError, match=r"x\.png: the image cannot be decoded"):
        caffe.io.load_image(str(tmp_path / "x.png"))


# -- resizing --------------------------------------------------------------------------------------


def bilinear(image: np.ndarray, y: float, x: float) -> np.ndarray:
    """Interpolate between the centres of pixels; outside lies the image's smallest value."""
    total = np.zeros(image.shape[2])
    for row in (int(np.floor(y)), int(np.floor(y)) + 1):
        for column in (int(np.floor(x)), int(np.floor(x)) + 1):
            inside = 0 <= row < image.shape[0] and 0 <= column < image.shape[1]
            value = image[row, column] if inside else image.min()
            total += (1 - abs(y - row)) * (1 - abs(x - column)) * value
    return total


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("new", [(9, 4), (10, 14), (3, 3), (5, 7)])
def test_resizing_is_bilinear_between_centres(channels: int, new: tuple[int, int]) -> None:
    image = np.random.default_rng(0).uniform(-1, 2, (5, 7, channels))
    resized = caffe.io.resize_image(image, new)
    assert resized.shape == (*new, channels)
    for i in range(new[0]):
        for j in range(new[1]):
            y, x = (i + 0.5) * 5 / new[0] - 0.5, (j + 0.5) * 7 / new[1] - 0.5
            np.testing.assert_allclose(resized[i, j], bilinear(image, y, x), rtol=1e-5, atol=1e-6)


def test_resizing_other_numbers_of_channels_keeps_the_corners() -> None:
    image = np.arange(4.0)[:, np.newaxis, np.newaxis] * np.ones((4, 3, 2))
    resized = caffe.io.resize_image(image, (7, 1))
    np.testing.assert_allclose(resized[:, 0, 0], np.arange(7) / 2)


def test_resizing_with_the_nearest_pixel() -> None:
    image = np.arange(4, dtype=np.uint8).reshape(2, 2, 1)
    resized = caffe.io.resize_image(image, (4, 2), interp_order=0)
    np.testing.assert_array_equal(resized[..., 0], [[0, 1], [0, 1], [2, 3], [2, 3]])
    for arguments in ((image, (4, 2), 3), (image[0], (4, 2), 1)):
        with pytest.raises(NetcError):
            caffe.io.resize_image(*arguments)


def test_ten_windows() -> None:
    image = np.arange(5 * 6 * 2).reshape(5, 6, 2)
    windows = caffe.io.oversample([image, -image], (2, 3))
    assert (windows.shape, windows.dtype) == ((20, 2, 3, 2), np.float32)
    expected = [image[:2, :3], image[:2, 3:], image[3:, :3], image[3:, 3:], image[1:3, 1:4]]
    for window, mirrored, want in zip(windows[:5], windows[5:10], expected, strict=True):
        np.testing.assert_array_equal(window, want)
        np.testing.assert_array_equal(mirrored, want[:, ::-1])
    np.testing.assert_array_equal(windows[10:], -windows[:10])
    with pytest.raises(NetcError, match="larger than the image"):
        caffe.io.oversample([image], (6, 3))


# -- Transformer -----------------------------------------------------------------------------------


def transformer() -> caffe.io.Transformer:
    made = caffe.io.Transformer({"data": (1, 3, 4, 4)})
    made.set_transpose("data", (2, 0, 1))
    made.set_channel_swap("data", (2, 0, 1))
    made.set_raw_scale("data", 255)
    made.set_mean("data", np.array([10.0, 20.0, 30.0]))
    made.set_input_scale("data", 0.5)
    return made


def test_an_image_is_treated_in_this_order() -> None:
    image = np.random.default_rng(0).random((4, 4, 3)).astype(np.float32)
    before = image.copy()
    made = transformer().preprocess("data", image)
    expected = (255 * image.transpose(2, 0, 1)[[2, 0, 1]] - [[[10]], [[20]], [[30]]]) * 0.5
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-5)
    assert made.dtype == np.float32
    np.testing.assert_array_equal(image, before)
    back = transformer().deprocess("data", made[np.newaxis])
    np.testing.assert_allclose(back, image, rtol=1e-5, atol=1e-6)


def test_an_image_of_another_size_is_resized() -> None:
    image = np.random.default_rng(0).random((6, 5, 3)).astype(np.float32)
    np.testing.assert_array_equal(
        transformer().preprocess("data", image),
        transformer().preprocess("data", caffe.io.resize_image(image, (4, 4))),
    )
    bare = caffe.io.Transformer({"data": (1, 3, 4, 4)})
    np.testing.assert_array_equal(bare.preprocess("data", image[:4, :4]), image[:4, :4])


def test_mean_images() -> None:
    made = caffe.io.Transformer({"data": (1, 3, 4, 4)})
    made.set_transpose("data", (2, 0, 1))
    mean = np.random.default_rng(0).random((3, 4, 4))
    made.set_mean("data", mean)
    out = made.preprocess("data", np.ones((4, 4, 3)))
    np.testing.assert_allclose(out, 1 - mean, rtol=1e-5, atol=1e-6)
    made.set_mean("data", mean[0])
    out = made.preprocess("data", np.ones((4, 4, 3)))
    np.testing.assert_allclose(out[2], 1 - mean[0], rtol=1e-5, atol=1e-6)
    made.set_mean("data", np.full((3, 8, 8), 0.25))
    assert (made.preprocess("data", np.ones((4, 4, 3))) == 0.75).all()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda t: t.set_transpose("data", (1, 0)), "Transpose order"),
        (lambda t: t.set_transpose("data", (1, 1, 0)), "Transpose order"),
        (lambda t: t.set_channel_swap("data", (1, 0)), "Channel swap"),
        (lambda t: t.set_mean("data", np.zeros(2)), "Mean channels incompatible"),
        (lambda t: t.set_mean("data", np.zeros((2, 4, 4))), "Mean shape invalid"),
        (lambda t: t.set_raw_scale("dat", 1), "(?s)dat is not one of the net inputs.*'data'"),
        (lambda t: t.preprocess("x", np.zeros((4, 4, 3))), "x is not one of the net inputs"),
    ],
)
def test_wrong_settings(call: object, match: str) -> None:
    with pytest.raises(NetcError, match=match):
        call(transformer())


# -- what scripts take from scikit-image -----------------------------------------------------------


def test_resize_is_lent() -> None:
    image = np.random.default_rng(0).random((6, 5, 3)).astype(np.float32)
    made = caffe.io.resize(image, (4, 9, 3))
    assert (made.shape, made.dtype) == ((4, 9, 3), np.float64)
    framed = np.pad(image.astype(float), ((1, 1), (1, 1), (0, 0)))
    for y, x in ((0, 0), (1, 3), (3, 8)):
        row, column = (y + 0.5) * 6 / 4 + 0.5, (x + 0.5) * 5 / 9 + 0.5
        r, c = int(row), int(column)
        a, b = row - r, column - c
        expected = (1 - a) * ((1 - b) * framed[r, c] + b * framed[r, c + 1]) + a * (
            (1 - b) * framed[r + 1, c] + b * framed[r + 1, c + 1]
        )
        np.testing.assert_allclose(made[y, x], expected, rtol=1e-6)
    whole = np.full((4, 4), 51, np.uint8)
    assert caffe.io.resize(whole, (2, 2)).ravel().tolist() == pytest.approx([0.2] * 4)
    kept = caffe.io.resize(whole, (2, 2), preserve_range=True)
    assert kept.ravel().tolist() == [51] * 4
    bright = caffe.io.resize(np.zeros((2, 2)), (4, 4), cval=1)
    assert bright[0, 0] == 1 - 0.75**2 and bright[1, 1] == 0


def test_half_way_between_two_pixels_is_the_later_one() -> None:
    row = np.arange(6.0).reshape(1, 6, 1)
    assert caffe.io.resize_image(row, (1, 3), 0).ravel().tolist() == [1, 3, 5]


def test_what_resize_cannot_do() -> None:
    image = np.zeros((4, 4, 3))
    for call, match in (
        (lambda: caffe.io.resize(image, (2, 2), mode="reflect"), "mode='reflect'"),
        (lambda: caffe.io.resize(image, (2, 2), order=3), "order 3"),
        (lambda: caffe.io.resize(image, (2, 2, 1)), "number of channels"),
        (lambda: caffe.io.resize(image[0, 0], (2, 2)), "shape"),
    ):
        with pytest.raises(NetcError, match=match):
            call()


def test_an_image_without_channels() -> None:
    transformer = caffe.io.Transformer({"data": (1, 1, 4, 4)})
    transformer.set_transpose("data", (2, 0, 1))
    with pytest.raises(ValueError, match=r"as many axes(.|\n)*shape \(4, 4\)"):
        transformer.preprocess("data", np.zeros((4, 4)))


def test_mistakes_are_of_pycaffes_kinds(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"no_such\.png"):
        caffe.io.load_image("no_such.png")
    with pytest.raises(ValueError, match="Incorrect array shape"):
        caffe.io.array_to_datum(np.zeros((2, 2)))
