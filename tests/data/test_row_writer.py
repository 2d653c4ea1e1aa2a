"""HDF5Output: what a net writes, and reads again."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from netc.assemble import executor, load_net, timed_executor
from netc.backends import find_backend
from netc.errors import NetcError
from netc.layers.types import Phase

NET = """
layer {{ name: "x" type: "Input" top: "x" top: "label"
        input_param {{ shape {{ dim: 2 dim: 3 }} shape {{ dim: 2 }} }} }}
layer {{ name: "double" type: "Power" bottom: "x" top: "y" power_param {{ scale: 2 }} }}
layer {{ name: "out" type: "HDF5Output" bottom: "y" bottom: "label"
        hdf5_output_param {{ file_name: "{file}" }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "y" top: "z"
        inner_product_param {{ num_output: 1 }} }}
layer {{ name: "loss" type: "EuclideanLoss" bottom: "z" bottom: "label" top: "loss" }}
"""


def write_net(folder: Path, file: Path | str) -> Path:
    (folder / "net.prototxt").write_text(NET.format(file=file))
    return folder / "net.prototxt"


@pytest.mark.parametrize("train", [False, True])
def test_every_pass_adds_its_rows(tmp_path: Path, train: bool) -> None:
    file = tmp_path / "out.h5"
    file.write_bytes(b"something else")
    text = load_net(write_net(tmp_path, file), Phase.TRAIN)
    net = executor(text, find_backend("reference"), train=train)
    assert file.read_bytes() == b"something else"
    for number in range(3):
        net.data("x")[...] = np.arange(6).reshape(2, 3) + 10 * number
        net.data("label")[...] = number
        net.forward()
        if train:
            net.backward()
        with h5py.File(file) as h5:
            assert h5["data"].shape == (2 * number + 2, 3, 1, 1)
            assert h5["label"].shape == (2 * number + 2, 1, 1, 1)
            assert h5["data"].dtype == np.float32
    with h5py.File(file) as h5:
        want = 2 * (np.arange(6).reshape(2, 3) + 10 * np.arange(3)[:, None, None])
        np.testing.assert_array_equal(h5["data"][:, :, 0, 0], want.reshape(6, 3))
        assert h5["label"][:, 0, 0, 0].tolist() == [0, 0, 1, 1, 2, 2]


def test_looking_for_infinities_writes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "out.h5"
    net = executor(
        load_net(write_net(tmp_path, file), Phase.TRAIN), find_backend("reference"), train=False
    )
    assert net.first_nonfinite() is None
    assert not file.exists()


def test_timing_writes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "out.h5"
    text = load_net(write_net(tmp_path, file), Phase.TRAIN)
    net, _ = timed_executor(text, find_backend("reference"), train=True)
    net.forward()
    assert not file.exists()


def test_a_file_that_cannot_be_written_is_told_with_the_layer(tmp_path: Path) -> None:
    net = executor(
        load_net(write_net(tmp_path, tmp_path / "no folder" / "out.h5"), Phase.TRAIN),
        find_backend("reference"),
        train=False,
    )
    with pytest.raises(NetcError, match="cannot be written") as caught:
        net.forward()
    assert "'out' (HDF5Output)" in str(caught.value)
