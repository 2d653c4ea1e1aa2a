"""The end of a training that has taken long enough."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from netc.train.extension import Extension, Point

if TYPE_CHECKING:
    from netc.train.solver import Solver


class TimeLimit(Extension):
    """Stops `solve` after the iteration in which `time_limit` seconds are over.

    They begin with `solve`, in a resumed run anew: it is a limit of the process, such as the one
    that the queue of a cluster sets.
    """

    def __init__(self) -> None:
        self._end = math.inf

    def attach(self, solver: Solver) -> None:
        """Add the calls."""
        solver.on(Point.SOLVE, self._start)
        solver.on(Point.ITERATED, self._look)

    def _start(self, solver: Solver) -> None:
        limit = solver.settings.time_limit
        self._end = math.inf if limit is None else time.monotonic() + limit

    def _look(self, solver: Solver) -> None:
        if time.monotonic() >= self._end:
            solver.stop(f"time_limit {solver.settings.time_limit:g} s is over")
