"""A net that takes images and gives class probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netc.pycaffe import io
from netc.pycaffe.net import Net, Path
from netc.pycaffe.settings import TEST


def transformer(
    net: Net,
    mean: NDArray[Any] | None,
    input_scale: float | None,
    raw_scale: float | None,
    channel_swap: Sequence[int] | None,
) -> io.Transformer:
    """Return what turns images (H, W, C) into the first input of a net, with what is given set."""
    in_ = net.inputs[0]
    found = io.Transformer({in_: net.blobs[in_].shape})
    found.set_transpose(in_, (2, 0, 1))
    if mean is not None:
        found.set_mean(in_, mean)
    if input_scale is not None:
        found.set_input_scale(in_, input_scale)
    if raw_scale is not None:
        found.set_raw_scale(in_, raw_scale)
    if channel_swap is not None:
        found.set_channel_swap(in_, channel_swap)
    return found


class Classifier(Net):
    """A net for the classification of images (H, W, C), with values in 0-1.

    Images are resized to `image_dims` (height, width), cut to the input's size (which is also the
    default of `image_dims`), and treated as `io.Transformer` describes under `mean`,
    `input_scale`, `raw_scale` and `channel_swap`. The net's first input takes them, its first
    output is the answer.
    """

    def __init__(
        self,
        model_file: Path,
        pretrained_file: Path,
        image_dims: Sequence[int] | None = None,
        mean: NDArray[Any] | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
    ) -> None:
        super().__init__(model_file, TEST, weights=pretrained_file)
        self.transformer = transformer(self, mean, input_scale, raw_scale, channel_swap)
        self.crop_dims = np.array(self.blobs[self.inputs[0]].shape[2:])
        self.image_dims = np.array(self.crop_dims if image_dims is None else image_dims)

    def predict(
        self, inputs: Iterable[NDArray[Any]], oversample: bool = True
    ) -> NDArray[np.float32]:
        """Return the probabilities (N, K) of N images.

        With `oversample` they are averaged over ten windows of each image: the corners, the centre,
        and their mirror images; else the centre alone counts.
        """
        images = [io.resize_image(image, self.image_dims.tolist()) for image in inputs]
        if oversample:
            windows = io.oversample(images, self.crop_dims.tolist())
        else:
            height, width = self.crop_dims
            top, left = (self.image_dims / 2 - self.crop_dims / 2).astype(int)
            windows = np.array(images)[:, top : top + height, left : left + width]
        in_ = self.inputs[0]
        data = np.array([self.transformer.preprocess(in_, window) for window in windows])
        predictions = self._forward_all(None, {in_: data})[self.outputs[0]]
        if oversample:
            predictions = predictions.reshape(len(images), 10, -1).mean(1)
        return predictions
