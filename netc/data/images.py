"""Decoding of image files with OpenCV, and what the two readers of images share."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netc.data.source import Batch, DataAbsent, Item, Opening, arrays_for, locate_setting
from netc.data.transform import Image, Transformer, read_mean
from netc.data.workers import workers
from netc.errors import Span, fail
from netc.layers.data import ImageReader
from netc.layers.types import BlobType, Refusal


@functools.cache
def opencv() -> Any:
    """Return the module cv2, told to use one thread: here several images are decoded at a time."""
    import cv2

    cv2.setNumThreads(1)
    return cv2


def decode(data: bytes, color: bool | None) -> NDArray[Any] | None:
    """Return an image file's content as (C, H, W), channels B, G, R; None if it cannot be read.

    `color` True gives 3 channels, False 1, None those of the file (4 with an alpha channel) and its
    data type (uint16 where it has more than 8 bits). The orientation that a camera noted is
    ignored, as by the OpenCV of Caffe's time.
    """
    cv2 = opencv()
    flags = cv2.IMREAD_UNCHANGED
    if color is not None:
        flags = cv2.IMREAD_COLOR if color else cv2.IMREAD_GRAYSCALE
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # nothing at all, or more pixels than OpenCV takes
        return None
    return None if pixels is None else planes(pixels)


def planes(pixels: NDArray[Any]) -> NDArray[Any]:
    """View pixels (H, W) or (H, W, C) as (C, H, W)."""
    return pixels[np.newaxis] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def resize(
    image: NDArray[np.uint8], height: int, width: int, *, bicubic: bool = False
) -> NDArray[np.uint8]:
    """Return an image (C, H, W) in another size, interpolated bilinearly or so, as OpenCV does."""
    cv = opencv()
    way = cv.INTER_CUBIC if bicubic else cv.INTER_LINEAR
    return planes(cv.resize(image.transpose(1, 2, 0), (width, height), interpolation=way))


class ImageSource(ABC):
    """A source of images and labels: checks, transforms and labels what a subclass reads."""

    def __init__(self, layer: ImageReader, opening: Opening, size: int) -> None:
        self._layer = layer
        self._opening = opening
        self._size = size
        self._transformer = self._opened_transformer()

    def _opened_transformer(self) -> Transformer:
        return Transformer(self._layer.transform_param, self._opening)

    @property
    def size(self) -> int:
        """The number of items in one pass."""
        return self._size

    @property
    def start(self) -> int:
        """The position at which a fresh run begins: 0, or a random one below `rand_skip`."""
        if not self._layer.rand_skip:
            return 0
        skip = int(self._opening.draws.below(self._layer.rand_skip, "rand_skip", 0)[0])
        if skip >= self._size:
            raise fail(
                "rand_skip goes past the end of the data",
                expected=f"rand_skip <= {self._size}, the number of items",
                got=f"rand_skip {self._layer.rand_skip}",
            )
        return skip

    def item(self) -> tuple[BlobType, ...]:
        """Return the type of the first image, before the transformation.

        Raises `Refusal`, which names the setting to blame, where the two do not agree.
        """
        image = BlobType(self._image(0).shape)
        self._transformer.infer(image)
        return (image,)

    @abstractmethod
    def _image(self, position: int) -> Image:
        """Return one image (C, H, W)."""

    @abstractmethod
    def _name(self, position: int) -> str:
        """Return what to call the item in a message."""

    @abstractmethod
    def _span(self, position: int) -> Span | None:
        """Return the place in a text file that names the item, if there is one."""

    def _infer(self, image: BlobType, position: int) -> tuple[int, ...]:
        """Return the shape of a transformed image, or say which item does not suit."""
        try:
            return self._transformer.infer(image).shape
        except Refusal as refusal:
            raise fail(
                refusal.what,
                span=self._span(position),
                expected=refusal.expected,
                got=f"{refusal.got}; {self._name(position)}",
                hint=refusal.hint,
            ) from refusal

    def _batch(self, image: BlobType, position: int, count: int, reuse: Batch) -> Batch:
        """Return arrays for a batch of images of one size."""
        shape = (count, *self._infer(image, position))
        shapes = (shape, (count,))[: len(self._layer.top)]
        return arrays_for(shapes, reuse)

    def _transform_all(self, images: Image, position: int, reuse: Batch) -> Batch:
        """Return the batch of images (N, C, H, W)."""
        count, *shape = images.shape
        batch = self._batch(BlobType(tuple(shape)), position, count, reuse)
        windows = self._transformer.windows(position, count, *shape[1:])
        self._transformer.batch(images, windows, batch[0])
        return batch

    def _transform_each(
        self, image: Callable[[int], Image], position: int, count: int, reuse: Batch
    ) -> Batch:
        """Return the batch of images that `image(i)` makes, several at a time."""
        first = image(0)
        batch = self._batch(BlobType(first.shape), position, count, reuse)
        windows = self._transformer.windows(position, count, *first.shape[1:])

        def place(i: int) -> None:
            one = image(i) if i else first
            if one.shape != first.shape:
                raise fail(
                    "the images of a batch differ in size",
                    span=self._span(position + i),
                    expected=f"{BlobType(first.shape)}, as {self._name(position)}",
                    got=f"{BlobType(one.shape)}: {self._name(position + i)}",
                    hint=self._resize_hint,
                )
            self._transformer.one(one, windows, i, batch[0])

        workers().run(place, count)
        return batch

    _resize_hint = "resize the images to one size when the database is made, or use batch_size: 1"


def assume_image(
    layer: ImageReader, opening: Opening, channels: int | None, height: int, width: int
) -> Item | None:
    """Return which images the settings of a layer without data suggest; None: they do not tell.

    `channels`, `height` and `width` are what the type's own settings say (None and 0: nothing). The
    rest comes from the crop, a mean file that is there, and the number of mean values; last, 3
    channels, or 1 with force_gray.
    """
    param = layer.transform_param
    mean: tuple[int, ...] = ()
    if param.mean_file:
        try:
            mean = read_mean(
                locate_setting(param.mean_file, opening, "mean_file", "mean file")
            ).shape
        except DataAbsent:
            mean = ()
    if height and width:
        why = "new_height, new_width"
    elif mean:
        height, width, why = mean[1], mean[2], "the mean file"
    elif param.crop_size:
        height = width = param.crop_size
        why = "crop_size"
    else:
        return None
    if channels is None:
        several = len(param.mean_value) if len(param.mean_value) > 1 else 0
        channels = mean[0] if mean else several or 3
    image = BlobType((channels, height, width))
    return Item((image,), f"images of shape {image} are assumed, from {why}")
