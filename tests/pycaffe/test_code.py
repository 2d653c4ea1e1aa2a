"""Python layers in nets of pycaffe, and `import caffe`."""

from __future__ import annotations

import runpy
import subprocess
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import netc.pycaffe as caffe
from netc.errors import NetcError
from netc.pycaffe.__main__ import main
from tests.pycaffe.nets import net_of, write_inputs

ROOT = Path(__file__).parents[2]
CODE = '''
import caffe
import caffe.io
import numpy as np
from caffe.proto import caffe_pb2

class Times(caffe.Layer):
    """y = factor * x"""
    made = 0
    def __init__(self, param=None):
        super().__init__(param)
        self.passes = []
    def setup(self, bottom, top):
        Times.made += 1
        self.factor = float(self.param_str)
    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)
    def forward(self, bottom, top):
        self.passes.append(bottom[0].num)
        top[0].data[...] = self.factor * bottom[0].data
    def backward(self, top, propagate_down, bottom):
        assert propagate_down == [True]
        bottom[0].diff[...] = self.factor * top[0].diff

class Offset(caffe.Layer):
    """y = x + b, b learned"""
    def setup(self, bottom, top):
        self.blobs.add_blob(1)
        self.blobs[0].data[...] = 4
    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)
    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data + self.blobs[0].data
    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[...] += top[0].diff.sum()
        if propagate_down[0]:
            bottom[0].diff[...] = top[0].diff

class Phase(caffe.Layer):
    def reshape(self, bottom, top):
        top[0].reshape()
    def forward(self, bottom, top):
        top[0].data[()] = self.phase

class Numbers(caffe.Layer):
    """A data layer: 0, 1, 2, ... batch by batch"""
    def setup(self, bottom, top):
        self.at = 0
        self.size = 2
    def reshape(self, bottom, top):
        top[0].reshape(self.size, 1)
    def forward(self, bottom, top):
        top[0].data[:, 0] = self.at + np.arange(self.size)
        self.at += self.size

class Once(caffe.Layer):
    """Shapes are given in setup only, and changed in forward."""
    def setup(self, bottom, top):
        top[0].reshape(1, 2)
        self.passes = 0
    def reshape(self, bottom, top):
        pass
    def forward(self, bottom, top):
        self.passes += 1
        top[0].data[...] = self.passes
        if self.passes % 3 == 0:
            top[0].reshape(self.passes, 2)
            top[0].data[...] = self.passes

class Broken(caffe.Layer):
    def setup(self, bottom, top):
        raise KeyError("no such setting")

class Breaks(Times):
    def forward(self, bottom, top):
        raise ZeroDivisionError("no luck")
'''
INPUT = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 3 dim: 2 } } }\n'


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = f"netc_code_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def layer(module: str, cls: str, name: str, bottom: str, top: str, text: str = "") -> str:
    return (
        f'layer {{ name: "{name}" type: "Python" {bottom and f"bottom: {bottom!r}"} top: "{top}" '
        f"python_param {{ module: '{module}' layer: '{cls}' param_str: '{text}' }} }}\n"
    )


def chain(module: str) -> str:
    return (
        "force_backward: true\n"
        + INPUT
        + "".join(
            layer(module, "Times", f"t{i}", "x" if i == 0 else f"y{i - 1}", f"y{i}", "10")
            for i in range(3)
        )
    )


def test_forward_and_backward(tmp_path: Path, module: str) -> None:
    net = net_of(tmp_path, chain(module))
    net.blobs["x"].data[...] = 8
    assert (net.forward()["y2"] == 8000).all()
    net.blobs["y2"].diff[...] = 7
    net.backward()
    assert (net.blobs["x"].diff == 7000).all()


def test_a_layer_is_one_object_of_its_class_whatever_shapes_the_net_has(
    tmp_path: Path, module: str
) -> None:
    net = net_of(tmp_path, chain(module))
    cls = type(net.layers[1])
    assert cls.made == 3 and isinstance(net.layers[1], caffe.Layer)
    assert (net.layers[1].type, list(net.layers[1].blobs)) == ("Python", [])
    net.layers[1].factor = 1.0
    for n in (3, 4, 3):
        net.blobs["x"].reshape(n, 2, 5)
        net.blobs["x"].data[...] = 1
        net.forward()
        assert {blob.shape for blob in net.blobs.values()} == {(n, 2, 5)}
        assert (net.blobs["y2"].data == 100).all()
    assert cls.made == 3
    assert net.layers[3].passes == [3, 4, 3]
    net_of(tmp_path, chain(module))
    assert cls.made == 6 and net.layer_dict["t0"] is net.layers[1]


def test_two_layers_of_the_same_text_are_two_objects(tmp_path: Path, module: str) -> None:
    net = net_of(
        tmp_path,
        INPUT
        + layer(module, "Times", "a", "x", "x", "2")
        + layer(module, "Times", "b", "x", "x", "2"),
    )
    assert net.layers[1] is not net.layers[2]
    assert (net.forward(x=np.ones((3, 2)))["x"] == 4).all()


def test_the_params_of_a_layer_are_the_nets(tmp_path: Path, module: str) -> None:
    text = "force_backward: true\n" + INPUT + layer(module, "Offset", "o", "x", "y")
    net = net_of(tmp_path, text)
    own, param = net.layers[1].blobs[0], net.params["o"][0]
    assert param.data.tolist() == [4]
    own.data[...] = 5
    assert param.data.tolist() == [5]
    assert (net.forward(x=np.ones((3, 2)))["y"] == 6).all()
    for n in (1, 2):
        net.backward(y=np.ones((3, 2)))
        assert param.diff.tolist() == own.diff.tolist() == [6 * n]
    net.clear_param_diffs()
    assert param.diff.tolist() == own.diff.tolist() == [0]
    own.data[0] += 2
    net.save(str(tmp_path / "net.caffemodel"))
    other = net_of(tmp_path, text)
    other.copy_from(str(tmp_path / "net.caffemodel"))
    assert other.layers[1].blobs[0].data.tolist() == [7]
    third = net_of(tmp_path, text)
    third.share_with(net)
    third.layers[1].blobs[0].data[...] = -1
    assert param.data.tolist() == own.data.tolist() == [-1]


def test_a_layer_knows_its_phase(tmp_path: Path, module: str) -> None:
    text = layer(module, "Phase", "p", "", "phase")
    for phase in (caffe.TRAIN, caffe.TEST):
        assert net_of(tmp_path, text, phase).forward()["phase"] == phase


def test_a_top_keeps_the_shape_that_its_layer_gave_it_last(tmp_path: Path, module: str) -> None:
    net = net_of(
        tmp_path,
        layer(module, "Once", "once", "", "x")
        + 'layer { name: "p" type: "Power" bottom: "x" top: "y" power_param { scale: 2 } }',
    )
    for n, rows in ((1, 1), (2, 1), (3, 3), (4, 3), (5, 3), (6, 6), (7, 6)):
        y = net.forward()["y"]
        assert y.shape == net.blobs["x"].shape == (rows, 2) and (y == 2 * n).all()


def test_a_data_layer_feeds_a_solver(tmp_path: Path, module: str) -> None:
    net = layer(module, "Numbers", "data", "", "x") + (
        'layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { '
        'num_output: 1 weight_filler { type: "constant" value: 1 } } }'
        'layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "x" top: "loss" }'
    )
    (tmp_path / "net.prototxt").write_text(net)
    (tmp_path / "solver.prototxt").write_text(
        f'train_net: "{tmp_path}/net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 9 '
        f'snapshot_prefix: "{tmp_path}/s" snapshot_after_train: false'
    )
    solver = caffe.SGDSolver(str(tmp_path / "solver.prototxt"))
    for n in range(4):
        solver.step(1)
        assert solver.net.blobs["x"].data.ravel().tolist() == [2 * n, 2 * n + 1]
    assert solver.net.layers[0].at == 8


def test_what_the_code_raises_comes_out_as_it_is(tmp_path: Path, module: str) -> None:
    with pytest.raises(KeyError, match="no such setting"):
        net_of(tmp_path, INPUT + layer(module, "Broken", "b", "x", "y"))
    net = net_of(tmp_path, INPUT + layer(module, "Breaks", "b", "x", "y", "1"))
    with pytest.raises(ZeroDivisionError, match="no luck") as error:
        net.forward()
    assert error.traceback[-1].path.name == f"{module}.py"


def test_code_can_be_kept_from_running(tmp_path: Path, module: str) -> None:
    caffe.allow_python_layers(False)
    try:
        with pytest.raises(NetcError, match="not allowed to run"):
            net_of(tmp_path, chain(module))
    finally:
        caffe.allow_python_layers()
    assert module not in sys.modules
    write_inputs(net_of(tmp_path, chain(module)))


# -- import caffe ----------------------------------------------------------------------------------

SCRIPT = """
    import sys
    import numpy as np
    import caffe, caffe.io, caffe.draw
    import caffe.proto.caffe_pb2 as pb
    from caffe import layers as L, params as P, to_proto
    from caffe.coord_map import crop
    from caffe.proto import caffe_pb2
    from caffe.pycaffe import Net
    from google.protobuf import text_format
    import beside

    assert pb is caffe_pb2 is caffe.proto.caffe_pb2 and Net is caffe.Net
    n = caffe.NetSpec()
    n.x = L.Input(shape=dict(dim=[2, 3]))
    n.y = L.Python(n.x, module="beside", layer="Double")
    with open(sys.argv[1], "w") as f:
        f.write(str(n.to_proto()))
    with open(sys.argv[1]) as f:
        spec = text_format.Merge(f.read(), caffe_pb2.NetParameter())
    assert [layer.type for layer in spec.layer] == ["Input", "Python"]
    net = caffe.Net(sys.argv[1], caffe.TEST)
    y = net.forward(x=np.ones((2, 3)))["y"]
    print(__name__, y.sum(), isinstance(net.layers[1], beside.Double))
"""
BESIDE = """
    import caffe
    class Double(caffe.Layer):
        def setup(self, bottom, top): pass
        def reshape(self, bottom, top): top[0].reshape(*bottom[0].shape)
        def forward(self, bottom, top):
            import caffe as again
            top[0].data[...] = 2 * bottom[0].data
            assert again is caffe
"""


@pytest.fixture
def _uninstalled() -> Iterator[None]:
    yield
    for name in [name for name in sys.modules if name.split(".")[0] in ("caffe", "beside")]:
        del sys.modules[name]


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "script.py").write_text(textwrap.dedent(SCRIPT))
    (folder / "beside.py").write_text(textwrap.dedent(BESIDE))
    return folder


def test_a_script_that_imports_caffe_runs_as_it_is(tmp_path: Path, scripts: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "netc.pycaffe", scripts / "script.py", "net.prototxt"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
    assert done.stdout.split() == ["__main__", "12.0", "True"], done.stderr


@pytest.mark.usefixtures("_uninstalled")
def test_a_module_that_imports_caffe_is_imported_once_that_is_installed(
    tmp_path: Path,
    scripts: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caffe.install()
    caffe.install()
    monkeypatch.syspath_prepend(scripts)
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "net.prototxt")])
    runpy.run_module("script")
    assert capsys.readouterr().out.split() == ["script", "12.0", "True"]


@pytest.mark.usefixtures("_uninstalled")
def test_another_caffe_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "caffe", types.ModuleType("caffe"))
    with pytest.raises(NetcError, match="another caffe is imported already"):
        caffe.install()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["no_such.py"], "no_such.py: there is no such script"),
        ([], "python -m netc.pycaffe script.py"),
        (["--help"], "python -m netc.pycaffe script.py"),
    ],
)
def test_mistakes_in_running_a_script(
    argv: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["pycaffe", *argv])
    with pytest.raises(SystemExit, match=words):
        main()
    assert "caffe" not in sys.modules


@pytest.mark.usefixtures("_uninstalled")
def test_a_mistake_in_a_script_is_told_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "script.py"
    script.write_text("import caffe\n\ndef load():\n    caffe.Net('no_such', caffe.TEST)\nload()\n")
    monkeypatch.setattr(sys, "argv", ["pycaffe", str(script)])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as error:
        main()
    lines = str(error.value.code).splitlines()
    assert lines[0] == f"{script}:5: load()"
    assert lines[1] == f"{script}:4: caffe.Net('no_such', caffe.TEST)"
    assert lines[2] == "no_such: no such file"
