"""The arrays of `net.set_input_arrays`: what a MemoryData layer gives, batch by batch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from netc.layers.memorydata import MemoryData
from netc.layers.types import Layer
from netc.pycaffe.errors import RuntimeMistake, mistake

FloatArray = NDArray[np.float32]


class InputArrays:
    """Images (n, C, H, W) and labels (n, 1, 1, 1) for a net whose first layer is MemoryData.

    They are the caller's own, so that what is written into them later counts, and as in Caffe must
    be float32 in C order, n a multiple of the batch size. After the last batch comes the first.
    """

    def __init__(self, layer: Layer, data: NDArray[Any], labels: NDArray[Any]) -> None:
        if not isinstance(layer, MemoryData):
            raise mistake(
                RuntimeMistake,
                "set_input_arrays may only be called if the first layer is a MemoryDataLayer",
                expected="a net whose first layer is of type MemoryData",
                got=layer.type,
                hint="other inputs are set through net.blobs[...].data, or net.forward(data=...)",
            )
        self._size = layer.batch_size
        self._at = 0
        image = (layer.channels, layer.height, layer.width)
        self._data = _checked("data array", data, image)
        self._labels = _checked("labels array", labels, (1, 1, 1))
        if len(data) != len(labels):
            raise mistake(
                RuntimeMistake,
                "data and labels must have the same first dimension",
                got=f"{len(data)} images, {len(labels)} labels",
            )
        if len(data) % self._size or not len(data):
            raise mistake(
                RuntimeMistake,
                "first dimensions of input arrays must be a multiple of batch size",
                expected=f"a multiple of {self._size}",
                got=f"{len(data)}",
            )

    def next(self) -> tuple[FloatArray, FloatArray]:
        """Return the next batch: images, and labels of shape (N,)."""
        batch = slice(self._at, self._at + self._size)
        self._at = batch.stop % len(self._data)
        return self._data[batch], self._labels[batch].reshape(-1)


def _checked(what: str, array: NDArray[Any], item: tuple[int, ...]) -> FloatArray:
    if array.ndim != 4 or array.shape[1:] != item:
        raise mistake(
            RuntimeMistake,
            f"{what} has the wrong shape",
            expected=f"(n, {', '.join(map(str, item))}), as memory_data_param says",
            got=f"{array.shape}",
        )
    if array.dtype != np.float32 or not array.flags.c_contiguous:
        raise mistake(
            RuntimeMistake,
            f"{what} must be float32 and C contiguous",
            got=f"{array.dtype}, strides {array.strides}",
            hint="np.ascontiguousarray(array, np.float32) makes it so",
        )
    return array
