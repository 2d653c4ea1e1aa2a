"""What applies to all nets: modes, seeds, the list of layer types."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import netc.pycaffe as caffe
from netc.errors import NetcError
from netc.pycaffe import settings
from tests.pycaffe.nets import net_of

TEXT = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1000 } } }
layer { name: "w" type: "Bias" bottom: "x" top: "y" bias_param { axis: 0
        filler { type: "gaussian" } } }
layer { name: "drop" type: "Dropout" bottom: "y" top: "z" }
"""


@pytest.fixture(autouse=True)
def _no_seed() -> Iterator[None]:
    yield
    settings.seeds.first = None


def drawn(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return what the filler and two passes of Dropout draw."""
    net = net_of(folder, TEXT)
    masks = [net.forward(x=np.ones(1000))["z"] != 0 for _ in range(2)]
    assert not np.array_equal(masks[0], masks[1])
    return net.params["w"][0].data, np.stack(masks)


def test_nets_differ_without_a_seed(tmp_path: Path) -> None:
    (w, masks), (w2, masks2) = drawn(tmp_path), drawn(tmp_path)
    assert not np.array_equal(w, w2)
    assert not np.array_equal(masks, masks2)


def test_with_a_seed_nets_differ_but_runs_do_not(tmp_path: Path) -> None:
    caffe.set_random_seed(1)
    first, second = drawn(tmp_path), drawn(tmp_path)
    assert not np.array_equal(first[0], second[0])
    caffe.set_random_seed(1)
    for net in (first, second):
        w, masks = drawn(tmp_path)
        np.testing.assert_array_equal(w, net[0])
        np.testing.assert_array_equal(masks, net[1])
    caffe.set_random_seed(2)
    assert not np.array_equal(drawn(tmp_path)[0], first[0])
    with pytest.raises(NetcError, match="negative"):
        caffe.set_random_seed(-1)


def test_modes(caplog: pytest.LogCaptureFixture) -> None:
    caffe.set_mode_cpu()
    caffe.set_device(0)
    assert not caplog.records
    caffe.set_mode_gpu()
    assert "running on the CPU" in caplog.text


def test_layer_types() -> None:
    types = caffe.layer_type_list()
    assert types == sorted(types)
    assert {"Convolution", "InnerProduct", "Split", "LSTM"} <= set(types)


def test_what_the_package_offers() -> None:
    assert (caffe.TRAIN, caffe.TEST) == (0, 1)
    assert caffe.__version__ == "1.0.0"
    for name in caffe.__all__:
        assert getattr(caffe, name) is not None
