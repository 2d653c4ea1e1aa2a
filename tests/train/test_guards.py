"""Guards on both backends: what they say, that they look only so often, that they can be off."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from netc.backends import find_backend
from netc.errors import NetcError
from netc.schema import read_solver
from netc.train.solver import Solver
from tests.support.nets import require

NET = """
layer { name: "data" type: "DummyData" top: "data" top: "label"
        dummy_data_param { shape { dim: 4 dim: 3 dim: 8 dim: 8 } shape { dim: 4 }
                           data_filler { type: "gaussian" } data_filler { type: "constant" } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 20 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
        inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
# Of a normalised blob a backend may keep nothing for the backward pass.
NORMALISED = NET.replace(
    'layer { name: "ip" type: "InnerProduct" bottom: "conv"',
    'layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "bn" }\n'
    'layer { name: "relu2" type: "ReLU" bottom: "bn" top: "bn" }\n'
    'layer { name: "ip" type: "InnerProduct" bottom: "bn"',
)
SOLVER = 'net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" random_seed: 1 max_iter: 9'

backends = pytest.mark.parametrize("backend", ["reference", "cpu"])


def solver_in(folder: Path, backend: str, extra: str = "", *, net: str = NET) -> Solver:
    require(backend)
    (folder / "net.prototxt").write_text(net)
    text = f'{SOLVER} snapshot_prefix: "{folder}/snap" {extra}'
    return Solver(read_solver(folder / "solver.prototxt", text), find_backend(backend))


def place_of(solver: Solver, layer: str) -> int:
    """Return the index of the first param of a layer."""
    node = next(node for node in solver.net.plan.graph.nodes if node.name == layer)
    return node.params[0].param


@backends
def test_a_loss_that_is_no_number_comes_with_what_led_to_it(tmp_path: Path, backend: str) -> None:
    solver = solver_in(tmp_path, backend)
    index = place_of(solver, "ip")
    values = np.array(solver.net.param_array(index))
    values[0, :2] = np.inf, np.nan
    solver.net.set_param(index, values)
    with pytest.raises(NetcError) as caught:
        solver.step(1)
    (problem,) = caught.value.problems
    assert problem.layer == "'ip' (InnerProduct)"
    assert problem.what.startswith("blob 'ip' holds NaN or Inf at iteration 0")
    rate, bottom, weight, bias, top = problem.got.splitlines()
    assert rate == "lr 0.01"
    assert bottom.startswith("bottom 'conv': 0 to ")
    assert weight.startswith("param 0 not finite: 1 NaN and 1 Inf of 3600, the others -")
    assert bias == "param 1: 0 to 0, mean absolute value 0"
    assert top.startswith("top 'ip': 4 NaN of 20, the others ")


def test_a_loss_that_is_no_number_can_be_let_pass(tmp_path: Path) -> None:
    solver = solver_in(tmp_path, "reference", "guard_loss: false")
    solver.net.params[0][...] = np.nan
    solver.step(2)
    assert np.isnan(solver.loss)


@backends
def test_an_update_that_is_larger_than_the_weights(
    tmp_path: Path, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    solver = solver_in(tmp_path, backend, "guard_interval: 2")
    index = place_of(solver, "conv")
    solver.net.set_param(index, np.array(solver.net.param_array(index)) * 1e-4)
    solver.settings = solver.rule.settings = type(solver.settings)(
        **{**vars(solver.settings), "base_lr": 0.5}
    )
    with caplog.at_level(logging.WARNING, logger="netc"):
        solver.step(2)
    (message,) = caplog.messages
    assert "layer 'conv' (Convolution): the update of param 0 is " in message
    assert "times as large as the param itself at iteration 0" in message
    assert "expected  update_ratio_limit 1\n" in message


def test_a_guard_looks_only_so_often_and_can_stop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    extra = "update_ratio_limit: 1e-6 guard_interval: 3"
    with caplog.at_level(logging.WARNING, logger="netc"):
        solver_in(tmp_path, "reference", extra).step(7)
    assert len(caplog.messages) == 3 * 2, "at iterations 0, 3 and 6, for two weights"
    for off in ("update_ratio_limit: 0", "update_ratio_limit: 1e-6 guard_interval: 0"):
        caplog.clear()
        solver_in(tmp_path, "reference", off).step(1)
        assert not caplog.messages
    with pytest.raises(NetcError, match="times as large as the param itself at iteration 0"):
        solver_in(tmp_path, "reference", f"{extra} guard_stops: true").step(1)


@backends
def test_dead_units(tmp_path: Path, backend: str, caplog: pytest.LogCaptureFixture) -> None:
    extra = "dead_unit_limit: 0.5 guard_interval: 2"
    solver = solver_in(tmp_path, backend, extra, net=NORMALISED)
    bias = np.array(solver.net.param_array(place_of(solver, "conv") + 1))
    bias[:11] = -1000
    solver.net.set_param(place_of(solver, "conv") + 1, bias)
    with caplog.at_level(logging.WARNING, logger="netc"):
        solver.step(4)
        assert not caplog.messages, "twice is no proof"
        _, state = solver.snapshot()
        solver.step(5)
    assert len(caplog.messages) == 2, "it is said once of each layer"
    for layer in ("relu", "relu2"):
        assert f"layer '{layer}' (ReLU): 11 of 20 units are dead at iteration 4" in caplog.text
    again = solver_in(tmp_path, backend, extra, net=NORMALISED)
    again.restore(state)
    with caplog.at_level(logging.WARNING, logger="netc"):
        again.step(1)
    assert len(caplog.messages) == 4, "how long they have been silent is in the snapshot"


def test_units_that_let_gradients_through_are_not_dead(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leaky = NET.replace(
        'top: "conv" }\nlayer { name: "ip"',
        'top: "conv" relu_param { negative_slope: 0.1 } }\nlayer { name: "ip"',
    )
    assert leaky != NET
    solver = solver_in(tmp_path, "reference", "dead_unit_limit: 0.1 guard_interval: 1", net=leaky)
    solver.net.params[1][...] = -1000
    with caplog.at_level(logging.WARNING, logger="netc"):
        solver.step(4)
    assert "dead" not in caplog.text


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ("dead_unit_limit: 1", "0 <= dead_unit_limit < 1, a share of the units"),
        ("guard_interval: -1", "guard_interval is negative"),
    ],
)
def test_mistakes(tmp_path: Path, extra: str, says: str) -> None:
    with pytest.raises(NetcError, match=says):
        solver_in(tmp_path, "reference", extra)
