"""Learning-rate policies against their formulas, and multistep against Caffe's stepwise counter."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netc.train.policy import (
    Plateau,
    current_step,
    learning_rate,
    rates_at,
    steps_taken,
    warm_iterations,
)
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
        (SolverSettings(base_lr=1, lr_policy="cosine", max_iter=10), 0, 1),
        (SolverSettings(base_lr=1, lr_policy="cosine", max_iter=10), 5, 0.5),
        (SolverSettings(base_lr=1, lr_policy="cosine", max_iter=10, min_lr=0.2), 5, 0.6),
        (SolverSettings(base_lr=1, lr_policy="cosine", max_iter=10, min_lr=0.2), 12, 0.2),
        (SolverSettings(base_lr=1, lr_policy="cosine", max_iter=14, warmup_iter=4), 9, 0.5),
        (SolverSettings(base_lr=1, lr_policy="poly", power=1, max_iter=10, min_lr=0.2), 5, 0.6),
        (SolverSettings(base_lr=1, lr_policy="poly", power=0.5, max_iter=10), 11, 0),
        (SolverSettings(base_lr=1, lr_policy="exp", gamma=0.5, min_lr=0.2), 5, 0.2),
        (SolverSettings(base_lr=1, lr_policy="fixed", warmup_iter=4, warmup_start_lr=0.2), 1, 0.4),
        (SolverSettings(base_lr=1, lr_policy="fixed", rampup_interval=4, rampup_lr=0.2), 2, 0.4),
        (
            SolverSettings(
                base_lr=1,
                lr_policy="exp",
                gamma=0.5,
                warmup_iter=4,
                warmup_start_lr=0.1,
                warmup_policy="constant",
            ),
            3,
            0.1,
        ),
        (SolverSettings(lr_policy="multifixed", stagelr=(1, 2), stageiter=(3, 5)), 3, 1),
        (SolverSettings(lr_policy="multifixed", stagelr=(1, 2), stageiter=(3, 5)), 4, 2),
        (SolverSettings(lr_policy="multifixed", stagelr=(1, 2), stageiter=(3, 5)), 6, 2),
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


@given(
    start=st.floats(0, 2),
    base=st.floats(0.01, 2),
    length=st.integers(1, 50),
    form=st.sampled_from(["linear", "rampup"]),
    policy=st.sampled_from(["fixed", "cosine"]),
)
def test_a_warm_up_leads_to_where_the_policy_starts(
    start: float, base: float, length: int, form: str, policy: str
) -> None:
    """Monotone from its first rate, and no further from the next one than one of its steps."""
    warm = (
        {"warmup_iter": length, "warmup_start_lr": start}
        if form == "linear"
        else {"rampup_interval": length, "rampup_lr": start}
    )
    settings = SolverSettings(base_lr=base, lr_policy=policy, max_iter=length + 60, **warm)  # type: ignore[arg-type]
    assert warm_iterations(settings) == length
    rates = [learning_rate(settings, i) for i in range(length + 1)]
    assert rates[0] == pytest.approx(start)
    assert rates[length] == pytest.approx(base)
    rising = sorted(rates) if start <= base else sorted(rates, reverse=True)
    assert rates == pytest.approx(rising)
    # The quadratic one ends with its longest step, twice the mean.
    assert abs(rates[-1] - rates[-2]) <= 2 * abs(base - start) / length + 1e-9


@given(first=st.integers(1, 9), mult=st.sampled_from([1.0, 1.5, 2.0, 3.0]), floor=st.floats(0, 0.5))
def test_restarts_come_where_the_intervals_end(first: int, mult: float, floor: float) -> None:
    settings = SolverSettings(
        base_lr=1, lr_policy="cosine", restart_interval=first, restart_mult=mult, min_lr=floor
    )
    start, length = 0.0, float(first)
    for _ in range(4):
        at = math.ceil(start)
        inside = range(at, math.ceil(start + length))
        rates = [learning_rate(settings, i) for i in inside]
        assert rates == sorted(rates, reverse=True)
        if at == start:
            assert rates[0] == 1
        assert all(
            rate == pytest.approx(floor + (1 - floor) * math.cos(math.pi / 2 * part) ** 2)
            for rate, part in zip(rates, ((i - start) / length for i in inside), strict=True)
        )
        start, length = start + length, length * mult


@given(st.data())
def test_plateau_is_the_counter_of_the_forks(data: st.DataObject) -> None:
    """Against their procedure, written with variables that it changes."""
    windows = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    losses = data.draw(st.lists(st.sampled_from([0.1, 0.5, 1.0, 2.0]), max_size=30))
    settings = SolverSettings(
        base_lr=1, lr_policy="plateau", gamma=0.5, plateau_winsize=tuple(windows)
    )
    plateau, least, event, step = Plateau(), math.inf, 0, 0
    for iteration, loss in enumerate(losses):
        if loss < least:
            least = loss
            event = iteration
        if step < len(windows) and iteration >= event + windows[step]:
            step += 1
            event = iteration
        plateau = plateau.after(settings, iteration, loss)
        assert learning_rate(settings, iteration, plateau) == 0.5**step
        assert current_step(settings, iteration + 1, plateau) == step
        assert plateau.iter_last_event == event


def test_other_policies_have_no_plateau() -> None:
    fixed = SolverSettings(base_lr=1, lr_policy="fixed", plateau_winsize=(1,))
    assert Plateau().after(fixed, 5, 0.5) == Plateau()


def test_no_step_is_taken_while_the_rate_warms_up() -> None:
    settings = SolverSettings(
        base_lr=1, lr_policy="multistep", gamma=0.5, stepvalue=(2, 3), warmup_iter=5
    )
    assert [learning_rate(settings, i) for i in (5, 6, 7)] == [0.5, 0.25, 0.25]


@pytest.mark.parametrize(
    ("policy", "iteration", "momentum"),
    [
        ({"momentum_policy": "fixed"}, 5, 0.5),
        ({"momentum_policy": "poly", "max_momentum": 0.9, "momentum_power": 2.0}, 5, 0.6),
        ({"momentum_policy": "poly"}, 10, 0.99),
        ({"momentum_policy": "opt"}, 0, 0.64),
        ({"momentum_policy": "opt", "max_momentum": 0.6}, 0, 0.6),
    ],
)
def test_momentum(policy: dict[str, object], iteration: int, momentum: float) -> None:
    settings = SolverSettings(
        base_lr=0.16,
        lr_policy="fixed",
        momentum=0.5,
        max_iter=10,
        **policy,  # type: ignore[arg-type]
    )
    assert rates_at(settings, iteration).momentum == pytest.approx(momentum)


def test_weight_decay_grows_with_its_policy() -> None:
    settings = SolverSettings(
        base_lr=1,
        lr_policy="fixed",
        max_iter=10,
        weight_decay=0.1,
        weight_decay_policy="poly",
        max_weight_decay=0.5,
        weight_decay_power=2,
    )
    decays = [rates_at(settings, i).weight_decay for i in (0, 5, 10)]
    assert decays == pytest.approx([0.1, 0.2, 0.5])
