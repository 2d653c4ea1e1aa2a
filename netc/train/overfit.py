"""`-overfit_batch`: a net that cannot learn one batch by heart will learn nothing else either."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from netc.errors import fail
from netc.graph.types import Node
from netc.layers.types import Array
from netc.runtime.executor import Feed
from netc.train.extension import Point
from netc.train.log import logger
from netc.train.solver import Action, Solver

# Of the loss at the start: what counts as learnt.
_NEAR_ZERO = 0.01


def overfit(solver: Solver) -> list[str]:
    """Train on the first batch alone, up to max_iter, until the loss is near zero; say how it went.

    A stop that is asked for ends it early; snapshots are not made. Raises NetcError where it does
    not come near zero, with the layers that did not learn.
    """
    net = solver.net
    net.feeds = {index: _Repeat(feed) for index, feed in net.feeds.items()}
    before = [np.array(solver.backend.to_host(values)) for values in net.params]
    losses: list[float] = []

    def look(solver: Solver) -> None:
        losses.append(solver.loss)
        if _is_near_zero(losses):
            solver.stop("the loss is near zero")

    asked = solver.action
    # A snapshot of such a training is nothing to keep.
    solver.action = lambda: action if (action := asked()) is Action.STOP else Action.NONE
    solver.on(Point.ITERATED, look)
    solver.step(solver.settings.max_iter)
    logger.info("Iteration %d, loss = %g (at first %g)", solver.iter, losses[-1], losses[0])
    if _is_near_zero(losses):
        return [
            f"learnt one batch by heart: loss {losses[0]:g} -> {losses[-1]:g} "
            f"in {solver.iter} iterations; nothing was written"
        ]
    if solver.stopped:
        return [
            f"{solver.stopped}: loss {losses[0]:g} -> {losses[-1]:g} in {solver.iter} iterations"
        ]
    found = list(_idle(solver, before))
    raise fail(
        f"the net did not learn one batch by heart in {solver.iter} iterations",
        span=solver.source.span(),
        expected=f"a loss of at most {_NEAR_ZERO:g} times the first one, {losses[0]:g}",
        got="\n".join([f"loss {losses[-1]:g}", *found]),
        hint="let the layers learn that do not, or raise base_lr"
        if found
        else "all layers learn: try a higher base_lr, more iterations, a net without dropout, "
        "and look at the labels",
    )


class _Repeat:
    """Gives the first batch of a data layer again and again."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._batch: list[Array] = []

    def next_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of the batch."""
        return tuple(out.shape for out in self._batch) or self._feed.next_shapes()

    def fill(self, outs: tuple[Array, ...]) -> None:
        """Write the batch."""
        if not self._batch:
            self._feed.fill(outs)
            self._batch = [np.array(out) for out in outs]
            return
        for out, values in zip(outs, self._batch, strict=True):
            out[...] = values

    def close(self) -> None:
        """Close the files."""
        self._feed.close()


def _is_near_zero(losses: Sequence[float]) -> bool:
    return abs(losses[-1]) <= _NEAR_ZERO * abs(losses[0])


def _idle(solver: Solver, before: Sequence[Any]) -> Any:
    """Yield a line for each layer with params that did not change, and why."""
    plan = solver.net.plan
    for index, node in enumerate(plan.graph.nodes):
        uses = [
            (use.param, want)
            for use, want in zip(node.params, plan.need.params[index], strict=True)
            if not node.signature.params[0].frozen  # statistics are no solver's business
        ]
        still = [
            (param, want)
            for param, want in uses
            if np.array_equal(before[param], solver.backend.to_host(solver.net.params[param]))
        ]
        if still and len(still) == len(uses):
            yield f"layer {node.label} did not change: {_reason(solver, node, index, still)}"


def _reason(solver: Solver, node: Node, index: int, still: Sequence[tuple[int, bool]]) -> str:
    plan = solver.net.plan
    if all(plan.graph.params[param].lr_mult == 0 for param, _ in still):
        return "it is frozen (lr_mult 0)"
    if not plan.need.runs[index] or not any(want for _, want in still):
        return "it is disconnected, no gradient of the loss reaches it"
    if solver.settings.base_lr == 0:
        return "base_lr is 0"
    return "its gradient is 0 (dead units behind it, or a bottom that is 0)"
