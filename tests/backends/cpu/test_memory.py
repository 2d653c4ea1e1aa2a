"""The arena under the CPU backend's plans: reorders, chains and scratch change who lives when."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from netc.backends import find_backend
from netc.backends.base import Precision
from netc.backends.cpu import CpuBackend, onednn
from netc.plan import Plan, Updates, plan
from netc.plan.memory import _Assignment
from netc.plan.types import Fill, Reorder, Step
from netc.runtime import Executor
from tests.backends.cpu.test_equality import BLOCKED
from tests.support.nets import graph_of, net_texts, require, set_inputs


@pytest.fixture(autouse=True)
def _works() -> None:
    require("cpu")


def writes_and_reads(p: Plan, step: Step | Reorder | Fill) -> tuple[list[int], list[int]]:
    """Return the buffers that a step writes and those that it may read."""
    if isinstance(step, Fill):
        return [p.diff[step.blob]], []
    if isinstance(step, Reorder):
        return [step.target], [step.source, *([step.target] if step.add else [])]
    own = [step.scratch] if step.scratch is not None else []
    if step.again is not None:
        return [*step.tops], [*step.bottoms, *step.kept]
    if step.direction.value == "forward":
        return [*step.tops, *step.kept, *own], [*step.bottoms]
    diffs = [i for i in step.bottom_diffs if i is not None]
    added = [i for i, add in zip(step.bottom_diffs, step.adds, strict=True) if add]
    kernel = p.kernels[step.choice]
    assert kernel is not None
    reads = [*step.top_diffs, *step.kept, *[i for i in added if i is not None]]
    if "BOTTOM" in str(kernel.terms.reads):
        reads += step.bottoms
    if "TOP" in str(kernel.terms.reads).replace("BOTTOM", ""):
        reads += step.tops
    return [*diffs, *own], reads


def check_that_nothing_live_is_overwritten(p: Plan) -> None:
    """Follow the steps: whatever is read must be what was written under that name."""
    content: list[tuple[int, int, int, int]] = []  # first byte, last byte, buffer, storage

    def place(buffer: int) -> tuple[int, int] | None:
        storage = p.storages[p.buffers[buffer].storage]
        if storage.offset is None:
            return None
        return storage.offset, storage.offset + p.buffers[buffer].nbytes

    for step in (*p.forward, *p.backward):
        writes, reads = writes_and_reads(p, step)
        for buffer in reads:
            where = place(buffer)
            if where is None or not p.buffers[buffer].nbytes:
                continue
            storage = p.buffers[buffer].storage
            here = [c for c in content if c[0] < where[1] and where[0] < c[1]]
            assert here, f"{p.buffers[buffer].name} is read before it is written"
            assert all(c[3] == storage for c in here), f"{p.buffers[buffer].name} is overwritten"
        for one, two in itertools.combinations(set(writes), 2):
            a, b = place(one), place(two)
            if a and b and p.buffers[one].storage != p.buffers[two].storage:
                assert a[1] <= b[0] or b[1] <= a[0], "a step writes two things to one place"
        for buffer in writes:
            where = place(buffer)
            if where is None:
                continue
            content = [c for c in content if not (c[0] < where[1] and where[0] < c[1])]
            content.append((*where, buffer, p.buffers[buffer].storage))


def test_the_check_finds_an_overwritten_buffer() -> None:
    from dataclasses import replace

    p = plan(graph_of(BLOCKED), find_backend("cpu"), train=True)
    broken = replace(
        p, storages=tuple(replace(s, offset=0 if s.offset else s.offset) for s in p.storages)
    )
    with pytest.raises(AssertionError):
        check_that_nothing_live_is_overwritten(broken)


def test_branches_chains_and_padded_blocks() -> None:
    for train in (False, True):
        check_that_nothing_live_is_overwritten(
            plan(graph_of(BLOCKED), find_backend("cpu"), train=train)
        )


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=net_texts())
def test_random_nets(text: str) -> None:
    graph = graph_of(text)
    for train in (False, True):
        check_that_nothing_live_is_overwritten(plan(graph, find_backend("cpu"), train=train))


NORMALISED = """
layer { name: "in" type: "Input" top: "x" top: "t"
        input_param { shape { dim: 2 dim: 3 dim: 12 dim: 12 } shape { dim: 2 dim: 10 } } }
%s
layer { name: "ip" type: "InnerProduct" bottom: "%s" top: "y"
        inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "t" top: "loss" }
"""
BLOCK = """
layer { name: "conv%d" type: "Convolution" bottom: "%s" top: "c%d" convolution_param {
        num_output: 20 kernel_size: 3 pad: 1 bias_term: false weight_filler { type: "msra" } } }
layer { name: "bn%d" type: "BatchNorm" bottom: "c%d" top: "c%d" }
layer { name: "scale%d" type: "Scale" bottom: "c%d" top: "c%d" scale_param { bias_term: true } }
layer { name: "relu%d" type: "ReLU" bottom: "c%d" top: "c%d" }
"""


@pytest.mark.parametrize("precision", Precision)
def test_what_is_made_again_has_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, precision: Precision
) -> None:
    """A normalised blob is read by the next convolution's backward: it need not live till then."""
    if precision is Precision.BF16 and not onednn.has_bf16():
        pytest.skip("this processor does not multiply bfloat16")
    blocks = "".join(BLOCK % (i, f"c{i - 1}" if i else "x", *[i] * 10) for i in range(5))
    graph = graph_of(NORMALISED % (blocks, "c4"))
    backend = CpuBackend(precision)
    nets = []
    for made_again in (True, False):
        if not made_again:
            monkeypatch.setattr(_Assignment, "_find_makers", lambda self: None)
        net = Executor(plan(graph, backend, train=True, updates=Updates.NONE), backend, seed=1)
        net._arena[...] = 255  # NaN in every format
        set_inputs(net)
        net.clear_param_diffs()
        net.forward()
        net.backward()
        nets.append(net)
    ours, without = nets
    made = [s for s in ours.plan.backward if isinstance(s, Step) and s.again is not None]
    # The last one is read by the inner product, in float32 and another order.
    assert [graph.nodes[step.node].name for step in made][-4:] == ["bn3", "bn2", "bn1", "bn0"]
    assert "again    'bn3' (BatchNorm)" in ours.plan.render()
    assert ours.plan.arena_bytes < without.plan.arena_bytes
    check_that_nothing_live_is_overwritten(ours.plan)
    for a, b in zip(ours.param_diffs, without.param_diffs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a, b)
    for a, b in zip(ours.params, without.params, strict=True):
        np.testing.assert_array_equal(a, b)  # the statistics moved once only
