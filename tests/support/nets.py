"""Nets for tests: from text to graph and executor, and random small nets for hypothesis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import strategies as st

from netc.assemble import Net, executor
from netc.backends import cpu, find_backend
from netc.graph.build import build, net_state
from netc.graph.types import Graph
from netc.layers.types import Phase
from netc.plan import Updates, plan
from netc.runtime import Executor
from netc.runtime.code import CodeHost
from netc.schema import read_net


def require(backend: str) -> None:
    """Skip a test where a backend does not work, and say why."""
    if backend == "cpu":
        works, words = cpu.status()
        if not works:
            pytest.skip(words)


def graph_of(
    text: str, phase: Phase = Phase.TRAIN, level: int = 0, stages: Sequence[str] = ()
) -> Graph:
    """Build and verify the graph of a net given as text."""
    source = read_net("net.prototxt", text=text)
    graph = build(source, net_state(source.message, phase, level, stages))
    graph.verify()
    return graph


def net_of(text: str, phase: Phase = Phase.TRAIN, host: CodeHost | None = None) -> Net:
    """Return the net of a text, which can follow the shapes of its data."""
    source = read_net("net.prototxt", text=text)
    return Net(source, net_state(source.message, phase), host=host)


def executor_of(
    net: Graph | Net,
    *,
    train: bool = True,
    keep: str | Sequence[str] = "",
    updates: Updates = Updates.NONE,
    seed: int = 1,
    backend_name: str = "reference",
) -> Executor:
    """Plan a graph, or a net that follows its data, on a backend and give it memory."""
    backend = find_backend(backend_name)
    if isinstance(net, Net):
        return executor(net, backend, train=train, keep=keep, updates=updates, seed=seed)
    planned = plan(net, backend, train=train, keep=keep, updates=updates)
    return Executor(planned, backend, seed=seed)


def set_inputs(net: Executor, seed: int = 0) -> None:
    """Fill the inputs with reproducible normal values."""
    rng = np.random.default_rng(seed)
    for key in net.plan.graph.inputs:
        net.data(key)[...] = rng.standard_normal(net.data(key).shape)


@dataclass
class _Text:
    """A net being written: blobs that may still be read, with their shapes."""

    lines: list[str] = field(default_factory=list)
    blobs: list[tuple[str, tuple[int, int, int, int]]] = field(default_factory=list)
    count: int = 0
    shares: bool = False

    def layer(self, kind: str, bottoms: Sequence[str], tops: Sequence[str], rest: str = "") -> None:
        ends = " ".join([f'bottom: "{b}"' for b in bottoms] + [f'top: "{t}"' for t in tops])
        self.lines.append(f'layer {{ name: "l{self.count}" type: "{kind}" {ends} {rest} }}')
        self.count += 1

    def fresh(self) -> str:
        return f"b{self.count}"


_POINTWISE = {
    "ReLU": "",
    "Sigmoid": "",
    "TanH": "",
    "Power": "power_param { power: 2 scale: 0.5 shift: 0.1 }",
    "PReLU": "",
    "ELU": "",
    "HSwish": "",
    "Bias": "bias_param { filler { type: 'gaussian' } }",
    "Dropout": "",
    "Scale": "scale_param { bias_term: true filler { type: 'gaussian' } }",
    "BatchNorm": "",
}


@st.composite
def net_texts(draw: st.DrawFn, *, shared: bool = False) -> str:
    """Draw the text of a small net: chains, branches, residuals, in-place layers.

    Blobs read several times; with `shared` also params.
    """
    net = _Text(shares=shared)
    height, width = draw(st.integers(3, 5)), draw(st.integers(3, 5))
    shape = (2, draw(st.sampled_from([1, 2, 3, 4, 16])), height, width)
    dims = " ".join(f"dim: {n}" for n in shape)
    net.layer("Input", (), ("data",), f"input_param {{ shape {{ {dims} }} }}")
    # The data itself is behind a layer with params, so that gradients have somewhere to go.
    net.layer("Convolution", ("data",), ("start",), _conv(shape[1], shape[1], net))
    net.blobs.append(("start", shape))
    for _ in range(draw(st.integers(1, 10))):
        _draw_layer(draw, net)
    for name, (n, c, h, w) in net.blobs:
        target = f"t{net.count}"
        net.layer(
            "Input", (), (target,), f"input_param {{ shape {{ dim: {n} dim: {c * h * w} }} }}"
        )
        net.layer("EuclideanLoss", (name, target), (net.fresh(),), "loss_weight: 0.5")
    return "\n".join(net.lines)


def _conv(bottom: int, top: int, net: _Text, group: int = 1) -> str:
    # One set of weights for all convolutions of these channels.
    key = f"{bottom}x{top}by{group}"
    share = f"param {{ name: 'w{key}' }} param {{ name: 'b{key}' }} "
    return (
        f"{share if net.shares else ''}convolution_param {{ num_output: {top} kernel_size: 3 "
        f"pad: 1 group: {group} weight_filler {{ type: 'xavier' }} }}"
    )


def _draw_layer(draw: st.DrawFn, net: _Text) -> None:
    index = draw(st.integers(0, len(net.blobs) - 1))
    name, shape = net.blobs[index]
    n, c, h, w = shape
    kind = draw(
        st.sampled_from(
            [
                "in place",
                "pointwise",
                "pointwise",
                "conv",
                "sum",
                "concat",
                "slice",
                "split",
                "flatten",
            ]
        )
    )
    again = draw(st.booleans())  # may the bottom be read once more by a later layer?
    top = net.fresh()
    made: list[tuple[str, tuple[int, int, int, int]]] = []
    match kind:
        case "in place":
            layer = draw(st.sampled_from(sorted(_POINTWISE)))
            if _is_read(net, name):
                layer, out = layer, top
            else:
                out = name
            net.layer(layer, (name,), (out,), _POINTWISE[layer])
            made = [(out, shape)]
            again = False
        case "pointwise":
            layer = draw(st.sampled_from(sorted(_POINTWISE)))
            net.layer(layer, (name,), (top,), _POINTWISE[layer])
            made = [(top, shape)]
        case "conv":
            # Some fill a block of channels, some a part of one or of the second.
            channels = draw(st.sampled_from([1, 2, 3, 4, 16, 20]))
            group = draw(st.sampled_from([1, 1, math.gcd(c, channels)]))
            net.layer("Convolution", (name,), (top,), _conv(c, channels, net, group))
            made = [(top, (n, channels, h, w))]
        case "sum" | "concat":
            others = [b for b in net.blobs if b[1] == shape]
            other = draw(st.sampled_from(others))[0]
            if kind == "sum":
                operation = draw(st.sampled_from(["SUM", "SUM", "PROD", "MAX"]))
                rest = f"eltwise_param {{ operation: {operation} }}"
                net.layer("Eltwise", (name, other), (top,), rest)
            else:
                net.layer("Concat", (name, other), (top,))
            made = [(top, shape if kind == "sum" else (n, 2 * c, h, w))]
        case "slice" if c > 1:
            net.layer("Slice", (name,), (top, top + "s"), "slice_param { slice_point: 1 }")
            made = [(top, (n, 1, h, w)), (top + "s", (n, c - 1, h, w))]
        case "split":
            net.layer("Split", (name,), (top, top + "s"))
            made = [(top, shape), (top + "s", shape)]
        case "flatten":
            net.layer("Flatten", (name,), (top,))
            net.layer(
                "Reshape",
                (top,),
                (top + "r",),
                f"reshape_param {{ shape {{ dim: 0 dim: {c} dim: {h} dim: {w} }} }}",
            )
            made = [(top + "r", shape)]
    if made and not again:
        del net.blobs[index]
    net.blobs += made


def _is_read(net: _Text, name: str) -> bool:
    """Say whether a layer reads the blob already: then in place is not allowed."""
    return any(f'bottom: "{name}"' in line for line in net.lines)
