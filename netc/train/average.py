"""A running average of the params, with which nets are tested and saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from netc.graph.types import Graph
from netc.runtime import Executor
from netc.train.extension import Extension, Point
from netc.train.log import logger
from netc.train.pieces import Blob, in_pieces, spare
from netc.weights.types import FloatArray

if TYPE_CHECKING:
    from netc.train.solver import Solver


class Average(Extension):
    """The exponential moving average of the params that `ema_decay` asks for.

    a = w after the first update, then a = d a + (1 - d) w after each: Polyak and Juditsky, SIAM
    Journal on Control and Optimization 1992, with the weights of Tarvainen and Valpola, NIPS 2017.
    Frozen params and statistics are not averaged but taken as they are. The test nets run with the
    average, and weights files of snapshots hold it; their solver states hold the params themselves.
    """

    def __init__(self) -> None:
        #: They lie as the params do; none before the first update.
        self._averages: list[Blob] = []

    def attach(self, solver: Solver) -> None:
        """Add the calls."""

        def averages(solver: Solver) -> bool:
            return bool(solver.settings.ema_decay)

        solver.on(Point.UPDATED, self._advance, averages)

    @contextmanager
    def in_place(self, params: Sequence[Blob]) -> Iterator[None]:
        """Have the params hold the average for a while, where there is one."""
        self._swap(params)
        try:
            yield
        finally:
            self._swap(params)

    def saved(self, net: Executor) -> Iterator[tuple[str, FloatArray]]:
        """Yield the params, in C order and by name, where the weights file holds their average."""
        if self._averages:
            for index, name in enumerate(_names(net.plan.graph)):
                yield name, np.array(net.param_array(index))

    def restore_params(self, solver: Solver, kept: Mapping[str, FloatArray]) -> None:
        """Take what a weights file held for the average, and the params from its solver state."""
        net = solver.net
        names = _names(net.plan.graph)
        if not kept.keys() >= set(names):
            return
        if solver.settings.ema_decay:
            self._averages = [param.copy() for param in net.params]
        else:
            logger.warning("this solver has no ema_decay: the average in the snapshot ends here")
        for index, name in enumerate(names):
            net.set_param(index, kept[name])

    def _advance(self, solver: Solver) -> None:
        params = solver.net.params
        if not self._averages:
            self._averages = [param.copy() for param in params]
            return
        share = np.float32(1 - solver.settings.ema_decay)

        def approach(average: Blob, value: Blob) -> None:
            step = spare(value)
            np.subtract(value, average, out=step)
            step *= share
            average += step

        for param, average, value in zip(solver.rule.params, self._averages, params, strict=True):
            if param.lr_mult:
                in_pieces([average, value], approach)
            else:
                average[...] = value

    def _swap(self, params: Sequence[Blob]) -> None:
        for average, value in zip(self._averages, params, strict=False):
            in_pieces([average, value], _exchange)


def _exchange(a: Blob, b: Blob) -> None:
    held = spare(a)
    held[...] = a
    a[...] = b
    b[...] = held


def _names(graph: Graph) -> list[str]:
    """Return the names of the params in a solver state that has their average beside it."""
    return [
        f"trained:{graph.nodes[param.owner].name}/{index}"
        for index, param in enumerate(graph.params)
    ]
