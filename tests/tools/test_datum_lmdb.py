from __future__ import annotations

from pathlib import Path

import datum_lmdb
import lmdb
import numpy as np
import pytest
from datum_lmdb import DatumWriter, encoded_datum, raw_datum, read_datums

from netc.errors import NetcError

CONFORMANCE = Path(__file__).resolve().parents[1] / "conformance" / "files"


def write(path: Path, count: int, **options: bool) -> None:
    with DatumWriter(path, **options) as out:
        for i in range(count):
            out.put(
                raw_datum(np.full((1, 2, 3), i % 256, np.uint8), i), suffix="" if i else "a/b c"
            )


def test_keys_and_values_are_caffes(tmp_path: Path) -> None:
    write(tmp_path / "db", 3)
    (first, x), (second, y), (third, z) = read_datums(tmp_path / "db")
    assert (first, second, third) == ("00000000_a/b c", "00000001", "00000002")
    assert (x.channels, x.height, x.width) == (1, 2, 3)
    assert [x.label, y.label, z.label] == [0, 1, 2]
    assert z.data == bytes([2] * 6)
    assert not z.encoded


def test_the_bytes_of_a_datum_are_those_that_caffe_wrote() -> None:
    # The golden database was written by Caffe itself.
    reference = np.load(CONFORMANCE / "images_reference.npz")
    images = reference["images"].astype(np.uint8)
    with (
        lmdb.open(str(CONFORMANCE / "images_lmdb"), readonly=True, lock=False) as env,
        env.begin() as transaction,
    ):
        stored = [bytes(value) for _, value in transaction.cursor()]
    assert stored == [
        raw_datum(image, int(label))
        for image, label in zip(images, reference["labels"], strict=True)
    ]


def test_an_encoded_datum_says_so(tmp_path: Path) -> None:
    with DatumWriter(tmp_path / "db") as out:
        out.put(encoded_datum(b"file", 7))
    ((_, datum),) = read_datums(tmp_path / "db")
    assert datum.encoded and datum.data == b"file" and datum.label == 7


def test_a_database_outgrows_its_first_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datum_lmdb, "_FIRST_MAP_SIZE", 1 << 16)
    write(tmp_path / "db", 2500)  # more than one transaction, too
    assert [datum.label for _, datum in read_datums(tmp_path / "db")] == list(range(2500))
    assert (tmp_path / "db" / "data.mdb").stat().st_size > 1 << 16


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
    write(tmp_path / "db", 3)
    with pytest.raises(RuntimeError), DatumWriter(tmp_path / "db", overwrite=True) as out:
        out.put(raw_datum(np.zeros((1, 1, 1), np.uint8), 0))
        raise RuntimeError
    assert len(list(read_datums(tmp_path / "db"))) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["db"]


def test_a_key_must_fit(tmp_path: Path) -> None:
    with (
        pytest.raises(NetcError, match="too long for a database key"),
        DatumWriter(tmp_path / "db") as out,
    ):
        out.put(raw_datum(np.zeros((1, 1, 1), np.uint8), 0), suffix="x" * 600)


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NetcError, match="cannot write here"):
        write(tmp_path / "file" / "db", 1)


def test_what_is_not_a_database_is_told(tmp_path: Path) -> None:
    with pytest.raises(NetcError, match="no such database"):
        list(read_datums(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(NetcError, match="not an LMDB"):
        list(read_datums(tmp_path / "empty"))
    (tmp_path / "empty" / "data.mdb").write_bytes(b"x" * 9000)
    with pytest.raises(NetcError, match="not an LMDB"):
        list(read_datums(tmp_path / "empty"))
    with DatumWriter(tmp_path / "other") as out:
        out.put(b"\xff\xff\xff\xff")
    with pytest.raises(NetcError, match="key 00000000 is not a Datum"):
        list(read_datums(tmp_path / "other"))
