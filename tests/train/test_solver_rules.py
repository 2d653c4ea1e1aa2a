"""The solvers' settings in whole runs on both backends: resumed, averaged, bounded.

What each rule computes is compared with its paper in `test_update`.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.backends import find_backend
from netc.data import write_datums
from netc.learned import load_weights
from netc.runtime import Executor
from netc.schema import netc_pb2, read_solver
from netc.train.scoring import Scores, average_outputs
from netc.train.solver import Solver
from netc.train.testing import test_all as run_tests
from netc.weights import read_weights
from tests.support.nets import require

# Convolutions of 3 and 13 channels: oneDNN keeps their weights in padded blocks.
NET = """
name: "tiny"
layer { name: "data" type: "Data" top: "data" top: "label" transform_param { scale: 0.01 }
        data_param { source: "db" backend: LMDB batch_size: 4 } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 13 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "conv2" type: "Convolution" bottom: "conv" top: "conv2"
        param { regularization_type: "L1" }
        convolution_param { num_output: 5 kernel_size: 2 weight_filler { type: "xavier" } } }
layer { name: "ip" type: "InnerProduct" bottom: "conv2" top: "ip"
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "acc" type: "Accuracy" bottom: "ip" bottom: "label" top: "acc"
        include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = """
net: "net.prototxt" base_lr: 0.05 lr_policy: "fixed" max_iter: 9 random_seed: 3
weight_decay: 0.01 test_iter: 2 test_interval: 4 display: 3
"""
BACKENDS = ["reference", "cpu"]
FORMS = {
    "SGD": 'momentum: 0.9 lr_policy: "cosine" restart_interval: 3 restart_mult: 2',
    "Nesterov": 'type: "Nesterov" momentum: 0.9 warmup_iter: 4',
    "AdaGrad": 'type: "AdaGrad"',
    "RMSProp": 'type: "RMSProp" rampup_interval: 5',
    "AdaDelta": 'type: "AdaDelta" momentum: 0.9 clip_gradient_values: 0.01',
    "Adam": 'type: "Adam" momentum: 0.9',
    "AdamW": 'type: "AdamW" momentum: 0.9 ema_decay: 0.8',
    # Noise keeps the loss from falling all the time.
    "plateau": 'lr_policy: "plateau" gamma: 0.5 plateau_winsize: [1, 1, 1] gradient_noise: 50',
    "LARS": "local_lr_auto: true momentum: 0.9",
    "LARC": 'larc: true larc_policy: "clip" larc_eta: 0.1 momentum_policy: "poly" momentum: 0.5',
    "all": "gradient_noise: 0.1 max_norm: 0.9 ema_decay: 0.9 iter_size: 2 clip_gradients: 1 "
    "clip_weights: 4 clamp_weights_lower: -0.4 clamp_weights_upper: 0.4 momentum: 0.9",
    "HDF5": 'snapshot_format: HDF5 ema_decay: 0.8 lr_policy: "plateau" gamma: 0.5 '
    "plateau_winsize: [1, 1, 1] gradient_noise: 50",
    "noise": "gradient_noise: 0.1 max_norm: 0.5",
}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rules")
    rng = np.random.default_rng(0)
    write_datums(
        path / "db",
        (
            netc_pb2.Datum(
                channels=3,
                height=5,
                width=5,
                data=rng.integers(0, 255, 75, dtype=np.uint8).tobytes(),
                label=int(i % 3),
            )
            for i in range(10)
        ),
    )
    (path / "net.prototxt").write_text(NET)
    return path


def solver_in(
    folder: Path, extra: str, backend: str = "reference", name: str = "s", net: str = "net"
) -> Solver:
    base = SOLVER.replace('lr_policy: "fixed"', "") if "lr_policy" in extra else SOLVER
    base = base.replace("net.prototxt", f"{net}.prototxt")
    file = folder / f"{name}.prototxt"
    file.write_text(f'{base} snapshot_prefix: "{folder}/{name}" {extra}')
    return Solver(read_solver(file), find_backend(backend))


def params(solver: Solver) -> list[np.ndarray]:
    return [np.array(solver.net.param_array(i)) for i in range(len(solver.net.params))]


def same(ours: list[np.ndarray], theirs: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", FORMS)
def test_a_run_resumed_anywhere_ends_with_the_same_bits(
    database: Path, form: str, backend: str
) -> None:
    require(backend)
    whole = solver_in(database, FORMS[form], backend)
    whole.step(8)
    first = solver_in(database, FORMS[form], backend)
    first.step(3)
    _, state = first.snapshot()
    second = solver_in(database, FORMS[form], backend)
    second.restore(state)
    second.step(5)
    assert same(params(whole), params(second))
    assert same(whole.rule.history, second.rule.history)
    assert whole.rate == second.rate
    assert whole.plateau == second.plateau
    ends = (read_weights(solver.snapshot()[0]) for solver in (whole, second))
    for (_, ours), (_, theirs) in zip(*ends, strict=True):
        assert same(list(ours), list(theirs))  # type: ignore[arg-type]


POLICIES = [
    'lr_policy: "fixed"',
    'lr_policy: "step" gamma: 0.5 stepsize: 2',
    'lr_policy: "multistep" gamma: 0.5 stepvalue: [1, 4]',
    'lr_policy: "exp" gamma: 0.9',
    'lr_policy: "poly" power: 0.5 min_lr: 0.01',
    'lr_policy: "cosine"',
    'lr_policy: "cosine" restart_interval: 2',
    'lr_policy: "plateau" gamma: 0.5 plateau_winsize: [1, 1, 1]',
    'lr_policy: "multifixed" stagelr: [0.1, 0.01] stageiter: [2, 4]',
]
TYPES = [
    'type: "SGD" momentum: 0.9',
    'type: "SGD" momentum: 0.5 momentum_policy: "opt" larc: true',
    'type: "SGD" momentum: 0.9 local_lr_auto: true',
    'type: "Nesterov" momentum: 0.9',
    'type: "AdaGrad"',
    'type: "RMSProp"',
    'type: "AdaDelta" momentum: 0.9',
    'type: "Adam" momentum: 0.9',
    'type: "AdamW" momentum: 0.9',
]
MORE = [
    "warmup_iter: 3",
    "iter_size: 2",
    "clip_gradients: 0.5",
    "clip_gradient_values: 0.1",
    "gradient_noise: 0.5",
    "max_norm: 0.5",
    "clip_weights: 3",
    "clamp_weights_upper: 0.3",
    "ema_decay: 0.7",
    "average_loss: 3",
    'weight_decay_policy: "poly" max_weight_decay: 0.1',
]


@settings(max_examples=15, deadline=None)
@given(
    policy=st.sampled_from(POLICIES),
    kind=st.sampled_from(TYPES),
    more=st.sets(st.sampled_from(MORE), max_size=5),
    stop=st.integers(1, 5),
)
def test_any_run_resumed_anywhere_ends_with_the_same_bits(
    database: Path, policy: str, kind: str, more: set[str], stop: int
) -> None:
    extra = " ".join([policy, kind, *sorted(more)])
    whole, first, second = (solver_in(database, extra) for _ in range(3))
    whole.step(6)
    first.step(stop)
    second.restore(first.snapshot()[1])
    second.step(6 - stop)
    assert same(params(whole), params(second))
    assert same(whole.rule.history, second.rule.history)
    ends = (read_weights(solver.snapshot()[0]) for solver in (whole, second))
    for (_, ours), (_, theirs) in zip(*ends, strict=True):
        assert same(list(ours), list(theirs))  # type: ignore[arg-type]


def test_the_plateau_lowers_the_rate_in_these_runs(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Else the comparison of resumed runs would compare a fixed rate."""
    solver = solver_in(database, FORMS["plateau"])
    with caplog.at_level(logging.INFO, "netc"):
        solver.step(9)
    steps = solver.plateau.current_step
    assert steps > 0
    assert solver.rate == 0.05 * 0.5**steps
    assert caplog.text.count("Plateau Status: Iteration") == steps


def test_both_backends_draw_the_same_noise_and_bound_the_same_neurons(database: Path) -> None:
    require("cpu")
    runs = [solver_in(database, FORMS["noise"], backend) for backend in BACKENDS]
    for solver in runs:
        solver.step(2)
    assert any(layout is not None for layout in runs[1].net.plan.param_layouts)
    for ours, theirs in zip(*map(params, runs), strict=True):
        # float32 in another summation order
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    for solver in runs:
        plain = solver_in(database, "gradient_noise: 0.1", solver.backend.name)
        plain.step(2)
        lengths, free = (
            np.linalg.norm(params(s)[0].reshape(13, -1), axis=1) for s in (solver, plain)
        )
        assert lengths.max() <= 0.5 * (1 + 1e-6)
        assert free.max() > 0.5


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_average_is_tested_and_saved_and_the_params_train_on(
    database: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    require(backend)
    decay, steps = 0.8, 4
    plain = solver_in(database, "", backend, "plain")
    later = "test_initialization: false"
    averaged = solver_in(database, f"ema_decay: {decay} {later}", backend, "averaged")
    wanted: list[np.ndarray] = []
    for step in range(steps):
        plain.step(1)
        averaged.step(1)
        assert same(params(plain), params(averaged)), "the average changes no update"
        now = [values.astype(np.float64) for values in params(plain)]
        wanted = [
            w if step == 0 or not param.lr_mult else decay * a + (1 - decay) * w
            for a, w, param in zip(wanted or now, now, plain.rule.params, strict=True)
        ]
    weights, _ = averaged.snapshot()
    saved = [blob for _, blobs in read_weights(weights) for blob in blobs]
    for ours, theirs in zip(saved, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert same(params(plain), params(averaged)), "a snapshot leaves the params as they were"
    tested: list[list[np.ndarray]] = []

    def look(net: Executor, passes: int) -> Scores:
        tested.append(params(averaged))
        return average_outputs(net, passes)

    monkeypatch.setattr("netc.train.testing.average_outputs", look)
    run_tests(averaged)
    for ours, theirs in zip(tested[0], wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert same(params(plain), params(averaged))
    fresh = solver_in(database, later, backend, "fresh")
    load_weights(fresh.net, [str(weights)])
    run_tests(fresh)
    assert fresh.scores == averaged.scores, "the test net ran with what was saved"


def test_a_run_can_end_its_average_or_begin_one(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    averaged = solver_in(database, "ema_decay: 0.8")
    averaged.step(3)
    _, state = averaged.snapshot()
    plain = solver_in(database, "")
    with caplog.at_level(logging.WARNING, "netc"):
        plain.restore(state)
    assert "the average in the snapshot ends here" in caplog.text
    assert same(params(plain), params(averaged))
    _, without = plain.snapshot()
    again = solver_in(database, "ema_decay: 0.8")
    again.restore(without)
    again.step(1)
    weights, _ = again.snapshot()
    saved = [blob for _, blobs in read_weights(weights) for blob in blobs]
    assert same(saved, params(again)), "the first average is of the first update"  # type: ignore[arg-type]


def test_settings_without_effect_are_told_in_the_log(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "netc"):
        solver_in(database, "rms_decay: 0.5").solve()
    assert "rms_decay has no effect without type RMSProp" in caplog.text
    assert "take no account of lr_mult" not in caplog.text
    net = NET.replace('regularization_type: "L1"', "lr_mult: 2")
    (database / "twice.prototxt").write_text(net)
    solver = solver_in(database, "larc: true", net="twice")
    with caplog.at_level(logging.WARNING, "netc"):
        solver.solve()
    assert "take no account of lr_mult" in caplog.text
