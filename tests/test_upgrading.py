"""Upgrading files: what is written means the same, in today's form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from netc.errors import NetcError
from netc.schema import read_net, read_net_binary, read_solver
from netc.upgrading import upgrade
from netc.weights import read_weights

FILES = Path(__file__).parent / "conformance" / "files"


@pytest.mark.parametrize("name", ["v0", "v1"])
@pytest.mark.parametrize("suffix", [".prototxt", ".yaml", ".yml", ".pt"])
def test_old_nets_become_what_caffe_makes_of_them(name: str, suffix: str, tmp_path: Path) -> None:
    new = tmp_path / f"new{suffix}"
    done = upgrade(FILES / f"{name}.prototxt", new)
    assert done.kind == "net"
    assert done.changes
    found = read_net(new)
    assert found.message == read_net(FILES / f"{name}_upgraded.prototxt").message
    assert not found.upgraded


@pytest.mark.parametrize("suffix", [".prototxt", ".yaml"])
def test_old_solvers(suffix: str, tmp_path: Path) -> None:
    new = tmp_path / f"new{suffix}"
    done = upgrade(FILES / "solver_old.prototxt", new)
    assert done.kind == "solver"
    expected = read_solver(FILES / "solver_old_upgraded.prototxt")
    assert read_solver(new).message == expected.message
    assert not read_solver(new).upgraded


def test_old_weights_keep_their_numbers_and_settings(tmp_path: Path) -> None:
    old, new = FILES / "v1_legacy_dims.caffemodel", tmp_path / "new.caffemodel"
    done = upgrade(old, new)
    assert done.kind == "weights"
    assert done.changes
    source = read_net_binary(new)
    assert not source.upgraded
    assert source.message == read_net_binary(old).message
    for (name, blobs), (old_name, old_blobs) in zip(
        read_weights(new), read_weights(old), strict=True
    ):
        assert name == old_name
        for blob, old_blob in zip(blobs, old_blobs, strict=True):
            np.testing.assert_array_equal(blob, old_blob)


@pytest.mark.parametrize("old", ["model_iter_4.caffemodel", "weights.h5"])
@pytest.mark.parametrize("suffix", [".caffemodel", ".h5"])
def test_weights_change_their_format(old: str, suffix: str, tmp_path: Path) -> None:
    new = tmp_path / f"new{suffix}"
    upgrade(FILES / old, new)
    written = read_weights(new)
    assert written.format == ("HDF5" if suffix == ".h5" else "binaryproto")
    before = {name: blobs for name, blobs in read_weights(FILES / old) if blobs}
    after = {name: blobs for name, blobs in written if blobs}
    assert before.keys() == after.keys()
    for name, blobs in before.items():
        for one, other in zip(blobs, after[name], strict=True):
            np.testing.assert_array_equal(one, other)


def test_what_is_lost_or_moves_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    old = Path("old.prototxt")
    old.write_text('# made by hand\nname: "n"\n')
    (remark,) = upgrade(old, Path("new.prototxt")).remarks
    assert remark == "comments are not carried over: they are in old.prototxt only"
    old.write_text('name: "n"\n')
    Path("folder").mkdir()
    (remark,) = upgrade(old, Path("folder", "new.prototxt")).remarks
    assert remark.startswith("relative paths in it now start from folder, ")
    assert not upgrade(old, Path("other.prototxt")).remarks


def test_a_file_can_be_upgraded_in_place(tmp_path: Path) -> None:
    file = tmp_path / "net.prototxt"
    file.write_bytes((FILES / "v1.prototxt").read_bytes())
    with pytest.raises(NetcError, match="the file exists already"):
        upgrade(file, file)
    upgrade(file, file, force=True)
    assert read_net(file).message == read_net(FILES / "v1_upgraded.prototxt").message


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("model_iter_4.solverstate", "new.caffemodel", "a solver state"),
        ("mean.binaryproto", "new.caffemodel", "a blob file"),
        ("model_iter_4.caffemodel", "new.prototxt", "weights are not written as text"),
        ("net.prototxt", "new.caffemodel", "a text is not written as .caffemodel"),
        ("net.prototxt", "new.json", "a text is not written as .json"),
        ("nope.prototxt", "new.prototxt", "no such file"),
        ("images_lmdb", "new.prototxt", "this is a folder"),
        ("images_lmdb/data.mdb", "new.caffemodel", "an LMDB database"),
        ("net.prototxt", "nowhere/new.prototxt", "there is no such directory"),
    ],
)
def test_what_cannot_be_upgraded(old: str, new: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(NetcError) as refused:
        upgrade(FILES / old, tmp_path / new)
    assert told in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_a_text_with_mistakes_is_not_upgraded(tmp_path: Path) -> None:
    old = tmp_path / "old.prototxt"
    old.write_text("layers { type: RELU nmae: 'x' }")
    with pytest.raises(NetcError, match="did you mean 'name'"):
        upgrade(old, tmp_path / "new.prototxt")
    assert not (tmp_path / "new.prototxt").exists()
