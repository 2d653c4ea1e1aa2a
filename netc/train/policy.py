"""Learning-rate policies: pure functions of (settings, iter).

As Caffe's `SGDSolver::GetLearningRate`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from netc.train.settings import SolverSettings


def learning_rate(settings: SolverSettings, iteration: int) -> float:
    """Return the rate of an iteration (counted from 0), before any `lr_mult`."""
    return settings.base_lr * _POLICIES[settings.lr_policy](settings, iteration)


def steps_taken(stepvalues: tuple[int, ...], iteration: int) -> int:
    """Return how many steps of a multistep policy are behind us at an iteration.

    Caffe advances at most one step per iteration, so values that are equal or out of order take
    effect one after another.
    """
    taken, free_at = 0, 0
    for value in stepvalues:
        at = max(value, free_at)
        if iteration < at:
            break
        taken, free_at = taken + 1, at + 1
    return taken


def current_step(settings: SolverSettings, iteration: int) -> int:
    """Return what Caffe stores as `current_step` in a solver state after `iteration` iterations."""
    last = max(iteration - 1, 0)
    if settings.lr_policy == "step":
        return last // settings.stepsize
    if settings.lr_policy == "multistep":
        return steps_taken(settings.stepvalue, last)
    return 0


def _fixed(s: SolverSettings, i: int) -> float:
    return 1.0


def _step(s: SolverSettings, i: int) -> float:
    return s.gamma ** (i // s.stepsize)


def _exp(s: SolverSettings, i: int) -> float:
    return float(s.gamma**i)


def _inv(s: SolverSettings, i: int) -> float:
    return float((1 + s.gamma * i) ** -s.power)


def _multistep(s: SolverSettings, i: int) -> float:
    return float(s.gamma ** steps_taken(s.stepvalue, i))


def _poly(s: SolverSettings, i: int) -> float:
    return float((1 - i / s.max_iter) ** s.power)


def _sigmoid(s: SolverSettings, i: int) -> float:
    return 1 / (1 + math.exp(-s.gamma * (i - s.stepsize)))


_POLICIES: dict[str, Callable[[SolverSettings, int], float]] = {
    "fixed": _fixed,
    "step": _step,
    "exp": _exp,
    "inv": _inv,
    "multistep": _multistep,
    "poly": _poly,
    "sigmoid": _sigmoid,
}
