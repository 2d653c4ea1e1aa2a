"""How long each layer of a net takes."""

from __future__ import annotations

from collections.abc import Callable

from netc.plan.types import Direction
from netc.runtime.executor import Executor

# Seconds by (direction, index of the node), for steps that exist.
Durations = dict[tuple[Direction, int], float]


def measure(
    net: Executor,
    iterations: int,
    after: Callable[[int, float], None] = lambda iteration, seconds: None,
) -> Durations:
    """Return the mean duration of each step: forward and, where it is planned, backward.

    One iteration more is run before, uncounted: it touches the memory for the first time. `after`
    gets the number of each iteration, from 1, and the seconds that its steps took together.
    """
    for _ in net.timed():
        pass
    totals: Durations = {}
    for iteration in range(1, iterations + 1):
        net.clear_param_diffs()
        whole = 0.0
        for direction, node, seconds in net.timed():
            totals[direction, node] = totals.get((direction, node), 0.0) + seconds
            whole += seconds
        after(iteration, whole)
    return {step: total / iterations for step, total in totals.items()}
