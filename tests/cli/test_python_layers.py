"""Layers that a user wrote in Python, in a folder of their own, on the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import netc.pycaffe as caffe
from netc.weights import read_weights
from tests.cli.conftest import Netc

ROOT = Path(__file__).resolve().parents[2]
VERBS = {
    "train": ("-solver", "solver.prototxt", "-quiet"),
    "test": ("-model", "net.prototxt", "-random_weights", "-iterations", 2),
    "time": ("-model", "net.prototxt", "-iterations", 2),
    "check": ("net.prototxt", "solver.prototxt"),
    "summary": ("-model", "net.prototxt"),
    "export": ("-model", "net.prototxt", "-random_weights", "-output", "net.onnx"),
}
CODE = '''
import json

import caffe
import caffe.io
import numpy as np
from caffe.proto import caffe_pb2


class Points(caffe.Layer):
    """Points on a plane; how many there are changes from batch to batch."""

    def setup(self, bottom, top):
        settings = json.loads(self.param_str)
        self.sizes = settings["sizes"]
        self.random = np.random.RandomState(settings["seed"])
        self.batches = 0

    def reshape(self, bottom, top):
        self.size = self.sizes[self.batches % len(self.sizes)]
        top[0].reshape(self.size, 2)
        top[1].reshape(self.size, 1)

    def forward(self, bottom, top):
        import caffe as later

        assert later is caffe and self.phase in (caffe.TRAIN, caffe.TEST)
        assert caffe_pb2.NetParameter and caffe.io.Transformer
        x = self.random.randn(self.size, 2)
        top[0].data[...] = x
        top[1].data[...] = 2 * x[:, :1] - x[:, 1:] + 0.5
        self.batches += 1

    def backward(self, top, propagate_down, bottom):
        pass


class SquaredDistance(caffe.Layer):
    def setup(self, bottom, top):
        if len(bottom) != 2:
            raise Exception("Need two inputs to compute distance.")

    def reshape(self, bottom, top):
        if bottom[0].count != bottom[1].count:
            raise Exception("Inputs must have the same dimension.")
        self.diff = np.zeros_like(bottom[0].data)
        top[0].reshape(1)

    def forward(self, bottom, top):
        self.diff[...] = bottom[0].data - bottom[1].data
        top[0].data[...] = np.sum(self.diff ** 2) / bottom[0].num / 2

    def backward(self, top, propagate_down, bottom):
        for i, sign in ((0, 1), (1, -1)):
            if propagate_down[i]:
                bottom[i].diff[...] = sign * self.diff / bottom[i].num
'''
NET = r"""
layer { name: "points" type: "Python" top: "x" top: "y" python_param {
  module: "MODULE" layer: "Points" param_str: "{\"sizes\": [8, 3, 16, 1], \"seed\": 3}" } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param {
  num_output: 1 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "Python" bottom: "ip" bottom: "y" top: "loss" loss_weight: 1
  python_param { module: "MODULE" layer: "SquaredDistance" } }
"""
SOLVER = """
net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" momentum: 0.5 max_iter: 60 random_seed: 1
test_iter: 2 test_interval: 30 snapshot_prefix: "points"
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the user's module; its net and solver are in the working directory."""
    name = f"netc_user_{tmp_path.name}"
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / f"{name}.py").write_text(CODE)
    (tmp_path / "net.prototxt").write_text(NET.replace("MODULE", name))
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


def check_learnt(weights: str) -> None:
    weight, bias = dict(read_weights(weights))["ip"]
    np.testing.assert_allclose(np.ravel(weight), [2, -1], atol=1e-3)
    np.testing.assert_allclose(bias, [0.5], atol=1e-3)


def test_a_process_of_its_own(module: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "netc", "train", *map(str, VERBS["train"])]
    path = os.pathsep.join([str(ROOT), str(tmp_path / "code")])
    run = subprocess.run(
        [*command, "-allow_python_layers"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    check_learnt("points_iter_60.caffemodel")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_asks_before_it_runs_code(module: str, netc: Netc, verb: str) -> None:
    told = netc(verb, *VERBS[verb])
    assert told.code == 1 and module not in sys.modules
    words = told.out + told.err
    assert f"the Python code of class {module}.Points is not allowed to run" in words
    assert "or -allow_python_layers" in words and "net.prototxt:3:11" in words
    assert netc(verb, *VERBS[verb], "-allow_python_layers").code == 0
    assert module in sys.modules and "caffe" not in sys.modules


def test_training_by_code(module: str, netc: Netc) -> None:
    assert netc("train", *VERBS["train"], "-allow_python_layers").code == 0
    check_learnt("points_iter_60.caffemodel")


def test_what_the_code_does_wrong_is_told_with_its_line(module: str, netc: Netc) -> None:
    file = Path("code", f"{module}.py").resolve()
    line = 'raise ValueError("no luck")'
    file.write_text(CODE.replace("self.diff[...] = bottom", f"{line}  # "))
    told = netc("train", *VERBS["train"], "-allow_python_layers")
    assert told.code == 1
    number = file.read_text().splitlines().index(f"        {line}  # [0].data - bottom[1].data")
    for words in (
        "layer 'loss' (Python): the Python code of SquaredDistance.forward has failed",
        "ValueError: no luck",
        f"{file}:{number + 1}: {line}",
    ):
        assert words in told.err


def test_what_fails_in_a_library_is_told_with_the_users_line(module: str, netc: Netc) -> None:
    file = Path("code", f"{module}.py").resolve()
    line = "np.concatenate([bottom[0].data, bottom[1].data.T])"
    file.write_text(CODE.replace("self.diff[...] = bottom", f"{line}  # "))
    told = netc("time", *VERBS["time"], "-allow_python_layers")
    assert told.code == 1 and f"{file}:" in told.err and line in told.err
    assert "must match exactly" in told.err and "site-packages" not in told.err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("import json", "import json, nowhere_at_all"), "No module named 'nowhere_at_all'"),
        (("import json", "import json +"), "SyntaxError"),
        (("import json", "raise SystemExit(3)"), "SystemExit: 3"),
        (("class Points", "class Pointz"), "one of: Pointz, SquaredDistance"),
        (("json.loads(self.param_str)", "json.loads('{')"), "Points.setup has failed"),
        (("top[0].reshape(self.size, 2)", "exit()"), "Points.reshape has failed"),
    ],
)
def test_code_that_cannot_begin(
    module: str, netc: Netc, change: tuple[str, str], words: str
) -> None:
    file = Path("code", f"{module}.py")
    file.write_text(CODE.replace(*change))
    told = netc("check", "net.prototxt", "-allow_python_layers")
    assert told.code == 1 and words in told.out
    assert "one of" in words or f"{file.resolve()}:" in told.out


def test_a_module_that_is_not_on_the_path(module: str, netc: Netc) -> None:
    Path("net.prototxt").write_text(NET.replace("MODULE", "netc_user_nowhere"))
    told = netc("check", "net.prototxt", "-allow_python_layers")
    assert told.code == 1 and "PYTHONPATH" in told.out


def test_an_exported_net_has_inputs_for_its_data_and_no_loss(module: str, netc: Netc) -> None:
    told = netc("export", *VERBS["export"], "-allow_python_layers")
    assert told.code == 0, told.err
    session = onnxruntime.InferenceSession("net.onnx")
    assert [(i.name, i.shape) for i in session.get_inputs()] == [("x", ["N", 2])]
    assert [o.name for o in session.get_outputs()] == ["ip"]


def test_code_has_no_onnx_form(module: str, netc: Netc) -> None:
    Path("net.prototxt").write_text(
        NET.replace("MODULE", module).replace("loss_weight: 1", "")
        + 'layer { name: "half" type: "Power" bottom: "loss" top: "half" '
        "power_param { scale: 0.5 } }"
    )
    told = netc("export", *VERBS["export"], "-allow_python_layers")
    assert told.code == 1 and not Path("net.onnx").exists()
    assert f"what {module}.SquaredDistance does is said in Python, not in ONNX" in told.err
    assert netc("export", *VERBS["export"], "-allow_python_layers", "-outputs", "ip").code == 0


def test_export_prefers_the_well_known(module: str, netc: Netc) -> None:
    # Although the module is there: netc's own type has an ONNX form.
    Path("code", "spatial_dropout.py").write_text("raise SystemError('imported')")
    text = NET.replace("MODULE", module).replace(
        'layer { name: "loss"',
        'layer { name: "drop" type: "Python" bottom: "ip" top: "drop" python_param { module: '
        '"spatial_dropout" layer: "SpatialDropoutLayer" param_str: "{\'phase\': \'TEST\', '
        "'p': 0.5}\" } }\n"
        'layer { name: "loss"',
    )
    Path("net.prototxt").write_text(text)
    assert netc("export", *VERBS["export"], "-allow_python_layers").code == 0
    told = netc("check", "net.prototxt", "-allow_python_layers")
    assert told.code == 1 and "SystemError: imported" in told.out


def test_pycaffe_runs_code_as_it_always_did(module: str) -> None:
    net = caffe.Net("net.prototxt", caffe.TRAIN)
    for size in (8, 3, 16, 1, 8):
        out = net.forward()
        assert net.blobs["x"].shape == (size, 2) and net.blobs["ip"].shape == (size, 1)
        diff = net.blobs["ip"].data - net.blobs["y"].data
        np.testing.assert_allclose(out["loss"], [(diff**2).sum() / size / 2], rtol=1e-5)
        net.clear_param_diffs()
        net.backward()
        want = (diff / size).T @ net.blobs["x"].data
        np.testing.assert_allclose(net.params["ip"][0].diff, want, rtol=1e-4, atol=1e-6)
    solver = caffe.get_solver("solver.prototxt")
    solver.solve()
    check_learnt("points_iter_60.caffemodel")
