"""Between a net that runs and its weights files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from netc.graph.types import Graph
from netc.runtime import Executor, fill_param
from netc.schema import netc_pb2
from netc.weights import (
    LayerParams,
    Match,
    SavedBlob,
    SavedLayer,
    Weights,
    preview,
    read_weights,
)
from netc.weights.types import FloatArray


def weights_of(
    net: Executor, messages: Iterable[netc_pb2.LayerParameter], *, diffs: bool = False
) -> Weights:
    """Return copies of a net's params, as a caffemodel holds them.

    `messages` are the net's layers as the text has them, so that the file tells what they are.
    """
    graph = net.plan.graph
    by_name = {message.name: message for message in messages}
    layers = []
    for index, node in enumerate(graph.nodes):
        blobs = [
            SavedBlob(
                _host(net, net.param_array(use.param)).reshape(use.shape),
                diff=_diff(net, use.param, use.shape) if diffs else None,
                shared=graph.params[use.param].owner != index,
            )
            for use in node.params
        ]
        if node.name in by_name:
            layers.append(SavedLayer.of(by_name[node.name], blobs))
        elif blobs:
            layers.append(SavedLayer(node.name, tuple(blobs), node.type))
    return Weights(tuple(layers), graph.name)


def load_weights(
    net: Executor,
    files: Sequence[str],
    *,
    exact: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> None:
    """Copy weights into a net by layer name, the last file winning.

    `tell` gets the lines of the preview: what is copied, freshly filled, clashing, unused. Raises
    NetcError for files that cannot be read and for shapes that clash, before anything is copied.
    With `exact` every layer must be in the files (a snapshot's).
    """
    found = _match(net.plan.graph, files)
    for line in found.preview_lines():
        tell(line)
    found.check(complete=exact)
    for param, values in _values(net.plan.graph, found):
        net.set_param(param, net.backend.xp.asarray(values))


def read_params(
    graph: Graph, files: Sequence[str], *, fill: bool = False, seed: int = 0
) -> tuple[list[FloatArray], Match]:
    """Return the params of a net that need not run, from weights files by layer name.

    And what came from where. With `fill` the layers that no file has are filled by their fillers;
    without it they are an error, as clashes always are.
    """
    found = _match(graph, files)
    found.check(complete=not fill)
    params = [np.zeros(param.shape, np.float32) for param in graph.params]
    if fill:
        for index in range(len(params)):
            fill_param(graph, index, params[index], np, seed)
    for param, values in _values(graph, found):
        params[param].reshape(values.shape)[...] = values
    return params, found


def _match(graph: Graph, files: Sequence[str]) -> Match:
    layers = [
        LayerParams(
            node.name,
            tuple(use.shape for use in node.params),
            node.span,
            node.type,
            tuple(graph.params[use.param].owner != index for use in node.params),
        )
        for index, node in enumerate(graph.nodes)
    ]
    return preview([read_weights(file) for file in files], layers)


def _values(graph: Graph, found: Match) -> Iterator[tuple[int, FloatArray]]:
    """Yield the index of each param that the files have, and its values."""
    for (index, position), values in found.values.items():
        use = graph.nodes[index].params[position]
        yield use.param, values.reshape(use.shape)


def _host(net: Executor, array: object) -> np.ndarray:
    return np.array(net.backend.to_host(array), np.float32)


def _diff(net: Executor, param: int, shape: tuple[int, ...]) -> np.ndarray:
    diff = net.param_diff_array(param)
    return np.zeros(shape, np.float32) if diff is None else _host(net, diff).reshape(shape)
