"""Segmentations beside the boxes of objects, as in the records of MobileNet-YOLO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.unknown_fields import UnknownFieldSet
from numpy.typing import NDArray

from netc.data.images import opencv
from netc.data.source import Opening, locate_setting
from netc.errors import Span, fail
from netc.layers.annotated import AnnotatedData
from netc.schema import netc_pb2, read_label_map

# The number of `seg_label` in that fork's Datum. Here it is that of NVCaffe's `record_id`, which
# is a number and no bytes, so that this field is an unknown one.
_SEG_LABEL = 8
# A single class is where more than this is left of its 255.
_SINGLE = 100

Pixels = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Classes:
    """What the grey values of a segmentation mean.

    `tables` has a row for each class: 255 for a grey value that is of it, else 0. None stands for
    one class, whose pixels are bright.
    """

    tables: NDArray[np.uint8] | None = None

    @property
    def count(self) -> int:
        """The number of classes."""
        return 1 if self.tables is None else len(self.tables)

    def maps(self, pixels: Pixels, size: tuple[int, ...]) -> NDArray[np.float32]:
        """Return how much of each pixel is of each class, (C, H, W), of grey pixels (h, w)."""
        if self.tables is None:
            return (_resized(pixels, size) > _SINGLE).astype(np.float32)[None]
        resized = [_resized(table[pixels], size) for table in self.tables]
        return np.stack(resized).astype(np.float32) / np.float32(255)


def _resized(pixels: Pixels, size: tuple[int, ...]) -> Pixels:
    cv2 = opencv()
    height, width = size
    out: Pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    return out


def classes_of(layer: AnnotatedData, opening: Opening) -> Classes:
    """Return the classes of a layer's segmentations.

    DataAbsent where the file is missing that tells them, NetcError where it does not.
    """
    if layer.one_map:
        return Classes()
    path = locate_setting(layer.label_map_file, opening, "label_map_file", "label map")
    ids = [item.label_id for item in read_label_map(path).item]
    count = max(ids, default=0)
    if count < 1:
        raise fail(
            "the label map names no class of a segmentation",
            span=Span(str(path)),
            expected='item { name: "road" label: 7 label_id: 1 }: label_id from 1 on',
            got=f"{len(ids)} items without label_id",
        )
    tables = np.zeros((count, 256), np.uint8)
    for grey, label in enumerate(ids[:256]):
        if label > 0:
            tables[label - 1, grey] = 255
    return Classes(tables)


def segmentation_of(datum: netc_pb2.Datum) -> bytes:
    """Return the encoded image that a record's segmentation is, b"" where there is none."""
    fields = UnknownFieldSet(datum)
    for field in (fields[i] for i in range(len(fields))):
        if field.field_number == _SEG_LABEL and isinstance(field.data, bytes):
            return field.data
    return b""
