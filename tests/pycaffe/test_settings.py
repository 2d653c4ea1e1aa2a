"""What applies to all nets: modes, seeds, the list of layer types."""

from __future__ import annotations

import re
import time
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


def test_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    logger = settings.logger
    before = logger.level, list(logger.handlers)
    try:
        caffe.init_log()
        caffe.log("one")
        caffe.init_log(1)
        caffe.log("two")
        caffe.set_mode_gpu()
        caffe.init_log(0, False)
        caffe.log("three")
        assert len(logger.handlers) == len(before[1]) + 1
    finally:
        logger.setLevel(before[0])
        logger.handlers[:] = before[1]
    lines = capfd.readouterr().err.splitlines()
    assert re.fullmatch(r"I\d{4} \d\d:\d\d:\d\d one", lines[0])
    assert lines[1].startswith("W") and "running on the CPU" in lines[1]
    assert len(lines) == 2
    with pytest.raises(NetcError, match="not a level"):
        caffe.init_log(4)


def test_one_process_is_all_there_is() -> None:
    caffe.set_solver_count(1)
    caffe.set_solver_rank(0)
    caffe.set_multiprocess(True)
    assert (caffe.solver_count(), caffe.solver_rank(), caffe.has_nccl()) == (1, 0, False)
    for call in (
        lambda: caffe.set_solver_count(2),
        lambda: caffe.set_solver_rank(1),
        lambda: caffe.NCCL(None, b""),
        caffe.NCCL.new_uid,
    ):
        with pytest.raises(RuntimeError, match="in one process, without NCCL"):
            call()


def test_a_timer() -> None:
    timer = caffe.Timer()
    assert timer.ms == 0
    timer.start()
    time.sleep(0.002)
    timer.stop()
    first = timer.ms
    assert first >= 2
    timer.stop()
    assert timer.ms == first
    timer.start()
    assert 0 <= timer.ms < first and timer.ms == timer.ms


def test_layer_types() -> None:
    types = caffe.layer_type_list()
    assert types == sorted(types)
    assert {"Convolution", "InnerProduct", "Split", "LSTM"} <= set(types)


def test_what_the_package_offers() -> None:
    assert (caffe.TRAIN, caffe.TEST) == (0, 1)
    assert caffe.__version__ == "1.0.0"
    for name in caffe.__all__:
        assert getattr(caffe, name) is not None
