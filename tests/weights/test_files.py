"""Opening files: what is said when it fails."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from netc.errors import NetcError
from netc.weights.files import is_hdf5_name, opened
from netc.weights.sniff import Kind
from tests.weights.samples import CAFFE_FILES


def error_of(path: Path, *tried: str) -> str:
    with pytest.raises(NetcError) as error, opened(path, "caffemodel", tried=tried):
        pass
    return str(error.value)


def test_a_missing_file_names_where_it_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "model_iter_400.caffemodel").touch()
    text = error_of(tmp_path / "model_iter_500.caffemodel", "a/model", str(tmp_path / "model"))
    assert "there is no such file (caffemodel)" in text
    assert os.path.abspath("a/model") in text
    assert f"{tmp_path}/model\n" in text
    assert f"did you mean '{tmp_path}/model_iter_400.caffemodel'?" in text


def test_a_missing_folder(tmp_path: Path) -> None:
    assert "there is no such file" in error_of(tmp_path / "a" / "b.caffemodel")
    (tmp_path / "file").touch()
    assert "there is no such file" in error_of(tmp_path / "file" / "b.caffemodel")


def test_a_directory(tmp_path: Path) -> None:
    assert "a directory, not a caffemodel" in error_of(tmp_path)


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    text = error_of(tmp_path / "a")
    assert "not a caffemodel" in text
    assert "an empty file" in text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "a").touch(0o000)
    assert "cannot be read" in error_of(tmp_path / "a")


def test_a_pipe_is_read_whole(tmp_path: Path) -> None:
    raw = (CAFFE_FILES / "model_iter_4.caffemodel").read_bytes()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(raw,))
    writer.start()
    with opened(pipe, "caffemodel") as (kind, file):
        assert kind is Kind.MAYBE_PROTOBUF
        assert file.seekable()
        assert file.read() == raw
    writer.join()


@pytest.mark.parametrize(
    ("name", "hdf5"),
    [("a.caffemodel", False), ("a.caffemodel.h5", True), ("A.H5", True), ("h5", False)],
)
def test_names_of_hdf5_files(name: str, hdf5: bool) -> None:
    assert is_hdf5_name(name) is hdf5
