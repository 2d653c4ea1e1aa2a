from __future__ import annotations

import gzip
import sys
from pathlib import Path

import idx_to_lmdb
import pytest
from datum_lmdb import read_datums
from make_digits import load_digits

DIGITS = Path(__file__).resolve().parents[2] / "zoo" / "digits"
DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "mnist"


def convert(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["idx_to_lmdb.py", *map(str, arguments)])
    idx_to_lmdb.main()


def test_the_order_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"  # one file gzipped, the other not
    images.write_bytes(gzip.decompress((DIGITS / "digits-images-idx3-ubyte.gz").read_bytes()))
    convert(monkeypatch, images, DIGITS / "digits-labels-idx1-ubyte.gz", tmp_path / "db")
    assert "1797 images of 1 x 8 x 8" in capsys.readouterr().out

    pixels, labels = load_digits()
    datums = list(read_datums(tmp_path / "db"))
    assert [datum.label for datum in datums] == labels.tolist()
    assert b"".join(datum.data for datum in datums) == pixels.tobytes()


@pytest.mark.skipif(not DATA.exists(), reason=f"needs MNIST in {DATA.parent.name}/{DATA.name}")
def test_real_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert(
        monkeypatch,
        DATA / "t10k-images-idx3-ubyte.gz",
        DATA / "t10k-labels-idx1-ubyte.gz",
        tmp_path / "db",
    )
    datums = list(read_datums(tmp_path / "db"))
    assert len(datums) == 10000
    assert {(d.channels, d.height, d.width) for d in datums} == {(1, 28, 28)}
    # How often each digit occurs among MNIST's test images is well known.
    counts = [sum(d.label == digit for d in datums) for digit in range(10)]
    assert counts == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
