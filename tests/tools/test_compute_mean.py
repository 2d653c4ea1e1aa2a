from __future__ import annotations

import sys
from pathlib import Path

import compute_mean
import cv2
import numpy as np
import pytest
from datum_lmdb import DatumWriter, encoded_datum, raw_datum

from netc.errors import NetcError
from netc.schema import netc_pb2

FILES = Path(__file__).resolve().parents[1] / "conformance" / "files"


def test_the_file_is_the_one_that_caffe_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new folder" / "mean.binaryproto"
    monkeypatch.setattr(sys, "argv", ["compute_mean.py", str(FILES / "images_lmdb"), str(output)])
    compute_mean.main()
    assert output.read_bytes() == (FILES / "mean.binaryproto").read_bytes()

    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    means = [float(words[1]) for words in printed if words[0] == "mean_value:"]
    expected = np.load(FILES / "images_reference.npz")["mean_per_channel"]
    np.testing.assert_allclose(means, expected, rtol=1e-5)  # six digits are printed


def test_encoded_and_float_images(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    _, png = cv2.imencode(".png", pixels)
    floats = netc_pb2.Datum(channels=3, height=4, width=5, float_data=[1.0] * 60)
    with DatumWriter(tmp_path / "db") as out:
        out.put(encoded_datum(png.tobytes(), 0))
        out.put(floats.SerializeToString())
    expected = (pixels.transpose(2, 0, 1) + 1.0) / 2  # exact in float32
    np.testing.assert_array_equal(compute_mean.mean_image(tmp_path / "db"), expected)


def test_what_has_no_mean_is_refused(tmp_path: Path) -> None:
    with DatumWriter(tmp_path / "empty"):
        pass
    with pytest.raises(NetcError, match="the database is empty"):
        compute_mean.mean_image(tmp_path / "empty")

    with DatumWriter(tmp_path / "sizes") as out:
        for width in (2, 3):
            out.put(raw_datum(np.zeros((1, 2, width), np.uint8), 0))
    with pytest.raises(NetcError, match=r"\(1, 2, 3\), key 00000001"):
        compute_mean.mean_image(tmp_path / "sizes")

    for name, datum in (
        ("not an image", encoded_datum(b"nonsense", 0)),
        ("short", netc_pb2.Datum(channels=1, height=2, width=2, data=b"abc").SerializeToString()),
    ):
        with DatumWriter(tmp_path / name) as out:
            out.put(datum)
        with pytest.raises(NetcError, match="key 00000000 cannot be decoded"):
            compute_mean.mean_image(tmp_path / name)
