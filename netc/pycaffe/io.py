"""Images and messages to arrays and back, and what has to be done to an image before it goes in.

Images are arrays (H, W, C) of float32 in 0-1, channels in the order R, G, B; blobs are (C, H, W).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from netc.data import images
from netc.errors import Span, fail, nearest
from netc.pycaffe.errors import FileMistake, ValueMistake, mistake
from netc.pycaffe.proto import caffe_pb2
from netc.schema import netc_pb2, parse_binary

FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]

__all__ = [
    "Transformer",
    "array_to_blobproto",
    "array_to_datum",
    "arraylist_to_blobprotovector_str",
    "blobproto_to_array",
    "blobprotovector_str_to_arraylist",
    "caffe_pb2",
    "datum_to_array",
    "load_image",
    "oversample",
    "resize",
    "resize_image",
]

# Luma of the BT.709 primaries, as scikit-image weighs the channels for pycaffe.
_LUMA = (0.2125, 0.7154, 0.0721)


# -- messages --------------------------------------------------------------------------------------


def blobproto_to_array(blob: netc_pb2.BlobProto, return_diff: bool = False) -> DoubleArray:
    """Return the values of a BlobProto, or its gradient; blobs of before 2014 have four axes.

    Of float64, as in pycaffe, though a blob mostly holds float32. Raises NetcError, which is a
    ValueError too, as other functions on messages do.
    """
    values = blob.diff if return_diff else blob.data
    if not values:
        values = blob.double_diff if return_diff else blob.double_data
    legacy = any(blob.HasField(name) for name in ("num", "channels", "height", "width"))
    shape = (blob.num, blob.channels, blob.height, blob.width) if legacy else tuple(blob.shape.dim)
    array = np.array(values, np.float64)
    if array.size != np.prod(shape, dtype=np.int64):
        raise mistake(
            ValueMistake,
            "the blob's shape does not agree with its values",
            expected=f"{np.prod(shape, dtype=np.int64)} values for shape {shape}",
            got=f"{array.size}",
        )
    return array.reshape(shape)


def array_to_blobproto(arr: ArrayLike, diff: ArrayLike | None = None) -> netc_pb2.BlobProto:
    """Return a BlobProto of an array, and of its gradient if one is given."""
    blob = netc_pb2.BlobProto()
    array = np.asarray(arr)
    blob.shape.dim.extend(array.shape)
    blob.data.extend(array.astype(float).ravel().tolist())
    if diff is not None:
        blob.diff.extend(np.asarray(diff).astype(float).ravel().tolist())
    return blob


def arraylist_to_blobprotovector_str(arraylist: Iterable[ArrayLike]) -> bytes:
    """Return arrays as a serialised BlobProtoVector."""
    return netc_pb2.BlobProtoVector(
        blobs=[array_to_blobproto(array) for array in arraylist]
    ).SerializeToString()


def blobprotovector_str_to_arraylist(string: bytes) -> list[DoubleArray]:
    """Return the arrays of a serialised BlobProtoVector."""
    vector = parse_binary(string, netc_pb2.BlobProtoVector)
    return [blobproto_to_array(blob) for blob in vector.blobs]


def array_to_datum(arr: NDArray[Any], label: int | None = None) -> netc_pb2.Datum:
    """Return a Datum of an array (C, H, W): bytes for uint8, floats for other types."""
    if arr.ndim != 3:
        raise mistake(
            ValueMistake,
            "Incorrect array shape.",
            expected="three axes: (C, H, W)",
            got=f"shape {arr.shape}",
        )
    channels, height, width = arr.shape
    datum = netc_pb2.Datum(channels=channels, height=height, width=width)
    if arr.dtype == np.uint8:
        datum.data = arr.tobytes()
    else:
        datum.float_data.extend(arr.astype(float).ravel().tolist())
    if label is not None:
        datum.label = label
    return datum


def datum_to_array(datum: netc_pb2.Datum) -> NDArray[Any]:
    """Return the pixels of a Datum as (C, H, W): uint8, or float64 where it holds floats.

    An image file in it is decoded, to channels B, G, R.
    """
    if datum.encoded:
        pixels = images.decode(datum.data, None)
        if pixels is None:
            raise mistake(
                ValueMistake, "the datum says that it holds an image file, but it cannot be decoded"
            )
        return np.ascontiguousarray(pixels)
    values: NDArray[Any]
    if datum.data:
        values = np.frombuffer(datum.data, np.uint8)
    else:
        values = np.array(datum.float_data, np.float64)
    shape = (datum.channels, datum.height, datum.width)
    if values.size != np.prod(shape, dtype=np.int64):
        raise mistake(
            ValueMistake,
            "the datum's shape does not agree with its values",
            expected=f"{np.prod(shape, dtype=np.int64)} values for {shape}",
            got=values.size,
        )
    return values.reshape(shape).copy()


# -- images ----------------------------------------------------------------------------------------


def load_image(filename: str | os.PathLike[str], color: bool = True) -> FloatArray:
    """Read an image file as (H, W, 3), or (H, W, 1) without `color`, of values in 0-1.

    Channels are R, G, B; an alpha channel is dropped. Raises NetcError, which is an OSError too,
    where it cannot be read.
    """
    path = os.fspath(filename)
    try:
        with open(path, "rb") as file:
            pixels = images.decode(file.read(), None)
    except OSError as error:
        raise mistake(
            FileMistake,
            "the image cannot be read",
            span=Span(path),
            got=error.strerror or str(error),
        ) from None
    if pixels is None:
        raise mistake(
            FileMistake,
            "the image cannot be decoded",
            span=Span(path),
            expected="a file in a format that OpenCV reads: JPEG, PNG, BMP, TIFF, ...",
        )
    largest = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 1
    image = pixels.transpose(1, 2, 0).astype(np.float64) / largest
    if image.shape[2] in (3, 4):
        image = image[..., 2::-1]
    if not color and image.shape[2] == 3:
        image = image @ np.array(_LUMA)[:, np.newaxis]
    if color and image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)
    return np.ascontiguousarray(image, np.float32)


def resize_image(im: NDArray[Any], new_dims: Sequence[int], interp_order: int = 1) -> FloatArray:
    """Return an image (H, W, C) in another size (H, W), as pycaffe resizes.

    Bilinear with `interp_order` 1, the nearest pixel with 0. One or three channels: pixels are
    areas, and what is outside the image counts as its smallest value. Other numbers of channels:
    the corners stay where they are.
    """
    if im.ndim != 3:
        raise fail("this is not an image", expected="shape (H, W, C)", got=f"shape {im.shape}")
    height, width = (int(size) for size in new_dims)
    source = im.astype(np.float64)
    framed = im.shape[-1] in (1, 3)
    outside = source.min() if framed and source.size else 0.0
    for axis, size in enumerate((height, width)):
        source = _resized(source - outside, axis, size, _known(interp_order), framed) + outside
    return source.astype(np.float32)


def resize(
    image: NDArray[Any],
    output_shape: Sequence[int],
    order: int = 1,
    mode: str = "constant",
    cval: float = 0.0,
    clip: bool = True,
    preserve_range: bool = False,
) -> DoubleArray:
    """Return an image (H, W) or (H, W, C) in another size, as the function does that pycaffe lends.

    Scripts take scikit-image's `resize` from `caffe.io`, and its arguments are these. Integers
    become 0-1 (-1 to 1 if they have a sign) unless `preserve_range`. Outside the image is `cval`:
    NetcError for another `mode` and for an order above 1. `clip` makes no difference for those.
    Unlike scikit-image from version 0.15 on, it does not smooth what it makes smaller.
    """
    if mode != "constant":
        raise fail(
            "resize knows one way to go on outside an image",
            expected='mode="constant"',
            got=f"mode={mode!r}",
        )
    channels = image.shape[2:]
    if image.ndim not in (2, 3) or tuple(output_shape[2:]) not in ((), channels):
        raise mistake(
            ValueMistake,
            "the output's shape does not go with the image's",
            expected="(H, W), or (H, W, C) with the image's number of channels",
            got=f"{tuple(output_shape)} for an image of shape {image.shape}",
        )
    values = image.astype(np.float64)
    if image.dtype.kind in "ui" and not preserve_range:
        values /= np.iinfo(image.dtype).max
    values -= cval
    for axis, size in enumerate(output_shape[:2]):
        values = _resized(values, axis, int(size), _known(order), framed=True)
    return values + cval


def _known(order: int) -> int:
    if order not in (0, 1):
        raise fail(
            "an image is resized with order 0 or 1",
            expected="0, the nearest pixel; 1, bilinear",
            got=f"order {order}",
        )
    return order


def _resized(
    values: NDArray[np.float64], axis: int, size: int, order: int, framed: bool
) -> NDArray[np.float64]:
    """Resize along one axis. `framed`: pixels are areas, surrounded by zeros."""
    old = values.shape[axis]
    if framed:
        at = (np.arange(size) + 0.5) * old / size - 0.5
    else:
        at = np.arange(size) * ((old - 1) / (size - 1) if size > 1 else 0.0)
    shape = [1] * values.ndim
    shape[axis] = size
    if order == 0:
        # Half way between two, it is the later one, as in scikit-image and SciPy.
        nearest_ones: NDArray[np.float64] = values.take(
            np.clip(np.floor(at + 0.5).astype(int), 0, old - 1), axis
        )
        return nearest_ones
    below = np.floor(at).astype(int)
    share = at - below
    result = np.zeros(1)
    for index, weight in ((below, 1 - share), (below + 1, share)):
        inside = (index >= 0) & (index < old)
        taken = values.take(np.clip(index, 0, old - 1), axis)
        result = result + taken * (weight * inside).reshape(shape)
    return result


def oversample(images: Sequence[NDArray[Any]], crop_dims: Sequence[int]) -> FloatArray:
    """Return ten windows (H, W, C) of each image: four corners and the centre, then mirrored."""
    height, width = (int(size) for size in crop_dims)
    crops = []
    for image in images:
        down, across = image.shape[0] - height, image.shape[1] - width
        if min(down, across) < 0:
            raise fail(
                "the window is larger than the image",
                expected=f"at most {image.shape[:2]}",
                got=(height, width),
            )
        corners = [(y, x) for y in (0, down) for x in (0, across)]
        # Halves are cut off only after the sum, as in pycaffe.
        centre = (int(image.shape[0] / 2 - height / 2), int(image.shape[1] / 2 - width / 2))
        windows = [image[y : y + height, x : x + width] for y, x in (*corners, centre)]
        crops += windows + [window[:, ::-1] for window in windows]
    return np.array(crops, np.float32)


class Transformer:
    """Turns images into what inputs of a net want, and back.

    `inputs` are the shapes of the inputs by name: `{"data": net.blobs["data"].data.shape}`. What is
    set is done in this order: resize to the input's size, `transpose` the axes ((2, 0, 1) brings
    the channels to the front), `channel_swap` ((2, 1, 0) makes R, G, B to B, G, R), multiply by
    `raw_scale` (255 makes 0-1 to 0-255), subtract `mean`, multiply by `input_scale`.
    """

    def __init__(self, inputs: Mapping[str, Sequence[int]]) -> None:
        self.inputs = {name: tuple(shape) for name, shape in inputs.items()}
        self.transpose: dict[str, tuple[int, ...]] = {}
        self.channel_swap: dict[str, tuple[int, ...]] = {}
        self.raw_scale: dict[str, float] = {}
        self.mean: dict[str, NDArray[Any]] = {}
        self.input_scale: dict[str, float] = {}

    def preprocess(self, in_: str, data: NDArray[Any]) -> FloatArray:
        """Return an image (H, W, C) as the input's (C, H, W)."""
        shape = self._shape(in_)
        image = np.array(data, np.float32)
        if image.ndim > 1 and image.shape[:2] != shape[2:]:
            image = resize_image(image, shape[2:])
        if in_ in self.transpose:
            if image.ndim != len(self.transpose[in_]):
                raise mistake(
                    ValueMistake,
                    "the image has not as many axes as set_transpose was told",
                    expected=f"{len(self.transpose[in_])} axes: (H, W, C)",
                    got=f"shape {np.shape(data)}",
                    hint="caffe.io.load_image gives images with channels, also grey ones",
                )
            image = image.transpose(self.transpose[in_])
        if in_ in self.channel_swap:
            image = image[list(self.channel_swap[in_])]
        if in_ in self.raw_scale:
            image = image * np.float32(self.raw_scale[in_])
        if in_ in self.mean:
            image = image - self.mean[in_].astype(np.float32)
        if in_ in self.input_scale:
            image = image * np.float32(self.input_scale[in_])
        return image

    def deprocess(self, in_: str, data: NDArray[Any]) -> FloatArray:
        """Undo `preprocess`, except for the size."""
        self._shape(in_)
        image = np.array(data, np.float32).squeeze()
        if in_ in self.input_scale:
            image = image / np.float32(self.input_scale[in_])
        if in_ in self.mean:
            image = image + self.mean[in_].astype(np.float32)
        if in_ in self.raw_scale:
            image = image / np.float32(self.raw_scale[in_])
        if in_ in self.channel_swap:
            image = image[np.argsort(self.channel_swap[in_])]
        if in_ in self.transpose:
            image = image.transpose(np.argsort(self.transpose[in_]))
        return image

    def set_transpose(self, in_: str, order: Sequence[int]) -> None:
        """Set the order of an image's axes, those of the input without its first."""
        if sorted(order) != list(range(len(self._shape(in_)) - 1)):
            raise fail(
                "Transpose order needs to have the same number of dimensions as the input.",
                expected=f"each of 0 to {len(self.inputs[in_]) - 2} once",
                got=tuple(order),
            )
        self.transpose[in_] = tuple(order)

    def set_channel_swap(self, in_: str, order: Sequence[int]) -> None:
        """Set the order of the channels."""
        if sorted(order) != list(range(self._shape(in_)[1])):
            raise fail(
                "Channel swap needs to have the same number of dimensions as the input channels.",
                expected=f"each of 0 to {self.inputs[in_][1] - 1} once",
                got=tuple(order),
            )
        self.channel_swap[in_] = tuple(order)

    def set_raw_scale(self, in_: str, scale: float) -> None:
        """Set the factor that comes before the mean, in whose units the mean is."""
        self._shape(in_)
        self.raw_scale[in_] = scale

    def set_mean(self, in_: str, mean: NDArray[Any]) -> None:
        """Set what is subtracted: one value for each channel, or an image (C, H, W) or (H, W).

        An image of another size than the input's is resized. Its channels are those after the swap.
        """
        shape = self._shape(in_)
        mean = np.asarray(mean)
        if mean.ndim == 1:
            if mean.shape[0] != shape[1]:
                raise mistake(
                    ValueMistake,
                    "Mean channels incompatible with input.",
                    expected=f"{shape[1]} values",
                    got=mean.shape[0],
                )
            mean = mean[:, np.newaxis, np.newaxis]
        else:
            if mean.ndim == 2:
                mean = mean[np.newaxis]
            if mean.ndim != 3 or mean.shape[0] not in (1, shape[1]):
                raise mistake(
                    ValueMistake,
                    "Mean shape invalid",
                    expected=f"{shape[1:]}",
                    got=f"shape {mean.shape}",
                )
            if mean.shape[1:] != shape[2:]:
                mean = resize_image(mean.transpose(1, 2, 0), shape[2:]).transpose(2, 0, 1)
        self.mean[in_] = mean

    def set_input_scale(self, in_: str, scale: float) -> None:
        """Set the factor that comes last."""
        self._shape(in_)
        self.input_scale[in_] = scale

    def _shape(self, in_: str) -> tuple[int, ...]:
        if in_ not in self.inputs:
            raise fail(
                f"{in_} is not one of the net inputs: {', '.join(self.inputs)}",
                got=in_,
                hint=nearest(in_, self.inputs),
            )
        return self.inputs[in_]
