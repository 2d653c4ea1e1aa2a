"""Files of one blob (binaryproto): mean images, and what a layer needs besides its bottoms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from numpy.typing import NDArray

from netc.data.source import Batch, Item, Opening, arrays_for, locate_setting
from netc.errors import Span, fail
from netc.layers.blobfile import BlobFile
from netc.layers.types import BlobType
from netc.schema import weights_pb2


def read_blob(path: Path, what: str) -> NDArray[np.float32]:
    """Read a file that holds one BlobProto, in its shape: legacy ones have four axes, or five.

    Raises NetcError, which says that it is not a `what` ("mean file"), for a file that is not one.
    """
    span = Span(str(path))
    try:
        content = path.read_bytes()
        blob = weights_pb2.BlobProto.FromString(content)
    except OSError as error:
        raise fail(f"the {what} cannot be read", span=span, got=error.strerror) from error
    except DecodeError as error:
        raise fail(f"this is not a {what}", span=span, expected="a BlobProto") from error
    if blob.HasField("shape"):
        shape = tuple(blob.shape.dim)
    else:
        shape = (blob.num, blob.channels, blob.height, blob.width)
    values = np.frombuffer(weights_pb2.array_bytes(blob, "data"), "<f4")
    width = _c3d_width(blob)
    if width is not None:
        # All one number later: the diff's is that of the values.
        shape = (*shape, width)
        values = np.frombuffer(weights_pb2.array_bytes(blob, "diff"), "<f4")
    if not values.size:
        values = np.frombuffer(weights_pb2.array_bytes(blob, "double_data"), "<f8")
    if min(shape, default=0) < 0 or BlobType(shape).count != values.size:
        raise fail(
            f"this is not a {what}",
            span=span,
            expected="a BlobProto with a value for each element",
            got=f"{values.size} values of shape {BlobType(shape)}",
        )
    return values.astype(np.float32).reshape(shape)


def _c3d_width(blob: weights_pb2.BlobProto) -> int | None:
    """Return the fifth size of a blob of C3D's first version, None for any other blob.

    It has the number that the values have everywhere else.
    """
    # A sequence of fields, of which the type stubs tell nothing.
    unknown: Any = UnknownFieldSet(blob)
    return next((field.data for field in unknown if field.field_number == 5), None)


class BlobSource:
    """The content of a blob file, as the only item."""

    def __init__(self, layer: BlobFile, opening: Opening) -> None:
        """Read the file; DataAbsent when it is missing, NetcError when it is something else."""
        path = locate_setting(layer.source, opening, "source", "blob file")
        self._blob = read_blob(path, "blob file")

    @staticmethod
    def assume(layer: BlobFile, opening: Opening) -> Item | None:
        """Return None: no setting tells the shape."""
        return None

    @property
    def size(self) -> int:
        """1."""
        return 1

    @property
    def start(self) -> int:
        """The position at which a fresh run begins."""
        return 0

    def item(self) -> tuple[BlobType, ...]:
        """Return the blob's type."""
        return (BlobType(self._blob.shape),)

    def load(self, position: int, count: int, reuse: Batch) -> Batch:
        """Return the blob, `count` times."""
        (batch,) = arrays_for(((count, *self._blob.shape),), reuse)
        batch[...] = self._blob
        return (batch,)

    def close(self) -> None:
        """Do nothing: the file is read at once."""
