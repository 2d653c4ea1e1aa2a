"""Learning-rate policies against their formulas, and multistep against Caffe's stepwise counter."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netc.train.policy import current_step, learning_rate, steps_taken
from netc.train.settings import SolverSettings


@pytest.mark.parametrize(
    ("settings", "iteration", "rate"),
    [
        (SolverSettings(base_lr=0.1, lr_policy="fixed"), 1000, 0.1),
        (SolverSettings(base_lr=0.1, lr_policy="step", gamma=0.5, stepsize=10), 9, 0.1),
        (SolverSettings(base_lr=0.1, lr_policy="step", gamma=0.5, stepsize=10), 20, 0.025),
        (SolverSettings(base_lr=0.1, lr_policy="exp", gamma=0.9), 3, 0.0729),
        (SolverSettings(base_lr=0.1, lr_policy="inv", gamma=1.0, power=0.5), 3, 0.05),
        (SolverSettings(base_lr=0.1, lr_policy="poly", power=2.0, max_iter=10), 5, 0.025),
        (
            SolverSettings(base_lr=0.1, lr_policy="sigmoid", gamma=2.0, stepsize=3),
            4,
            0.1 / (1 + math.exp(-2)),
        ),
        (SolverSettings(base_lr=1, lr_policy="multistep", gamma=0.1, stepvalue=(2, 5)), 1, 1),
        (SolverSettings(base_lr=1, lr_policy="multistep", gamma=0.1, stepvalue=(2, 5)), 5, 0.01),
    ],
)
def test_rate(settings: SolverSettings, iteration: int, rate: float) -> None:
    assert learning_rate(settings, iteration) == pytest.approx(rate, rel=1e-12)


@given(
    values=st.lists(st.integers(0, 30), max_size=6),
    iterations=st.integers(0, 40),
)
def test_steps_taken_is_caffes_counter(values: list[int], iterations: int) -> None:
    """Caffe asks once per iteration and advances at most one step each time."""
    counter = 0
    for iteration in range(iterations + 1):
        if counter < len(values) and iteration >= values[counter]:
            counter += 1
        assert steps_taken(tuple(values), iteration) == counter


def test_current_step_is_that_of_the_last_finished_iteration() -> None:
    settings = SolverSettings(base_lr=1, lr_policy="multistep", gamma=0.5, stepvalue=(2, 9))
    assert [current_step(settings, i) for i in (0, 2, 3, 9, 10)] == [0, 0, 1, 1, 2]
