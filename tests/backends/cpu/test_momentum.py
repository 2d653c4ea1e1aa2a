"""SGD's step on oneDNN: what it computes, and that large params take it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from netc.backends import find_backend
from netc.backends.cpu import momentum
from netc.train.policy import rates_at
from netc.train.settings import SolverSettings
from netc.train.update import RULES
from tests.support.nets import require
from tests.train.test_update import Plain, params_of

# Two pieces and a rest that NumPy takes.
SIZE = 2 * momentum.PIECE + 1000


@pytest.fixture(autouse=True)
def _works() -> None:
    require("cpu")


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("iter_size", [1, 4])
@pytest.mark.parametrize("keep", [0.0, 0.9])
def test_it_is_the_rule_in_float64(decay: float, iter_size: int, keep: float) -> None:
    settings = SolverSettings(
        base_lr=0.1, lr_policy="fixed", momentum=keep, weight_decay=decay, iter_size=iter_size
    )
    (param,) = params_of([(SIZE,)])
    taken: list[int] = []

    def step(*arrays: np.ndarray, **factors: float) -> int:
        taken.append(momentum.step(*arrays, **factors))  # type: ignore[arg-type]
        return taken[-1]

    rule = RULES["SGD"](settings, [param], [(SIZE,)], Plain(), step=step)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    values = rng.standard_normal(SIZE, dtype=np.float32)
    exact, history = values.astype(np.float64), np.zeros(SIZE)
    for iteration in range(3):
        gradient = rng.standard_normal(SIZE, dtype=np.float32)
        history = keep * history + 0.1 * (gradient / np.float64(iter_size) + decay * exact)
        exact -= history
        rule.apply(rates_at(settings, iteration), [values], [gradient])
    assert taken == [2 * momentum.PIECE] * 3
    # Three roundings of each of three steps, of values below 8.
    np.testing.assert_allclose(values, exact, rtol=0, atol=1e-5)
    np.testing.assert_allclose(rule.history[0], history, rtol=0, atol=1e-6)


def test_l1_and_small_params_are_left_to_numpy() -> None:
    settings = SolverSettings(
        base_lr=0.1, lr_policy="fixed", weight_decay=0.1, regularization_type="L1"
    )
    asked: list[int] = []

    def step(values: np.ndarray, *arrays: np.ndarray, **factors: float) -> int:
        asked.append(values.size)
        return momentum.step(values, *arrays, **factors)  # type: ignore[arg-type]

    for one in (settings, dataclasses.replace(settings, regularization_type="L2")):
        rule = RULES["SGD"](one, params_of([(10,)]), [(10,)], Plain(), step=step)  # type: ignore[arg-type]
        values = np.ones(10, np.float32)
        rule.apply(rates_at(one, 0), [values], [np.ones(10, np.float32)])
        np.testing.assert_allclose(values, 1 - 0.1 * 1.1, rtol=1e-6)
    assert asked == [10]


def test_the_backends_say_whether_they_have_it() -> None:
    assert find_backend("cpu").momentum_step() is momentum.step
    assert find_backend("reference").momentum_step() is None
