"""A net that looks at windows of images, one by one."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from netc.errors import fail
from netc.pycaffe import io
from netc.pycaffe.classifier import transformer
from netc.pycaffe.errors import ValueMistake, mistake
from netc.pycaffe.net import Net, Path
from netc.pycaffe.settings import TEST

FloatArray = NDArray[np.float32]


class Detector(Net):
    """A net for windows of images: each is cut out, brought to the input's size, and scored.

    A window is (ymin, xmin, ymax, xmax) in pixels, its last row and column not included. With
    `context_pad`, a border of so many pixels of the input shows what is around the window, as in
    R-CNN, and the mean where that is outside the image. The other settings are those of
    `io.Transformer`.
    """

    def __init__(
        self,
        model_file: Path,
        pretrained_file: Path,
        mean: NDArray[Any] | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
        context_pad: int | None = None,
    ) -> None:
        super().__init__(model_file, TEST, weights=pretrained_file)
        self.transformer = transformer(self, mean, input_scale, raw_scale, channel_swap)
        self.configure_crop(context_pad)

    def detect_windows(
        self, images_windows: Iterable[tuple[str, Iterable[ArrayLike]]]
    ) -> list[dict[str, Any]]:
        """Score windows of images: (file name, windows) for each image.

        Returns {"window", "prediction", "filename"} for each window, in their order. Raises
        NetcError for an image that cannot be read and for a window outside its image.
        """
        found = []
        inputs = []
        in_ = self.inputs[0]
        for filename, windows in images_windows:
            image = io.load_image(filename)
            for window in windows:
                inputs.append(self.transformer.preprocess(in_, self.crop(image, window)))
                found.append({"window": window, "prediction": None, "filename": filename})
        if not inputs:
            return []
        predictions = self._forward_all(None, {in_: np.array(inputs)})[self.outputs[0]]
        for detection, prediction in zip(found, predictions, strict=True):
            detection["prediction"] = prediction
        return found

    def detect_selective_search(self, image_fnames: Sequence[str]) -> list[dict[str, Any]]:
        """Do the same with the windows that selective search proposes for each image.

        Raises NetcError where the package `selective_search_ijcv_with_python`, which pycaffe asks
        for them too, is missing; it needs MATLAB.
        """
        try:
            search = importlib.import_module("selective_search_ijcv_with_python")
        except ImportError as error:
            raise fail(
                "selective search is not installed",
                expected="the Python package selective_search_ijcv_with_python, and MATLAB",
                got=str(error),
                hint="detect_windows([(filename, windows), ...]) takes windows from anywhere else",
            ) from None
        paths = [os.path.abspath(name) for name in image_fnames]
        windows = search.get_windows(paths, cmd="selective_search_rcnn")
        return self.detect_windows(zip(paths, windows, strict=True))

    def crop(self, im: NDArray[Any], window: ArrayLike) -> FloatArray:
        """Return the part of an image (H, W, C) that a window stands for.

        Of the window's size without `context_pad`, cut off where the image ends, else of the
        input's.
        """
        box = _checked(window, im)
        if not self.context_pad:
            top, left, bottom, right = np.clip(box, 0, np.tile(im.shape[:2], 2)).astype(int)
            window_only: FloatArray = im[top:bottom, left:right].astype(np.float32)
            return window_only
        size = int(self.blobs[self.inputs[0]].width)  # As for R-CNN, the input is a square.
        box = _with_context(box, size, self.context_pad)
        height, width = _extent(box)
        scale_h, scale_w = size / height, size / width
        pad_y = round(max(0.0, -float(box[0])) * scale_h)
        pad_x = round(max(0.0, -float(box[1])) * scale_w)
        box = np.clip(box, 0, np.tile(im.shape[:2], 2))
        height, width = _extent(box)
        crop_h = min(round(height * scale_h), size - pad_y)
        crop_w = min(round(width * scale_w), size - pad_x)
        top, left, bottom, right = box.astype(int)
        part = io.resize_image(im[top:bottom, left:right], (crop_h, crop_w))
        found: FloatArray = (np.ones(self.crop_dims) * self.crop_mean).astype(np.float32)
        found[pad_y : pad_y + crop_h, pad_x : pad_x + crop_w] = part
        return found

    def configure_crop(self, context_pad: int | None) -> None:
        """Set how much of what is around a window is shown, in pixels of the input, or nothing.

        Where the image ends the mean is shown, in the units of the image.
        """
        in_ = self.inputs[0]
        shape = self.blobs[in_].shape
        back = np.argsort(self.transformer.transpose[in_])
        self.crop_dims = np.array(shape[1:])[back]
        self.context_pad = context_pad
        self.crop_mean: NDArray[Any] = np.zeros(self.crop_dims, np.float32)
        if not context_pad:
            return
        if not 0 < 2 * context_pad < shape[-1] or shape[-1] != shape[-2]:
            raise fail(
                "context_pad does not go with the net's input",
                expected="a square input, and less than half its width",
                got=f"context_pad {context_pad}, input of shape {shape}",
            )
        if in_ in self.transformer.mean:
            mean = self.transformer.mean[in_].transpose(back).astype(np.float64)
            if in_ in self.transformer.channel_swap:
                mean = mean[:, :, np.argsort(self.transformer.channel_swap[in_])]
            self.crop_mean = mean / self.transformer.raw_scale.get(in_, 1)


def _checked(window: ArrayLike, image: NDArray[Any]) -> NDArray[np.float64]:
    box = np.asarray(window, np.float64)
    height, width = image.shape[:2]
    if (
        box.shape != (4,)
        or not max(0, box[0]) < min(box[2], height)
        or not max(0, box[1]) < min(box[3], width)
    ):
        raise mistake(
            ValueMistake,
            "the window has nothing of the image in it",
            expected=f"(ymin, xmin, ymax, xmax), in an image of {height} x {width}",
            got=str(window),
        )
    return box


def _extent(box: NDArray[np.float64]) -> tuple[float, float]:
    """Return height and width; R-CNN's boxes include their last row and column."""
    return float(box[2] - box[0] + 1), float(box[3] - box[1] + 1)


def _with_context(box: NDArray[np.float64], size: int, pad: int) -> NDArray[np.float64]:
    """Return the box that fills the whole input if the given one fills it without its border."""
    scale = size / (size - 2 * pad)
    half = np.array(_extent(box)) / 2
    centre = box[:2] + half
    grown: NDArray[np.float64] = np.round(
        np.concatenate([centre - scale * half, centre + scale * half])
    )
    return grown
