"""The SparseData layer's source: rows of few values in an LMDB of `SparseDatum` messages."""

from __future__ import annotations

import numpy as np
from google.protobuf.message import DecodeError

from netc.data.datums import Records, not_lmdb
from netc.data.source import Batch, Item, Opening, arrays_for, locate_setting
from netc.errors import NetcError, fail
from netc.layers.data import Database, SparseData
from netc.layers.types import BlobType
from netc.schema import netc_pb2


class SparseSource:
    """The records of an LMDB in key order, each a row of the size that the first one tells."""

    def __init__(self, layer: SparseData, opening: Opening) -> None:
        """Open the database; DataAbsent when it is missing or a LevelDB."""
        path = locate_setting(layer.source, opening, "source", "database")
        if layer.backend is not Database.LMDB:
            raise not_lmdb(path)
        self._n_tops = len(layer.top)
        self._records = Records(path)
        try:
            (first,) = self._rows(0, 1)
            self._width = first.size
            if self._width < 1:
                raise self._mistake("has no size", 0, "size > 0", f"size {self._width}")
        except BaseException:
            self.close()
            raise

    @staticmethod
    def assume(layer: SparseData, opening: Opening) -> Item | None:
        """Return None: no setting tells the size of a row."""
        return None

    @property
    def size(self) -> int:
        """The number of rows."""
        return len(self._records)

    @property
    def start(self) -> int:
        """The position at which a fresh run begins."""
        return 0

    def item(self) -> tuple[BlobType, ...]:
        """Return the type of a row."""
        return (BlobType((self._width,)),)

    def load(self, position: int, count: int, reuse: Batch) -> Batch:
        """Return the batch that begins at a position."""
        batch = arrays_for(((count, self._width), (count,))[: self._n_tops], reuse)
        batch[0][...] = 0
        for i, record in enumerate(self._rows(position, count)):
            places, values = np.array(record.indices, np.int64), np.array(record.data, np.float32)
            places, values = places[: record.nnz], values[: record.nnz]
            inside = record.size == self._width and ((places >= 0) & (places < self._width)).all()
            if not inside or len(places) != record.nnz or len(values) != record.nnz:
                raise self._mistake(
                    "does not fit its size",
                    position + i,
                    f"size {self._width}, and nnz values with indices below it",
                    f"size {record.size}, nnz {record.nnz}, {len(record.indices)} indices, "
                    f"{len(record.data)} values",
                )
            np.add.at(batch[0][i], places, values)
            if self._n_tops > 1:
                batch[1][i] = record.label
        return batch

    def close(self) -> None:
        """Let go of the database."""
        self._records.close()

    def _rows(self, position: int, count: int) -> list[netc_pb2.SparseDatum]:
        found: list[netc_pb2.SparseDatum] = []
        try:
            for record in self._records.read(position, count):
                found.append(netc_pb2.SparseDatum.FromString(record))
        except DecodeError as error:
            at = position + len(found)
            raise self._mistake("is no SparseDatum", at, "a serialized SparseDatum", "") from error
        return found

    def _mistake(self, what: str, position: int, expected: str, got: str) -> NetcError:
        key = f"key '{self._records.key(position)}' of '{self._records.path}'"
        return fail(
            f"a record of the database {what}",
            expected=expected,
            got=", ".join(filter(None, (got, key))),
        )
