"""The solver loop: feed, run the plan, update; test, display and snapshot each on its own trigger.

Matches Caffe's `Solver::Step` and `Solver::Solve`, with the log in its wording.
"""

from __future__ import annotations

import enum
import math
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from netc.assemble import assembled, open_feeds
from netc.backends.base import Backend
from netc.errors import NetcError, fail
from netc.layers.types import Array
from netc.runtime import Executor
from netc.schema import Source, netc_pb2
from netc.train import policy, snapshot
from netc.train.log import logger
from netc.train.nets import solver_nets
from netc.train.scoring import Output, Scores, average_outputs, outputs_of, weighted
from netc.train.settings import SolverSettings, read_settings
from netc.train.update import RULES, UpdateRule


class Action(enum.Enum):
    """What somebody outside the loop (a signal, a callback) asks for between two iterations."""

    NONE = "none"
    SNAPSHOT = "snapshot"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Progress:
    """What an observer is told after each iteration.

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

    `action` is asked between iterations; `observers` are called after each;
    `before_forward(solver)` runs before every forward pass of the training net, for those who set
    its inputs themselves. `keep` as for `plan`. `level` and `stages` are merged into the training
    state, as Caffe's command line does. The seed is `random_seed`, or chosen and logged. `make` is
    asked for the executors, with the arguments of `netc.assemble.assembled`.
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
        self.action = action
        self.observers: list[Callable[[Progress], None]] = []
        self.before_forward: list[Callable[[Solver], None]] = []
        self.before_iteration: list[Callable[[Solver], None]] = []
        self.after_gradients: list[Callable[[Solver], None]] = []
        self.iter = 0
        self.stopped_early = False
        self.last_snapshot: tuple[Path, Path] | None = None
        self.scores: list[Scores] = []
        seed = self.settings.random_seed
        self.seed = seed if seed >= 0 else secrets.randbits(31)
        train, *tests = solver_nets(source, level, stages)
        #: The training net's layers as the text has them, for snapshots.
        self.messages = tuple(filter(train.state.includes, train.source.message.layer))
        self.net: Executor = make(
            train.source,
            train.state,
            backend,
            train=True,
            keep=keep,
            updates=self._updates_one_by_one(),
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
        )
        self._losses: deque[float] = deque(maxlen=self.settings.average_loss)
        self._last_display = (0, time.monotonic())

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
        return policy.learning_rate(self.settings, self.iter)

    @property
    def snapshot_prefix(self) -> str:
        """Where snapshots go: the setting, or the solver's file name.

        A directory gets the solver's name in it.
        """
        name = Path(self.source.file).with_suffix("")
        prefix = self.settings.snapshot_prefix or str(name)
        return str(Path(prefix) / name.name) if Path(prefix).is_dir() else prefix

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
        if settings.snapshot or settings.snapshot_after_train:
            snapshot.check_writable(self.snapshot_prefix)
        self.step(settings.max_iter - self.iter)
        if settings.snapshot_after_train and (
            not settings.snapshot or self.iter % settings.snapshot
        ):
            self.snapshot()
        if self.stopped_early:
            logger.info("Optimization stopped early.")
            return
        if settings.display and self.iter % settings.display == 0:
            self._before_forward()
            self.net.forward()
            self._losses.append(self.net.loss())
            logger.info("Iteration %d, loss = %g", self.iter, self.smoothed_loss)
        if settings.test_interval and self.iter % settings.test_interval == 0:
            self.test_all()
        logger.info("Optimization Done.")

    def step(self, iterations: int) -> None:
        """Run some iterations; a requested stop ends them early and sets `stopped_early`."""
        stop = self.iter + iterations
        self.stopped_early = False
        self._last_display = (self.iter, time.monotonic())
        while self.iter < stop:
            if self._tests_now():
                self.test_all()
            for call in self.before_iteration:
                call(self)
            self.net.clear_param_diffs()
            loss = self._passes()
            self._losses.append(loss)
            self._display()
            for call in self.after_gradients:
                call(self)
            rate = self.rate
            self.apply_update()
            self.iter += 1
            self._tell(loss, rate)
            action = self.action()
            if action is Action.SNAPSHOT or (
                self.settings.snapshot and self.iter % self.settings.snapshot == 0
            ):
                self.snapshot()
            if action is Action.STOP:
                self.stopped_early = True
                return

    def apply_update(self) -> None:
        """Update the params from their accumulated gradients.

        At the rate of the current iteration.
        """
        if self._displays_now():
            logger.info("Iteration %d, lr = %g", self.iter, self.rate)
        updated = self.net.plan.param_diff
        if not updated:
            self.rule.apply(self.iter, self.net.params, self.net.param_diffs)
            return
        for i, values in enumerate(self.net.params):
            if i not in updated:
                self.rule.apply_to(i, self.iter, values, None)

    def _updates_one_by_one(self) -> bool:
        """Say whether each param can be updated as soon as its own gradient is there.

        If nothing needs the gradients of two of them at once, or once the iteration is over.
        """
        s = self.settings
        needed = s.iter_size > 1 or s.clip_gradients >= 0 or s.snapshot_diff or s.debug_info
        return not needed

    def _update_param(self, index: int, gradient: Array) -> None:
        """Take the gradient of a param in the middle of the backward pass."""
        self.rule.apply_to(index, self.iter, self.net.params[index], gradient)

    def _passes(self) -> float:
        """Run the forward and backward passes of one iteration; return their mean loss."""
        loss = 0.0
        for _ in range(self.settings.iter_size):
            self._before_forward()
            self.net.forward()
            loss += self.net.loss()
            # Here, as the backward pass may go on to spoil the params.
            if not math.isfinite(loss):
                raise self._diverged()
            self.net.backward()
        return loss / self.settings.iter_size

    def _before_forward(self) -> None:
        for call in self.before_forward:
            call(self)

    def _diverged(self) -> NetcError:
        """Say which layer was the first to produce something that is not a number."""
        found = self.net.first_nonfinite()
        if found is None:
            return fail(
                f"the loss is not finite at iteration {self.iter}",
                got=f"lr {self.rate:g}",
                hint="lower base_lr, or set clip_gradients",
            )
        node, blob = found
        graph = self.net.plan.graph
        broken = [
            f"param {i}"
            for i, use in enumerate(node.params)
            if not np.isfinite(self.backend.to_host(self.net.params[use.param])).all()
        ]
        return fail(
            f"blob '{blob}' holds NaN or Inf at iteration {self.iter}: "
            "this layer is the first to produce it",
            span=node.span,
            layer=node.label,
            expected="finite numbers",
            got=(f"{', '.join(broken)} not finite, " if broken else "finite params, ")
            + f"bottoms {', '.join(graph.blobs[k].name for k in node.bottoms) or 'none'}, "
            f"lr {self.rate:g}",
            hint="lower base_lr, set clip_gradients, or look for bad values in the data"
            if node.bottoms
            else "the data itself is not finite",
        )

    # -- display and test --------------------------------------------------------------------------

    def _displays_now(self) -> bool:
        return bool(self.settings.display) and self.iter % self.settings.display == 0

    def _tests_now(self) -> bool:
        interval = self.settings.test_interval
        return bool(interval and self.iter % interval == 0) and (
            self.iter > 0 or self.settings.test_initialization
        )

    def _display(self) -> None:
        if not self._displays_now():
            return
        since, then = self._last_display
        now = time.monotonic()
        lapse = now - then
        logger.info(
            "Iteration %d (%g iter/s, %gs/%d iters), loss = %g",
            self.iter,
            (self.iter - since) / (lapse or 1),
            lapse,
            self.settings.display,
            self.smoothed_loss,
        )
        self._last_display = (self.iter, now)
        _log_outputs("Train", outputs_of(self.net))

    def test_all(self) -> None:
        """Test every test net; the averaged outputs are logged and kept in `scores`."""
        self.scores = []
        for i in range(len(self.test_nets)):
            if self.action() is Action.STOP:
                self.stopped_early = True
                return
            self.scores.append(self.test(i))

    def test(self, index: int = 0) -> Scores:
        """Run test_iter passes of one test net and return its averaged outputs."""
        logger.info("Iteration %d, Testing net (#%d)", self.iter, index)
        net, passes = self.test_nets[index], self.settings.test_iter[index]
        # Layers that draw random numbers draw the same ones at this iteration, resumed or not.
        net.forward_pass = self.iter * passes
        scores = average_outputs(net, passes)
        if self.settings.test_compute_loss:
            logger.info("Test loss: %g", scores.loss)
        _log_outputs("Test", scores.outputs)
        return Scores(index, scores.outputs, scores.loss)

    def _tell(self, loss: float, rate: float) -> None:
        if not self.observers:
            return
        progress = Progress(
            self.iter,
            self.settings.max_iter,
            loss,
            self.smoothed_loss,
            rate,
            batch_size(self.net) * self.settings.iter_size,
        )
        for observe in self.observers:
            observe(progress)

    # -- snapshots ---------------------------------------------------------------------------------

    def snapshot(self) -> tuple[Path, Path]:
        """Write weights and solver state, each atomically; return both paths."""
        self.last_snapshot = snapshot.save(self)
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


def _log_outputs(which: str, outputs: Sequence[Output]) -> None:
    """Log every value of a net's outputs, numbered through, in Caffe's wording."""
    numbered = ((name, value, weight) for name, values, weight in outputs for value in values)
    for number, (name, value, weight) in enumerate(numbered):
        logger.info(
            "    %s net output #%d: %s = %g%s", which, number, name, value, weighted(weight, value)
        )


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
