"""Writing databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from netc.data import lmdb_writer, write_datums, write_records
from netc.errors import NetcError
from netc.schema import netc_pb2


def content(path: Path) -> list[tuple[bytes, bytes]]:
    with lmdb.open(str(path), readonly=True, lock=False) as env, env.begin() as transaction:
        return [(bytes(key), bytes(value)) for key, value in transaction.cursor()]


def test_datums_are_numbered(tmp_path: Path) -> None:
    datums = [netc_pb2.Datum(label=i) for i in range(3)]
    mixed = [datums[0], datums[1].SerializeToString(), datums[2]]
    assert write_datums(tmp_path / "new" / "db", mixed) == 3
    assert content(tmp_path / "new" / "db") == [
        (b"%08d" % i, datum.SerializeToString()) for i, datum in enumerate(datums)
    ]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["db"]


def test_the_database_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_writer, "_FIRST_MAP_SIZE", 1 << 16)
    records = [(b"%06d" % i, bytes([i % 256]) * 500) for i in range(2500)]
    assert write_records(tmp_path / "db", iter(records)) == 2500
    assert content(tmp_path / "db") == records


def test_an_existing_database_stays(tmp_path: Path) -> None:
    write_records(tmp_path / "db", [(b"key", b"old")])
    with pytest.raises(NetcError, match="the database exists already"):
        write_records(tmp_path / "db", [(b"key", b"new")])
    assert content(tmp_path / "db") == [(b"key", b"old")]


def test_nothing_is_left_when_the_records_fail(tmp_path: Path) -> None:
    def records() -> Iterator[tuple[bytes, bytes]]:
        yield b"key", b"value"
        raise OSError("the caller's own")

    with pytest.raises(OSError, match="the caller's own"):
        write_records(tmp_path / "db", records())
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NetcError, match="the database cannot be written"):
        write_records(tmp_path / "file" / "db", [])
    with pytest.raises(NetcError, match="the database cannot be written"):
        write_records(tmp_path / "db", [(b"k" * 1000, b"value")])  # a key longer than LMDB takes
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
