"""Guards: what notices that a training goes wrong, and says where."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from netc.errors import NetcError, fail
from netc.graph.types import Graph, Node
from netc.layers.types import Array
from netc.runtime.statistics import Statistics
from netc.train.extension import Extension, Point, every
from netc.train.log import logger

if TYPE_CHECKING:
    from netc.train.solver import Solver

# Of a larger param only so many elements are looked at: enough for a norm to a percent.
_SAMPLE = 1 << 16
# How often in a row a unit must have been 0 for a whole batch to count as dead.
_LOOKS = 3

_due = every(lambda settings: settings.guard_interval)


class FiniteLoss(Extension):
    """Ends a training whose loss is NaN or Inf, at the layer that was the first to make such."""

    def attach(self, solver: Solver) -> None:
        """Add the call: before the backward pass, which may go on to spoil the params."""
        solver.on(Point.LOSS, self._check, lambda solver: solver.settings.guard_loss)

    def _check(self, solver: Solver) -> None:
        if not math.isfinite(solver.loss):
            raise _diverged(solver)


def _diverged(solver: Solver) -> NetcError:
    """Say which layer was the first to produce something that is not a number, and from what."""
    found = solver.net.first_nonfinite()
    if found is None:
        return fail(
            f"the loss is not finite at iteration {solver.iter}",
            got=f"loss {solver.loss:g}, lr {solver.rate:g}",
            hint="lower base_lr, or set clip_gradients",
        )
    graph = solver.net.plan.graph
    got = [f"lr {solver.rate:g}"]
    for key, bottom in zip(found.node.bottoms, found.bottoms, strict=False):
        got.append(f"bottom '{graph.blobs[key].name}': {bottom}")
    for i, use in enumerate(found.node.params):
        values = Statistics.of(solver.backend.to_host(solver.net.param_array(use.param)))
        got.append(f"param {i}{'' if values.finite else ' not finite'}: {values}")
    got.append(f"top '{found.blob}': {found.top}")
    return fail(
        f"blob '{found.blob}' holds NaN or Inf at iteration {solver.iter}: "
        "this layer is the first to produce it",
        span=found.node.span,
        layer=found.node.label,
        expected="finite numbers",
        got="\n".join(got),
        hint="lower base_lr, set clip_gradients, or look for bad values in the data"
        if found.node.bottoms
        else "the data itself is not finite",
    )


class UpdateRatio(Extension):
    """Warns of an update that is large beside the weights that it changes (`update_ratio_limit`).

    Only of weights: params of one axis, such as a bias that starts at 0, may well grow at once.
    """

    def __init__(self) -> None:
        self._before: dict[int, NDArray[np.float32]] = {}

    def attach(self, solver: Solver) -> None:
        """Add the calls: around all updates, those inside the backward pass too."""
        solver.on(
            Point.ITERATION,
            self._copy,
            lambda solver: _due(solver) and solver.settings.update_ratio_limit > 0,
        )
        solver.on(Point.UPDATED, self._compare, lambda solver: bool(self._before))

    def _copy(self, solver: Solver) -> None:
        self._before = {
            i: _sample(solver, i).copy()
            for i, param in enumerate(solver.net.plan.graph.params)
            if param.lr_mult and len(param.shape) > 1
        }

    def _compare(self, solver: Solver) -> None:
        before, self._before = self._before, {}
        limit, graph = solver.settings.update_ratio_limit, solver.net.plan.graph
        for i, old in before.items():
            change = _norm(_sample(solver, i) - old)
            size = _norm(old)
            # Of weights that start at 0 every update is large.
            if size and not change / size <= limit:
                param = graph.params[i]
                _object(
                    solver,
                    graph.nodes[param.owner],
                    f"the update of param {param.index} is {change / size:g} times as large as the "
                    f"param itself at iteration {solver.iter}",
                    f"update_ratio_limit {limit:g}",
                    f"L2 norms of {change:g} and {size:g}, lr {solver.rate:g}",
                    "lower base_lr or the layer's lr_mult, or set clip_gradients",
                )


def _sample(solver: Solver, index: int) -> NDArray[np.float32]:
    flat = solver.net.params[index].reshape(-1)
    found: NDArray[np.float32] = solver.backend.to_host(flat[:: max(1, flat.size // _SAMPLE)])
    return found


def _norm(values: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(values.astype(np.float64)))


class DeadUnits(Extension):
    """Warns of layers in which many units give 0 whatever they see (`dead_unit_limit`).

    A unit is a channel, axis 1 of the top. How long each has been silent is in the snapshot.
    """

    name = "dead_units"

    def __init__(self) -> None:
        self._watched: list[Node] = []
        self._silent: dict[str, NDArray[np.float32]] = {}
        self._told: set[str] = set()

    def attach(self, solver: Solver) -> None:
        """Find the layers and add the call; the net must keep `watched_blobs`."""
        if not solver.settings.dead_unit_limit:
            return
        self._watched = _mortal(solver.net.plan.graph)
        for node in self._watched:
            shape = solver.net.plan.graph.blobs[node.tops[0]].shape
            self._silent[node.name] = np.zeros(shape[1], np.float32)
        solver.on(Point.LOSS, self._look, _due)

    def arrays(self) -> Mapping[str, Array]:
        """Return for how many looks each unit has been silent."""
        return self._silent

    def _look(self, solver: Solver) -> None:
        for node in self._watched:
            values = solver.backend.to_host(solver.net.data(node.tops[0]))
            axes = tuple(axis for axis in range(values.ndim) if axis != 1)
            looks = self._silent[node.name]
            looks[...] = np.where((values == 0).all(axis=axes), looks + 1, 0)
            self._judge(solver, node, int((looks >= _LOOKS).sum()), looks.size)

    def _judge(self, solver: Solver, node: Node, dead: int, units: int) -> None:
        if dead <= solver.settings.dead_unit_limit * units:
            self._told.discard(node.name)
        elif node.name not in self._told:
            self._told.add(node.name)
            _object(
                solver,
                node,
                f"{dead} of {units} units are dead at iteration {solver.iter}",
                f"at most a share of {solver.settings.dead_unit_limit:g} (dead_unit_limit)",
                f"units that were 0 for every item of the last {_LOOKS} batches looked at",
                "lower base_lr, another weight_filler (msra), or a negative_slope",
            )


def watched_blobs(graph: Graph) -> list[str]:
    """Return the keys of the blobs that `dead_unit_limit` has looked at: they must be kept."""
    return [node.tops[0] for node in _mortal(graph)]


def _mortal(graph: Graph) -> list[Node]:
    """Return the layers with units that can die."""
    return [
        node
        for node in graph.nodes
        if node.layer.dead_at_zero() and len(graph.blobs[node.tops[0]].shape) > 1
    ]


def _object(solver: Solver, node: Node, what: str, expected: str, got: str, hint: str) -> None:
    """Warn of what a guard has found, or end the run with it."""
    error = fail(what, span=node.span, layer=node.label, expected=expected, got=got, hint=hint)
    if solver.settings.guard_stops:
        raise error
    logger.warning("%s", error.problems[0].render(source=False))
