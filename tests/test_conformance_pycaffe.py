"""The vectors of BVLC Caffe through `netc.pycaffe`, used as a script for pycaffe would."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import netc.pycaffe as caffe
from netc.errors import NetcError
from tests.test_conformance_layers import EXACT, agree

CONFORMANCE = Path(__file__).parent / "conformance"
FILES = CONFORMANCE / "files"
LAYERS = sorted((CONFORMANCE / "layers").glob("*.npz"))
SOLVERS = sorted((CONFORMANCE / "solvers").glob("*.npz"))
DATA_LAYERS = sorted(FILES.glob("data_layer_*.npz"))
BATCH, BATCHES = 8, 3

# As in tests/train/test_trajectories.py, from the README beside the vectors.
AFTER_25 = {"rtol": 5e-4, "atol": 5e-5}
AFTER_1 = {"rtol": 1e-4, "atol": 1e-5}
RATE = {"rtol": 1e-5, "atol": 0.0}

Vector = dict[str, np.ndarray]


def entries(vector: Vector, kind: str) -> list[tuple[str, np.ndarray]]:
    """Return what follows "kind:" in the keys, with the values."""
    return [(k.partition(":")[2], v) for k, v in vector.items() if k.partition(":")[0] == kind]


def set_params(net: caffe.Net, vector: Vector, kind: str) -> None:
    for key, value in entries(vector, kind):
        layer, i = key.rsplit(":", 1)
        net.params[layer][int(i)].data[...] = value


def test_the_vectors_are_here() -> None:
    assert (len(LAYERS), len(SOLVERS), len(DATA_LAYERS)) == (274, 34, 7)


@pytest.mark.parametrize("path", LAYERS, ids=lambda path: path.stem)
def test_layer(path: Path, tmp_path: Path) -> None:
    z = dict(np.load(path))
    exact = path.stem.startswith(EXACT)
    text = tmp_path / "net.prototxt"
    text.write_text(str(z["prototxt"]))
    net = caffe.Net(str(text), getattr(caffe, str(z["phase"])))
    set_params(net, z, "param")
    assert set(net.outputs) == {name for name, _ in entries(z, "output")}
    for name, value in entries(z, "input"):
        net.blobs[name].data[...] = value
    outputs = net.forward()
    assert list(outputs) == sorted(net.outputs)
    for name, value in entries(z, "output"):
        agree(outputs[name], value, name, exact)
    for name, value in entries(z, "blob"):
        agree(net.blobs[name].data, value, name, exact)
    for key, value in entries(z, "param_after"):
        layer, i = key.rsplit(":", 1)
        agree(net.params[layer][int(i)].data, value, key)
    if entries(z, "top_diff"):
        check_backward(net, z)
    if entries(z, "input2"):
        for name, value in entries(z, "input2"):
            net.blobs[name].data[...] = value
        outputs = net.forward()
        for name, value in entries(z, "output2"):
            agree(outputs[name], value, f"second pass: {name}")


def check_backward(net: caffe.Net, z: Vector) -> None:
    for name, value in entries(z, "top_diff"):
        if net.blob_loss_weights[name]:
            agree(net.blobs[name].diff, value, f"weight of {name}")
        net.blobs[name].diff[...] = value
    net.backward()
    expected = dict(entries(z, "grad_input"))
    for name in net.inputs:
        value = expected.get(name)
        agree(
            net.blobs[name].diff,
            np.zeros(net.blobs[name].shape, np.float32) if value is None else value,
            f"gradient of {name}",
        )
    gradients = entries(z, "grad_param")
    for key, value in gradients:
        layer, i = key.rsplit(":", 1)
        agree(net.params[layer][int(i)].diff, value, f"gradient of {key}")
    # Params' gradients add up, those of blobs do not.
    for name, value in entries(z, "top_diff"):
        net.blobs[name].diff[...] = value
    net.backward()
    for name, value in expected.items():
        agree(net.blobs[name].diff, value, f"second gradient of {name}")
    for key, value in gradients:
        layer, i = key.rsplit(":", 1)
        agree(net.params[layer][int(i)].diff, 2 * value, f"twice the gradient of {key}")
    net.clear_param_diffs()
    assert not any(blob.diff.any() for blobs in net.params.values() for blob in blobs)


class Run:
    """A solver whose training net is given the batches of a trajectory."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.z = dict(np.load(path))
        (folder / "net.prototxt").write_text(str(self.z["net_prototxt"]))
        (folder / "solver.prototxt").write_text(str(self.z["solver_prototxt"]))
        self.solver = caffe.get_solver(str(folder / "solver.prototxt"))
        set_params(self.solver.net, self.z, "param_init")
        self.passes = 0
        self.losses: list[float] = []

    def write_batch(self, layer: int = 0) -> None:
        if layer == 0:
            start = BATCH * (self.passes % BATCHES)
            batch = slice(start, start + BATCH)
            self.solver.net.blobs["data"].data[...] = self.z["data"][batch]
            self.solver.net.blobs["label"].data[...] = self.z["label"][batch]
            self.passes += 1

    def loss(self) -> float:
        net = self.solver.net
        return sum(
            weight * float(net.blobs[name].data.sum())
            for name, weight in net.blob_loss_weights.items()
        )

    def check(self, kind: str, tolerance: dict[str, float]) -> None:
        found = entries(self.z, kind)
        assert found
        for key, value in found:
            layer, i = key.rsplit(":", 1)
            ours = self.solver.net.params[layer][int(i)].data
            np.testing.assert_allclose(ours, value, **tolerance, err_msg=key)


def iter_size(path: Path) -> int:
    return int(path.stem.partition("iter_size")[2][:1] or 1)


@pytest.mark.parametrize("path", SOLVERS, ids=lambda path: path.stem)
def test_trajectory(path: Path, tmp_path: Path) -> None:
    run = Run(path, tmp_path)
    # With one pass in an iteration, data written before `step` is what the step sees; with
    # several, a call before the first layer writes that of each pass.
    if iter_size(path) > 1:
        run.solver.net.before_forward(run.write_batch)
        run.solver.net.after_forward(
            lambda i: run.losses.append(run.loss()) if i == len(run.solver.net.layers) - 1 else None
        )
    rates = []
    for i in range(25):
        assert run.solver.iter == i
        rates.append(run.solver.lr)
        if iter_size(path) == 1:
            run.write_batch()
        run.solver.step(1)
        if iter_size(path) == 1:
            run.losses.append(run.loss())
        if i == 0:
            run.check("param_iter1", AFTER_1)
    run.check("param", AFTER_25)
    losses = np.reshape(run.losses, (25, iter_size(path))).mean(axis=1)
    np.testing.assert_allclose(losses, run.z["loss"], **AFTER_25)
    np.testing.assert_allclose(rates, run.z["lr"], **RATE)


# By hand the iteration stays 0, so that only rules that do not look at it end where Caffe's ended.
BY_HAND = [path for path in SOLVERS if path.stem.startswith(("sgd__", "nesterov__", "rmsprop__"))]


@pytest.mark.parametrize("path", BY_HAND, ids=lambda path: path.stem)
def test_trajectory_by_hand(path: Path, tmp_path: Path) -> None:
    run = Run(path, tmp_path)
    for i in range(25):
        run.solver.net.clear_param_diffs()
        for _ in range(iter_size(path)):
            run.write_batch()
            run.solver.net.forward()
            run.solver.net.backward()
        run.solver.apply_update()
        if i == 0:
            run.check("param_iter1", AFTER_1)
    assert run.solver.iter == 0
    run.check("param", AFTER_25)


@pytest.mark.parametrize("weights", ["model_iter_4.caffemodel", "weights.h5"])
@pytest.mark.parametrize("form", ["keyword", "older order", "copy_from", "load_hdf5"])
def test_weight_files(weights: str, form: str) -> None:
    file, text = str(FILES / weights), str(FILES / "net.prototxt")
    if form == "keyword":
        net = caffe.Net(text, caffe.TEST, weights=file)
    elif form == "older order":
        net = caffe.Net(text, file, caffe.TEST)
    else:
        net = caffe.Net(text, caffe.TEST)
        getattr(net, form)(file)
    check_reference(net)


def test_weights_of_2014() -> None:
    net = caffe.Net(str(FILES / "net.prototxt"), caffe.TEST, weights=FILES / "weights.h5")
    for layer in ("conv1", "ip"):
        for blob in net.params[layer]:
            blob.data[...] = 0
    net.copy_from(str(FILES / "v1_legacy_dims.caffemodel"))
    check_reference(net)


def check_reference(net: caffe.Net) -> None:
    z = dict(np.load(FILES / "model_iter_4_reference.npz"))
    for key, value in entries(z, "param"):
        layer, i = key.rsplit(":", 1)
        np.testing.assert_array_equal(net.params[layer][int(i)].data, value)
    for name, value in entries(z, "test_input"):
        net.blobs[name].data[...] = value
    net.forward()
    for name, value in entries(z, "test_output"):
        agree(net.blobs[name].data, value, name)


@pytest.mark.parametrize("encoding", ["", ".h5"])
def test_solver_state_files(encoding: str, tmp_path: Path) -> None:
    folder = shutil.copytree(FILES, tmp_path / "files")
    # The name that Caffe gave it, which the state refers to.
    (folder / "weights.h5").rename(folder / "model_iter_4.caffemodel.h5")
    solver = caffe.get_solver(folder / "solver.prototxt")
    solver.restore(str(folder / f"model_iter_4.solverstate{encoding}"))
    z = dict(np.load(FILES / "model_iter_4_reference.npz"))
    assert solver.iter == int(z["iter"]) == 4
    for key, value in entries(z, "param"):
        layer, i = key.rsplit(":", 1)
        np.testing.assert_array_equal(solver.net.params[layer][int(i)].data, value)


@pytest.mark.parametrize("path", DATA_LAYERS, ids=lambda path: path.stem)
def test_data_layer(path: Path, tmp_path: Path) -> None:
    z = dict(np.load(path))
    folder = shutil.copytree(FILES, tmp_path / "files")
    (folder / "net.prototxt").write_text(str(z["prototxt"]))
    net = caffe.Net(str(folder / "net.prototxt"), getattr(caffe, str(z["phase"])))
    passes = sorted({key.split(":")[0] for key in z if key.startswith("forward")})
    assert len(passes) == 3
    for number in passes:
        net.forward()
        for name, value in entries(z, number):
            agree(net.blobs[name].data, value, f"{number} {name}")


def test_nets_that_caffe_refuses(tmp_path: Path) -> None:
    import json

    cases = json.loads((CONFORMANCE / "refused_nets.json").read_text("utf-8"))
    assert cases
    for case in cases:
        text = tmp_path / f"{case['name']}.prototxt"
        text.write_text(case["prototxt"])
        with pytest.raises(NetcError):
            caffe.Net(str(text), getattr(caffe, case["phase"]))
