"""What each convolution of a net reaches in training, beside a large matrix product."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

#: Products of fewer multiply-adds are too short for the machine's peak to matter.
LARGE = 200_000_000


def run(
    net: str, sgemm_gflops: float, args: argparse.Namespace, tell: Callable[[dict[str, Any]], None]
) -> None:
    """Time the steps of a training net and print what its convolutions reach in each pass."""
    import bench

    from netc.assemble import timed_executor
    from netc.backends import find_backend
    from netc.backends.base import Precision
    from netc.plan.types import Direction
    from netc.runtime.timing import measure

    backend = find_backend(args.backend, Precision(args.precision))
    executor, _ = timed_executor(
        bench.net_of(net, "train"), backend, train=True, replaced=("data", "label")
    )
    durations = measure(executor, args.steps)
    graph = executor.plan.graph
    print(f"\n{net}: {'convolution':<28}{'GFLOP':>8}{'forward':>10}{'backward':>10}  GFLOP/s")
    reached: list[float] = []
    for index, node in enumerate(graph.nodes):
        if node.type != "Convolution":
            continue
        bottoms = tuple(graph.blobs[key].type for key in node.bottoms)
        cost = 2 * node.layer.cost(bottoms, node.signature)
        passes = 1 + executor.plan.need.bottoms[index][0]
        rates = {
            Direction.FORWARD: cost / durations[Direction.FORWARD, index] / 1e9,
            Direction.BACKWARD: passes * cost / durations[Direction.BACKWARD, index] / 1e9,
        }
        print(f"{'':<{len(net) + 2}}{node.name:<28}{cost / 1e9:>8.2f}", end="")
        print("".join(f"{rate:>10.0f}" for rate in rates.values()))
        if cost >= 2 * LARGE:
            reached += rates.values()
        tell(
            {
                "net": net,
                "mode": "convolutions",
                "layer": node.name,
                "gflop": cost / 1e9,
                "forward_gflops": rates[Direction.FORWARD],
                "backward_gflops": rates[Direction.BACKWARD],
            }
        )
    if reached:
        middle = statistics.median(reached)
        print(
            f"median of those with {2 * LARGE / 1e9:.1f} GFLOP or more: {middle:.0f} GFLOP/s, "
            f"{middle / sgemm_gflops:.0%} of sgemm"
        )
