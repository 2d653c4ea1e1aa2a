from __future__ import annotations

import sys
from pathlib import Path

import compute_mean
import cv2
import numpy as np
import pytest
from datum_lmdb import encoded_datum, raw_datum, write_database

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
    datums = [encoded_datum(png.tobytes(), 0), floats.SerializeToString()]
    write_database(tmp_path / "db", [("", datum) for datum in datums])
    expected = (pixels.transpose(2, 0, 1) + 1.0) / 2  # exact in float32
    np.testing.assert_array_equal(compute_mean.mean_image(tmp_path / "db"), expected)


def test_what_has_no_mean_is_refused(tmp_path: Path) -> None:
    write_database(tmp_path / "empty", [])
    with pytest.raises(NetcError, match="the database is empty"):
        compute_mean.mean_image(tmp_path / "empty")

    images = [np.zeros((1, 2, width), np.uint8) for width in (2, 3)]
    write_database(tmp_path / "sizes", [("", raw_datum(image, 0)) for image in images])
    with pytest.raises(NetcError, match=r"\(1, 2, 3\), image 1, counted from 0"):
        compute_mean.mean_image(tmp_path / "sizes")

    for name, datum in (
        ("not an image", encoded_datum(b"nonsense", 0)),
        ("short", netc_pb2.Datum(channels=1, height=2, width=2, data=b"abc").SerializeToString()),
    ):
        write_database(tmp_path / name, [("", datum)])
        with pytest.raises(NetcError, match="image 0, counted from 0, cannot be decoded"):
            compute_mean.mean_image(tmp_path / name)
