"""The files that netc writes, in other runtimes: ONNX Runtime, and OpenCV's importer for Caffe."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ONNX, TEXT, WEIGHTS = "net.onnx", "deploy.prototxt", "net.caffemodel"


def write_files(text: Path, graph: Any, folder: Path) -> None:
    """Write a net for inference with random weights: as ONNX, and as Caffe's two files.

    `graph` is the deployed graph of the net in `text`.
    """
    from netc.backends import find_backend
    from netc.export import export, save
    from netc.learned import weights_of
    from netc.plan import plan
    from netc.runtime import Executor
    from netc.schema import read_net
    from netc.schema.printing import print_prototxt
    from netc.weights import write_weights

    backend = find_backend("reference")
    net = Executor(plan(graph, backend), backend)
    save(export(graph, net.params), folder / ONNX)
    deploy = deployed(read_net(text).message, graph)
    (folder / TEXT).write_text(print_prototxt(deploy), encoding="utf-8")
    write_weights(folder / WEIGHTS, weights_of(net, deploy.layer))


def deployed(message: Any, graph: Any) -> Any:
    """Return the text of a deployed graph: the layers of the net that are left, and its inputs."""
    from netc.schema import netc_pb2

    by_name = {layer.name: layer for layer in message.layer}
    found = netc_pb2.NetParameter(name=graph.name)
    for node in graph.nodes:
        tops = [graph.blobs[key].name for key in node.tops]
        if not node.bottoms:
            for key, top in zip(node.tops, tops, strict=True):
                found.input.append(top)
                found.input_shape.add().dim.extend(graph.blobs[key].shape)
            continue
        layer = found.layer.add()
        if node.name in by_name and by_name[node.name].type == node.type:
            layer.CopyFrom(by_name[node.name])
            del layer.include[:], layer.bottom[:], layer.top[:]
        layer.name, layer.type = node.name, node.type
        layer.bottom.extend(graph.blobs[key].name for key in node.bottoms)
        layer.top.extend(tops)
    return found


def step_of(runtime: str, folder: Path, shape: Sequence[int]) -> Callable[[], None]:
    """Return the call that runs the files once, on all cores that this process may use."""
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    threads = len(os.sched_getaffinity(0))
    if runtime == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(
            str(folder / ONNX), options, providers=["CPUExecutionProvider"]
        )
        feed = {session.get_inputs()[0].name: x}
        return lambda: session.run(None, feed)
    import cv2

    cv2.setNumThreads(threads)
    net = cv2.dnn.readNetFromCaffe(str(folder / TEXT), str(folder / WEIGHTS))

    def run() -> None:
        net.setInput(x)
        net.forward()

    return run
