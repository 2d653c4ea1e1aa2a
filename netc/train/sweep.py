"""`netc lr_find`: the loss while the learning rate grows, and the rate that it suggests.

Source: Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from netc.errors import fail
from netc.train.extension import Point
from netc.train.solver import Solver

# Losses are averaged over this share of the sweep to each side: a running average of the past would
# lag behind, and so suggest rates that are too high.
_SIDE = 1 / 15
# Of so many losses the last average is made that says whether they explode.
_LAST = 4
# A sweep ends where the average of the last losses is so many times the best such average.
_EXPLODED = 4.0
# A fall that is less than this share of the first loss is noise.
_LEAST_FALL = 0.05
# A rise by this share of the fall so far ends the fall: the training is not stable any more.
_RISE = 0.15


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a sweep has seen: rates, losses and smoothed losses, one per iteration.

    `steepest` and `lowest` index the rates where the smoothed loss falls fastest, and where it
    first ends to fall; None where it does not fall.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    steepest: int | None
    lowest: int | None

    @property
    def suggestion(self) -> float | None:
        """The rate at which the loss falls fastest."""
        return None if self.steepest is None else self.rates[self.steepest]


def sweep(solver: Solver) -> Sweep:
    """Run a solver of `trial.sweeping` until max_iter, or until its loss explodes."""
    rates: list[float] = []
    losses: list[float] = []
    best = math.inf

    def look(solver: Solver) -> None:
        nonlocal best
        if not math.isfinite(solver.loss):
            solver.stop("the loss is not finite any more")
            return
        rates.append(solver.rate)
        losses.append(solver.loss)
        last = losses[-_LAST:]
        mean = sum(last) / len(last)
        best = min(best, mean)
        if mean > _EXPLODED * best:
            solver.stop("the loss has exploded")

    # Before the update, which is the first at this rate.
    solver.on(Point.GRADIENTS, look)
    solver.step(solver.settings.max_iter)
    if len(rates) < 5:
        raise fail(
            f"the loss is not finite after {len(rates)} iterations, at lr {solver.rate:g}",
            expected="a loss that can be followed while the rate grows",
            got=f"losses {', '.join(f'{loss:g}' for loss in losses) or 'none'}",
            hint="a lower -min_lr, or another weight_filler",
        )
    side = max(2, round(len(losses) * _SIDE))
    smoothed = _smoothed(losses, side)
    steepest, lowest = _fall(rates, smoothed, side)
    return Sweep(tuple(rates), tuple(losses), smoothed, steepest, lowest)


def _smoothed(losses: Sequence[float], side: int) -> tuple[float, ...]:
    windows = (losses[max(0, i - side) : i + side + 1] for i in range(len(losses)))
    return tuple(sum(window) / len(window) for window in windows)


def _fall(
    rates: Sequence[float], smoothed: Sequence[float], side: int
) -> tuple[int | None, int | None]:
    """Return where the loss falls fastest, over the logarithm of the rate, and where that ends."""
    first, lowest = smoothed[0], 0
    for i, loss in enumerate(smoothed):
        if loss < smoothed[lowest]:
            lowest = i
        fall = first - smoothed[lowest]
        has_fallen = fall > _LEAST_FALL * abs(first)
        if has_fallen and loss - smoothed[lowest] > _RISE * fall:
            break
    # Near the ends the averages are of fewer losses, and noisier.
    if lowest <= side or first - smoothed[lowest] < _LEAST_FALL * abs(first):
        return None, None
    slopes = np.gradient(np.array(smoothed), np.log(np.array(rates)))
    return side + int(np.argmin(slopes[side : lowest + 1])), lowest
