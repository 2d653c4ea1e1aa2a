"""Training on the CPU backend: as on the reference, and resumed bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from netc.backends import find_backend
from netc.schema import read_solver
from netc.train.extension import Point
from netc.train.solver import Solver
from tests.support.nets import require

# A little LeNet on random digits; dropout and BatchNorm bring random numbers and state of their
# own. Channels that fill no block of the kernels' layouts leave padding, which has to stay zero.
NET = """
layer { name: "data" type: "DummyData" top: "data" top: "label"
        dummy_data_param {
          shape { dim: 8 dim: 1 dim: 28 dim: 28 } shape { dim: 8 }
          data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" value: 3 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
        param { lr_mult: 1 } param { lr_mult: 2 }
        convolution_param { num_output: 20 kernel_size: 5 weight_filler { type: "xavier" } } }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
        pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "conv2" type: "Convolution" bottom: "pool1" top: "conv2"
        param { lr_mult: 1 } param { lr_mult: 2 }
        convolution_param { num_output: 50 kernel_size: 5 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv2" top: "conv2" }
layer { name: "scale" type: "Scale" bottom: "conv2" top: "conv2" scale_param { bias_term: true } }
layer { name: "pool2" type: "Pooling" bottom: "conv2" top: "pool2"
        pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "ip1" type: "InnerProduct" bottom: "pool2" top: "ip1"
        inner_product_param { num_output: 100 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "drop" type: "Dropout" bottom: "ip1" top: "ip1" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
        inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
"""

SOLVER = """
net: "net.prototxt" base_lr: 0.001 lr_policy: "inv" gamma: 0.0001 power: 0.75
weight_decay: 0.0005 max_iter: 50 random_seed: 7 snapshot_prefix: "snap"
"""

# The loss after 50 steps from float32 sums in another order: the difference of a step is about
# 1e-7 of the values, and grows with every step taken from them.
LOSS_RTOL = 2e-3
PARAM_ATOL = 1e-4


@pytest.fixture(autouse=True)
def _works() -> None:
    require("cpu")


def solver(folder: Path, backend: str, kind: str = "SGD", extra: str = "momentum: 0.9") -> Solver:
    (folder / "net.prototxt").write_text(NET, encoding="utf-8")
    (folder / "solver.prototxt").write_text(f'{SOLVER} type: "{kind}" {extra}', encoding="utf-8")
    return Solver(read_solver(folder / "solver.prototxt"), find_backend(backend))


def losses(of: Solver, n: int) -> list[float]:
    found: list[float] = []
    of.on(Point.ITERATED, lambda solver: found.append(solver.loss))
    of.step(n)
    return found


def test_fifty_steps_agree_with_the_reference(tmp_path: Path) -> None:
    ours, reference = solver(tmp_path, "cpu"), solver(tmp_path, "reference")
    np.testing.assert_allclose(losses(ours, 50), losses(reference, 50), rtol=LOSS_RTOL, atol=1e-4)
    for i in range(len(ours.net.params)):
        np.testing.assert_allclose(
            ours.net.param_array(i),
            reference.net.param_array(i),
            rtol=1e-2,
            atol=PARAM_ATOL * max(1.0, float(np.abs(reference.net.param_array(i)).max())),
        )


@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        ("SGD", 'momentum: 0.9 regularization_type: "L1" clip_gradients: 5 iter_size: 2'),
        ("Nesterov", "momentum: 0.9"),
        ("AdaGrad", ""),
        ("RMSProp", "rms_decay: 0.9"),
        ("AdaDelta", "momentum: 0.95 delta: 1e-6"),
        ("Adam", "momentum: 0.9"),
    ],
)
def test_padding_stays_zero_under_every_rule(tmp_path: Path, kind: str, extra: str) -> None:
    trained = solver(tmp_path, "cpu", kind, extra)
    trained.step(3)
    net = trained.net
    blocked = [i for i, layout in enumerate(net.plan.param_layouts) if layout is not None]
    assert blocked
    for i in blocked:
        size = int(np.prod(net.plan.graph.params[i].shape))
        assert net.params[i].size > size
        assert np.count_nonzero(net.params[i]) <= size
        again = np.zeros_like(net.params[i])
        net.from_plain(i, net.param_array(i), again)
        np.testing.assert_array_equal(again, net.params[i])


def test_resuming_is_bit_identical(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    straight = solver(tmp_path, "cpu")
    expected = losses(straight, 12)
    first = solver(tmp_path, "cpu")
    begun = losses(first, 5)
    _, state = first.snapshot()
    second = solver(tmp_path, "cpu")
    second.restore(state)
    assert begun + losses(second, 7) == expected
    for i in range(len(straight.net.params)):
        np.testing.assert_array_equal(straight.net.param_array(i), second.net.param_array(i))


def test_a_snapshot_of_one_backend_goes_on_with_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files hold C order whatever lies in memory."""
    monkeypatch.chdir(tmp_path)
    first = solver(tmp_path, "cpu")
    first.step(3)
    _, state = first.snapshot()
    second = solver(tmp_path, "reference")
    second.restore(state)
    for i in range(len(first.net.params)):
        np.testing.assert_array_equal(first.net.param_array(i), second.net.param_array(i))
        np.testing.assert_array_equal(
            first.net.to_plain(i, first.rule.history[i]), second.rule.history[i]
        )
    np.testing.assert_allclose(losses(first, 2), losses(second, 2), rtol=1e-4)
