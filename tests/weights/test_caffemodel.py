"""Weights files through the public functions: Caffe's own, wrong ones, large ones."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import HealthCheck, given, settings

from netc.errors import NetcError
from netc.schema import netc_pb2
from netc.weights.caffemodel import read_weights, split_list, write_weights
from netc.weights.types import SavedBlob, SavedLayer, Weights, frozen
from tests.weights.samples import (
    CAFFE_FILES,
    params_of,
    reference_params,
    same_values,
    same_weights,
    weights,
)

pytestmark = pytest.mark.usefixtures("unsynced")

MTCNN = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "mtcnn"

overwriting = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("name", ["model_iter_4.caffemodel", "weights.h5"])
def test_weights_of_caffe(name: str) -> None:
    found = params_of(read_weights(CAFFE_FILES / name))
    expected = reference_params()
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert same_values(found[key], values), key


def test_weights_of_caffe_in_the_old_format() -> None:
    saved = read_weights(CAFFE_FILES / "v1_legacy_dims.caffemodel")
    assert [(layer.name, layer.type) for layer in saved.layers] == [
        ("conv1", "Convolution"),
        ("ip", "InnerProduct"),
    ]
    expected = reference_params()
    for layer in saved.layers:
        for index, blob in enumerate(layer.blobs):
            assert blob
            assert blob.legacy
            wanted = expected[layer.name, index]
            assert blob.fits(wanted.shape)
            assert same_values(blob.shaped(wanted.shape), wanted)


def test_caffes_file_is_written_again_byte_for_byte(tmp_path: Path) -> None:
    path = CAFFE_FILES / "model_iter_4.caffemodel"
    write_weights(tmp_path / "a.caffemodel", read_weights(path))
    assert (tmp_path / "a.caffemodel").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", ["det1", "det2"])
def test_published_weights(name: str) -> None:
    path = MTCNN / f"{name}.caffemodel"
    if not path.exists():
        pytest.skip(f"the published weights {path} are not here")
    message = netc_pb2.NetParameter.FromString(path.read_bytes())
    layers = message.layer or message.layers
    saved = read_weights(path)
    assert [layer.name for layer in saved.layers] == [layer.name for layer in layers]
    n_values = 0
    for entry, layer in zip(saved.layers, layers, strict=True):
        for blob, stored in zip(entry.blobs, layer.blobs, strict=True):
            assert blob
            assert list(blob.data.reshape(-1)) == list(stored.data)
            n_values += len(stored.data)
    assert saved.n_values == n_values > 6000


@overwriting
@given(weights())
def test_round_trip(tmp_path: Path, saved: Weights) -> None:
    write_weights(tmp_path / "a.caffemodel", saved, diffs=True)
    found = read_weights(tmp_path / "a.caffemodel", diffs=True)
    assert same_weights(found, saved)
    assert (found.format, found.file) == ("binaryproto", str(tmp_path / "a.caffemodel"))


@pytest.mark.parametrize("old", [b"", b"some other file"])
def test_the_content_tells_the_format_not_the_name(tmp_path: Path, old: bytes) -> None:
    path = tmp_path / "a.caffemodel"
    path.write_bytes((CAFFE_FILES / "weights.h5").read_bytes())
    assert read_weights(path).format == "HDF5"


def test_weights_as_text(tmp_path: Path) -> None:
    binary = (CAFFE_FILES / "model_iter_4.caffemodel").read_bytes()
    text = text_format.MessageToString(netc_pb2.NetParameter.FromString(binary))
    (tmp_path / "weights.prototxt").write_text(text)
    saved = read_weights(tmp_path / "weights.prototxt")
    assert saved.format == "text"
    expected = reference_params()
    found = params_of(saved)
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert same_values(found[key], values), key


def test_the_oldest_format(tmp_path: Path) -> None:
    net = netc_pb2.NetParameter()
    layer = net.layers.add().layer
    layer.name, layer.type = "ip", "innerproduct"
    blob = layer.blobs.add(num=1, channels=1, height=2, width=3)
    blob.data.extend(range(6))
    (tmp_path / "a").write_bytes(net.SerializeToString())
    (entry,) = read_weights(tmp_path / "a").layers
    assert (entry.name, entry.type) == ("ip", "InnerProduct")
    assert entry.blobs[0]
    assert same_values(entry.blobs[0].shaped((2, 3)), np.arange(6).reshape(2, 3))


def test_cut_at_every_length(tmp_path: Path) -> None:
    """An error, or (cut between two layers) the layers that are still there."""
    for name in ("model_iter_4.caffemodel", "v1_legacy_dims.caffemodel"):
        raw = (CAFFE_FILES / name).read_bytes()
        whole = read_weights(CAFFE_FILES / name)
        (tmp_path / "a").write_bytes(raw)
        n_read = 0
        for length in reversed(range(len(raw))):
            os.truncate(tmp_path / "a", length)
            try:
                found = read_weights(tmp_path / "a")
            except NetcError as error:
                assert str(tmp_path / "a") in str(error)
                continue
            n_layers = len(found.layers)
            assert same_weights(found, Weights(whole.layers[:n_layers], whole.name))
            n_read += 1
        assert n_read < len(whole.layers)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model_iter_4.solverstate", "a solver state (for -snapshot)"),
        ("model_iter_4.solverstate.h5", "a solver state (for -snapshot)"),
        ("mean.binaryproto", "a blob file"),
        ("net.prototxt", "a net (which goes to -model)"),
        ("part_a.h5", "HDF5Data"),
        ("images_lmdb/data.mdb", "LMDB"),
        ("model_iter_4_reference.npz", "zip archive"),
    ],
)
def test_other_files(name: str, words: str) -> None:
    with pytest.raises(NetcError, match=r"not a caffemodel|not weights") as error:
        read_weights(CAFFE_FILES / name)
    text = str(error.value)
    assert str(CAFFE_FILES / name) in text
    assert words in text


def test_lists_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert split_list("a.caffemodel") == ["a.caffemodel"]
    assert split_list("a.caffemodel, b.h5") == ["a.caffemodel", "b.h5"]
    monkeypatch.chdir(tmp_path)
    Path("a,b").touch()
    assert split_list("a,b") == ["a,b"]
    for empty in ("", "a,", ",a", "a,,b"):
        with pytest.raises(NetcError, match="empty place"):
            split_list(empty)


def seconds(action: Callable[[], object], repeats: int = 7) -> float:
    """Return the least CPU time: what the work costs when nothing else disturbs."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        times.append(time.process_time() - start)
    return min(times)


def test_loading_takes_no_longer_than_reading(tmp_path: Path) -> None:
    path = tmp_path / "large.caffemodel"
    values = frozen(np.zeros((4, 1_000_000), np.float32))
    layers = (SavedLayer(f"fc{i}", (SavedBlob(values),)) for i in range(4))
    write_weights(path, Weights(tuple(layers)))  # 64 MB
    # One and a half times is what is promised; without a detour through Python floats or a second
    # copy it is about once. A first read brings the file into the cache.
    reading = seconds(lambda: path.read_bytes())
    assert seconds(lambda: read_weights(path)) < 1.5 * reading


def test_loaded_arrays_are_ready_to_use(tmp_path: Path) -> None:
    for blob in (
        b for entry in read_weights(CAFFE_FILES / "weights.h5").layers for b in entry.blobs
    ):
        assert blob
        assert blob.data.flags.c_contiguous
        assert blob.data.flags.aligned
        assert not blob.data.flags.writeable
        assert blob.data.dtype == np.float32
