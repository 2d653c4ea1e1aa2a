from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import lmdb
import numpy as np
import pytest
from datum_lmdb import encoded_datum, raw_datum, read_datums, write_database

from netc.errors import NetcError

CONFORMANCE = Path(__file__).resolve().parents[1] / "conformance" / "files"


def write(path: Path, count: int, **options: bool) -> None:
    pixels = [np.full((1, 2, 3), i % 256, np.uint8) for i in range(count)]
    named = [("" if i else "a/b c", raw_datum(x, i)) for i, x in enumerate(pixels)]
    assert write_database(path, named, **options) == count


def stored(path: Path) -> list[tuple[bytes, bytes]]:
    with lmdb.open(str(path), readonly=True, lock=False) as env, env.begin() as transaction:
        return [(bytes(key), bytes(value)) for key, value in transaction.cursor()]


def test_keys_and_values_are_caffes(tmp_path: Path) -> None:
    write(tmp_path / "db", 3)
    keys = [key for key, _ in stored(tmp_path / "db")]
    assert keys == [b"00000000_a/b c", b"00000001", b"00000002"]
    x, y, z = read_datums(tmp_path / "db")
    assert (x.channels, x.height, x.width) == (1, 2, 3)
    assert [x.label, y.label, z.label] == [0, 1, 2]
    assert z.data == bytes([2] * 6)
    assert not z.encoded


def test_the_bytes_of_a_datum_are_those_that_caffe_wrote() -> None:
    # The golden database was written by Caffe itself.
    reference = np.load(CONFORMANCE / "images_reference.npz")
    images = reference["images"].astype(np.uint8)
    values = [value for _, value in stored(CONFORMANCE / "images_lmdb")]
    assert values == [
        raw_datum(image, int(label))
        for image, label in zip(images, reference["labels"], strict=True)
    ]


def test_an_encoded_datum_says_so(tmp_path: Path) -> None:
    write_database(tmp_path / "db", [("", encoded_datum(b"file", 7))])
    (datum,) = read_datums(tmp_path / "db")
    assert datum.encoded and datum.data == b"file" and datum.label == 7


def test_only_a_database_is_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "db", 3)
    with pytest.raises(NetcError, match="the output exists"):
        write(tmp_path / "db", 1)
    write(tmp_path / "db", 1, overwrite=True)
    assert len(list(read_datums(tmp_path / "db"))) == 1

    (tmp_path / "db" / "thesis.tex").touch()
    with pytest.raises(NetcError, match="is not an LMDB"):
        write(tmp_path / "db", 1, overwrite=True)
    assert (tmp_path / "db" / "thesis.tex").exists()


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    def breaks() -> Iterator[tuple[str, bytes]]:
        yield "", raw_datum(np.zeros((1, 1, 1), np.uint8), 0)
        raise RuntimeError

    write(tmp_path / "db", 3)
    with pytest.raises(RuntimeError):
        write_database(tmp_path / "db", breaks(), overwrite=True)
    assert len(list(read_datums(tmp_path / "db"))) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["db"]


def test_a_key_must_fit(tmp_path: Path) -> None:
    longest = "x" * (511 - len("00000000_"))
    write_database(tmp_path / "db", [(longest, b"")])
    assert stored(tmp_path / "db") == [(b"00000000_" + longest.encode(), b"")]
    with pytest.raises(NetcError, match="too long for a database key"):
        write_database(tmp_path / "other", [(longest + "x", b"")])


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NetcError, match="cannot be written"):
        write(tmp_path / "file" / "db", 1)


def test_what_is_not_a_database_is_told(tmp_path: Path) -> None:
    with pytest.raises(NetcError, match="not an LMDB"):
        list(read_datums(tmp_path / "nothing"))
    write_database(tmp_path / "other", [("", b"\xff\xff\xff\xff")])
    with pytest.raises(NetcError, match="key 00000000 is not a Datum"):
        list(read_datums(tmp_path / "other"))
