"""The AnnotatedData layer's source: images with boxes in an LMDB of `AnnotatedDatum` messages."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from netc.data import augment
from netc.data.augmenting import Augmenter, Objects
from netc.data.datums import DatumSource
from netc.data.images import decode
from netc.data.segments import classes_of, segmentation_of
from netc.data.source import Batch, DataAbsent, Item, Opening, arrays_for
from netc.data.workers import workers
from netc.errors import NetcError, fail
from netc.layers.annotated import OBJECT, AnnotatedData
from netc.layers.types import BlobType
from netc.schema import netc_pb2

# For how many batches the images keep a size, where there are several, as in the fork.
SAME_SIZE = 10

# Records that are looked at together when objects are counted.
_AT_A_TIME = 1000


class AnnotatedSource(DatumSource):
    """The records of an LMDB in key order, each image changed at random with its boxes."""

    def __init__(self, layer: AnnotatedData, opening: Opening) -> None:
        """Open the database; DataAbsent when it is missing or a LevelDB."""
        super().__init__(layer, opening)
        self._annotated = layer
        self._augmenter = Augmenter(
            self._param,
            layer.batch_sampler,
            opening,
            self._transformer,
            self._name,
            layer.jitter,
        )
        try:
            first = self._messages(0, 1)[0]
            self._classes = classes_of(layer, opening) if layer.segments else None
        except BaseException:
            self.close()
            raise
        #: Whether the second top holds boxes, or lanes, not the labels of images.
        self._boxed = layer.anno_type is not None or first.HasField("type")

    @staticmethod
    def assume(layer: AnnotatedData, opening: Opening) -> Item | None:  # type: ignore[override]
        """Return what the settings tell about an absent database: one object for each image."""
        item = DatumSource.assume(layer, opening)
        if item is None:
            return None
        types, assumed = (*item.types, *layer.beside), item.assumed + ", and one object in each"
        if layer.segments and len(types) < 3:
            with contextlib.suppress(DataAbsent):
                types = (*types, BlobType((classes_of(layer, opening).count,)))
        return Item(types, assumed)

    def item(self) -> tuple[BlobType, ...]:
        """Return the types of the first image, before its changes, and of the most objects."""
        (image,) = super().item()
        if len(self._annotated.top) < 2:
            return (image,)
        beside = BlobType((self._most_needed, OBJECT)) if self._boxed else BlobType((1,))
        if self._classes is None:
            return (image, beside)
        return (image, beside, BlobType((self._classes.count,)))

    @property
    def _most_needed(self) -> int:
        return 1 if self._annotated.yolo else self._most

    def load(self, position: int, count: int, reuse: Batch) -> Batch:
        """Return the batch that begins at a position."""
        messages = self._messages(position, count)
        found: list[Objects] = [np.empty((0, OBJECT))] * count
        resizing = self._augmenter.resizing_of(position // count // SAME_SIZE)
        first, found[0] = self._changed(messages[0], position, resizing)
        batch = self._arrays(first, count, reuse)

        def place(i: int) -> None:
            image = first
            if i:
                image, found[i] = self._changed(messages[i], position + i, resizing)
            found[i] = self._augmenter.windowed(
                image, found[i], position + i, batch[0][i : i + 1], resizing
            )
            found[i][:, 0] = i
            if len(batch) > 2:
                self._segment(messages[i], position + i, resizing, batch[2][i])

        workers().run(place, count)
        if len(batch) > 1:
            self._label(batch[1], messages, found, position, resizing)
        return batch

    def _label(
        self,
        out: NDArray[np.float32],
        messages: Sequence[netc_pb2.AnnotatedDatum],
        found: Sequence[Objects],
        position: int,
        resizing: float,
    ) -> None:
        """Write the second top of a batch; `found` are the objects of each image, changed."""
        if not self._boxed:
            out[:] = [message.datum.label for message in messages]
        elif self._annotated.yolo:
            _fill_yolo(out, found, self._annotated.train_diffcult)
        else:
            rows = np.concatenate(found)
            out[...] = -1
            out[0, 0, : len(rows)] = rows

    def _segment(
        self,
        message: netc_pb2.AnnotatedDatum,
        position: int,
        resizing: float,
        out: NDArray[np.float32],
    ) -> None:
        """Write the segmentation (C, H, W) of a record, changed as its image is."""
        assert self._classes
        grey = decode(segmentation_of(message.datum), False)
        if grey is None:
            raise fail(
                "a record of the database has no segmentation that can be decoded",
                expected="a Datum with an encoded grey image in seg_label",
                got=self._name(position),
                hint="two tops do without segmentations",
            )
        pixels = grey[0]
        part = self._augmenter.part(_objects_of(message), position, resizing)
        if part is not None:
            pixels = augment.crop(pixels, part)
        maps = self._classes.maps(pixels, out.shape[1:])
        out[...] = maps[..., ::-1] if self._augmenter.mirrored(position) else maps

    # -- records -----------------------------------------------------------------------------------

    def _messages(self, position: int, count: int) -> list[netc_pb2.AnnotatedDatum]:
        found: list[netc_pb2.AnnotatedDatum] = []
        try:
            for record in self._records.read(position, count):
                message = netc_pb2.AnnotatedDatum.FromString(record)
                if not message.HasField("datum"):
                    raise DecodeError("no datum")
                found.append(message)
        except DecodeError as error:
            raise self._no_record(position + len(found)) from error
        return found

    def _no_record(self, position: int) -> NetcError:
        return fail(
            "a record of the database is not an AnnotatedDatum",
            expected="a serialized AnnotatedDatum, as SSD's convert_annoset writes it",
            got=self._name(position),
            hint="a database of Datum messages is for a Data layer",
        )

    def _image(self, position: int) -> NDArray[Any]:
        return self._decoded(self._messages(position, 1)[0].datum, position)

    def _changed(
        self, message: netc_pb2.AnnotatedDatum, position: int, resizing: float
    ) -> tuple[NDArray[Any], Objects]:
        """Return the image (H, W, C) of a record with its objects, ready for its window."""
        stored = self._decoded(message.datum, position)
        return self._augmenter.changed(stored, self._objects(message), position, resizing)

    def _objects(self, message: netc_pb2.AnnotatedDatum) -> Objects:
        return _objects_of(message)

    @cached_property
    def _most(self) -> int:
        """The largest number of objects that a record of the database has; at least 1."""
        most = 1
        for first in range(0, self.size, _AT_A_TIME):
            records = self._records.read(first, min(_AT_A_TIME, self.size - first))
            for index, record in enumerate(records):
                try:
                    most = max(most, count_objects(record))
                except DecodeError as error:
                    raise self._no_record(first + index) from error
        return most

    def _arrays(self, image: NDArray[Any], count: int, reuse: Batch) -> Batch:
        """Return arrays for a batch of images like this one, (H, W, C) and already resized."""
        height, width, channels = image.shape
        window = self._param.window
        shapes: list[tuple[int, ...]] = [(count, channels, window[0] or height, window[1] or width)]
        if len(self._annotated.top) > 1:
            labels: tuple[int, ...] = (count,)
            if self._boxed:
                labels = self._annotated.labels(count, self._most_needed)
            shapes.append(labels)
        if self._classes:
            size = self._annotated.segment_size(*shapes[0][2:])
            shapes.append((count, self._classes.count, *size))
        return arrays_for(tuple(shapes), reuse)


def _objects_of(message: netc_pb2.AnnotatedDatum) -> Objects:
    """Return the objects of a record as rows; the image in the batch is still 0."""
    rows = [
        (
            0.0,
            group.group_label,
            annotation.instance_id,
            annotation.bbox.xmin,
            annotation.bbox.ymin,
            annotation.bbox.xmax,
            annotation.bbox.ymax,
            annotation.bbox.difficult,
        )
        for group in message.annotation_group
        for annotation in group.annotation
    ]
    return np.array(rows, np.float64).reshape(-1, OBJECT)


def _fill_yolo(out: NDArray[np.float32], found: Sequence[Objects], difficult: bool) -> None:
    """Write the objects of each image as (class from 0 on, centre, size); the rest holds 0."""
    out[...] = 0
    for rows, objects in zip(out[:, 0], found, strict=True):
        chosen = objects if difficult else objects[objects[:, 7] == 0]
        chosen = chosen[: len(rows)]
        low, high = chosen[:, 3:5], chosen[:, 5:7]
        rows[: len(chosen)] = np.column_stack((chosen[:, 1] - 1, (low + high) / 2, high - low))


# Wire types of protobuf's encoding.
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def count_objects(record: bytes | memoryview) -> int:
    """Return the number of objects of a serialized AnnotatedDatum.

    Its image, by far the largest part, is stepped over. Raises DecodeError for what is no message.
    """
    group_number = netc_pb2.AnnotatedDatum.ANNOTATION_GROUP_FIELD_NUMBER
    at, count = 0, 0
    while at < len(record):
        tag, at = _varint(record, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            _, at = _varint(record, at)
            continue
        if kind == _LENGTH:
            length, at = _varint(record, at)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise DecodeError(f"wire type {kind}")
        if at + length > len(record):
            raise DecodeError("the record is cut off")
        if kind == _LENGTH and number == group_number:
            group = netc_pb2.AnnotationGroup.FromString(bytes(record[at : at + length]))
            count += len(group.annotation)
        at += length
    return count


def _varint(record: bytes | memoryview, at: int) -> tuple[int, int]:
    """Return the number that begins at a place, and the place behind it."""
    value = shift = 0
    while at < len(record) and shift < 64:
        byte = record[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise DecodeError("the record is cut off")
