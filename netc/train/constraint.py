"""Bounds that the weights are brought back to after each update."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from netc.graph.types import Param
from netc.layers.types import Neurons
from netc.train.pieces import PIECE, Blob, in_pieces
from netc.train.settings import SolverSettings


class Layouts(Protocol):
    """How params lie in memory: an executor says."""

    def to_plain(self, index: int, raw: Blob) -> Blob:
        """Return what lies like a param in C order: itself if it does, else a copy."""
        ...

    def from_plain(self, index: int, values: Blob, raw: Blob) -> None:
        """Write values in C order into an array that lies like a param."""
        ...


def constrain(
    settings: SolverSettings, param: Param, index: int, layouts: Layouts, data: Blob
) -> None:
    """Bring a param back within the bounds of the settings, in place.

    First `max_norm` for each neuron, then `clamp_weights_lower` and `clamp_weights_upper` for each
    value, as in CaffeWindows.
    """
    if settings.max_norm and param.neurons:
        plain = layouts.to_plain(index, data)
        if shorten(plain.reshape(param.neurons.view), param.neurons, settings.max_norm):
            layouts.from_plain(index, plain, data)
    lower, upper = settings.clamp_weights_lower, settings.clamp_weights_upper
    if lower is not None or upper is not None:
        in_pieces([data], lambda piece: np.clip(piece, lower, upper, out=piece))


def shorten(weights: Blob, neurons: Neurons, limit: float) -> bool:
    """Scale each neuron's incoming weights that are longer than `limit` down to it, in place.

    `weights` has the shape `neurons.view`. Return whether any was. The max-norm constraint of
    Srebro and Shraibman, COLT 2005, as used beside dropout by Srivastava et al., JMLR 2014.
    """
    # Along the first axis the neurons can be taken some at a time, if it counts neurons at all.
    all_at_once = 0 in neurons.axes or not weights.size
    some = len(weights) if all_at_once else max(PIECE * len(weights) // weights.size, 1)
    changed = False
    for start in range(0, len(weights), max(some, 1)):
        piece = weights[start : start + some]
        norms = np.sqrt(np.square(piece).sum(axis=neurons.axes, keepdims=True))
        if (norms > limit).any():
            piece *= limit / np.maximum(norms, limit)
            changed = True
    return changed
