"""ONNX Runtime: which opsets, threads, silence, and errors in words."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

from netc.errors import NetcError
from netc.export.model import lower_layer
from netc.export.session import DEFAULT_OPSET, OLDEST_OPSET, Session, latest_opset
from netc.layers.activation import ReLU
from netc.layers.types import BlobType


def test_the_latest_opset_is_one_that_both_packages_have() -> None:
    latest = latest_opset()
    assert OLDEST_OPSET < DEFAULT_OPSET <= latest <= onnx.defs.onnx_opset_version()
    # ONNX Runtime 1.20, the oldest that netc installs with, has 21.
    assert latest >= 21


def test_a_session_gives_outputs_by_name() -> None:
    model = lower_layer(ReLU(), [BlobType((2, 2))])
    x = np.array([[-1, 2], [3, -4]], np.float32)
    for given in (model, model.SerializeToString()):
        found = Session(given, threads=1).run({"bottom0": x})
        assert list(found) == ["top0"]
        assert found["top0"].tolist() == [[0, 2], [3, 0]]


def test_threads_and_silence_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = onnxruntime.InferenceSession

    def spy(content, options, providers):
        seen.append((options.intra_op_num_threads, options.log_severity_level, providers))
        return real(content, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    Session(lower_layer(ReLU(), [BlobType((2,))]), threads=2)
    assert seen == [(2, 3, ["CPUExecutionProvider"])]


def test_what_onnx_runtime_refuses_is_told_in_words() -> None:
    with pytest.raises(NetcError, match="ONNX Runtime does not accept the model"):
        Session(b"not a model", threads=1)
    session = Session(lower_layer(ReLU(), [BlobType((2, 2))]), threads=1)
    with pytest.raises(NetcError, match="ONNX Runtime fails to run the model"):
        session.run({"bottom0": np.zeros((3, 2), np.float32)})


def test_nothing_is_printed() -> None:
    code = (
        "from netc.export import Session, lower_layer, latest_opset\n"
        "from netc.layers.activation import ReLU\n"
        "from netc.layers.types import BlobType\n"
        "latest_opset(); Session(lower_layer(ReLU(), [BlobType((2,))]))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("", "")


def test_the_package_imports_onnx_only_when_it_is_used() -> None:
    code = (
        "import sys, netc.export\n"
        "assert not {'onnx', 'onnxruntime', 'numpy'} & sys.modules.keys()\n"
        "from netc.export import export, parity\n"
        "assert callable(export) and callable(parity) and 'onnx' in sys.modules\n"
        "assert all(hasattr(netc.export, name) for name in netc.export.__all__)\n"
        "assert callable(netc.export.parity)\n"
        "assert not hasattr(netc.export, 'import_')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
