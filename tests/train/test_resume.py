"""A run that stopped anywhere and goes on ends with the same bits; what cannot go on says why."""

from __future__ import annotations

import logging
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.backends import find_backend
from netc.data import use_threads, write_datums
from netc.errors import NetcError
from netc.schema import read_solver
from netc.train import tuning
from netc.train.finetuning import Asked
from netc.train.solver import Solver
from netc.weights import read_weights
from tests.data.samples import FILES, encoded, pixels, raw
from tests.support.disks import small_disk
from tests.support.nets import require

N_ITEMS = 11
SIZE = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the same images in every form that a layer reads."""
    path = tmp_path_factory.mktemp("resume")
    images = [pixels(SIZE, SIZE, 3, seed=i) for i in range(N_ITEMS)]
    write_datums(path / "raw", (raw(im.transpose(2, 0, 1), i % 3) for i, im in enumerate(images)))
    write_datums(path / "encoded", (encoded(im, i % 3) for i, im in enumerate(images)))
    listed, pairs, windows = [], [], []
    for i, image in enumerate(images):
        (path / f"{i}.png").write_bytes(encoded(image).data)
        (path / f"{i}_labels.png").write_bytes(encoded(pixels(SIZE, SIZE, seed=i) % 3).data)
        listed.append(f"{i}.png {i % 3}")
        pairs.append(f"{i}.png {i}_labels.png")
        windows += [f"# {i}", f"{i}.png", "3", str(SIZE), str(SIZE), "2"]
        windows += ["2 0.9 1 1 5 4", "1 0.1 0 0 3 3"]
    (path / "images").write_text("\n".join(listed) + "\n")
    (path / "pairs").write_text("\n".join(pairs) + "\n")
    (path / "windows").write_text("\n".join(windows) + "\n")
    for i, rows in enumerate((4, 1, 6)):
        with h5py.File(path / f"{i}.h5", "w") as h5:
            h5["data"] = np.random.default_rng(i).normal(size=(rows, 3, SIZE, SIZE))
            h5["label"] = np.arange(rows) % 3
    (path / "rows").write_text("0.h5 1.h5 2.h5")
    return path


@pytest.fixture(autouse=True)
def usual_threads() -> Iterator[None]:
    yield
    use_threads(0)


def data_layer(kind: str, shuffle: bool, mirror: bool, crop: bool, phase: str = "TRAIN") -> str:
    yes = {True: "true", False: "false"}
    size = f"crop_size: {SIZE - 2}" * (crop or kind == "windows")
    scale = "scale: 0.01" * (kind != "windows")
    transform = f"transform_param {{ {scale} mirror: {yes[mirror]} {size} }}"
    where = f'source: "{kind}" batch_size: 4'
    types = {
        "raw": ("Data", f"data_param {{ {where} backend: LMDB prefetch: 1 }}"),
        "encoded": ("Data", f"data_param {{ {where} backend: LMDB }}"),
        "images": ("ImageData", f"image_data_param {{ {where} shuffle: {yes[shuffle]} }}"),
        "rows": ("HDF5Data", f"hdf5_data_param {{ {where} shuffle: {yes[shuffle]} }}"),
        "windows": ("WindowData", f"window_data_param {{ {where} scale: 0.01 }}"),
        "pairs": (
            "ImageSegData",
            f"image_data_param {{ {where} shuffle: {yes[shuffle]} label_type: PIXEL }}",
        ),
    }
    name, param = types[kind]
    param += "" if kind == "rows" else f" {transform}"
    return (
        f'layer {{ name: "data" type: "{name}" top: "data" top: "label" {param}'
        f" include {{ phase: {phase} }} }}\n"
    )


def net_of(kind: str, layer: str, dropout: bool) -> str:
    head = (
        'type: "Convolution" convolution_param { num_output: 3 kernel_size: 1'
        if kind == "pairs"
        else 'type: "InnerProduct" inner_product_param { num_output: 3'
    ) + ' weight_filler { type: "xavier" } }'
    drop = 'layer { name: "drop" type: "Dropout" bottom: "x" top: "x" }\n' * dropout
    return (
        f'name: "small"\n{layer}'
        'layer { name: "conv/1" type: "Convolution" bottom: "data" top: "x" convolution_param '
        '{ num_output: 4 kernel_size: 1 weight_filler { type: "xavier" } } }\n'
        'layer { name: "bn" type: "BatchNorm" bottom: "x" top: "x" }\n'
        f"{drop}"
        f'layer {{ name: "head" bottom: "x" top: "y" {head} }}\n'
        'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "y" bottom: "label" top: "loss" }\n'
    )


BASE = 'base_lr: 0.02 lr_policy: "step" gamma: 0.7 stepsize: 3 weight_decay: 0.001 max_iter: 8'
MOMENTUM = 'type: "SGD" momentum: 0.9'


def solver_in(
    folder: Path, net: str, extra: str = MOMENTUM, backend: str = "reference", base: str = BASE
) -> Solver:
    require(backend)
    (folder / "net.prototxt").write_text(net)
    prefix = f'net: "net.prototxt" random_seed: 3 snapshot_prefix: "{folder}/snap"'
    (folder / "solver.prototxt").write_text(f"{base} {prefix}\n{extra}")
    return Solver(read_solver(folder / "solver.prototxt"), find_backend(backend))


def close(*solvers: Solver) -> None:
    for solver in solvers:
        for net in (solver.net, *solver.test_nets):
            for feed in net.feeds.values():
                feed.close()


def equal(a: Solver, b: Solver) -> None:
    assert a.iter == b.iter
    assert a.losses == b.losses
    for x, y in zip(a.net.params, b.net.params, strict=True):
        np.testing.assert_array_equal(x, y)
    for x, y in zip(a.rule.history, b.rule.history, strict=True):
        np.testing.assert_array_equal(x, y)


KINDS = ("raw", "encoded", "images", "rows", "windows", "pairs")


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=3)
@given(
    stop=st.integers(1, 7),
    threads=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    shuffle=st.booleans(),
    mirror=st.booleans(),
    crop=st.booleans(),
    dropout=st.booleans(),
    rule=st.sampled_from([MOMENTUM, 'type: "Adam" momentum: 0.9', "momentum: 0.5 iter_size: 2"]),
    form=st.sampled_from(["HDF5", "BINARYPROTO"]),
)
def test_going_on_ends_with_the_same_bits(
    folder: Path,
    kind: str,
    backend: str,
    stop: int,
    threads: tuple[int, int],
    shuffle: bool,
    mirror: bool,
    crop: bool,
    dropout: bool,
    rule: str,
    form: str,
) -> None:
    net = net_of(kind, data_layer(kind, shuffle, mirror, crop), dropout)
    extra = f"{rule} snapshot_format: {form}"
    use_threads(threads[0])
    whole = solver_in(folder, net, extra, backend)
    whole.step(8)
    first = solver_in(folder, net, extra, backend)
    first.step(stop)
    _, state = first.snapshot()
    use_threads(threads[1])
    second = solver_in(folder, net, extra, backend)
    tuning.start(second, Asked(), str(state))
    assert second.iter == stop
    second.step(8 - stop)
    equal(whole, second)
    close(whole, first, second)


def test_a_test_net_goes_on_in_its_data_too(folder: Path) -> None:
    layers = data_layer("images", True, True, True) + data_layer(
        "images", True, False, False, "TEST"
    )
    net = net_of("images", layers, True).replace("crop_size: 4", "")
    extra = f"{MOMENTUM} test_iter: 2 test_interval: 3"
    whole = solver_in(folder, net, extra)
    whole.step(8)
    first = solver_in(folder, net, extra)
    first.step(4)
    _, state = first.snapshot()
    second = solver_in(folder, net, extra)
    second.restore(state)
    second.step(4)
    equal(whole, second)
    assert second.scores == whole.scores
    close(whole, first, second)


@pytest.mark.parametrize("end", ["", ".h5"])
def test_states_of_caffe_go_on_and_say_what_they_lack(
    tmp_path: Path, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("net.prototxt", f"model_iter_4.solverstate{end}"):
        shutil.copy(FILES / name, tmp_path)
    weights = "weights.h5" if end else "model_iter_4.caffemodel"
    shutil.copy(FILES / weights, tmp_path / f"model_iter_4.caffemodel{end}")
    net = (tmp_path / "net.prototxt").read_text()
    solver = solver_in(tmp_path, net, MOMENTUM)
    tuning.start(solver, Asked(), str(tmp_path / f"model_iter_4.solverstate{end}"))
    assert "was not written by netc: data starts from its beginning" in caplog.text
    assert solver.iter == 4
    with np.load(FILES / "model_iter_4_reference.npz") as reference:
        for i, history in enumerate(solver.rule.history):
            np.testing.assert_array_equal(history, reference[f"history:{i}"])
    solver.step(1)
    # Caffe's states do not name the type, but these have another number of arrays.
    for rule in ('type: "Adam"', 'type: "AdaDelta" momentum: 0.9'):
        other = solver_in(tmp_path, net, rule)
        message = refused(other, tmp_path / f"model_iter_4.solverstate{end}")
        assert "another net or another type of solver" in message
        assert "10 history blobs" in message and "20 history blobs" in message
    close(solver)


# -- what cannot go on -----------------------------------------------------------------------------

PLAIN = net_of("images", data_layer("images", True, False, False), False)


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Path:
    """Return a folder of the test's own with a snapshot of iteration 3 of the plain net."""
    shutil.copytree(folder, tmp_path / "run")
    solver = solver_in(tmp_path / "run", PLAIN)
    solver.step(3)
    solver.snapshot()
    close(solver)
    return tmp_path / "run"


def refused(solver: Solver, state: Path) -> str:
    before = [param.copy() for param in solver.net.params]
    with pytest.raises(NetcError) as caught:
        tuning.start(solver, Asked(), str(state))
    for x, y in zip(before, solver.net.params, strict=True):
        np.testing.assert_array_equal(x, y)
    assert solver.iter == 0
    close(solver)
    return str(caught.value)


def test_another_type_of_solver(run: Path) -> None:
    for rule in ('type: "AdaGrad"', 'type: "Nesterov" momentum: 0.9', 'type: "Adam"'):
        message = refused(solver_in(run, PLAIN, rule), run / "snap_iter_3.solverstate")
        assert "this snapshot is of another type of solver" in message
        assert 'type: "SGD" in ' in message
        assert "-weights" in message


def test_another_net_and_where_it_differs(run: Path) -> None:
    other = PLAIN.replace("num_output: 4", "num_output: 5").replace('"head"', '"tail"')
    message = refused(solver_in(run, other), run / "snap_iter_3.solverstate")
    assert "this snapshot is of another net" in message
    assert "layer 'conv/1'" in message
    assert "(5, 3, 1, 1)" in message and "(4, 3, 1, 1)" in message
    fewer = PLAIN.replace("num_output: 4", "num_output: 4 bias_term: false")
    message = refused(solver_in(run, fewer), run / "snap_iter_3.solverstate")
    assert "another number of params for layer 'conv/1'" in message
    missing = PLAIN.replace('"head"', '"tail"')
    message = refused(solver_in(run, missing), run / "snap_iter_3.solverstate")
    assert "'tail'" in message


def test_other_data(run: Path) -> None:
    lines = (run / "images").read_text().splitlines()
    (run / "images").write_text("\n".join(lines[:-1]) + "\n")
    message = refused(solver_in(run, PLAIN), run / "snap_iter_3.solverstate")
    assert "the data is not that of the snapshot" in message
    assert "11 items" in message and "10 items" in message


def test_a_data_layer_without_a_place_is_told(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    solver = solver_in(run, PLAIN.replace('name: "data"', 'name: "input"'))
    with caplog.at_level(logging.INFO, logger="netc"):
        tuning.start(solver, Asked(), str(run / "snap_iter_3.solverstate"))
    close(solver)
    assert "has no position for 'input': its data starts anew" in caplog.text
    assert "has a position for 'data', which this net does not read" in caplog.text


@pytest.mark.parametrize("form", ["", ".h5"])
def test_weights_that_are_missing_or_moved(run: Path, form: str) -> None:
    extra = f"{MOMENTUM} snapshot_format: {'HDF5' if form else 'BINARYPROTO'}"
    first = solver_in(run, PLAIN, extra)
    first.step(2)
    weights, state = first.snapshot()
    moved = run / "elsewhere"
    moved.mkdir()
    shutil.move(weights, moved / weights.name)
    message = refused(solver_in(run, PLAIN, extra), state)
    assert "the weights that belong to this solver state are missing" in message
    assert str(weights) in message
    assert "copy the weights beside the solver state" in message
    shutil.copy(moved / weights.name, run / f"other.caffemodel{form}")
    other = shutil.copy(state, run / f"other.solverstate{form}")
    message = refused(solver_in(run, PLAIN, extra), other)
    assert f"other.caffemodel{form} belongs to it, call it {weights.name}" in message
    # The pair may be moved together.
    shutil.move(state, moved / state.name)
    second = solver_in(run, PLAIN, extra)
    tuning.start(second, Asked(), str(moved / state.name))
    for x, y in zip(first.net.params, second.net.params, strict=True):
        np.testing.assert_array_equal(x, y)
    close(first, second)


def test_a_layer_with_a_slash_in_its_name_goes_on_in_hdf5(run: Path) -> None:
    solver = solver_in(run, PLAIN, f"{MOMENTUM} snapshot_format: HDF5")
    weights, state = solver.snapshot()
    names = [layer.name for layer in read_weights(weights).layers if layer.blobs]
    assert names == ["conv/1", "bn", "head"]
    again = solver_in(run, PLAIN, f"{MOMENTUM} snapshot_format: HDF5")
    again.restore(state)
    equal(solver, again)
    close(solver, again)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("snap_iter_3.caffemodel", "not a solver state"),
        ("snap_iter_33.solverstate", "did you mean"),
        ("images", "not a solver state"),
    ],
)
def test_files_that_are_no_solver_state(run: Path, name: str, says: str) -> None:
    assert says in refused(solver_in(run, PLAIN), run / name)


RECURRENT = """
layer { name: "data" type: "HDF5Data" top: "data" top: "label"
        hdf5_data_param { source: "rows" batch_size: 4 } }
layer { name: "ones" type: "DummyData" top: "cont"
        dummy_data_param { shape { dim: 4 dim: 1 } data_filler { value: 1 } } }
layer { name: "reshape" type: "Reshape" bottom: "data" top: "steps"
        reshape_param { shape { dim: 4 dim: 1 dim: -1 } } }
layer { name: "lstm" type: "RNN" bottom: "steps" bottom: "cont" top: "h"
        recurrent_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "flat" type: "Reshape" bottom: "h" top: "y"
        reshape_param { shape { dim: 4 dim: 3 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "y" bottom: "label" top: "loss" }
"""


def test_recurrent_state_of_another_batch_size(run: Path) -> None:
    first = solver_in(run, RECURRENT)
    first.step(2)
    _, state = first.snapshot()
    second = solver_in(run, RECURRENT)
    second.restore(state)
    second.step(2)
    first.step(2)
    equal(first, second)
    close(first, second)
    wider = RECURRENT.replace("dim: 4 dim: 1 }", "dim: 2 dim: 2 }").replace(
        "dim: 4 dim: 1 dim", "dim: 2 dim: 2 dim"
    )
    message = refused(solver_in(run, wider), state)
    assert "has another size" in message
    assert "recurrent" in message


# -- disks -----------------------------------------------------------------------------------------


def test_a_disk_that_fills_up_takes_nothing_that_was_written(tmp_path: Path, folder: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder, run)
    net = PLAIN.replace("num_output: 4", "num_output: 600")
    uncut = solver_in(run, net)
    uncut.step(8)
    with small_disk(tmp_path / "disk", 1200) as disk:
        solver_in(run, net, f"{MOMENTUM} snapshot: 2 snapshot_after_train: false")
        path = _with_prefix(run / "solver.prototxt", disk / "snap")
        solver = Solver(read_solver(path), find_backend("reference"))
        with pytest.raises(NetcError) as caught:
            solver.solve()
        message = str(caught.value)
        assert "disk full, the file was not written" in message
        assert "bytes free in" in message
        done = solver.iter
        assert 2 < done < 8
        assert f"there is no snapshot of iteration {done}" in message
        last = disk / f"snap_iter_{done - 2}.solverstate"
        assert f"-snapshot {last} goes on from there" in message
        assert {path.name for path in disk.iterdir()} == {
            f"snap_iter_{i}.{kind}"
            for i in range(2, done, 2)
            for kind in ("caffemodel", "solverstate")
        }
        again = solver_in(run, net)
        tuning.start(again, Asked(), str(last))
    again.step(8 - again.iter)
    equal(uncut, again)
    close(uncut, solver, again)


def _with_prefix(solver: Path, prefix: Path) -> Path:
    text = solver.read_text()
    start = text.index("snapshot_prefix:")
    end = text.index('"', text.index('"', start) + 1) + 1
    changed = solver.with_name("elsewhere.prototxt")
    changed.write_text(f'{text[:start]}snapshot_prefix: "{prefix}"{text[end:]}')
    return changed


@pytest.mark.parametrize("extra", ["", "snapshot: 2 snapshot_after_train: false"])
def test_a_directory_that_cannot_be_written_is_told_before_the_first_iteration(
    run: Path, extra: str
) -> None:
    (run / "file").write_text("")
    solver_in(run, PLAIN, f"{MOMENTUM} {extra}")
    for prefix in (run / "file" / "snap", Path("/proc/nowhere/snap")):
        path = _with_prefix(run / "solver.prototxt", prefix)
        solver = Solver(read_solver(path), find_backend("reference"))
        with pytest.raises(NetcError) as caught:
            solver.solve()
        assert solver.iter == 0
        assert "directory for snapshots cannot be made" in str(caught.value)
        assert "snapshot_prefix" in str(caught.value)
        close(solver)


def test_a_disk_that_is_read_only(run: Path) -> None:
    solver_in(run, PLAIN)
    with small_disk(run / "disk", 64) as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        path = _with_prefix(run / "solver.prototxt", disk / "snap")
        solver = Solver(read_solver(path), find_backend("reference"))
        with pytest.raises(NetcError, match="no permission to write in its directory"):
            solver.solve()
        assert solver.iter == 0
        close(solver)


# -- images that are bad ---------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 4])
def test_a_broken_image_is_told_at_its_batch(run: Path, threads: int) -> None:
    (run / "9.png").write_bytes(b"\x89PNG broken")
    use_threads(threads)
    solver = solver_in(run, PLAIN.replace("shuffle: true", "shuffle: false"))
    with pytest.raises(NetcError) as caught:
        solver.step(8)
    # Batches of four: items 0 to 7 are fine.
    assert solver.iter == 2
    assert f"{run}/images:10:1: layer 'data' (ImageData): the image cannot be decoded" in str(
        caught.value
    )
    close(solver)
