"""Caffe's HDF5 layout, and what netc adds to it."""

from __future__ import annotations

import io
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from netc.errors import NetcError, fail
from netc.weights import hdf5
from netc.weights.caffemodel import read_weights, write_weights
from netc.weights.state import read_state, write_state
from netc.weights.types import SavedBlob, SavedLayer, Weights, frozen
from tests.weights.samples import (
    CAFFE_FILES,
    names,
    params_of,
    same_values,
    saved_blobs,
    weights,
)

pytestmark = pytest.mark.usefixtures("unsynced")

# One folder serves all examples: each writes its file anew.
overwriting = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def blob(*values: float, **other: bool) -> SavedBlob:
    return SavedBlob(frozen(np.array(values, np.float32)), **other)


def layout(path: Path) -> dict[str, tuple[object, ...]]:
    """Return everything in a file that Caffe's reader can see."""
    found: dict[str, tuple[object, ...]] = {}

    def visit(name: str, thing: h5py.Group | h5py.Dataset) -> None:
        if isinstance(thing, h5py.Dataset):
            kind = thing.id.get_type()
            pad = kind.get_strpad() if isinstance(kind, h5py.h5t.TypeStringID) else None
            found[name] = (thing.shape, thing.dtype, pad, thing[()].tobytes())
        else:
            found[name] = ()

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return found


def test_weights_are_laid_out_as_caffe_does(tmp_path: Path) -> None:
    saved = read_weights(CAFFE_FILES / "model_iter_4.caffemodel")
    write_weights(tmp_path / "weights.h5", saved)
    assert layout(tmp_path / "weights.h5") == layout(CAFFE_FILES / "weights.h5")


def test_a_solver_state_is_laid_out_as_caffe_does(tmp_path: Path) -> None:
    caffes = CAFFE_FILES / "model_iter_4.solverstate.h5"
    path = tmp_path / "model.solverstate.h5"
    write_state(path, read_state(caffes))
    assert layout(path) == layout(caffes)


def test_old_hdf5_libraries_can_read_it(tmp_path: Path) -> None:
    write_weights(tmp_path / "a.h5", Weights((SavedLayer("ip", (blob(1),)),)))
    # The version of the superblock, behind the signature: 0 to 2 are those of HDF5 1.8.
    assert (tmp_path / "a.h5").read_bytes()[8] <= 2


def comparable(saved: Weights) -> list[object]:
    return [
        (
            layer.name,
            [
                item and (item.shape, item.data.tobytes(), item.diff is not None)
                for item in layer.blobs
            ],
        )
        for layer in saved.layers
    ]


@overwriting
@given(weights(legacy=False))
def test_round_trip(tmp_path: Path, saved: Weights) -> None:
    write_weights(tmp_path / "a.h5", saved, diffs=True)
    found = read_weights(tmp_path / "a.h5", diffs=True)
    assert found.format == "HDF5"
    assert found.name == saved.name
    assert comparable(found) == comparable(saved)


@overwriting
@given(st.lists(names, min_size=1, max_size=6))
@example(["inception_3a/1x1", "inception_3a", "inception_3a/1x1/0", "inception_3a%2F1x1"])
@example(["", ".", "..", "%", "/", "a", "a", "a%2", "a"])
def test_any_layer_names_in_any_order(tmp_path: Path, layer_names: list[str]) -> None:
    layers = tuple(SavedLayer(name, (blob(i),)) for i, name in enumerate(layer_names))
    write_weights(tmp_path / "a.h5", Weights(layers), diffs=False)
    found = read_weights(tmp_path / "a.h5")
    assert [(name, float(values[0])) for name, (values,) in found if values is not None] == [
        (name, i) for i, name in enumerate(layer_names)
    ]


def test_ordinary_names_are_stored_as_caffe_finds_them(tmp_path: Path) -> None:
    layers = tuple(SavedLayer(name, (blob(1),)) for name in ("conv1", "fc%1 x", "Größe", "a/b"))
    write_weights(tmp_path / "a.h5", Weights(layers))
    with h5py.File(tmp_path / "a.h5") as file:
        assert list(file["data"]) == ["conv1", "fc%1 x", "Größe", "a%2Fb"]
        assert [list(group.attrs) for group in file["data"].values()] == [[], [], [], ["netc_name"]]


def test_a_name_with_a_zero_byte(tmp_path: Path) -> None:
    with pytest.raises(NetcError, match="zero byte"):
        write_weights(tmp_path / "a.h5", Weights((SavedLayer("a\0b"),)))
    assert list(tmp_path.iterdir()) == []


def test_nested_groups_of_other_tools(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data/inception/1x1/0"] = np.ones(2, np.float32)
        file["data/inception/3x3/0"] = np.ones(3, np.float32)
        file["data/pool/0"] = np.ones(4, np.float32)
        file["data/pool/proj/0"] = np.ones(5, np.float32)
    shapes = {
        name: key.shape for (name, _), key in params_of(read_weights(tmp_path / "a.h5")).items()
    }
    assert shapes == {
        "inception/1x1": (2,),
        "inception/3x3": (3,),
        "pool": (4,),
        "pool/proj": (5,),
    }


def test_shared_params_are_stored_with_their_owner(tmp_path: Path) -> None:
    owner = SavedLayer("a", (blob(1), blob(2)))
    user = SavedLayer("b", (blob(1, shared=True), blob(3)))
    write_weights(tmp_path / "a.h5", Weights((owner, user)))
    with h5py.File(tmp_path / "a.h5") as file:
        assert list(file["data/b"]) == ["1"]
    found = read_weights(tmp_path / "a.h5").layers[1]
    assert found.blobs[0] is None
    assert found.blobs[1]
    assert found.shapes == (None, (1,))
    with pytest.raises(NetcError, match=r"'b' blob 0"):
        write_weights(tmp_path / "a.caffemodel", Weights((found,)))
        write_weights(tmp_path / "a.caffemodel", Weights((SavedLayer("b", found.blobs),)))


@overwriting
@given(saved_blobs(legacy=False))
def test_other_number_types_are_converted(tmp_path: Path, item: SavedBlob) -> None:
    values = np.nan_to_num(item.data, posinf=9, neginf=-9) % 100
    for kind in ("f8", "f2", "i4", "u1", ">f4"):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["data/ip/0"] = values.astype(kind)
        ((_, (found,)),) = read_weights(tmp_path / "a.h5")
        assert same_values(found, values.astype(kind))


def write(path: Path, **datasets: object) -> Path:
    with h5py.File(path, "w") as file:
        for name, value in datasets.items():
            file[name.replace("__", "/")] = value
    return path


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ({"model_weights": 1}, "a Keras model"),
        ({"data": [1.0], "label": [1]}, "data for an HDF5Data layer"),
        ({"something": 1}, "got +'something'"),
        ({"data__conv1": [1.0]}, "a dataset 'conv1'"),
        ({"data__conv1__kernel": [1.0]}, "layer 'conv1': a dataset is not named by the index"),
        ({"data__conv1__00": [1.0]}, "not named by the index"),
        ({"data__conv1__0": "text"}, "blob 0 is not numeric"),
        ({"data__conv1__0": h5py.Empty("f4")}, "blob 0 is empty"),
        ({"data__conv1__999999": [1.0]}, "there is no blob 999999"),
    ],
)
def test_weights_in_another_layout(
    tmp_path: Path, datasets: dict[str, object], message: str
) -> None:
    with pytest.raises(NetcError, match=message):
        read_weights(write(tmp_path / "a.h5", **datasets))


STATE = {"iter": [4], "current_step": [1], "history__0": [1.0]}


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ({"data__conv1__0": [1.0]}, "weights"),
        ({**STATE, "iter": [1, 2]}, "'iter' is not a number"),
        ({**STATE, "iter": [1.5]}, "'iter' is not a number"),
        ({**STATE, "history__2": [1.0]}, "history: blob 1 is missing"),
        ({"iter": [4], "current_step": [1]}, "a group 'history'"),
        ({"iter": [4], "history__0": [1.0]}, "a dataset 'current_step'"),
        ({**STATE, "netc": np.frombuffer(b"\xff\xff", np.uint8)}, "solver state"),
    ],
)
def test_solver_states_in_another_layout(
    tmp_path: Path, datasets: dict[str, object], message: str
) -> None:
    with pytest.raises(NetcError, match=message):
        read_state(write(tmp_path / "a.h5", **datasets))


@pytest.mark.parametrize("name", ["weights.h5", "model_iter_4.solverstate.h5"])
def test_cut_at_any_length(tmp_path: Path, name: str) -> None:
    raw = (CAFFE_FILES / name).read_bytes()
    read = read_state if "solverstate" in name else read_weights
    lengths = {*range(0, len(raw), 97), *range(len(raw) - 20, len(raw))}
    (tmp_path / "a.h5").write_bytes(raw)
    for length in sorted(lengths, reverse=True):
        os.truncate(tmp_path / "a.h5", length)
        with pytest.raises(NetcError):
            read(tmp_path / "a.h5")


def test_the_first_failing_write_is_what_is_told() -> None:
    class Full(io.BytesIO):
        n_writes = 0

        def write(self, data: object, /) -> int:
            self.n_writes += 1
            raise fail(f"disk full at write {self.n_writes}")

    with pytest.raises(NetcError, match="disk full at write 1"):
        hdf5.write_net(Full(), Weights((SavedLayer("ip", (blob(1),)),)))
