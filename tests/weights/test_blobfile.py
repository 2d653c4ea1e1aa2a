"""Mean images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netc.errors import NetcError
from netc.schema import netc_pb2
from netc.weights.blobfile import read_blob, write_blob
from netc.weights.types import FloatArray
from tests.weights.samples import CAFFE_FILES, arrays, same_values

pytestmark = pytest.mark.usefixtures("unsynced")


def test_a_mean_of_caffe() -> None:
    path = CAFFE_FILES / "mean.binaryproto"
    message = netc_pb2.BlobProto.FromString(path.read_bytes())
    mean = read_blob(path)
    assert mean.shape == (1, 3, 10, 8)
    assert list(mean.reshape(-1)) == list(message.data)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # the file is overwritten
@given(arrays(st.lists(st.integers(1, 3), max_size=4).map(tuple)))
def test_round_trip(tmp_path: Path, values: FloatArray) -> None:
    write_blob(tmp_path / "mean.binaryproto", values)
    assert same_values(read_blob(tmp_path / "mean.binaryproto"), values)


def test_legacy_axes(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.uint8).reshape(1, 3, 2, 1)
    write_blob(tmp_path / "mean", values, legacy=True)
    message = netc_pb2.BlobProto.FromString((tmp_path / "mean").read_bytes())
    assert (message.num, message.channels, message.height, message.width) == (1, 3, 2, 1)
    assert not message.HasField("shape")
    assert same_values(read_blob(tmp_path / "mean"), values)
    with pytest.raises(ValueError, match="four axes"):
        write_blob(tmp_path / "mean", values[0], legacy=True)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model_iter_4.caffemodel", "a caffemodel"),
        ("model_iter_4.solverstate", "a solver state"),
        ("weights.h5", "an HDF5 file"),
        ("net.prototxt", "text"),
    ],
)
def test_other_files(name: str, words: str) -> None:
    with pytest.raises(NetcError, match="not a blob file") as error:
        read_blob(CAFFE_FILES / name)
    assert words in str(error.value)


def test_a_blob_without_values(tmp_path: Path) -> None:
    write_blob(tmp_path / "mean", np.empty((0, 3)))
    with pytest.raises(NetcError, match="there are no values in it"):
        read_blob(tmp_path / "mean")


def test_cut_at_every_length(tmp_path: Path) -> None:
    raw = (CAFFE_FILES / "mean.binaryproto").read_bytes()
    (tmp_path / "mean").write_bytes(raw)
    for length in reversed(range(len(raw))):
        os.truncate(tmp_path / "mean", length)
        with pytest.raises(NetcError):
            read_blob(tmp_path / "mean")
