"""The transformation of images, number for number Caffe's: crop, mirror, subtract, scale."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from netc.data.blob import read_blob
from netc.data.source import Opening, locate_setting
from netc.errors import Span, fail
from netc.layers.transform import TransformParam
from netc.layers.types import BlobType, Phase, Refusal

Image = NDArray[np.uint8] | NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Windows:
    """Which part of each image of a batch is taken: a rectangle of one size, perhaps mirrored."""

    height: int
    width: int
    tops: list[int]
    lefts: list[int]
    mirrored: list[bool]
    alike: bool
    """Whether all of them are the same, unmirrored."""


class Transformer:
    """Turns images (C, H, W) into float32: y = (x - mean) * scale on a window, perhaps mirrored.

    The arithmetic is float32's, in Caffe's order. The mean belongs to a pixel of the stored image,
    so that it moves with window and mirror. Window and mirror of an item depend on its position
    alone.
    """

    def __init__(self, param: TransformParam, opening: Opening, *, clips: bool = False) -> None:
        """Read the mean file, if the settings name one: of clips, whose frames are as channels."""
        self._param = param
        self._draws = opening.draws
        self._random_crop = param.crop_size > 0 and opening.phase is Phase.TRAIN
        self._scale = np.float32(param.scale)
        self._mean_image: NDArray[np.float32] | None = None
        self._mean_values: NDArray[np.float32] | None = None
        if param.mean_file:
            file = locate_setting(param.mean_file, opening, "mean_file", "mean file")
            self._mean_image = read_mean(file, clips=clips)
        elif param.mean_value:
            self._mean_values = np.array(param.mean_value, np.float32).reshape(-1, 1, 1)

    def infer(self, image: BlobType) -> BlobType:
        """Return the shape of a transformed image; `Refusal` where it and the settings disagree."""
        out = self._param.infer(image)
        if self._mean_image is not None and self._mean_image.shape != image.shape:
            raise Refusal(
                "the mean file has another shape than the images",
                expected=f"{image}, as the images before any crop",
                got=f"{BlobType(self._mean_image.shape)} in '{self._param.mean_file}'",
                hint="compute the mean from these images, or use mean_value",
                setting="mean_file",
            )
        return out

    def windows(self, position: int, count: int, height: int, width: int) -> Windows:
        """Return the windows of the items from `position` on, for images of one size."""
        items = np.arange(position, position + count)
        mirrored = np.zeros(count, bool)
        if self._param.mirror:
            mirrored = self._draws.below(2, "mirror", items) == 1
        size = self._param.crop_size
        if not size:
            zeros = [0] * count
            return Windows(height, width, zeros, zeros, mirrored.tolist(), not self._param.mirror)
        if self._random_crop:
            tops = self._draws.below(height - size + 1, "crop top", items).tolist()
            lefts = self._draws.below(width - size + 1, "crop left", items).tolist()
        else:
            tops = [(height - size) // 2] * count
            lefts = [(width - size) // 2] * count
        alike = not (self._random_crop or self._param.mirror)
        return Windows(size, size, tops, lefts, mirrored.tolist(), alike)

    def batch(self, images: Image, windows: Windows, out: NDArray[np.float32]) -> None:
        """Transform images (N, C, H, W) of one batch into `out`."""
        if windows.alike:
            self._transform(images, windows, 0, out)
            return
        for i in range(len(images)):
            self.one(images[i], windows, i, out)

    def one(self, image: Image, windows: Windows, i: int, out: NDArray[np.float32]) -> None:
        """Transform the image (C, H, W) that is number `i` of its batch into its place in `out`."""
        target = out[i]
        # Writing backwards mirrors the difference of pixel and mean, as it must.
        self._transform(image, windows, i, target[..., ::-1] if windows.mirrored[i] else target)

    def _transform(self, images: Image, windows: Windows, i: int, out: NDArray[np.float32]) -> None:
        """Transform the window number `i` of one image, or of several that share it."""
        top, left = windows.tops[i], windows.lefts[i]
        rows, columns = slice(top, top + windows.height), slice(left, left + windows.width)
        pixels = images[..., rows, columns]
        mean = self._mean_values
        if self._mean_image is not None:
            mean = self._mean_image[:, rows, columns]
        if mean is None:
            np.multiply(pixels, self._scale, out=out)
            return
        np.subtract(pixels, mean, out=out)
        if self._scale != 1:
            np.multiply(out, self._scale, out=out)


def read_mean(path: Path, *, clips: bool = False) -> NDArray[np.float32]:
    """Read a mean image (C, H, W) from a .binaryproto file, which holds one BlobProto.

    With `clips` the file holds a mean clip (1, C, L, H, W); it is given as (C L, H, W). Raises
    NetcError for a file that is not one.
    """
    blob = read_blob(path, "mean file")
    image = blob[0] if blob.ndim == 4 + clips and len(blob) == 1 else blob
    if clips and image.ndim == 4:
        image = image.reshape(-1, *image.shape[2:])
    if image.ndim != 3 or not image.size:
        raise fail(
            "this is not a mean file",
            span=Span(str(path)),
            expected="one clip (1, channels, length, height, width)"
            if clips
            else "one image (1, channels, height, width)",
            got=f"{blob.size} values of shape {BlobType(blob.shape)}",
        )
    return image
