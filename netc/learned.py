"""Between a net that runs and its weights files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from netc.graph.types import Graph
from netc.runtime import Executor, drawn_param
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
from netc.weights.transfer import AS_SAVED, Transfer
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
    transfer: Transfer = AS_SAVED,
    tell: Callable[[str], None] = lambda line: None,
) -> Match:
    """Copy weights into a net by layer name, the last file winning; return what came from where.

    `transfer` says what is renamed on the way, and what may be copied in part. `tell` gets the
    lines of the preview: what is copied, freshly filled, clashing, unused. Raises NetcError for
    files that cannot be read, for shapes that clash and for what `transfer` says in vain, before
    anything is copied. With `exact` every layer must be in the files (a snapshot's).
    """
    found = _match(net.plan.graph, files, transfer)
    for line in found.preview_lines():
        tell(line)
    found.check(complete=exact)
    for param, values, whole in _values(net.plan.graph, found):
        if not whole:
            rows = values
            values = _host(net, net.param_array(param))
            values[: len(rows)] = rows
        net.set_param(param, net.backend.xp.asarray(values))
    return found


def start_of(
    graph: Graph, files: Sequence[str], transfer: Transfer, seed: int
) -> tuple[Match, Iterator[FloatArray]]:
    """Return where the training of a net began: what came from where, and each param, in order.

    The values are those of the files, as `load_weights` copies them, and where these have none
    those that the fillers give from the seed. They come one by one, as a large net has many.
    """
    found = _match(graph, files, transfer)
    found.check()
    return found, _starts(graph, found, seed)


def _starts(graph: Graph, found: Match, seed: int) -> Iterator[FloatArray]:
    loaded = {param: (values, whole) for param, values, whole in _values(graph, found)}
    for index, param_type in enumerate(graph.params):
        values, whole = loaded.get(index, (np.empty(0, np.float32), False))
        if whole:
            yield values.reshape(param_type.shape)
            continue
        start = np.array(drawn_param(graph, index, np, seed), order="C")
        start.reshape(-1)[: values.size] = values.reshape(-1)
        yield start


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
            params[index][...] = drawn_param(graph, index, np, seed)
    for param, values, _ in _values(graph, found):
        params[param].reshape(values.shape)[...] = values
    return params, found


def _match(graph: Graph, files: Sequence[str], transfer: Transfer = AS_SAVED) -> Match:
    layers = [
        LayerParams(
            node.name,
            tuple(use.shape for use in node.params),
            node.span,
            node.type,
            tuple(graph.params[use.param].owner != index for use in node.params),
            node.layer.dense(),
        )
        for index, node in enumerate(graph.nodes)
    ]
    return preview([read_weights(file) for file in files], layers, transfer)


def _values(graph: Graph, found: Match) -> Iterator[tuple[int, FloatArray, bool]]:
    """Yield the index of each param that the files have, its values, and whether these are all.

    If not, they are its first rows.
    """
    for (index, position), values in found.values.items():
        use = graph.nodes[index].params[position]
        whole = values.size == math.prod(use.shape)
        yield use.param, values.reshape(use.shape) if whole else values, whole


def _host(net: Executor, array: object) -> np.ndarray:
    return np.array(net.backend.to_host(array), np.float32)


def _diff(net: Executor, param: int, shape: tuple[int, ...]) -> np.ndarray:
    diff = net.param_diff_array(param)
    return np.zeros(shape, np.float32) if diff is None else _host(net, diff).reshape(shape)
