"""The lines that a solver logs every `display` iterations, in Caffe's wording."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from netc.train.extension import Extension, Point, every
from netc.train.log import logger
from netc.train.scoring import Output, outputs_of, weighted

if TYPE_CHECKING:
    from netc.train.solver import Solver


class Display(Extension):
    """Logs loss, speed, outputs and learning rate; at the end the loss of one pass more."""

    def __init__(self) -> None:
        self._since = (0, time.monotonic())

    def attach(self, solver: Solver) -> None:
        """Add the calls."""
        due = every(lambda settings: settings.display)
        solver.on(Point.STEP, self._start_clock)
        solver.on(Point.GRADIENTS, self._loss, due)
        solver.on(Point.UPDATE, self._rate, due)
        solver.on(Point.REACHED, self._last_loss, due)

    def _start_clock(self, solver: Solver) -> None:
        self._since = (solver.iter, time.monotonic())

    def _loss(self, solver: Solver) -> None:
        since, then = self._since
        now = time.monotonic()
        lapse = now - then
        logger.info(
            "Iteration %d (%g iter/s, %gs/%d iters), loss = %g",
            solver.iter,
            (solver.iter - since) / (lapse or 1),
            lapse,
            solver.settings.display,
            solver.smoothed_loss,
        )
        self._since = (solver.iter, now)
        log_outputs("Train", outputs_of(solver.net))

    def _rate(self, solver: Solver) -> None:
        logger.info("Iteration %d, lr = %g", solver.iter, solver.rate)

    def _last_loss(self, solver: Solver) -> None:
        solver.forward()
        solver.losses = (*solver.losses, solver.net.loss())
        logger.info("Iteration %d, loss = %g", solver.iter, solver.smoothed_loss)


def log_outputs(which: str, outputs: Sequence[Output]) -> None:
    """Log every value of a net's outputs, numbered through; `which` is Train or Test."""
    numbered = ((name, value, weight) for name, values, weight in outputs for value in values)
    for number, (name, value, weight) in enumerate(numbered):
        logger.info(
            "    %s net output #%d: %s = %g%s", which, number, name, value, weighted(weight, value)
        )
