"""The solver loop: feed, run the plan, update. Everything else waits at its points.

Matches Caffe's `Solver::Step` and `Solver::Solve`, with the log in its wording.
"""

from __future__ import annotations

import enum
import math
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from netc import data
from netc.assemble import Keep, assembled, open_feeds
from netc.backends.base import Backend
from netc.errors import fail
from netc.graph.types import Graph
from netc.layers.types import Array
from netc.plan import Updates
from netc.runtime import Executor, generator
from netc.schema import Source, netc_pb2
from netc.train import policy, snapshot
from netc.train.average import Average
from netc.train.debug import DebugInfo
from netc.train.display import Display
from netc.train.extension import Call, Extension, Point, Trigger, always
from netc.train.finetuning import FineTuning
from netc.train.guards import DeadUnits, FiniteLoss, UpdateRatio, watched_blobs
from netc.train.log import logger
from netc.train.nets import solver_nets
from netc.train.records import Records
from netc.train.score import Score
from netc.train.scoring import Scores
from netc.train.settings import SolverSettings, idle_settings, read_settings
from netc.train.testing import Tests
from netc.train.timelimit import TimeLimit
from netc.train.update import RULES, UpdateRule


class Action(enum.Enum):
    """What somebody outside the loop (a signal, a callback) asks for between two iterations."""

    NONE = "none"
    SNAPSHOT = "snapshot"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is after an iteration.

    `images` counts items seen in this iteration.
    """

    iteration: int
    max_iter: int
    loss: float
    smoothed_loss: float
    rate: float
    images: int


class Solver:
    """A training net, its test nets and an update rule.

    `on` adds calls at the points of the loop, `extend` those of an extension, which may remember
    something in snapshots: before `restore`. `action` is asked between iterations. `keep` as for
    `plan`. `level` and `stages` are merged into the training state, as Caffe's command line does.
    The seed is `random_seed`, or chosen and logged. `make` is asked for the executors, with the
    arguments of `netc.assemble.assembled`.
    """

    def __init__(
        self,
        source: Source[netc_pb2.SolverParameter],
        backend: Backend,
        *,
        keep: str = "",
        action: Callable[[], Action] = lambda: Action.NONE,
        level: int = 0,
        stages: Sequence[str] = (),
        make: Callable[..., Executor] = assembled,
    ) -> None:
        self.source = source
        self.settings: SolverSettings = read_settings(source)
        self.backend = backend
        if self.settings.data_threads:
            data.use_threads(self.settings.data_threads)
        self.action = action
        self.iter = 0
        #: The mean over the passes of an iteration made so far; NaN before the first.
        self.loss = math.nan
        self._stopped = ""
        self.snapshot_asked = False
        self.last_snapshot: tuple[Path, Path] | None = None
        self.scores: list[Scores] = []
        seed = self.settings.random_seed
        self.seed = seed if seed >= 0 else secrets.randbits(31)
        kept: Keep = keep
        if self.settings.debug_info:
            kept = "all"
        elif self.settings.dead_unit_limit and not keep:
            kept = watched_blobs
        train, *tests = solver_nets(source, level, stages)
        #: The training net's layers as the text has them, for snapshots.
        self.messages = tuple(filter(train.state.includes, train.source.message.layer))
        self.net: Executor = make(
            train.source,
            train.state,
            backend,
            train=True,
            keep=kept,
            updates=self._updates(),
            seed=self.seed,
        )
        self.net.on_gradient = self._update_param
        self.test_nets: list[Executor] = [
            make(
                test.source,
                test.state,
                backend,
                train=False,
                keep=keep,
                seed=self.seed,
                sharing=self.net,
            )
            for test in tests
        ]
        self.rule: UpdateRule = RULES[self.settings.type](
            self.settings,
            self.net.plan.graph.params,
            [array.shape for array in self.net.params],
            self.net,
            self._noise,
            backend.momentum_step(),
        )
        #: What lr_policy `plateau` remembers.
        self.plateau = policy.Plateau()
        self._losses: deque[float] = deque(maxlen=self.settings.average_loss)
        self._calls: dict[Point, list[tuple[Trigger, Call]]] = {point: [] for point in Point}
        self.extensions: list[Extension] = []
        #: What the nets are tested and saved with, where `ema_decay` asks for it.
        self.average = Average()
        #: Where training starts, and what of the net is trained.
        self.fine_tuning = FineTuning()
        for extension in (
            self.fine_tuning,
            self.average,
            DebugInfo(),
            FiniteLoss(),
            UpdateRatio(),
            DeadUnits(),
            Display(),
            Records(),
            Tests(),
            Score(),
            TimeLimit(),
            snapshot.Snapshots(),
        ):
            self.extend(extension)

    # -- state -------------------------------------------------------------------------------------

    @property
    def losses(self) -> tuple[float, ...]:
        """The losses in the window of average_loss, oldest first."""
        return tuple(self._losses)

    @losses.setter
    def losses(self, values: Sequence[float]) -> None:
        self._losses.clear()
        self._losses.extend(values)

    @property
    def smoothed_loss(self) -> float:
        """The mean over the window of average_loss; NaN before the first iteration."""
        return sum(self._losses) / len(self._losses) if self._losses else math.nan

    @property
    def rate(self) -> float:
        """The learning rate of the coming iteration."""
        return policy.learning_rate(self.settings, self.iter, self.plateau)

    def progress(self) -> Progress:
        """Return how far the run is, after an iteration."""
        return Progress(
            self.iter,
            self.settings.max_iter,
            self.loss,
            self.smoothed_loss,
            policy.learning_rate(self.settings, self.iter - 1, self.plateau),
            batch_size(self.net) * self.settings.iter_size,
        )

    @property
    def snapshot_prefix(self) -> str:
        """Where snapshots go: the setting, or the solver's file name.

        A directory gets the solver's name in it.
        """
        name = Path(self.source.file).with_suffix("")
        prefix = self.settings.snapshot_prefix or str(name)
        return str(Path(prefix) / name.name) if Path(prefix).is_dir() else prefix

    # -- extensions --------------------------------------------------------------------------------

    def extend(self, extension: Extension) -> None:
        """Add an extension."""
        self.extensions.append(extension)
        extension.attach(self)

    def on(self, point: Point, call: Call, when: Trigger = always) -> None:
        """Have something called whenever the loop is at a point and the trigger says so."""
        self._calls[point].append((when, call))

    def reach(self, point: Point) -> None:
        """Make the calls that wait at a point."""
        for when, call in self._calls[point]:
            if when(self):
                call(self)

    @property
    def stopped(self) -> str:
        """Why the last `step` or `solve` ended before its time; "" where it did not."""
        return self._stopped

    def stop(self, reason: str) -> None:
        """End the loop before its next iteration; the first reason given counts."""
        if not self._stopped:
            self._stopped = reason
            logger.info("Iteration %d, stopping: %s", self.iter, reason)

    def ask(self) -> None:
        """Ask `action` what somebody outside wants, and note it."""
        action = self.action()
        if action is Action.STOP:
            self.stop("asked to")
        self.snapshot_asked |= action is Action.SNAPSHOT

    # -- the loop ----------------------------------------------------------------------------------

    def solve(self) -> None:
        """Train to max_iter, with the last snapshot and test as Caffe makes them."""
        settings = self.settings
        if not self.source.message.HasField("max_iter"):
            # A program may train with `step` alone, so that only this needs to know the end.
            raise fail(
                "max_iter is missing",
                span=self.source.span(),
                expected="the number of iterations to train for",
                got="none",
                hint="add max_iter: 10000",
            )
        logger.info("Solving %s", self.net.plan.graph.name)
        logger.info("Learning Rate Policy: %s", settings.lr_policy)
        logger.info("Random seed: %d", self.seed)
        for line in (*idle_settings(self.source, settings), *self.rule.remarks()):
            logger.warning("%s", line)
        self.reach(Point.SOLVE)
        self.step(settings.max_iter - self.iter)
        if settings.snapshot_after_train and (
            not settings.snapshot or self.iter % settings.snapshot
        ):
            self.snapshot()
        if self.stopped:
            logger.info("Optimization stopped early.")
        else:
            self.reach(Point.REACHED)
            self._stopped = ""  # by the last test: nothing was left to stop
            logger.info("Optimization Done.")
        self.reach(Point.END)

    def step(self, iterations: int) -> None:
        """Run some iterations; a stop ends them early, and `stopped` says why."""
        end = self.iter + iterations
        self._stopped = ""
        self.reach(Point.STEP)
        while self.iter < end and not self.stopped:
            self.reach(Point.BEFORE)
            if not self.stopped:
                self._iteration()

    def _iteration(self) -> None:
        self.reach(Point.ITERATION)
        self.net.clear_param_diffs()
        self.passes()
        # As a snapshot holds it, so that a resumed run sees the same numbers.
        self._losses.append(float(np.float32(self.loss)))
        self._watch_the_plateau()
        self.reach(Point.GRADIENTS)
        self.apply_update()
        self.iter += 1
        self.reach(Point.ITERATED)
        self.reach(Point.AFTER)

    def _watch_the_plateau(self) -> None:
        step = self.plateau.current_step
        self.plateau = self.plateau.after(self.settings, self.iter, self.smoothed_loss)
        if self.plateau.current_step > step:
            logger.info("Plateau Status: Iteration %d, step = %d", self.iter, step + 1)

    def forward(self) -> None:
        """Run a forward pass of the training net, on its next data."""
        self.reach(Point.FORWARD)
        self.net.progress = min(self.iter / max(self.settings.max_iter, 1), 1.0)
        self.net.forward()

    def apply_update(self) -> None:
        """Update the params from their accumulated gradients.

        At the rate of the current iteration.
        """
        self.reach(Point.UPDATE)
        updated = self.net.plan.updated
        if not updated:
            self.rule.apply(self._rates(), self.net.params, self.net.param_diffs)
        else:
            for i, values in enumerate(self.net.params):
                if i not in updated:
                    self.rule.apply_to(i, self._rates(), values, None)
        self.reach(Point.UPDATED)

    def adapt(self, change: Callable[[Graph], Graph]) -> None:
        """Train another version of the net from here on: the same params, of which others learn."""
        self.net.adapt(change)
        self.rule.params = self.net.plan.graph.params

    def _updates(self) -> Updates:
        """Say whether gradients can be used as they come.

        Unless something needs those of all params at once, or any once the iteration is over.
        """
        s = self.settings
        together = s.clip_gradients >= 0 or s.clip_weights >= 0 or s.lr_policy == "plateau"
        if together or s.iter_size > 1 or s.snapshot_diff or s.debug_info:
            return Updates.NONE
        whole = s.larc or s.local_lr_auto or s.max_norm or s.gradient_noise
        return Updates.WHOLE if whole else Updates.PIECES

    def _update_param(self, index: int, start: int, gradient: Array) -> None:
        """Take a gradient, or a piece of one, in the middle of the backward pass."""
        values = self.net.params[index].reshape(-1)[start : start + gradient.size]
        self.rule.apply_to(index, self._rates(), values, gradient, start)

    def _rates(self) -> policy.Rates:
        return policy.rates_at(self.settings, self.iter, self.plateau)

    def _noise(self, index: int, iteration: int) -> np.random.Generator:
        """Return the random numbers for the gradient noise of a param in an iteration."""
        graph = self.net.plan.graph
        param = graph.params[index]
        name = f"{graph.nodes[param.owner].name}/gradient_noise/{param.index}"
        return generator(self.seed, name, iteration)

    def passes(self) -> None:
        """Run the forward and backward passes of one iteration."""
        total = 0.0
        for done in range(1, self.settings.iter_size + 1):
            self.forward()
            total += self.net.loss()
            self.loss = total / done
            self.reach(Point.LOSS)
            self.net.backward()
            self.reach(Point.PASSED)

    # -- snapshots ---------------------------------------------------------------------------------

    def snapshot(self) -> tuple[Path, Path]:
        """Write weights and solver state, each atomically; return both paths."""
        self.last_snapshot = snapshot.save(self)
        self.snapshot_asked = False
        self.reach(Point.SNAPSHOT)
        return self.last_snapshot

    def reseed(self, seed: int) -> None:
        """Take over the seed of a snapshot: data and layers go on with its random numbers."""
        self.seed = seed
        for net in (self.net, *self.test_nets):
            net.seed = seed
            for feed in net.feeds.values():
                feed.close()
            net.feeds = dict(open_feeds(net.plan.graph, seed))

    def restore(self, path: str | Path) -> None:
        """Continue from a solver state: params, history, iter, data positions, random state."""
        snapshot.restore(self, Path(path))


def batch_size(net: Executor) -> int:
    """Return the number of items in one forward pass.

    The first axis of the first blob from outside.
    """
    graph = net.plan.graph
    for node in graph.nodes:
        if not node.bottoms and node.tops:
            shape = graph.blobs[node.tops[0]].shape
            return shape[0] if shape else 1
    return 0
