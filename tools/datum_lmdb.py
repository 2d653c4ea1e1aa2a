"""Reads and writes databases as Caffe's Data layer wants them: LMDB, key "%08d", value a Datum."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import lmdb
import numpy as np
from numpy.typing import NDArray

from netc.errors import Span, fail
from netc.schema import netc_pb2

# As many puts per transaction as Caffe's own converters make.
_BATCH = 1000
# A database's address space must be set ahead. It starts here and doubles: some platforms give the
# file that size at once, so Caffe's single terabyte would not do everywhere.
_FIRST_MAP_SIZE = 64 << 20


def raw_datum(pixels: NDArray[np.uint8], label: int) -> bytes:
    """Return a Datum of raw `pixels` (C, H, W), 0-255."""
    channels, height, width = pixels.shape
    return bytes(
        netc_pb2.Datum(
            channels=channels, height=height, width=width, data=pixels.tobytes(), label=label
        ).SerializeToString()
    )


def encoded_datum(file_bytes: bytes, label: int) -> bytes:
    """Return a Datum that holds an image file's own bytes (JPEG, PNG, ...)."""
    return bytes(netc_pb2.Datum(data=file_bytes, label=label, encoded=True).SerializeToString())


class DatumWriter:
    """Writes a database and puts it in place when all of it is there.

        with DatumWriter(Path("build/train_lmdb")) as out:
            out.put(raw_datum(pixels, label))

    The keys count from "00000000"; `suffix` adds "_suffix". A database that exists is an error
    unless `overwrite`, and a folder that is something else is never overwritten.
    """

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        self.count = 0
        self._path = path
        self._pending: list[tuple[bytes, bytes]] = []
        self._partial = path.with_name(path.name + ".tmp")
        if path.exists():
            if not overwrite:
                raise fail(
                    "the output exists",
                    span=Span(str(path)),
                    hint="remove it, name another one, or give -overwrite",
                )
            if not _is_database(path):
                raise fail(
                    "the output exists and is not an LMDB, so -overwrite leaves it alone",
                    span=Span(str(path)),
                    expected="a folder with data.mdb and perhaps lock.mdb, nothing else",
                )

    def __enter__(self) -> DatumWriter:
        shutil.rmtree(self._partial, ignore_errors=True)
        try:
            self._partial.mkdir(parents=True)
            self._map_size = _FIRST_MAP_SIZE
            self._env = lmdb.open(str(self._partial), map_size=self._map_size, lock=False)
        except (OSError, lmdb.Error) as error:
            raise fail("cannot write here", span=Span(str(self._path)), got=error) from error
        return self

    def put(self, datum: bytes, suffix: str = "") -> None:
        """Append one serialized Datum."""
        key = f"{self.count:08d}_{suffix}" if suffix else f"{self.count:08d}"
        if len(key.encode()) > self._env.max_key_size():
            raise fail(
                "this path is too long for a database key",
                span=Span(str(self._path)),
                expected=f"at most {self._env.max_key_size()} bytes with the number in front",
                got=key,
            )
        self._pending.append((key.encode(), datum))
        self.count += 1
        if len(self._pending) == _BATCH:
            self._flush()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._flush()
                self._env.sync(True)
                self._env.close()
                if self._path.exists():
                    shutil.rmtree(self._path)
                self._partial.rename(self._path)
        except OSError as problem:
            raise fail("cannot write here", span=Span(str(self._path)), got=problem) from problem
        finally:
            self._env.close()
            shutil.rmtree(self._partial, ignore_errors=True)

    def _flush(self) -> None:
        while self._pending:
            try:
                with self._env.begin(write=True) as transaction:
                    for key, value in self._pending:
                        transaction.put(key, value)
                self._pending.clear()
            except lmdb.MapFullError:
                self._map_size *= 2
                self._env.set_mapsize(self._map_size)
            except lmdb.Error as error:
                raise fail("cannot write", span=Span(str(self._path)), got=error) from error


def read_datums(path: Path) -> Iterator[tuple[str, netc_pb2.Datum]]:
    """Yield (key, Datum) in key order. Raises NetcError for what is not such a database."""
    span = Span(str(path))
    if not path.exists():
        raise fail("there is no such database", span=span)
    try:
        with (
            lmdb.open(str(path), readonly=True, lock=False, subdir=path.is_dir()) as env,
            env.begin() as transaction,
        ):
            for key, value in transaction.cursor():
                name = key.decode(errors="replace")
                try:
                    datum = netc_pb2.Datum.FromString(value)
                except Exception as error:
                    raise fail(f"the value of key {name} is not a Datum", span=span) from error
                yield name, datum
    except lmdb.Error as error:
        raise fail("this is not an LMDB", span=span, got=error) from error


def _is_database(path: Path) -> bool:
    names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    return "data.mdb" in names and names <= {"data.mdb", "lock.mdb"}
