"""The Data layer's source: images in an LMDB, each record a serialized `Datum`."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from netc.data.augmenting import Augmenter
from netc.data.images import ImageSource, assume_image, decode
from netc.data.randomness import Draws
from netc.data.source import Batch, DataAbsent, Item, Opening, locate_setting
from netc.data.transform import Image
from netc.errors import NetcError, Span, fail
from netc.layers.data import Data, Database
from netc.layers.types import BlobType
from netc.schema import netc_pb2


class DatumSource(ImageSource):
    """The records of an LMDB in key order."""

    def __init__(self, layer: Data, opening: Opening) -> None:
        """Open the database; DataAbsent when it is missing or a LevelDB."""
        path = locate_setting(layer.source, opening, "source", "database")
        if layer.backend is not Database.LMDB:
            raise not_lmdb(path)
        self._color = layer.decodes_color
        self._records = Records(path, opening.draws if layer.shuffle else None)
        try:
            super().__init__(layer, opening, len(self._records))
        except BaseException:
            self._records.close()
            raise
        self._param = layer.transform_param
        self._augmenter = Augmenter(self._param, (), opening, self._transformer, self._name)

    @staticmethod
    def assume(layer: Data, opening: Opening) -> Item | None:
        """Return what the settings tell about the images of an absent database."""
        color, param = layer.decodes_color, layer.transform_param
        channels = None if color is None else 3 if color else 1
        size, why = param.window, "crop_h, crop_w"
        if resize := param.resize(0):
            size, why = (resize.height, resize.width), "resize_param"
        elif param.crop_size or not all(size):
            return assume_image(layer, opening, channels, 0, 0)
        several = len(param.mean_value)
        image = BlobType((channels or (several if several > 1 else 3), *size))
        return Item((image,), f"images of shape {image} are assumed, from {why}")

    def item(self) -> tuple[BlobType, ...]:
        """Return the type of the first image, before its changes."""
        image = BlobType(self._image(0).shape)
        self._param.infer(image)
        self._transformer.infer(self._param.resized(image))
        return (image,)

    def load(self, position: int, count: int, reuse: Batch) -> Batch:
        """Return the batch that begins at a position."""
        datums = self._datums(position, count)
        batch = self._images(datums, position, count, reuse)
        if len(batch) > 1:
            batch[1][:] = [datum.label for datum in datums]
        return batch

    def _images(
        self, datums: Sequence[netc_pb2.Datum], position: int, count: int, reuse: Batch
    ) -> Batch:
        """Return the batch of some records, without their labels."""

        def decoded(i: int) -> Image:
            return self._decoded(datums[i], position + i)

        if self._param.changes:
            return self._augmenter.batch(decoded, position, count, len(self._layer.top), reuse)
        pixels = [datum.data for datum in datums]
        first = datums[0]
        shape = (first.channels, first.height, first.width)
        size = _count(shape)
        raw = size > 0 and all(
            len(data) == size
            and (datum.channels, datum.height, datum.width) == shape
            and not datum.encoded
            for datum, data in zip(datums, pixels, strict=True)
        )
        if raw:
            self._check_color(shape[0], position)
            images = np.frombuffer(b"".join(pixels), np.uint8).reshape(count, *shape)
            return self._transform_all(images, position, reuse)
        return self._transform_each(decoded, position, count, reuse)

    def close(self) -> None:
        """Let go of the database."""
        self._records.close()

    def _datums(self, position: int, count: int) -> list[netc_pb2.Datum]:
        datums: list[netc_pb2.Datum] = []
        try:
            for record in self._records.read(position, count):
                datums.append(netc_pb2.Datum.FromString(record))
        except DecodeError as error:
            raise fail(
                "a record of the database is not a Datum",
                expected="a serialized Datum, as convert_imageset writes it",
                got=self._name(position + len(datums)),
            ) from error
        return datums

    def _image(self, position: int) -> Image:
        return self._decoded(self._datums(position, 1)[0], position)

    def _decoded(self, datum: netc_pb2.Datum, position: int) -> Image:
        """Return the image (C, H, W) of a Datum: uint8, or float32 from `float_data`."""
        if datum.encoded:
            image = decode(datum.data, self._color)
            if image is None:
                raise fail(
                    "an encoded image cannot be decoded",
                    expected="JPEG, PNG or another format that OpenCV reads",
                    got=f"{len(datum.data)} bytes, {self._name(position)}",
                )
            if image.dtype != np.uint8:
                raise fail(
                    "an encoded image has more than 8 bits per value",
                    expected="8 bits",
                    got=f"{image.dtype}, {self._name(position)}",
                    hint="force_color or force_gray in transform_param reduces it to 8 bits",
                )
            return image
        shape = (datum.channels, datum.height, datum.width)
        values: Image = np.frombuffer(datum.data, np.uint8)
        if not values.size:
            values = np.array(datum.float_data, np.float32)
        if not values.size or _count(shape) != values.size:
            raise fail(
                "a Datum does not hold as many values as its sizes say",
                expected=f"{' * '.join(map(str, shape))} values (channels, height, width)",
                got=f"{values.size} values, {self._name(position)}",
            )
        self._check_color(shape[0], position)
        return values.reshape(shape)

    def _check_color(self, channels: int, position: int) -> None:
        """Refuse raw pixels that contradict a wish for colour or grey, which Caffe only logs."""
        wanted = None if self._color is None else 3 if self._color else 1
        if wanted is not None and channels != wanted:
            raise fail(
                "force_color and force_gray are for encoded images; this database holds raw ones",
                expected=f"images of {wanted} channel{'s' if wanted > 1 else ''}",
                got=f"{channels} channels, {self._name(position)}",
                hint="remove the setting, or make the database with the channels that you want",
            )

    def _name(self, position: int) -> str:
        return f"key '{self._records.key(position)}' of '{self._records.path}'"

    def _span(self, position: int) -> Span | None:
        return None


class Records:
    """The values of an LMDB by position: key order, over and over, or another order in each pass.

    Reading on from where the last read ended costs nothing extra; elsewhere the keys in between are
    walked over, because LMDB cannot count. With `shuffling`, the random numbers that order each
    pass, all keys are held in memory, and each record is looked up by its key.
    """

    def __init__(self, path: Path, shuffling: Draws | None = None) -> None:
        """Open the database at `path`; NetcError when it is none, cut off or empty."""
        self.path = path
        self._shuffling = shuffling
        self._order: tuple[int, NDArray[np.int64]] | None = None
        self._environment = _Environment.of(path)
        try:
            # Buffers: one copy less. They are valid as long as this transaction.
            self._transaction = self._environment.env.begin(buffers=True)
            self._count = int(self._transaction.stat()["entries"])
            if not self._count:
                raise fail("the database is empty", expected="one image or more", got=f"'{path}'")
        except BaseException:
            self._environment.release()
            raise
        self._closed = False
        self._index = 0
        self._iterator: Iterator[Any] = iter(())

    def __len__(self) -> int:
        return self._count

    def read(self, position: int, count: int) -> list[Any]:
        """Return `count` records from a position on, as buffers."""
        if self._shuffling:
            return [
                self._transaction.get(self._keys[self._shuffled(position + i)])
                for i in range(count)
            ]
        if self._index != position % self._count:
            self._seek(position % self._count)
        found: list[Any] = []
        try:
            while len(found) < count:
                if self._index in (0, self._count):
                    self._seek(0)
                part = list(itertools.islice(self._iterator, count - len(found)))
                self._index += len(part)
                found += part
        except self._environment.error as error:
            raise _broken(self.path, error) from error
        self._index %= self._count
        return found

    def key(self, position: int) -> str:
        """Return the key at a position, for messages."""
        if self._shuffling:
            return self._keys[self._shuffled(position)].decode("utf-8", "replace")
        # A transaction of its own: decoding threads may ask, several at a time.
        with self._environment.env.begin() as transaction:
            keys = transaction.cursor().iternext(keys=True, values=False)
            found = next(itertools.islice(keys, position % self._count, None), b"?")
            return bytes(found).decode("utf-8", "replace")

    def close(self) -> None:
        """Let go of the database. May be called twice."""
        if not self._closed:
            self._closed = True
            self._iterator = iter(())
            self._transaction.abort()
            self._environment.release()

    @cached_property
    def _keys(self) -> list[bytes]:
        return [bytes(key) for key in self._transaction.cursor().iternext(keys=True, values=False)]

    def _shuffled(self, position: int) -> int:
        """Return which record lies at a position."""
        assert self._shuffling
        epoch, place = divmod(position, self._count)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self._shuffling.order(self._count, "shuffle", epoch))
        return int(self._order[1][place])

    def _seek(self, index: int) -> None:
        cursor = self._transaction.cursor()
        cursor.first()
        if index:
            # Without values, which would have to be looked up: only keys are walked over.
            for _ in itertools.islice(cursor.iternext(keys=True, values=False), index + 1):
                pass
        self._iterator = cursor.iternext(keys=False, values=True)
        self._index = index


class _Environment:
    """An open database, shared by all who read it: LMDB forbids opening one twice in a process."""

    _open: ClassVar[dict[tuple[int, int], _Environment]] = {}
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, path: Path, key: tuple[int, int], file_size: int) -> None:
        import lmdb

        self.error = lmdb.Error
        self._key = key
        self._users = 0
        try:
            # No lock file: the data may lie where nothing can be written, and nobody changes it.
            self.env = lmdb.open(
                str(path), readonly=True, lock=False, create=False, subdir=path.is_dir()
            )
        except lmdb.Error as error:
            raise _no_database(path, error) from error
        # The file is mapped into memory: reading behind its end would kill the process.
        needed = (self.env.info()["last_pgno"] + 1) * self.env.stat()["psize"]
        if file_size < needed:
            self.env.close()
            raise _broken(path, f"{file_size} bytes of {needed}: the file is cut off")

    @classmethod
    def of(cls, path: Path) -> _Environment:
        """Return the environment of a database, which the caller will `release`."""
        file = path / "data.mdb" if path.is_dir() else path
        try:
            status = file.stat()
        except OSError as error:
            raise _no_database(path, f"no '{file.name}' in it") from error
        key = (status.st_dev, status.st_ino)
        with cls._lock:
            if key not in cls._open:
                cls._open[key] = cls(path, key, status.st_size)
            found = cls._open[key]
            found._users += 1
        return found

    def release(self) -> None:
        """Close the database when nobody else uses it."""
        with self._lock:
            self._users -= 1
            if not self._users:
                del self._open[self._key]
                self.env.close()


def _count(shape: tuple[int, int, int]) -> int:
    """Return the number of values, 0 for sizes that are none."""
    return math.prod(shape) if min(shape) > 0 else 0


def _no_database(path: Path, got: object) -> NetcError:
    hint = _LEVELDB_HINT if _is_leveldb(path) else ""
    return fail(
        "the source is not an LMDB",
        expected="a folder with a file 'data.mdb'",
        got=f"'{path}': {got}",
        hint=hint,
    )


def _broken(path: Path, got: object) -> NetcError:
    return fail(
        "the database is damaged",
        got=f"'{path}': {got}",
        hint="make or copy it again",
    )


def not_lmdb(path: Path) -> DataAbsent:
    """Return what to raise where the text says, or leaves it at, LEVELDB."""
    is_lmdb = (path / "data.mdb").is_file()
    return DataAbsent(
        "netc reads no LevelDB databases",
        expected="data_param { backend: LMDB } and an LMDB",
        got=f"backend: LEVELDB (the default), and '{path}' "
        + ("is an LMDB" if is_lmdb else "is a LevelDB" if _is_leveldb(path) else "is neither"),
        hint="add backend: LMDB to data_param" if is_lmdb else _LEVELDB_HINT,
        setting="backend",
    )


def _is_leveldb(path: Path) -> bool:
    return (path / "CURRENT").is_file()


_LEVELDB_HINT = (
    "convert it once, with the package plyvel:\n"
    "    import netc.data, plyvel\n"
    "    netc.data.write_records('NEW_LMDB', plyvel.DB('OLD_LEVELDB'))\n"
    "or make it again from the images, with -backend lmdb; then write backend: LMDB"
)
