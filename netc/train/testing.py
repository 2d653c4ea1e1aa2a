"""Tests of the test nets, every `test_interval` iterations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netc.train.display import log_outputs
from netc.train.extension import Extension, Point, every
from netc.train.log import logger
from netc.train.scoring import Scores, average_outputs

if TYPE_CHECKING:
    from netc.train.solver import Solver


class Tests(Extension):
    """Tests all test nets before an iteration, and once more at the end."""

    def attach(self, solver: Solver) -> None:
        """Add the calls."""
        due = every(lambda settings: settings.test_interval)
        solver.on(
            Point.BEFORE,
            test_all,
            lambda solver: due(solver) and (solver.iter > 0 or solver.settings.test_initialization),
        )
        solver.on(Point.REACHED, test_all, due)


def test_all(solver: Solver) -> None:
    """Test every test net; the averaged outputs are logged and kept in `solver.scores`."""
    solver.scores = []
    solver.reach(Point.TEST)
    scores = []
    for index in range(len(solver.test_nets)):
        solver.ask()
        if solver.stopped:
            break
        scores.append(test(solver, index))
    else:
        solver.scores = scores
    solver.reach(Point.TESTED)


def test(solver: Solver, index: int) -> Scores:
    """Run test_iter passes of one test net and return its averaged outputs."""
    logger.info("Iteration %d, Testing net (#%d)", solver.iter, index)
    net, passes = solver.test_nets[index], solver.settings.test_iter[index]
    # Layers that draw random numbers draw the same ones at this iteration, resumed or not.
    net.forward_pass = solver.iter * passes
    scores = average_outputs(net, passes)
    if solver.settings.test_compute_loss:
        logger.info("Test loss: %g", scores.loss)
    log_outputs("Test", scores.outputs)
    return Scores(index, scores.outputs, scores.loss)
