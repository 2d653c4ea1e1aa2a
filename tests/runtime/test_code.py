"""The host of Python layers' code; what the layers make of it is tested with them."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest

from netc.layers.types import Refusal
from netc.runtime.code import CodeHost


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_module_is_looked_for_without_running_it(folder: Path) -> None:
    (folder / "netc_noisy.py").write_text("raise SystemError('ran')")
    host = CodeHost()
    assert host.has("netc_noisy") and host.has("netc_noisy.inner")
    assert not host.has("netc_silent") and not host.has("")
    assert "netc_noisy" not in sys.modules
    with pytest.raises(Refusal, match="cannot be imported") as error:
        host.load("netc_noisy", "X")
    assert error.value.got == "SystemError: ran" and "netc_noisy.py:1" in error.value.hint


def test_caffe_means_something_only_while_a_module_is_imported(folder: Path) -> None:
    (folder / "netc_asks.py").write_text("import caffe\nclass X(caffe.Layer): pass")
    caffe = types.ModuleType("caffe")
    caffe.Layer = type("Layer", (), {})
    assert issubclass(CodeHost(caffe).load("netc_asks", "X"), caffe.Layer)
    assert "caffe" not in sys.modules
    del sys.modules["netc_asks"]
    with pytest.raises(Refusal, match="cannot be imported"):
        CodeHost().load("netc_asks", "X")


def test_a_caffe_that_is_there_is_left_alone(folder: Path, monkeypatch) -> None:
    (folder / "netc_asks2.py").write_text("import caffe\nclass X(caffe.Layer): pass")
    own = types.ModuleType("caffe")
    own.Layer = type("Own", (), {})
    monkeypatch.setitem(sys.modules, "caffe", own)
    assert issubclass(CodeHost(types.ModuleType("caffe")).load("netc_asks2", "X"), own.Layer)
    assert sys.modules["caffe"] is own


def test_zeros() -> None:
    found = CodeHost().zeros((2, 3))
    assert found.dtype == np.float32 and found.shape == (2, 3) and not found.any()
