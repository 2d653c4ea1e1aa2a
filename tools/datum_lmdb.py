"""Databases as Caffe's Data layer wants them: LMDB, keys "%08d" or "%08d_path", values Datum."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from netc.data import write_records
from netc.data.datums import Records
from netc.errors import Span, fail
from netc.schema import netc_pb2

_MOST_KEY = 511  # bytes, LMDB's own limit


def raw_datum(pixels: NDArray[np.uint8], label: int) -> bytes:
    """Return a Datum of raw `pixels` (C, H, W), 0-255."""
    channels, height, width = pixels.shape
    return netc_pb2.Datum(
        channels=channels, height=height, width=width, data=pixels.tobytes(), label=label
    ).SerializeToString()


def encoded_datum(file_bytes: bytes, label: int) -> bytes:
    """Return a Datum that holds an image file's own bytes (JPEG, PNG, ...)."""
    return netc_pb2.Datum(data=file_bytes, label=label, encoded=True).SerializeToString()


def write_database(
    path: Path, datums: Iterable[tuple[str, bytes]], *, overwrite: bool = False
) -> int:
    """Write (name, Datum) pairs in their order; return their number.

    The keys count from "00000000"; a name that is not empty is added to them as "_name". The
    database is put in place when all of it is there, and one that exists is replaced only with
    `overwrite`. A folder that is something else is never replaced.
    """
    replaced = path.exists() and overwrite
    if replaced and not _is_database(path):
        raise fail(
            "the output exists and is not an LMDB, so -overwrite leaves it alone",
            span=Span(str(path)),
            expected="a folder with data.mdb and perhaps lock.mdb, nothing else",
        )
    if path.exists() and not overwrite:
        raise fail(
            "the output exists",
            span=Span(str(path)),
            hint="remove it, name another one, or give -overwrite",
        )
    if not replaced:
        return write_records(path, _with_keys(datums))
    fresh = path.with_name(path.name + ".new.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    count = write_records(fresh, _with_keys(datums))
    shutil.rmtree(path)
    fresh.rename(path)
    return count


def read_datums(path: Path) -> Iterator[netc_pb2.Datum]:
    """Yield the records in key order. Raises NetcError for what is not such a database."""
    with closing(Records(path)) as records:
        for position in range(len(records)):
            (value,) = records.read(position, 1)
            try:
                yield netc_pb2.Datum.FromString(value)
            except DecodeError as error:
                key = records.key(position)
                raise fail(
                    f"the value of key {key} is not a Datum", span=Span(str(path))
                ) from error


def _with_keys(datums: Iterable[tuple[str, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    for number, (name, datum) in enumerate(datums):
        key = f"{number:08d}_{name}" if name else f"{number:08d}"
        raw = key.encode(errors="surrogateescape")
        if len(raw) > _MOST_KEY:
            raise fail(
                "this path is too long for a database key",
                expected=f"at most {_MOST_KEY} bytes with the number in front",
                got=key,
            )
        yield raw, datum


def _is_database(path: Path) -> bool:
    names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    return "data.mdb" in names and names <= {"data.mdb", "lock.mdb"}
