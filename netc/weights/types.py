"""Weights as plain, immutable data: what every file format is read to and written from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from netc.schema import netc_pb2

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class SavedBlob:
    """One param as a file holds it.

    `data` is float32, of the blob's shape, and not to be written to. `legacy` marks a blob of a
    file older than arbitrary shapes: it has always four axes (num, channels, height, width).
    `diff` is the gradient, where it was saved and asked for. `shared` says that another layer owns
    the param: HDF5 files hold it there only.
    """

    data: FloatArray
    legacy: bool = False
    diff: FloatArray | None = None
    shared: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in the file."""
        return self.data.shape

    def fits(self, shape: Sequence[int]) -> bool:
        """Say whether a param of `shape` can be copied from here, by Caffe's rule.

        The shapes must be equal, axis by axis; (1, 1, N, K) is not (N, K). A legacy blob fits a
        param of at most four axes that equals it once axes of 1 are put in front: (1, 1, N, K) fits
        (N, K), and (1, 1, 1, N) fits (N,). Source: Blob::ShapeEquals of BVLC Caffe 1.0.
        """
        wanted = tuple(shape)
        if self.legacy:
            return len(wanted) <= 4 and (1,) * (4 - len(wanted)) + wanted == self.shape
        return wanted == self.shape

    def shaped(self, shape: Sequence[int]) -> FloatArray:
        """Return the data with the shape of a param that it `fits`."""
        return self.data.reshape(tuple(shape))


@dataclass(frozen=True, slots=True, eq=False)
class SavedLayer:
    """A layer's entry in a weights file.

    A blob is None where an HDF5 file leaves it out because another layer owns it. `settings` holds
    all other fields of the layer's message (`convolution_param`, ...) as protobuf stores them; old
    formats and HDF5 files have none here.
    """

    name: str
    blobs: tuple[SavedBlob | None, ...] = ()
    type: str = ""
    bottoms: tuple[str, ...] = ()
    tops: tuple[str, ...] = ()
    settings: bytes = b""

    @classmethod
    def of(cls, layer: netc_pb2.LayerParameter, blobs: Iterable[SavedBlob]) -> Self:
        """Return the entry of a layer of a net, as Caffe writes it: with all that the text says."""
        settings = netc_pb2.LayerParameter()
        settings.CopyFrom(layer)
        for own in ("name", "type", "bottom", "top", "blobs"):
            settings.ClearField(own)
        return cls(
            layer.name,
            tuple(blobs),
            layer.type,
            tuple(layer.bottom),
            tuple(layer.top),
            settings.SerializeToString(),
        )

    @property
    def shapes(self) -> tuple[tuple[int, ...] | None, ...]:
        """The shapes of the blobs."""
        return tuple(blob.shape if blob else None for blob in self.blobs)


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """The content of a weights file: layers in the file's order, of which two may have one name.

    `name` is that of the net, `file` the path it was read from, `format` one of "binaryproto",
    "HDF5" and "text".
    """

    layers: tuple[SavedLayer, ...]
    name: str = ""
    file: str = ""
    format: str = ""

    def __iter__(self) -> Iterator[tuple[str, tuple[FloatArray | None, ...]]]:
        """Yield (layer name, arrays) in the file's order."""
        for layer in self.layers:
            yield layer.name, tuple(blob.data if blob else None for blob in layer.blobs)

    @property
    def n_values(self) -> int:
        """The number of learned values."""
        return sum(blob.data.size for layer in self.layers for blob in layer.blobs if blob)


def frozen(values: npt.NDArray[Any]) -> FloatArray:
    """Return values as a float32 array that cannot be written to.

    Values beyond float32's range become infinite, as they do in Caffe.
    """
    with np.errstate(over="ignore"):
        # A view, so that the caller's own array stays writable.
        array = np.asarray(values, dtype=np.float32).view()
    array.setflags(write=False)
    return array


def describe_shape(shape: Sequence[int] | None) -> str:
    """Return `(64, 3, 7, 7)` for messages; `-` for a blob that the file leaves out."""
    return "-" if shape is None else str(tuple(shape))
