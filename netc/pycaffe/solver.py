"""The solvers, as pycaffe's users know them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any, ClassVar

from netc.backends import find_backend
from netc.backends.base import Backend, Precision
from netc.errors import fail
from netc.graph.build import NetState
from netc.pycaffe.errors import RuntimeMistake, told_as
from netc.pycaffe.net import Net
from netc.pycaffe.runner import Runner
from netc.pycaffe.settings import logger, seeds
from netc.runtime import Executor
from netc.schema import Source, netc_pb2, read_solver
from netc.train import solver as training
from netc.train import tuning
from netc.train.extension import Point
from netc.train.finetuning import Asked
from netc.train.settings import read_settings


class Solver:
    """A training net, its test nets, and the rule that the params are updated by.

    `SGDSolver(file)` and its like are of that rule, whatever `type` the file says; `get_solver`
    follows the file. `net` and `test_nets` are nets like others: what is written into
    `solver.net.blobs["data"].data` is what the next `step` sees, if no data layer fills it. Raises
    NetcError for files that are missing or wrong.
    """

    type: ClassVar[str] = ""

    @told_as(RuntimeMistake)
    def __init__(self, solver_file: str | os.PathLike[str]) -> None:
        if not self.type:
            raise TypeError("use get_solver(file), or a solver of a certain type: SGDSolver(file)")
        source = self._typed(read_solver(os.fspath(solver_file)))
        backend = find_backend(precision=Precision(read_settings(source).precision))
        self._solver = training.Solver(source, backend, make=_runner)
        self._net = _net(self._solver.net)
        self._test_nets = [_net(net) for net in self._solver.test_nets]
        self._param_read = source.message.SerializeToString()
        tuning.start(self._solver, Asked())

    def _typed(self, source: Source[netc_pb2.SolverParameter]) -> Source[netc_pb2.SolverParameter]:
        """Return the solver file's message with this solver's type, and a seed if one was set."""
        message = netc_pb2.SolverParameter()
        message.CopyFrom(source.message)
        if message.HasField("type") and message.type != self.type:
            logger.warning(
                "%s: the file says type %s, the script says %sSolver, which counts",
                source.file,
                message.type,
                self.type,
            )
        message.type = self.type
        if message.random_seed < 0 and seeds.first is not None:
            message.random_seed = seeds.next()
        return dataclasses.replace(source, message=message)

    # -- state -------------------------------------------------------------------------------------

    @property
    def net(self) -> Net:
        """The training net."""
        return self._net

    @property
    def test_nets(self) -> list[Net]:
        """The test nets; their params are those of the training net."""
        return list(self._test_nets)

    @property
    def iter(self) -> int:
        """The number of updates that `step` and `solve` have made."""
        return self._solver.iter

    @property
    def max_iter(self) -> int:
        """Where `solve` stops."""
        return self._followed().settings.max_iter

    @property
    def lr(self) -> float:
        """The learning rate of the coming iteration."""
        return self._followed().rate

    @property
    def param(self) -> netc_pb2.SolverParameter:
        """The solver's settings. Changes (`solver.param.base_lr = 1e-3`) count from here on."""
        return self._solver.source.message

    def _followed(self) -> training.Solver:
        """Return the solver after it has followed changes of `param`."""
        solver, message = self._solver, self._solver.source.message
        now = message.SerializeToString()
        if now != self._param_read:
            settings = read_settings(solver.source)
            if settings.type != self.type:
                raise fail(
                    "a solver cannot change its type",
                    expected=self.type,
                    got=settings.type,
                    hint=f"make another solver: {settings.type}Solver(file)",
                )
            solver.settings = solver.rule.settings = settings
            self._param_read = now
        return solver

    # -- training ----------------------------------------------------------------------------------

    @told_as(RuntimeMistake)
    def solve(self, resume_file: str | os.PathLike[str] | None = None) -> None:
        """Train to max_iter, from a solver state if one is given."""
        if resume_file is not None:
            self.restore(resume_file)
        self._followed().solve()

    @told_as(RuntimeMistake)
    def step(self, n: int) -> None:
        """Run n iterations: forward, backward, update, with tests and snapshots as the file says.

        Raises NetcError, naming the layer, when the loss is not finite any more.
        """
        self._followed().step(n)

    @told_as(RuntimeMistake)
    def apply_update(self) -> None:
        """Update the params from their gradients, at the rate of the coming iteration.

        For loops that run forward and backward themselves: it neither clears the gradients, nor
        counts as an iteration.
        """
        self._followed().apply_update()

    @told_as(RuntimeMistake)
    def snapshot(self) -> None:
        """Write weights and solver state under the snapshot prefix, each atomically."""
        self._followed().snapshot()

    @told_as(RuntimeMistake)
    def restore(self, path: str | os.PathLike[str]) -> None:
        """Go on from a solver state, bit for bit where netc wrote it.

        Raises NetcError for the state of another net or another type of solver.
        """
        self._solver.restore(os.fspath(path))

    @told_as(RuntimeMistake)
    def share_weights(self, net: Net) -> None:
        """Let the params of a net be those of this solver's training net."""
        net.share_with(self._net)

    def add_callback(
        self, on_start: Callable[[], None], on_gradients_ready: Callable[[], None] | None = None
    ) -> None:
        """Have functions called in each iteration: before its first pass, and before its update."""
        self._solver.on(Point.ITERATION, lambda _: on_start())
        if on_gradients_ready is not None:
            self._solver.on(Point.GRADIENTS, lambda _: on_gradients_ready())


class SGDSolver(Solver):
    """Stochastic gradient descent with momentum."""

    type = "SGD"


class NesterovSolver(SGDSolver):
    """Nesterov's accelerated gradient."""

    type = "Nesterov"


class AdaGradSolver(SGDSolver):
    """AdaGrad: rates divided by the root of the summed squared gradients."""

    type = "AdaGrad"


class RMSPropSolver(SGDSolver):
    """RMSProp: rates divided by a running root mean square of the gradients."""

    type = "RMSProp"


class AdaDeltaSolver(SGDSolver):
    """AdaDelta: steps scaled by running means of squared steps and gradients."""

    type = "AdaDelta"


class AdamSolver(SGDSolver):
    """Adam: running means of the gradients and of their squares."""

    type = "Adam"


class AdamWSolver(SGDSolver):
    """Adam with a weight decay beside its step."""

    type = "AdamW"


_SOLVERS: dict[str, type[Solver]] = {
    solver.type: solver
    for solver in (
        SGDSolver,
        NesterovSolver,
        AdaGradSolver,
        RMSPropSolver,
        AdaDeltaSolver,
        AdamSolver,
        AdamWSolver,
    )
}


@told_as(RuntimeMistake)
def get_solver(solver_file: str | os.PathLike[str]) -> Solver:
    """Return the solver of the type that a solver file says."""
    settings = read_settings(read_solver(os.fspath(solver_file)))
    return _SOLVERS[settings.type](solver_file)


def _runner(
    source: Source[netc_pb2.NetParameter],
    state: NetState,
    backend: Backend,
    *,
    train: bool,
    seed: int,
    sharing: Executor | None = None,
    **_: Any,
) -> Runner:
    return Runner(source, state, backend, seed=seed, must_train=train, sharing=sharing)


def _net(executor: Executor) -> Net:
    assert isinstance(executor, Runner)
    return Net._of(executor)
