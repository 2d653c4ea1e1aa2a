"""`-dry_run`: one iteration and one batch of each test net, and what the whole run will take."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from netc.errors import fail
from netc.report.table import size
from netc.runtime import Executor
from netc.train.progress import duration
from netc.train.records import peak_memory
from netc.train.scoring import average_outputs
from netc.train.solver import Solver, batch_size

# What is timed is repeated so often, or for so many seconds.
_REPEATS = 5
_ENOUGH = 2.0


def rehearse(solver: Solver) -> list[str]:
    """Run a little, make no file and no folder, and return lines on what the run will take.

    Raises NetcError where the run would end at once.
    """
    _check_prefix(solver)
    for net in (solver.net, *solver.test_nets):
        net.sinks.clear()
    _passes(solver)  # what it allocates and prepares, the timed one finds done
    loss = solver.loss
    iteration = _seconds(partial(_passes, solver)) + _seconds(solver.apply_update)
    tests = [_seconds(partial(average_outputs, net, 1)) for net in solver.test_nets]
    lines = [*_sizes(solver, loss), *_durations(solver, iteration, tests)]
    return [
        "dry run: everything is there and fits together; nothing was written",
        *(f"  {name:<10} {value}" for name, value in lines),
    ]


def _sizes(solver: Solver, loss: float) -> Iterator[tuple[str, str]]:
    net, graph = solver.net, solver.net.plan.graph
    count = sum(math.prod(param.shape) for param in graph.params)
    params = sum(array.nbytes for array in net.params)
    history = sum(array.nbytes for array in solver.rule.history)
    wanted = {
        use.param
        for node, wants in zip(graph.nodes, net.plan.need.params, strict=True)
        for use, want in zip(node.params, wants, strict=True)
        if want and use.param not in net.plan.updated
    }
    gradients = sum(net.params[index].nbytes for index in wanted)
    tests = sum(map(_blobs, solver.test_nets))
    yield "net", f"{graph.name}: {len(graph.nodes)} layers, {count:,} params"
    yield "batch", f"{batch_size(net)} items, {solver.settings.iter_size} in an iteration"
    yield "loss", f"{loss:g}"
    yield (
        "memory",
        f"{size(params + history + gradients + _blobs(net) + tests)}: params {size(params)}, "
        f"history {size(history)}, gradients {size(gradients)}, blobs {size(_blobs(net))}, "
        f"test nets {size(tests)}",
    )
    if (peak := peak_memory()) is not None:
        yield "process", f"{peak:.0f} MiB at most so far, with all libraries"
    if number := _snapshots(solver):
        yield "snapshots", f"{number} of about {size(params + history)} each"


def _durations(
    solver: Solver, iteration: float, tests: Sequence[float]
) -> Iterator[tuple[str, str]]:
    settings = solver.settings
    left = max(settings.max_iter - solver.iter, 0)
    images = batch_size(solver.net) * settings.iter_size
    yield "iteration", f"{1000 * iteration:.3g} ms, {images / iteration:,.0f} images/s"
    total = left * iteration
    if interval := settings.test_interval:
        whole = sum(n * each for n, each in zip(settings.test_iter, tests, strict=True))
        number = settings.max_iter // interval - -(-solver.iter // interval) + 1
        number -= not (solver.iter or settings.test_initialization)
        yield "tests", f"{number} of {1000 * whole:.3g} ms each"
        total += number * whole
    yield "time", f"about {duration(total)} for {left:,} iterations and the tests"


def _snapshots(solver: Solver) -> int:
    s = solver.settings
    every = s.max_iter // s.snapshot - solver.iter // s.snapshot if s.snapshot else 0
    last = s.snapshot_after_train and not (s.snapshot and s.max_iter % s.snapshot == 0)
    return every + last


def _passes(solver: Solver) -> None:
    solver.net.clear_param_diffs()
    solver.passes()


def _seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes: the median of a few, where it is short."""
    found: list[float] = []
    while len(found) < _REPEATS and sum(found) < _ENOUGH:
        begin = time.perf_counter()
        call()
        found.append(time.perf_counter() - begin)
    return statistics.median(found)


def _blobs(net: Executor) -> int:
    return net.plan.arena_bytes + net.plan.own_bytes


def _check_prefix(solver: Solver) -> None:
    """Refuse a folder for snapshots that can be neither made nor written to."""
    folder = Path(solver.snapshot_prefix).absolute().parent
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise fail(
            "the folder for snapshots cannot be written to",
            span=solver.source.span("snapshot_prefix"),
            expected="a folder that can be written to, or made",
            got=str(there),
            hint="change snapshot_prefix in the solver",
        )
