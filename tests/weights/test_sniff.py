"""Files that are something else are told by name."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netc.weights.binaryproto import net_chunks
from netc.weights.sniff import HEAD, Kind, guess_message, recognise
from netc.weights.types import Weights
from tests.weights.samples import CAFFE_FILES, bytes_field, joined, number_field, weights


def zip_file() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", "b")
    return buffer.getvalue()


def npy_file() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00ff\nsize 243862418\n"


@pytest.mark.parametrize(
    ("raw", "kind", "words"),
    [
        (b"", Kind.EMPTY, "an empty file"),
        (bytes(5000), Kind.FOREIGN, "zero bytes"),
        (LFS_POINTER, Kind.FOREIGN, "git lfs pull"),
        (b"\n <!DOCTYPE html><html>", Kind.FOREIGN, "an HTML page"),
        (b"<HTML><body>404</body>", Kind.FOREIGN, "an HTML page"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><Error/>", Kind.FOREIGN, "an XML"),
        (json.dumps({"message": "not found"}).encode(), Kind.FOREIGN, "JSON"),
        (zip_file(), Kind.FOREIGN, "zip archive"),
        (npy_file(), Kind.FOREIGN, "NumPy .npy"),
        (gzip.compress(b"x", mtime=0), Kind.FOREIGN, "gzip"),
        (pickle.dumps({"state_dict": 1}, protocol=2), Kind.FOREIGN, "pickle"),
        (pickle.dumps([1, "x"], protocol=5), Kind.FOREIGN, "pickle"),
        ((CAFFE_FILES / "images_lmdb" / "data.mdb").read_bytes(), Kind.FOREIGN, "LMDB"),
        ((CAFFE_FILES / "weights.h5").read_bytes(), Kind.HDF5, "HDF5"),
        ((CAFFE_FILES / "net.prototxt").read_bytes(), Kind.TEXT, "text"),
        ("name: 'größe'".encode(), Kind.TEXT, "text"),
    ],
)
def test_recognised(raw: bytes, kind: Kind, words: str) -> None:
    found, found_words = recognise(raw[:HEAD])
    assert found is kind
    assert words in found_words


def test_text_whose_last_character_is_cut() -> None:
    raw = ("x" + "ö" * HEAD).encode()[:HEAD]
    assert recognise(raw)[0] is Kind.TEXT
    with pytest.raises(UnicodeDecodeError):
        raw.decode()


def test_hdf5_behind_a_user_block() -> None:
    assert recognise(bytes(512) + (CAFFE_FILES / "weights.h5").read_bytes())[0] is Kind.HDF5


@given(weights())
def test_weights_are_not_taken_for_something_else(saved: Weights) -> None:
    raw = joined(net_chunks(saved.name, saved.layers))
    assert recognise(raw[:HEAD])[0] is Kind.MAYBE_PROTOBUF


@pytest.mark.parametrize("name", ["model_iter_4.caffemodel", "mean.binaryproto"])
def test_caffes_files_are_not_taken_for_something_else(name: str) -> None:
    assert recognise((CAFFE_FILES / name).read_bytes()[:HEAD])[0] is Kind.MAYBE_PROTOBUF


ONNX = number_field(1, 8) + bytes_field(2, b"x") + bytes_field(7, b"") + bytes_field(8, b"")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ((CAFFE_FILES / "model_iter_4.caffemodel").read_bytes(), "a caffemodel"),
        ((CAFFE_FILES / "v1_legacy_dims.caffemodel").read_bytes(), "a caffemodel"),
        ((CAFFE_FILES / "model_iter_4.solverstate").read_bytes(), "a solver state"),
        ((CAFFE_FILES / "mean.binaryproto").read_bytes(), "a blob file"),
        (ONNX, "an ONNX model"),
        (number_field(77, 1), ""),
        (b"\xff" * 20, ""),
    ],
)
def test_messages_are_guessed(raw: bytes, words: str) -> None:
    guess = guess_message(io.BytesIO(raw))
    assert words in guess
    assert bool(guess) == bool(words)


@given(st.binary(max_size=60))
def test_no_bytes_break_it(raw: bytes) -> None:
    assert recognise(raw)[1]
    guess_message(io.BytesIO(raw))
