"""The lines of `debug_info`: the mean absolute value of every blob and param, as Caffe logs them.

Caffe inserts Split layers where several layers read a blob, and logs the diff that each of them
gives; here the blob has one diff, their sum.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from netc.graph.types import Node
from netc.layers.types import Array
from netc.train.extension import Extension, Point
from netc.train.log import logger

if TYPE_CHECKING:
    from netc.train.solver import Solver


class DebugInfo(Extension):
    """Logs after every pass what went through it, and after every update what it did.

    The net must keep all blobs, and the gradients of all params.
    """

    def __init__(self) -> None:
        self._before: list[Array] = []

    def attach(self, solver: Solver) -> None:
        """Add the calls."""
        solver.on(Point.LOSS, _log_forward, _is_wanted)
        solver.on(Point.PASSED, _log_backward, _is_wanted)
        solver.on(Point.UPDATE, self._copy, _is_wanted)
        solver.on(Point.UPDATED, self._log_update, _is_wanted)

    def _copy(self, solver: Solver) -> None:
        self._before = [np.array(solver.backend.to_host(values)) for values in solver.net.params]

    def _log_update(self, solver: Solver) -> None:
        """Log the params before the update, and as diff what was subtracted from them."""
        graph = solver.net.plan.graph
        for i, (before, param) in enumerate(zip(self._before, graph.params, strict=True)):
            after = solver.backend.to_host(solver.net.params[i])
            logger.info(
                "    [Update] Layer %s, param %s data: %g; diff: %g",
                graph.nodes[param.owner].name,
                param.name or param.index,
                _mean_abs(solver, before),
                _mean_abs(solver, before - after),
            )


def _is_wanted(solver: Solver) -> bool:
    # Switched on later, by a pycaffe script, the net may lack what it takes.
    return solver.settings.debug_info and solver.net.plan.keep_all


def _log_forward(solver: Solver) -> None:
    net, graph = solver.net, solver.net.plan.graph
    for node in graph.nodes:
        for key in node.tops:
            logger.info(
                "    [Forward] Layer %s, top blob %s data: %g",
                node.name,
                graph.blobs[key].name,
                _mean_abs(solver, net.data(key)),
            )
        for i, use in enumerate(node.params):
            logger.info(
                "    [Forward] Layer %s, param blob %s data: %g",
                node.name,
                _display_name(solver, node, i),
                _mean_abs(solver, net.params[use.param]),
            )


def _log_backward(solver: Solver) -> None:
    net, plan = solver.net, solver.net.plan
    diffs = net.param_diffs
    for index in reversed(range(len(plan.graph.nodes))):
        node = plan.graph.nodes[index]
        if not plan.need.runs[index]:
            continue
        for key, wanted in zip(node.bottoms, plan.need.bottoms[index], strict=True):
            if wanted:
                logger.info(
                    "    [Backward] Layer %s, bottom blob %s diff: %g",
                    node.name,
                    plan.graph.blobs[key].name,
                    _mean_abs(solver, net.diff(key)),
                )
        for i, (use, wanted) in enumerate(zip(node.params, plan.need.params[index], strict=True)):
            diff = diffs[use.param]
            if wanted and diff is not None:
                logger.info(
                    "    [Backward] Layer %s, param blob %d diff: %g",
                    node.name,
                    i,
                    _mean_abs(solver, diff),
                )
    sums = [_sums(solver, net.params), _sums(solver, [d for d in diffs if d is not None])]
    # With the severity that it has in Caffe, too.
    logger.error(
        "    [Backward] All net params (data, diff): L1 norm = (%g, %g); L2 norm = (%g, %g)",
        *(l1 for l1, _ in sums),
        *(math.sqrt(squares) for _, squares in sums),
    )


def _display_name(solver: Solver, node: Node, index: int) -> str:
    """Return the name that the text gives a param, or its number."""
    return solver.net.plan.graph.params[node.params[index].param].name or str(index)


def _mean_abs(solver: Solver, values: Array) -> float:
    return float(np.abs(solver.backend.to_host(values)).mean(dtype=np.float64))


def _sums(solver: Solver, arrays: list[Array]) -> tuple[float, float]:
    """Return the sums of absolute values and of squares over all arrays."""
    hosts = [solver.backend.to_host(array).astype(np.float64) for array in arrays]
    return sum(float(np.abs(a).sum()) for a in hosts), sum(float((a * a).sum()) for a in hosts)
