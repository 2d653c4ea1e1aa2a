"""Tests of the test nets, every `test_interval` iterations from `test_offset` on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from netc.data import Feed
from netc.schema import netc_pb2
from netc.train.detection import check_detection, mean_average_precision
from netc.train.display import log_outputs
from netc.train.extension import Extension, Point, every
from netc.train.log import logger
from netc.train.scoring import Scores, average_outputs

if TYPE_CHECKING:
    from netc.train.solver import Solver


class Tests(Extension):
    """Tests all test nets before an iteration, and once more at the end.

    A test changes where the test nets stand in their data, so that a snapshot written after it must
    not lead to a second one of the same iteration.
    """

    name = "tests"

    def __init__(self) -> None:
        self._tested: int | None = None

    def attach(self, solver: Solver) -> None:
        """Add the calls."""
        for net in solver.test_nets:
            check_detection(solver.settings, net.plan.graph)
        due = every(lambda s: s.test_interval, lambda s: s.test_offset)
        solver.on(
            Point.BEFORE,
            self._test,
            lambda solver: due(solver) and (solver.iter > 0 or solver.settings.test_initialization),
        )
        solver.on(Point.REACHED, self._test, due)
        # First of those who wait there: one of the others may write a snapshot.
        solver.on(Point.TESTED, self._note, lambda solver: bool(solver.scores))

    def _test(self, solver: Solver) -> None:
        if self._tested != solver.iter:
            test_all(solver)

    def _note(self, solver: Solver) -> None:
        self._tested = solver.iter

    def state(self) -> bytes:
        """Return at which iteration the last test was."""
        return netc_pb2.TestState(iter=self._tested).SerializeToString()

    def restore(self, state: bytes) -> None:
        """Take over when the last test was."""
        message = netc_pb2.TestState.FromString(state)
        self._tested = message.iter if message.HasField("iter") else None


def test_all(solver: Solver) -> None:
    """Test every test net; the averaged outputs are logged and kept in `solver.scores`.

    A stop asked for meanwhile ends it: then there are no scores, and the data is where it was, for
    whoever resumes the run.
    """
    solver.scores = []
    solver.reach(Point.TEST)
    stands = [(feed, feed.state()) for feed in _feeds(solver)]
    scores = []
    for index in range(len(solver.test_nets)):
        solver.ask()
        if solver.stopped:
            for feed, stand in stands:
                feed.restore(stand)
            break
        with solver.average.in_place(solver.net.params):
            scores.append(test(solver, index))
    else:
        solver.scores = scores
    solver.reach(Point.TESTED)


def _feeds(solver: Solver) -> Iterator[Feed]:
    for net in solver.test_nets:
        for feed in net.feeds.values():
            assert isinstance(feed, Feed)
            yield feed


def test(solver: Solver, index: int) -> Scores:
    """Run test_iter passes of one test net and return its averaged outputs; none without a pass."""
    logger.info("Iteration %d, Testing net (#%d)", solver.iter, index)
    net, passes = solver.test_nets[index], solver.settings.test_iter[index]
    # Layers that draw random numbers draw the same ones at this iteration, resumed or not.
    net.forward_pass = solver.iter * passes
    if not passes:
        scores = Scores(index, (), 0.0)
    elif solver.settings.eval_type == "detection":
        scores = mean_average_precision(net, passes, solver.settings)
    else:
        scores = average_outputs(net, passes)
    if solver.settings.test_compute_loss:
        logger.info("Test loss: %g", scores.loss)
    log_outputs("Test", scores.outputs)
    return Scores(index, scores.outputs, scores.loss)
