"""Policies of the learning rate, the momentum and the weight decay.

Pure functions of (settings, iter), as Caffe's `SGDSolver::GetLearningRate` and those of its forks
compute them. What `plateau` remembers besides is a value of its own, `Plateau`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from netc.train.settings import SolverSettings


@dataclass(frozen=True, slots=True)
class Rates:
    """What the policies give for one iteration (counted from 0): the rate before any `lr_mult`."""

    iteration: int
    rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0


@dataclass(frozen=True, slots=True)
class Plateau:
    """What lr_policy `plateau` remembers, under the names of the forks' solver states.

    The least smoothed loss so far (float32), the iteration of the last event (a new least loss or a
    lowered rate), and how often the rate was lowered.
    """

    minimum_loss: float = float(np.finfo(np.float32).max)
    iter_last_event: int = 0
    current_step: int = 0

    def after(self, settings: SolverSettings, iteration: int, smoothed_loss: float) -> Plateau:
        """Return what is remembered once the loss of an iteration is known.

        The rate drops when plateau_winsize[current_step] iterations have passed without an event.
        Under other policies nothing changes.
        """
        if settings.lr_policy != "plateau":
            return self
        least, event, step = self.minimum_loss, self.iter_last_event, self.current_step
        loss = float(np.float32(smoothed_loss))
        if loss < least:
            least, event = loss, iteration
        windows = settings.plateau_winsize
        if step < len(windows) and iteration >= event + windows[step]:
            step, event = step + 1, iteration
        return Plateau(least, event, step)


def rates_at(
    settings: SolverSettings,
    iteration: int,
    plateau: Plateau = Plateau(),
) -> Rates:
    """Return learning rate, momentum and weight decay of an iteration."""
    rate = learning_rate(settings, iteration, plateau)
    return Rates(
        iteration,
        rate,
        _MOMENTUM_POLICIES[settings.momentum_policy](settings, iteration, rate),
        _weight_decay(settings, iteration),
    )


def learning_rate(
    settings: SolverSettings,
    iteration: int,
    plateau: Plateau = Plateau(),
) -> float:
    """Return the rate of an iteration (counted from 0), before any `lr_mult`.

    A warm-up comes in front of every policy; min_lr is the floor under all of it.
    """
    if iteration < warm_iterations(settings):
        rate = _warming_rate(settings, iteration)
    elif settings.lr_policy == "plateau":
        rate = settings.base_lr * float(settings.gamma**plateau.current_step)
    elif settings.lr_policy == "multifixed":
        rate = _stage_rate(settings, iteration)
    else:
        share = _POLICIES[settings.lr_policy](settings, iteration)
        # These descend from base_lr to min_lr, others to 0 until the floor stops them.
        floor = settings.min_lr if settings.lr_policy in ("poly", "cosine") else 0.0
        rate = (settings.base_lr - floor) * share + floor
    return max(rate, settings.min_lr)


def warm_iterations(settings: SolverSettings) -> int:
    """Return how many iterations the warm-up takes: Intel's, NVIDIA's or none."""
    return max(settings.warmup_iter, settings.rampup_interval)


def steps_taken(stepvalues: tuple[int, ...], iteration: int, start: int = 0) -> int:
    """Return how many steps of a multistep policy are behind us at an iteration.

    Caffe advances at most one step per iteration, so values that are equal or out of order take
    effect one after another; and none before the policy is first asked, at iteration `start`.
    """
    taken, free_at = 0, start
    for value in stepvalues:
        at = max(value, free_at)
        if iteration < at:
            break
        taken, free_at = taken + 1, at + 1
    return taken


def current_step(settings: SolverSettings, iteration: int, plateau: Plateau | None = None) -> int:
    """Return what Caffe stores as `current_step` in a solver state after `iteration` iterations."""
    last = max(iteration - 1, 0)
    if settings.lr_policy == "step":
        return last // settings.stepsize
    if settings.lr_policy == "multistep":
        return steps_taken(settings.stepvalue, last, warm_iterations(settings))
    return plateau.current_step if plateau and settings.lr_policy == "plateau" else 0


def _warming_rate(s: SolverSettings, i: int) -> float:
    if s.rampup_interval:
        return s.rampup_lr + (s.base_lr - s.rampup_lr) * (i / s.rampup_interval) ** 2
    if s.warmup_policy == "constant":
        return s.warmup_start_lr
    return (i * s.base_lr + (s.warmup_iter - i) * s.warmup_start_lr) / s.warmup_iter


def _stage_rate(s: SolverSettings, i: int) -> float:
    """Return the rate of the first stage that has not ended; it lasts through its stageiter."""
    stages = zip(s.stageiter, s.stagelr, strict=True)
    return next((rate for last, rate in stages if i <= last), s.stagelr[-1])


def _fixed(s: SolverSettings, i: int) -> float:
    return 1.0


def _step(s: SolverSettings, i: int) -> float:
    return s.gamma ** (i // s.stepsize)


def _exp(s: SolverSettings, i: int) -> float:
    return float(s.gamma**i)


def _inv(s: SolverSettings, i: int) -> float:
    return float((1 + s.gamma * i) ** -s.power)


def _multistep(s: SolverSettings, i: int) -> float:
    return float(s.gamma ** steps_taken(s.stepvalue, i, warm_iterations(s)))


def _poly(s: SolverSettings, i: int) -> float:
    # Beyond max_iter Caffe's rate would be negative or not a number.
    return float(max(1 - i / s.max_iter, 0.0) ** s.power)


def _sigmoid(s: SolverSettings, i: int) -> float:
    return 1 / (1 + math.exp(-s.gamma * (i - s.stepsize)))


def _cosine(s: SolverSettings, i: int) -> float:
    """Half a cosine from 1 to 0, over and over with restarts, counted from the warm-up's end.

    Source: Loshchilov and Hutter, SGDR, ICLR 2017, equation 5.
    """
    past: float = i - warm_iterations(s)
    if not s.restart_interval:
        length: float = max(s.max_iter - warm_iterations(s), 1)
        return (1 + math.cos(math.pi * min(past / length, 1.0))) / 2
    length = s.restart_interval
    if s.restart_mult == 1:
        past %= length
    while past >= length:
        past, length = past - length, length * s.restart_mult
    return (1 + math.cos(math.pi * past / length)) / 2


_POLICIES: dict[str, Callable[[SolverSettings, int], float]] = {
    "fixed": _fixed,
    "step": _step,
    "exp": _exp,
    "inv": _inv,
    "multistep": _multistep,
    "poly": _poly,
    "sigmoid": _sigmoid,
    "cosine": _cosine,
}


def _poly_momentum(s: SolverSettings, i: int, rate: float) -> float:
    most = _MAX_MOMENTUM if s.max_momentum is None else s.max_momentum
    return float(s.momentum + (most - s.momentum) * (i / s.max_iter) ** s.momentum_power)


def _momentum_of_rate(s: SolverSettings, i: int, rate: float) -> float:
    """(1 - sqrt(rate) / 2)^2: the smaller the steps, the longer they are remembered."""
    best = (1 - 0.5 * math.sqrt(rate)) ** 2
    return best if s.max_momentum is None else min(best, s.max_momentum)


_MAX_MOMENTUM = 0.99
_MOMENTUM_POLICIES: dict[str, Callable[[SolverSettings, int, float], float]] = {
    "fixed": lambda s, i, rate: s.momentum,
    "poly": _poly_momentum,
    "opt": _momentum_of_rate,
}


def _weight_decay(s: SolverSettings, i: int) -> float:
    if s.weight_decay_policy == "fixed":
        return s.weight_decay
    past = (i / s.max_iter) ** s.weight_decay_power
    return float(s.weight_decay + (s.max_weight_decay - s.weight_decay) * past)
