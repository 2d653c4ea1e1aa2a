"""What happens beside the updates: at which point of an iteration, and when.

The loop in `solver.py` trains, and tells the points that it reaches; everything else (display,
tests, snapshots, guards, logs) is a call that waits at a point, with a trigger that says at which
iterations.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from netc.layers.types import Array
from netc.train.settings import SolverSettings

if TYPE_CHECKING:
    from netc.train.solver import Solver


class Point(enum.Enum):
    """Where the loop is. The calls at one point are made in the order they were added in."""

    SOLVE = "`solve` begins"
    STEP = "`step` begins"
    BEFORE = "before an iteration: the nets are tested, and a stop still prevents it"
    ITERATION = "an iteration begins"
    FORWARD = "before each forward pass of the training net"
    LOSS = "after that, before the backward pass: `loss` is known"
    PASSED = "after a backward pass"
    GRADIENTS = "all passes of an iteration are made; with updates in the plan, all updates too"
    UPDATE = "before what is left of the update is made, also by `apply_update` alone"
    UPDATED = "after the params were updated; `iter` is still that of the update"
    ITERATED = "after an iteration; `iter` counts it"
    AFTER = "between two iterations: what belongs to the last one is done, snapshots are made"
    TEST = "before the test nets are tested"
    TESTED = "after that; `scores` holds the outputs, or nothing if a stop came in between"
    SNAPSHOT = "after a snapshot was written; `last_snapshot` holds its files"
    REACHED = "`solve` has reached max_iter, and has written its last snapshot"
    END = "`solve` ends, at max_iter or stopped"


Call = Callable[["Solver"], object]
Trigger = Callable[["Solver"], bool]


def always(solver: Solver) -> bool:
    """Every time."""
    return True


def every(
    interval: Callable[[SolverSettings], int],
    offset: Callable[[SolverSettings], int] = lambda settings: 0,
) -> Trigger:
    """Return the trigger of the iterations that a setting divides; 0 means at none.

    They are counted from `offset`, in both directions. The settings are looked up each time,
    because pycaffe's users change them as they train.
    """

    def due(solver: Solver) -> bool:
        n = interval(solver.settings)
        return bool(n) and (solver.iter - offset(solver.settings)) % n == 0

    return due


class Extension:
    """Calls that belong together, and what they have to remember.

    `name` is the key in snapshots of those that remember something. The state is saved with every
    snapshot, and set before the first iteration of a resumed run.
    """

    name: ClassVar[str] = ""

    def attach(self, solver: Solver) -> None:
        """Add the calls to a solver, with `Solver.on`."""

    def state(self) -> bytes:
        """Return what a resumed run must know, in a format of its own: a serialised message."""
        return b""

    def restore(self, state: bytes) -> None:
        """Take over what `state` returned."""

    def arrays(self) -> Mapping[str, Array]:
        """Return arrays that belong to the state too: live ones, which a resumed run writes to."""
        return {}

    def outcome(self) -> Sequence[str]:
        """Return lines to print when the run has ended."""
        return ()
