"""Writing of databases that the Data layer reads: LMDB, as Caffe's own tools make them."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from netc.errors import fail
from netc.schema import netc_pb2

# As many records in a transaction as Caffe's tools put into one.
_TRANSACTION = 1000
# The address space of a database has to be set ahead. It starts small and doubles, because some
# file systems give the file that size at once.
_FIRST_MAP_SIZE = 16 << 20


def write_datums(path: str | Path, datums: Iterable[netc_pb2.Datum | bytes]) -> int:
    """Write Datum messages, as messages or serialized, to a new LMDB; return their number.

    The keys are "00000000", "00000001" and so on, which keeps the order. Raises NetcError when
    `path` exists or cannot be written.
    """
    return write_records(
        path,
        (
            (b"%08d" % i, datum if isinstance(datum, bytes) else datum.SerializeToString())
            for i, datum in enumerate(datums)
        ),
    )


def write_records(path: str | Path, records: Iterable[tuple[bytes, bytes]]) -> int:
    """Write (key, value) pairs to a new LMDB; return their number.

    The database gets its name when all records are in it. Raises NetcError when `path` exists or
    cannot be written.
    """
    target = Path(path)
    if target.exists():
        raise fail(
            "the database exists already",
            expected="a new folder",
            got=f"'{target}'",
            hint="remove it, or choose another name",
        )
    partial = target.with_name(target.name + ".tmp")
    try:
        with _told(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(partial, ignore_errors=True)
        written = _fill(partial, target, records)
        with _told(target):
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return written


def _fill(folder: Path, target: Path, records: Iterable[tuple[bytes, bytes]]) -> int:
    """Write the records; errors name the target."""
    import lmdb

    with _told(target):
        env = lmdb.open(str(folder), map_size=_FIRST_MAP_SIZE, lock=False)
    written = 0
    with env:
        source = iter(records)
        while chunk := list(itertools.islice(source, _TRANSACTION)):
            with _told(target):
                _put(env, chunk)
            written += len(chunk)
    return written


def _put(env: Any, chunk: list[tuple[bytes, bytes]]) -> None:
    """Write some records in one transaction, with more address space if it takes that."""
    import lmdb

    while True:
        try:
            with env.begin(write=True) as transaction:
                for key, value in chunk:
                    transaction.put(key, value)
            return
        except lmdb.MapFullError:
            env.set_mapsize(2 * env.info()["map_size"])


@contextlib.contextmanager
def _told(target: Path) -> Iterator[None]:
    """Turn what goes wrong while writing into an error that names the database."""
    import lmdb

    try:
        yield
    except (OSError, lmdb.Error) as error:
        raise fail("the database cannot be written", got=f"'{target}': {error}") from error
