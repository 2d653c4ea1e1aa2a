"""A blob from a file, for types that need one besides their bottoms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from netc.layers.data import Reader
from netc.layers.types import BlobType, Signature


@dataclass(frozen=True)
class BlobFile(Reader):
    """The content of `source`, a file with one BlobProto: the same in each pass.

    Shapes: the blob as it is in the file -> top (1, ...), a batch of one. No text can name this
    type, so it is not registered: types such as InfogainLoss expand to it.
    """

    batch_size: int = 1

    type: ClassVar[str] = "BlobFile"

    def infer(self, *bottoms: BlobType) -> Signature:
        """Return the shape in the file, as a batch of one."""
        self.check()
        return Signature((BlobType((self.batch_size, *bottoms[0].shape)),))
