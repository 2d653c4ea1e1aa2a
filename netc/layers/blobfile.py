"""A blob from a file, for types that need one besides their bottoms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from netc.layers.types import Arity, BlobType, Layer, Signature, exactly


@dataclass(frozen=True)
class BlobFile(Layer):
    """The content of `source`, a file with one BlobProto: the same in each pass.

    No text can name this type, so it is not registered: types such as InfogainLoss expand to it.
    `netc.data` does the reading, and tells `infer` the shape.
    """

    source: str = ""

    type: ClassVar[str] = "BlobFile"
    bottoms: ClassVar[Arity] = exactly(0)
    reads_data: ClassVar[bool] = True

    def infer(self, *bottoms: BlobType) -> Signature:
        """Return the shape in the file."""
        return Signature((bottoms[0],))
