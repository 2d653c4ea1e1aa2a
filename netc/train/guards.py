"""Guards: what ends a training that has gone wrong, and says where."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from netc.errors import NetcError, fail
from netc.train.extension import Extension, Point

if TYPE_CHECKING:
    from netc.train.solver import Solver


class FiniteLoss(Extension):
    """Ends a training whose loss is NaN or Inf, at the layer that was the first to make such."""

    def attach(self, solver: Solver) -> None:
        """Add the call: before the backward pass, which may go on to spoil the params."""
        solver.on(Point.LOSS, self._check)

    def _check(self, solver: Solver) -> None:
        if not math.isfinite(solver.loss):
            raise _diverged(solver)


def _diverged(solver: Solver) -> NetcError:
    """Say which layer was the first to produce something that is not a number."""
    found = solver.net.first_nonfinite()
    if found is None:
        return fail(
            f"the loss is not finite at iteration {solver.iter}",
            got=f"lr {solver.rate:g}",
            hint="lower base_lr, or set clip_gradients",
        )
    node, blob = found
    graph = solver.net.plan.graph
    broken = [
        f"param {i}"
        for i, use in enumerate(node.params)
        if not np.isfinite(solver.backend.to_host(solver.net.params[use.param])).all()
    ]
    return fail(
        f"blob '{blob}' holds NaN or Inf at iteration {solver.iter}: "
        "this layer is the first to produce it",
        span=node.span,
        layer=node.label,
        expected="finite numbers",
        got=(f"{', '.join(broken)} not finite, " if broken else "finite params, ")
        + f"bottoms {', '.join(graph.blobs[k].name for k in node.bottoms) or 'none'}, "
        f"lr {solver.rate:g}",
        hint="lower base_lr, set clip_gradients, or look for bad values in the data"
        if node.bottoms
        else "the data itself is not finite",
    )
