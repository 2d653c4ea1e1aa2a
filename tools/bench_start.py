"""What comes before the first step: reading and planning a deep net, and loading large weights."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import make_zoo
import numpy as np

REPEATS = 5
#: Of one of the ten layers whose weights are loaded: 50 MB.
SHAPE = (25, 1000, 500)
BATCH = (8, 3, 224, 224)
MIB = 1 << 20


def run(tell: Callable[[dict[str, Any]], None]) -> None:
    """Print the times and report each."""
    with tempfile.TemporaryDirectory() as folder:
        _compile(Path(folder), tell)
        _load(Path(folder), tell)


def _compile(folder: Path, tell: Callable[[dict[str, Any]], None]) -> None:
    """Time `netc check` as a process, and the way from text to plan inside one."""
    from netc.assemble import load_graph
    from netc.backends import find_backend
    from netc.layers.types import Phase
    from netc.plan import plan

    text = folder / "resnet152.prototxt"
    text.write_text(make_zoo.resnet(152, (3, 8, 36, 3)), encoding="utf-8")
    backend = find_backend("auto")
    shapes = {"data": BATCH, "label": BATCH[:1]}

    def whole() -> None:
        graph = load_graph(text, Phase.TRAIN, shapes=shapes, assume=True)
        plan(graph, backend, train=True)

    def check() -> None:
        command = [sys.executable, "-m", "netc", "check", str(text)]
        subprocess.run(command, check=True, capture_output=True)

    whole()  # what is made once in a process is there from here on
    for name, call in (("text to plan", whole), ("netc check", check)):
        seconds = _median(call)
        print(f"ResNet-152, {name}: {seconds:.2f} s")
        tell({"mode": "start", "what": f"resnet152 {name}", "seconds": seconds})


def _load(folder: Path, tell: Callable[[dict[str, Any]], None]) -> None:
    """Time loading 500 MB of weights into a net's params, beside reading the file's bytes."""
    from netc.weights import SavedBlob, SavedLayer, Weights, read_weights, write_weights

    path = folder / "large.caffemodel"
    values = np.ones(SHAPE, np.float32)
    params = np.zeros_like(values)
    layers = [SavedLayer(f"ip{i}", (SavedBlob(values),), "InnerProduct") for i in range(10)]
    write_weights(path, Weights(tuple(layers), "large"))

    def weights() -> None:
        for layer in read_weights(path).layers:
            for blob in layer.blobs:
                assert blob is not None
                np.copyto(params, blob.data)

    path.read_bytes()  # into the system's cache, for both
    pairs = [(_time(path.read_bytes), _time(weights)) for _ in range(REPEATS)]
    plain, ours = (statistics.median(times) for times in zip(*pairs, strict=True))
    size = path.stat().st_size / MIB
    print(f"{size:.0f} MiB of weights: {ours:.3f} s, {ours / plain:.2f} times the bytes alone")
    tell({"mode": "start", "what": "load", "mib": size, "seconds": ours, "ratio": ours / plain})


def _time(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _median(call: Callable[[], None]) -> float:
    return statistics.median(_time(call) for _ in range(REPEATS))
