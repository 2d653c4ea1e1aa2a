"""How far bfloat16 moves the gradients of a net, beside what one batch differs from another.

python tools/bf16_noise.py zoo/cifar10_quick/cifar10_quick_train_test.prototxt NET.caffemodel

For each param: how much of the mean gradient is a shift that all batches have in common (the
`bias`, with the `floor` that chance alone would leave), and how far the gradients of single batches
are from their mean (`batches`), all in percent of the norm of the mean gradient. Runs on any
processor: it computes in float32, and rounds what `-precision bf16` keeps in bfloat16: the weights
of convolutions, blobs up to the first inner product, and their diffs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from command import run
from numpy.typing import NDArray

from netc.assemble import executor, load_net
from netc.backends.base import Binding, Declined, Job, Kernel, Prepared, Terms
from netc.backends.cpu import CpuBackend
from netc.layers.types import Array, Phase
from netc.learned import load_weights
from netc.report.table import table
from netc.runtime import Executor
from netc.runtime.executor import Feed

_STATISTICS = ("bias", "floor", "batches")


def round_to_bfloat16(array: NDArray[np.float32]) -> None:
    """Round to 8 bits of mantissa in place, halves to even."""
    bits = array.view(np.uint32)
    odd = (bits >> 16) & 1
    odd += 0x7FFF
    bits += odd
    bits &= 0xFFFF0000


class Rounding:
    """A kernel that rounds what it reads as weights and what it writes, while `switch.on`."""

    def __init__(self, kernel: Kernel, job: Job, switch: Switch) -> None:
        self._kernel, self._switch = kernel, switch
        kinds = {node.type for node in job.nodes}
        self._has_weights = "Convolution" in kinds
        self._is_half = "InnerProduct" not in kinds and len(job.bottoms[0]) > 2
        self._reads_half = len(job.bottoms[0]) > 2

    @property
    def terms(self) -> Terms:
        """What the kernel needs from the plan."""
        return self._kernel.terms

    def forward(self, binding: Binding) -> Prepared:
        """Return the kernel's call with what is rounded around it."""
        run = self._kernel.forward(binding)
        return self._with_rounding(run, binding, binding.tops if self._is_half else ())

    def backward(self, binding: Binding) -> Prepared:
        """Likewise for the backward pass."""
        run = self._kernel.backward(binding)
        return self._with_rounding(run, binding, binding.bottom_diffs if self._reads_half else ())

    def _with_rounding(
        self, run: Prepared, binding: Binding, written: Sequence[Array | None]
    ) -> Prepared:
        weights = binding.params[0] if self._has_weights else None

        def rounded() -> None:
            if not self._switch.on:
                run()
                return
            kept = None if weights is None else weights.copy()
            if weights is not None:
                round_to_bfloat16(weights)
                round_to_bfloat16(binding.bottoms[0])
            run()
            if weights is not None:
                weights[...] = kept
            for array in written:
                if array is not None:
                    round_to_bfloat16(array)

        return rounded


@dataclass
class Switch:
    """Whether is rounded."""

    on: bool = False


class RoundingBackend(CpuBackend):
    """The cpu backend, whose kernels round while `switch.on`."""

    def __init__(self) -> None:
        super().__init__()
        self.switch = Switch()

    def kernel_for(self, job: Job) -> Kernel | Declined:
        """Return the kernel of the cpu backend, which rounds then."""
        found = super().kernel_for(job)
        return found if isinstance(found, Declined) else Rounding(found, job, self.switch)


class Again:
    """A feed that gives each batch twice."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._batch: list[Array] = []

    def next_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of the next batch."""
        if self._batch:
            return tuple(values.shape for values in self._batch)
        return self._feed.next_shapes()

    def fill(self, outs: tuple[Array, ...]) -> None:
        """Write the next batch, or what was written before."""
        if self._batch:
            for out, values in zip(outs, self._batch, strict=True):
                out[...] = values
            self._batch = []
            return
        self._feed.fill(outs)
        self._batch = [out.copy() for out in outs]

    def close(self) -> None:
        """Close the feed."""
        self._feed.close()


def gradients(net: Executor) -> list[NDArray[np.float64]]:
    """Return the gradient of every param for the next batch."""
    net.clear_param_diffs()
    net.forward()
    net.backward()
    found = (net.param_diff_array(i) for i in range(len(net.plan.graph.params)))
    return [np.zeros(0) if diff is None else diff.astype(np.float64).ravel() for diff in found]


def compare(net: Executor, switch: Switch, batches: int) -> list[tuple[str, dict[str, float]]]:
    """Return the statistics of every param that learns, in percent."""
    exact, moved = [], []
    for _ in range(batches):
        switch.on = False
        exact.append(gradients(net))
        switch.on = True
        rounded = gradients(net)
        moved.append([r - e for r, e in zip(rounded, exact[-1], strict=True)])
    graph = net.plan.graph
    rows = []
    for i, param in enumerate(graph.params):
        gradient, shift = (np.array([each[i] for each in found]) for found in (exact, moved))
        norm = float(np.linalg.norm(gradient.mean(axis=0)))
        if not norm:
            continue
        node = graph.nodes[param.owner]
        place = [use.param for use in node.params].index(i)
        values = (
            np.linalg.norm(shift.mean(axis=0)),
            np.linalg.norm(shift.std(axis=0)) / batches**0.5,
            np.linalg.norm(gradient.std(axis=0)),
        )
        shares = (100 * float(value) / norm for value in values)
        rows.append((f"{node.name} {place}", dict(zip(_STATISTICS, shares, strict=True))))
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("net", help="the net: prototxt or YAML")
    parser.add_argument("weights", help="its weights, after some training")
    parser.add_argument("--batches", type=int, default=20)
    args = parser.parse_args()
    backend = RoundingBackend()
    net = executor(load_net(args.net, Phase.TRAIN), backend, train=True)
    load_weights(net, [args.weights])
    net.feeds.update({index: Again(feed) for index, feed in net.feeds.items()})
    rows = compare(net, backend.switch, args.batches)
    lines = [[name, *(f"{shares[key]:.2f}" for key in _STATISTICS)] for name, shares in rows]
    print(*table(["param", *_STATISTICS], lines, right=(1, 2, 3)), sep="\n")


if __name__ == "__main__":
    run(main)
