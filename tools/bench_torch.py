"""The peer of tools/bench.py: the same nets in PyTorch, from a description of netc's graph.

One `torch.nn` module for each layer; a BatchNorm with its Scale is one. It imports nothing of netc,
so that PyTorch may live in an environment of its own.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

LEARNING_RATE, MOMENTUM, DECAY = 1e-4, 0.9, 5e-4


@dataclass(frozen=True)
class Form:
    """A way to run a net in PyTorch; its name is made of the words that apply."""

    channels_last: bool = False
    bf16: bool = False
    compiled: bool = False

    @classmethod
    def of(cls, name: str) -> Form:
        """Return the form that a name says: "nchw", "channels_last-bf16-compiled"."""
        words = name.split("-")
        return cls("channels_last" in words, "bf16" in words, "compiled" in words)


def forms(*, bf16: bool, compiled: bool) -> list[str]:
    """Return the names of the forms to try: both layouts, in float32 and as asked for."""
    names = ["nchw", "channels_last"]
    if bf16:
        names += [f"{name}-bf16" for name in names]
    return names + [f"{name}-compiled" for name in names] if compiled else names


def step_of(
    layers: Sequence[dict[str, Any]], shape: Sequence[int], mode: str, form: Form
) -> Callable[[], None]:
    """Return the call that makes one step of the net that `layers` describes.

    In bf16 the forward pass and the loss run under autocast, as PyTorch's documentation has it.
    """
    import torch

    net, forward = _net(layers)
    memory = torch.channels_last if form.channels_last else torch.contiguous_format
    net.to(memory_format=memory)
    if form.compiled:
        forward = torch.compile(forward)
    data = torch.randn(tuple(shape)).to(memory_format=memory)
    label = torch.zeros(shape[0], dtype=torch.long)

    def precision() -> Any:
        if form.bf16:
            return torch.autocast("cpu", dtype=torch.bfloat16)
        return contextlib.nullcontext()

    if mode != "train":
        net.eval()

        def infer() -> None:
            with torch.inference_mode(), precision():
                forward(data, label)

        return infer
    optimizer = torch.optim.SGD(
        net.parameters(), LEARNING_RATE, momentum=MOMENTUM, weight_decay=DECAY
    )

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with precision():
            loss = forward(data, label)
        loss.backward()
        loss.item()
        optimizer.step()

    return step


def _net(layers: Sequence[dict[str, Any]]) -> tuple[Any, Callable[[Any, Any], Any]]:
    """Return the modules and the forward pass, which gives the objective or the last blob."""
    import torch
    from torch import nn
    from torch.nn import functional

    modules: list[tuple[Any, list[str], list[str], dict[str, Any]]] = []
    skip: set[int] = set()
    readers = {
        bottom: j for j, entry in reversed(list(enumerate(layers))) for bottom in entry["bottoms"]
    }
    for i, entry in enumerate(layers):
        if i in skip:
            continue
        tops = entry["tops"]
        if entry["type"] == "BatchNorm":
            after = readers[tops[0]]
            assert layers[after]["type"] == "Scale"
            skip.add(after)
            tops = layers[after]["tops"]
        modules.append((_module(nn, entry), entry["bottoms"], tops, entry))
    net = nn.ModuleList([module for module, _, _, _ in modules if module is not None])

    def forward(data: Any, label: Any) -> Any:
        blobs: dict[str, Any] = {}
        total: Any = None
        for module, bottoms, tops, entry in modules:
            kind = entry["type"]
            if kind in ("Data", "Input"):
                blobs[tops[0]] = data
                continue
            xs = [blobs[key] for key in bottoms if key in blobs]
            if kind == "SoftmaxWithLoss":
                loss = functional.cross_entropy(xs[0], label) * entry["weight"]
                total = loss if total is None else total + loss
                continue
            if kind == "Concat":
                y = torch.cat(xs, 1)
            elif kind == "Eltwise":
                y = xs[0] + xs[1]
            else:
                y = module(xs[0])
            blobs[tops[0]] = y
        return y if total is None else total

    return net, forward


def _module(nn: Any, entry: dict[str, Any]) -> Any:
    """Return the module of a layer; None for what is a function or nothing."""
    match entry["type"]:
        case "Convolution":
            kernel, stride, pad, dilation, _ = zip(*entry["slides"], strict=True)
            return nn.Conv2d(
                entry["shape"][1],
                entry["num_output"],
                kernel,
                stride,
                pad,
                dilation,
                entry["group"],
                entry["bias_term"],
            )
        case "InnerProduct":
            count = math.prod(entry["shape"][1:])
            return nn.Sequential(
                nn.Flatten(), nn.Linear(count, entry["num_output"], entry["bias_term"])
            )
        case "Pooling":
            kernel, stride, pad, _, over = zip(*entry["slides"], strict=True)
            pool = nn.MaxPool2d if entry["pool"] == "MAX" else nn.AvgPool2d
            return pool(kernel, stride, pad, ceil_mode=any(over))
        case "ReLU":
            return nn.ReLU(inplace=True)
        case "Dropout":
            return nn.Dropout(entry["dropout_ratio"])
        case "LRN":
            return nn.LocalResponseNorm(
                entry["local_size"], entry["alpha"], entry["beta"], entry["k"]
            )
        case "BatchNorm":
            return nn.BatchNorm2d(entry["shape"][1], eps=entry["eps"])
        case "Softmax":
            return nn.Softmax(1)
    return None
