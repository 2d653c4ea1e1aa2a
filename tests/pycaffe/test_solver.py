"""The solvers: stepping, updating by hand, testing, snapshots, settings changed on the way."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

import netc.pycaffe as caffe
from netc.backends import find_backend
from netc.data import write_datums
from netc.errors import NetcError
from netc.schema import netc_pb2, read_solver
from netc.train.solver import Solver as TrainSolver
from tests.pycaffe.nets import SMALL, write_inputs

TYPES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")

SOLVER = 'net: "net.prototxt" base_lr: 0.1 lr_policy: "step" gamma: 0.5 stepsize: 2 max_iter: 6 '

# A net that reads data and draws random numbers.
RANDOM = """
layer { name: "data" type: "Data" top: "data" top: "label"
        data_param { source: "db" batch_size: 3 backend: LMDB } transform_param { scale: 0.02 } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param {
        num_output: 8 weight_filler { type: "xavier" } } }
layer { name: "drop" type: "Dropout" bottom: "ip" top: "ip" }
layer { name: "out" type: "InnerProduct" bottom: "ip" top: "out" inner_product_param {
        num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "out" bottom: "label" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "out" bottom: "label" top: "accuracy"
        include { phase: TEST } }
"""


def write(folder: Path, settings: str = "", net: str = SMALL) -> str:
    (folder / "net.prototxt").write_text(net)
    (folder / "solver.prototxt").write_text(f'{SOLVER} snapshot_prefix: "{folder}/run" {settings}')
    if net == RANDOM and not (folder / "db").exists():
        pixels = np.random.default_rng(0).integers(0, 256, (10, 12), np.uint8)
        write_datums(
            folder / "db",
            [
                netc_pb2.Datum(channels=3, height=2, width=2, data=row.tobytes(), label=i % 5)
                for i, row in enumerate(pixels)
            ],
        )
    return str(folder / "solver.prototxt")


def weights(net: caffe.Net) -> list[np.ndarray]:
    return [blob.data.copy() for blobs in net.params.values() for blob in blobs]


def equal(ours: list[np.ndarray], theirs: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("kind", TYPES)
def test_get_solver_follows_the_file(tmp_path: Path, kind: str) -> None:
    solver = caffe.get_solver(write(tmp_path, f'type: "{kind}"'))
    assert type(solver) is getattr(caffe, f"{kind}Solver")
    assert isinstance(solver, caffe.Solver)
    assert solver._solver.settings.type == kind


def test_a_class_is_of_its_own_type(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    solver = caffe.AdamSolver(write(tmp_path))
    assert solver._solver.settings.type == solver.param.type == "Adam"
    assert not caplog.records
    caffe.SGDSolver(write(tmp_path, 'type: "Adam"'))
    assert "the file says type Adam" in caplog.text
    with pytest.raises(TypeError, match="get_solver"):
        caffe.Solver(write(tmp_path))


def test_what_a_solver_refuses(tmp_path: Path) -> None:
    with pytest.raises(NetcError, match=r"no_such\.prototxt"):
        caffe.get_solver("no_such.prototxt")
    with pytest.raises(NetcError, match="unknown solver type"):
        caffe.get_solver(write(tmp_path, 'type: "Adagrad"'))
    with pytest.raises(NetcError, match="has no momentum"):
        caffe.AdaGradSolver(write(tmp_path, "momentum: 0.9"))
    stuck = """
    layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
    layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y"
            inner_product_param { num_output: 1 } }
    layer { name: "loss" type: "SoftmaxWithLoss" bottom: "x" bottom: "y" top: "loss" }
    """
    with pytest.raises(NetcError, match="a gradient would have to flow"):
        caffe.SGDSolver(write(tmp_path, net=stuck))


def test_a_step_sees_what_was_written(tmp_path: Path) -> None:
    solver = caffe.SGDSolver(write(tmp_path, "random_seed: 1"))
    before = weights(solver.net)
    assert solver.net is solver.net
    write_inputs(solver.net)
    solver.step(1)
    loss = float(solver.net.blobs["loss"].data)
    assert not equal(weights(solver.net), before)
    assert (solver.iter, solver.lr, solver.max_iter) == (1, 0.1, 6)
    solver.step(1)
    assert float(solver.net.blobs["loss"].data) < loss
    assert (solver.iter, solver.lr) == (2, 0.05)
    # In-place layers share one diff: that of the layer that made the blob.
    y, dy = solver.net.blobs["conv"].data, solver.net.blobs["conv"].diff
    assert dy.any()
    assert not dy[y == 0].any()


def test_what_step_does_can_be_done_by_hand(tmp_path: Path) -> None:
    file = write(tmp_path, "momentum: 0.9 weight_decay: 0.01 random_seed: 3 clip_gradients: 1")
    stepped, by_hand = caffe.SGDSolver(file), caffe.SGDSolver(file)
    for solver in (stepped, by_hand):
        write_inputs(solver.net)
    assert equal(weights(stepped.net), weights(by_hand.net))
    stepped.step(2)
    for _ in range(2):
        by_hand.net.clear_param_diffs()
        by_hand.net.forward()
        by_hand.net.backward()
        by_hand.apply_update()
    assert equal(weights(stepped.net), weights(by_hand.net))
    assert (stepped.iter, by_hand.iter) == (2, 0)


def test_gradients_written_by_the_user_are_applied(tmp_path: Path) -> None:
    no_loss = SMALL[: SMALL.index('layer { name: "loss"')].replace("force_backward: true", "")
    solver = caffe.SGDSolver(write(tmp_path, net=no_loss))
    before = solver.net.params["ip"][0].data.copy()
    solver.net.params["ip"][0].diff[...] = 2
    solver.apply_update()
    np.testing.assert_allclose(solver.net.params["ip"][0].data, before - 0.2, rtol=1e-5, atol=1e-6)


def test_iterations_are_those_of_netc_train(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "momentum: 0.9 random_seed: 5 iter_size: 2 test_iter: 2 test_interval: 2",
        RANDOM,
    )
    ours = caffe.get_solver(file)
    plain = TrainSolver(read_solver(file), find_backend())
    ours.step(4)
    plain.step(4)
    # The plans differ (pycaffe keeps every blob, in C order), and with them the order of float32
    # sums in a backend's kernels.
    for i, a in enumerate(ours._solver.net.params):
        np.testing.assert_allclose(a, plain.net.param_array(i), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours._solver.losses, plain.losses, rtol=1e-4)
    for ours_, plains in zip(ours._solver.scores, plain.scores, strict=True):
        assert [o[0] for o in ours_.outputs] == [p[0] for p in plains.outputs]
        np.testing.assert_allclose(
            np.concatenate([o[1] for o in ours_.outputs]),
            np.concatenate([p[1] for p in plains.outputs]),
            rtol=1e-4,
        )


def test_test_nets_have_the_params_of_the_training_net(tmp_path: Path) -> None:
    solver = caffe.get_solver(write(tmp_path, "test_iter: 1 test_interval: 100", RANDOM))
    (test_net,) = solver.test_nets
    assert test_net.outputs == ["accuracy", "loss"]
    assert solver.net.outputs == ["loss"]
    for layer, blobs in solver.net.params.items():
        for ours, theirs in zip(test_net.params[layer], blobs, strict=True):
            assert np.shares_memory(ours.data, theirs.data)
    losses = []
    for _ in range(3):
        test_net.forward()
        losses.append(test_net.blobs["loss"].data.copy())
    solver.step(3)
    assert list(test_net.forward()) == ["accuracy", "loss"]
    assert losses[0] != test_net.blobs["loss"].data


def test_a_snapshot_is_gone_on_from_bit_for_bit(tmp_path: Path) -> None:
    file = write(tmp_path, "momentum: 0.9 random_seed: 5", RANDOM)
    whole = caffe.get_solver(file)
    whole.step(2)
    whole.snapshot()
    whole.step(3)
    resumed = caffe.get_solver(file)
    seen = resumed.net.params["ip"][0].data
    resumed.restore(tmp_path / "run_iter_2.solverstate")
    assert resumed.iter == 2
    resumed.step(3)
    assert equal(weights(whole.net), weights(resumed.net))
    assert np.shares_memory(seen, resumed.net.params["ip"][0].data)
    # And by the command line's solver, which has another graph of the same net, and on the
    # reference backend another order of float32 sums.
    plain = TrainSolver(read_solver(file), find_backend("reference"))
    plain.restore(tmp_path / "run_iter_2.solverstate")
    plain.step(3)
    for ours, wholes in zip(plain.net.params, weights(whole.net), strict=True):
        np.testing.assert_allclose(ours, wholes, rtol=1e-4, atol=1e-5)


def test_solve_runs_to_the_end(tmp_path: Path) -> None:
    file = write(tmp_path, "random_seed: 5", RANDOM)
    solver = caffe.get_solver(file)
    solver.solve()
    assert solver.iter == 6
    again = caffe.get_solver(file)
    again.step(2)
    again.snapshot()
    again.step(1)
    again.solve(tmp_path / "run_iter_2.solverstate")
    assert again.iter == 6
    assert equal(weights(solver.net), weights(again.net))
    net = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TEST)
    net.copy_from(tmp_path / "run_iter_6.caffemodel")
    assert equal(weights(net), weights(solver.net))


def test_settings_can_be_changed_on_the_way(tmp_path: Path) -> None:
    solver = caffe.SGDSolver(write(tmp_path))
    write_inputs(solver.net)
    assert solver.param.max_iter == 6
    solver.step(1)
    before = weights(solver.net)
    solver.param.base_lr = 0
    assert solver.lr == 0
    solver.step(1)
    assert equal(weights(solver.net), before)
    solver.param.type = "Adam"
    with pytest.raises(NetcError, match="cannot change its type"):
        solver.step(1)
    solver.param.type = "SGD"
    solver.param.lr_policy = "steps"
    with pytest.raises(NetcError, match="unknown lr_policy"):
        solver.step(1)


def test_callbacks(tmp_path: Path) -> None:
    solver = caffe.SGDSolver(write(tmp_path, "iter_size: 2"))
    write_inputs(solver.net)
    told: list[str] = []
    solver.add_callback(lambda: told.append("start"), lambda: told.append("gradients"))
    solver.add_callback(lambda: told.append("second"))
    solver.net.after_backward(lambda i: told.append("pass") if i == 0 else None)
    solver.step(2)
    assert told == ["start", "second", "pass", "pass", "gradients"] * 2


def test_gradients_can_be_changed_before_the_update(tmp_path: Path) -> None:
    solver = caffe.SGDSolver(write(tmp_path))
    write_inputs(solver.net)
    before = weights(solver.net)
    solver.add_callback(lambda: None, solver.net.clear_param_diffs)
    solver.step(1)
    assert equal(weights(solver.net), before)


def test_weights_can_be_lent_to_another_net(tmp_path: Path) -> None:
    solver = caffe.SGDSolver(write(tmp_path))
    net = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TEST)
    solver.share_weights(net)
    write_inputs(solver.net)
    solver.step(1)
    assert equal(weights(net), weights(solver.net))
    assert np.shares_memory(net.params["ip"][0].data, solver.net.params["ip"][0].data)


def test_the_weights_that_the_file_names_are_loaded(tmp_path: Path) -> None:
    write(tmp_path)
    source = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TRAIN)
    source.save(tmp_path / "start.caffemodel")
    solver = caffe.SGDSolver(write(tmp_path, 'weights: "start.caffemodel"'))
    assert equal(weights(solver.net), weights(source))


def test_a_training_net_follows_its_inputs(tmp_path: Path) -> None:
    solver = caffe.SGDSolver(write(tmp_path, "momentum: 0.9"))
    write_inputs(solver.net)
    solver.step(1)
    before = weights(solver.net)
    solver.net.blobs["data"].reshape(2, 2, 6, 6)
    solver.net.blobs["label"].reshape(2)
    write_inputs(solver.net)
    solver.step(1)
    assert solver.net.blobs["ip"].data.shape == (2, 3)
    assert not equal(weights(solver.net), before)


def test_a_loss_that_is_no_number_names_the_layer(tmp_path: Path) -> None:
    solver = caffe.SGDSolver(write(tmp_path))
    write_inputs(solver.net)
    solver.net.params["side"][0].data[...] = np.nan
    with pytest.raises(NetcError, match="'side'"):
        solver.step(1)


def test_a_seed_makes_runs_repeat(tmp_path: Path) -> None:
    file = write(tmp_path, net=RANDOM)

    def run() -> list[np.ndarray]:
        solver = caffe.get_solver(file)
        solver.step(2)
        return weights(solver.net)

    assert not equal(run(), run())
    try:
        caffe.set_random_seed(7)
        first, second = run(), run()
        assert not equal(first, second)
        caffe.set_random_seed(7)
        assert equal(run(), first)
        assert equal(run(), second)
        # The same seed in the solver file means the same.
        write(tmp_path, "random_seed: 7", RANDOM)
        assert equal(run(), first)
    finally:
        caffe.settings.seeds.first = None


def test_the_log_is_that_of_netc_train(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    solver = caffe.SGDSolver(write(tmp_path, "display: 1"))
    write_inputs(solver.net)
    with caplog.at_level(logging.INFO, "netc"):
        solver.step(1)
    assert "Iteration 0, lr = 0.1" in caplog.text


def test_layers_are_frozen_and_unfrozen_as_the_file_says(tmp_path: Path) -> None:
    schedule = 'freeze: "ip" unfreeze { layer: "ip" iter: 3 }'
    solver = caffe.SGDSolver(write(tmp_path, f"random_seed: 1 {schedule}", RANDOM))
    frozen, trained = solver.net.params["ip"][0], solver.net.params["out"][0]
    array = frozen.data
    before = array.copy(), trained.data.copy()
    solver.step(3)
    assert np.array_equal(frozen.data, before[0])
    assert not frozen.diff.any()
    assert not np.array_equal(trained.data, before[1])
    # Scripts may hold the arrays: the params stay in them, and blobs keep theirs.
    blob = solver.net.blobs["ip"].data
    solver.step(1)
    assert np.shares_memory(frozen.data, array)
    assert not np.array_equal(array, before[0])
    assert frozen.diff.any()
    assert np.shares_memory(solver.net.blobs["ip"].data, blob)
