"""The score of the tests: when it is good enough or gets no better, and which is the best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from netc.errors import fail, nearest
from netc.graph.types import Blob
from netc.schema import netc_pb2
from netc.train import snapshot
from netc.train.extension import Extension, Point
from netc.train.log import logger
from netc.train.settings import ScoreGoal

if TYPE_CHECKING:
    from netc.train.solver import Solver


class Score(Extension):
    """Judges every test by one output of one test net, as the solver's settings say.

    Stops after `patience` tests in a row that were not better than the best by more than
    `min_delta`, or once `target_score` is reached; with `keep_best` it writes the snapshot
    PREFIX_best for every score that is better than all before. All of it goes on in a resumed run.
    """

    name = "score"

    def __init__(self) -> None:
        self._output = ""
        self._sign = 1.0
        self._state = netc_pb2.ScoreState()
        self._best_snapshot: tuple[Path, Path] | None = None

    def attach(self, solver: Solver) -> None:
        """Look the output up and add the call. Raises NetcError where there is no such output."""
        if not solver.settings.judges:
            return
        blob = _find_output(solver)
        goal = solver.settings.score_goal
        if goal is None:
            goal = ScoreGoal.LOWEST if blob.loss_weight else ScoreGoal.HIGHEST
        self._output = blob.name
        self._sign = 1.0 if goal is ScoreGoal.HIGHEST else -1.0
        solver.on(
            Point.SOLVE,
            lambda solver: logger.info(
                "Score: test net output %s of test net #%d, the %s is best",
                blob.name,
                solver.settings.score_net,
                goal.name.lower(),
            ),
        )
        solver.on(Point.TESTED, self._judge, lambda solver: bool(solver.scores))

    def state(self) -> bytes:
        """Return the best score and how long it was ago."""
        return self._state.SerializeToString()

    def restore(self, state: bytes) -> None:
        """Take both over."""
        self._state = netc_pb2.ScoreState.FromString(state)

    def outcome(self) -> Sequence[str]:
        """Say which score was the best, and where its weights are."""
        if not self._state.HasField("best"):
            return ()
        where = f": {self._best_snapshot[0]}" if self._best_snapshot else ""
        best = f"{self._output} = {self._state.best:g} at iteration {self._state.best_iter}"
        return (f"  best     {best}{where}",)

    def _judge(self, solver: Solver) -> None:
        settings, state = solver.settings, self._state
        scores = solver.scores[settings.score_net]
        (value,) = next(values for name, values, _ in scores.outputs if name == self._output)
        # A comparison with NaN is false: a score that is none is never better.
        if self._is_better(value, state, "reference", settings.min_delta):
            state.reference, state.waited = value, 0
        else:
            state.waited += 1
        if self._is_better(value, state, "best", 0.0):
            state.best, state.best_iter = value, solver.iter
            logger.info("Iteration %d, best %s so far: %g", solver.iter, self._output, value)
            if settings.keep_best:
                self._best_snapshot = snapshot.save(solver, "best")
        target = settings.target_score
        if target is not None and self._sign * value >= self._sign * target:
            solver.stop(f"{self._output} = {value:g} has reached target_score {target:g}")
        if settings.patience and state.waited >= settings.patience:
            than = f"by more than {settings.min_delta:g} " if settings.min_delta else ""
            solver.stop(
                f"{self._output} was not better than {state.reference:g} {than}"
                f"in {state.waited} tests in a row (patience)"
            )

    def _is_better(self, value: float, state: netc_pb2.ScoreState, than: str, by: float) -> bool:
        if not state.HasField(than):
            return value == value
        return bool(self._sign * (value - getattr(state, than)) > by)


def _find_output(solver: Solver) -> Blob:
    """Return the blob that is the score."""
    settings, span = solver.settings, solver.source.span
    if settings.score_net >= len(solver.test_nets):
        raise fail(
            f"there is no test net #{settings.score_net}",
            span=span("score_net"),
            expected=f"score_net < {len(solver.test_nets)}, the number of test nets",
            got=f"score_net {settings.score_net}",
        )
    if not settings.test_iter[settings.score_net]:
        raise fail(
            f"test net #{settings.score_net} is never run, and has no score",
            span=span("test_iter"),
            expected="test_iter >= 1",
            got="test_iter 0",
        )
    graph = solver.test_nets[settings.score_net].plan.graph
    outputs = {blob.name: blob for blob in (graph.blobs[key] for key in graph.outputs)}
    # What eval_type detection makes of an output is one value always.
    judged = settings.eval_type == "detection"
    single = {name: blob for name, blob in outputs.items() if judged or blob.type.count == 1}
    listed = ", ".join(single) or "none of a single value"
    if settings.score is None and len(single) != 1:
        raise fail(
            "which output of the test net is the score?",
            span=span(),
            expected=f'score: "..." with one of its outputs: {listed}',
            got="no setting score",
        )
    name = settings.score if settings.score is not None else next(iter(single))
    if name not in single:
        several = f", of shape {outputs[name].type}" if name in outputs else ""
        raise fail(
            f"'{name}' is no output of test net #{settings.score_net} that can be a score",
            span=span("score"),
            expected=f"an output with one value: {listed}",
            got=f'score: "{name}"{several}',
            hint=nearest(name, single),
        )
    return single[name]
