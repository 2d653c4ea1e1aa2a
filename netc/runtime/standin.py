"""Made-up content for inputs and for data that is absent: for looking at speed, not at results."""

from __future__ import annotations

import numpy as np

from netc.graph.discrete import discrete_blobs
from netc.graph.types import Graph
from netc.layers.types import Array
from netc.runtime.executor import Executor, generator


class StandIn:
    """A feed of the same values in each pass: normal ones, and 0 where whole numbers are read.

    0 is a label, an index and a flag in any net. What selects items is 1, so that there are some.
    """

    def __init__(self, graph: Graph, node: int, seed: int = 0) -> None:
        self._name = graph.nodes[node].name
        self._shapes = tuple(graph.blobs[key].shape for key in graph.nodes[node].tops)
        whole = discrete_blobs(graph)
        selecting = [graph.nodes[i] for i in graph.data_dependent]
        ones = {key for each in selecting if not each.layer.pads for key in each.bottoms}
        self._whole = [int(key in ones) if key in whole else None for key in graph.nodes[node].tops]
        self._seed = seed
        self._filled: tuple[Array, ...] = ()

    def next_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of the tops, which stay as they are."""
        return self._shapes

    def fill(self, outs: tuple[Array, ...]) -> None:
        """Write the values; arrays that have them already are left as they are."""
        if outs is self._filled:
            return
        for i, (out, whole) in enumerate(zip(outs, self._whole, strict=True)):
            rng = generator(self._seed, self._name, i)
            values = rng.standard_normal(out.shape, dtype=np.float32)
            out[...] = values if whole is None else whole
        self._filled = outs

    def close(self) -> None:
        """Do nothing: no file is open."""


def fill_inputs(net: Executor, seed: int = 0) -> None:
    """Write such values into the inputs that the caller of a net sets."""
    graph = net.plan.graph
    for index, node in enumerate(graph.nodes):
        if node.layer.fed:
            StandIn(graph, index, seed).fill(tuple(net.data(key) for key in node.tops))
