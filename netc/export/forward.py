"""netc's own forward pass, with the names of the exported model: what the proof compares with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from netc.assemble import GraphAlone, Plans
from netc.backends.base import Backend
from netc.errors import fail
from netc.export.batch import with_batch
from netc.export.names import Interface
from netc.graph.types import Graph
from netc.runtime import Executor

Array = np.ndarray[Any, np.dtype[Any]]


class Forward:
    """A deployed net as a function: arrays by input name -> arrays by output name.

    `params` are as for `export`. The inputs may have another batch size than the text; each size is
    planned once.
    """

    def __init__(self, graph: Graph, params: Sequence[Array], backend: Backend) -> None:
        self._graph = graph
        self._params = dict(enumerate(params))
        self._backend = backend
        self._ends = Interface.of(graph)
        self._executors: dict[tuple[tuple[int, ...], ...], Executor] = {}

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return fresh arrays. Raises NetcError where the net cannot take these shapes."""
        executor = self._executor(tuple(inputs[name].shape for name in self._ends.inputs.values()))
        for key, name in self._ends.inputs.items():
            executor.data(key)[...] = self._backend.xp.asarray(inputs[name])
        executor.forward()
        return {
            name: np.array(self._backend.to_host(executor.data(key)))
            for key, name in self._ends.outputs.items()
        }

    def _executor(self, shapes: tuple[tuple[int, ...], ...]) -> Executor:
        if shapes not in self._executors:
            graph = self._graph
            if self._shapes(graph) != shapes:
                graph = with_batch(graph, next((shape[0] for shape in shapes if shape), 1))
            if self._shapes(graph) != shapes:
                raise fail(
                    "the inputs differ from the net's in more than the batch size",
                    expected=", ".join(map(str, self._shapes(graph))),
                    got=", ".join(map(str, shapes)),
                )
            self._executors[shapes] = self._made(graph)
        return self._executors[shapes]

    def _made(self, graph: Graph) -> Executor:
        # Types that can fill their tops do so, as in the exported net.
        plans = Plans(GraphAlone(graph), self._backend, train=False, fill=True)
        return Executor(plans.first, self._backend, params=self._params, replan=plans)

    def _shapes(self, graph: Graph) -> tuple[tuple[int, ...], ...]:
        return tuple(graph.blobs[key].shape for key in self._ends.inputs)
