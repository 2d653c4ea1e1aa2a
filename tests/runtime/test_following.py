"""Shapes that only the data tell: at the start of a pass, and in the midst of it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netc.assemble import PLANS, Plans
from netc.errors import NetcError
from netc.export.batch import with_batch
from netc.layers.types import Phase
from netc.plan import Direction
from netc.runtime import Executor
from tests.support.nets import executor_of, graph_of, net_of, net_texts, require, set_inputs
from tests.test_conformance_layers import VECTORS

# What is before the filter goes item by item, so that it makes no difference whether items are left
# out before it or behind.
INPUT = """
layer { name: "in" type: "Input" top: "x" top: "label" top: "selector"
  input_param { shape { dim: %d dim: 3 dim: 6 dim: 6 } shape { dim: %d } shape { dim: %d } } }
"""
BEFORE = """
layer { name: "conv1" type: "Convolution" bottom: "x" top: "conv1" convolution_param {
  num_output: 16 kernel_size: 3 pad: 1 weight_filler { type: "gaussian" std: 0.3 } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "norm1" type: "LRN" bottom: "conv1" top: "norm1" lrn_param { local_size: 3 } }
layer { name: "conv2" type: "Convolution" bottom: "norm1" top: "conv2" convolution_param {
  num_output: 16 kernel_size: 1 weight_filler { type: "gaussian" std: 0.3 } } }
layer { name: "sum" type: "Eltwise" bottom: "conv1" bottom: "conv2" top: "sum" }
layer { name: "pool" type: "Pooling" bottom: "sum" top: "pool" pooling_param {
  kernel_size: 2 stride: 2 } }
"""
FILTER = """
layer { name: "filter" type: "Filter" bottom: "pool" bottom: "label" bottom: "selector"
  top: "some" top: "labels" }
"""
BEHIND = """
layer { name: "conv3" type: "Convolution" bottom: "%s" top: "conv3" convolution_param {
  num_output: 8 kernel_size: 3 weight_filler { type: "gaussian" std: 0.3 } } }
layer { name: "relu3" type: "ReLU" bottom: "conv3" top: "conv3" }
layer { name: "ip" type: "InnerProduct" bottom: "conv3" top: "ip" inner_product_param {
  num_output: 4 weight_filler { type: "gaussian" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "%s" top: "loss"
  loss_weight: 0.5 propagate_down: true propagate_down: false }
layer { name: "all" type: "InnerProduct" bottom: "pool" top: "all" inner_product_param {
  num_output: 2 weight_filler { type: "gaussian" std: 0.1 } } }
"""
N = 4
FILTERED = INPUT % (N, N, N) + BEFORE + FILTER + BEHIND % ("some", "labels")


def batch(seed: int, count: int = N) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 3, 6, 6), dtype=np.float32)
    return x, rng.integers(0, 4, count).astype(np.float32)


def run(net: Executor, x: np.ndarray, label: np.ndarray, selector: np.ndarray) -> None:
    for key, values in (("x", x), ("label", label), ("selector", selector)):
        net.data(key)[...] = values
    net.clear_param_diffs()
    net.forward()
    net.backward()


def gradients(net: Executor) -> list[np.ndarray]:
    count = len(net.plan.graph.params)
    found = [net.param_diff_array(i) for i in range(count)]
    return [np.zeros(()) if diff is None else diff.copy() for diff in found]


def poison(net: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what lies in the arena be lost whenever another plan goes on."""
    use = net.use

    def use_poisoned(*args: object, **kwargs: object) -> None:
        use(*args, **kwargs)
        net._arena[...] = 255

    monkeypatch.setattr(net, "use", use_poisoned)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("keep", [("ip", "all"), "all"], ids=["shared", "kept"])
def test_a_filtered_batch_is_the_smaller_batch(
    backend: str, keep: str | tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    require(backend)
    net = executor_of(net_of(FILTERED), backend_name=backend, keep=keep)
    if keep != "all":
        poison(net, monkeypatch)
    smaller: dict[int, Executor] = {}
    rng = np.random.default_rng(3)
    selections = [[1, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1], *(rng.random((5, N)) < 0.5).tolist()]
    for seed, selection in enumerate(selections):
        chosen = np.flatnonzero(selection)
        count = len(chosen)
        if not count:
            continue
        x, label = batch(seed)
        run(net, x, label, np.float32(selection))
        assert net.data("some").shape[0] == count == net.data("ip").shape[0]
        if count not in smaller:
            text = INPUT % (count, count, count) + BEFORE + BEHIND % ("pool", "label")
            smaller[count] = executor_of(graph_of(text), keep="all")
            for i in range(len(net.params)):
                smaller[count].set_param(i, net.param_array(i))
        other = smaller[count]
        run(other, x[chosen], label[chosen], np.ones(count))
        np.testing.assert_allclose(net.data("ip"), other.data("ip"), rtol=1e-4, atol=1e-4)
        assert net.loss() == pytest.approx(other.loss(), rel=1e-4)
        for ours, theirs in zip(gradients(net), gradients(other), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
        # The branch that is not filtered sees all items, whatever plan went on.
        assert net.data("all").shape == (N, 2)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_pass_without_items_is_none(backend: str) -> None:
    require(backend)
    net = executor_of(net_of(FILTERED), backend_name=backend, keep=("ip", "all"))
    run(net, *batch(0), np.ones(N))
    before = gradients(net)
    run(net, *batch(0), np.zeros(N))
    assert net.data("some").shape == (0, 16, 3, 3) and net.data("ip").shape == (0, 4)
    assert net.loss() == 0 and net.data("all").any()
    assert not any(gradient.any() for gradient in gradients(net))
    assert "none" in {step.kernel for step in net.plan.forward if hasattr(step, "kernel")}
    # Gradients that add up are left as they are.
    run(net, *batch(0), np.ones(N))
    net.data("selector")[...] = 0
    net.forward()
    net.backward()
    for once, twice in zip(before, gradients(net), strict=True):
        np.testing.assert_array_equal(once, twice)


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_every_type_takes_an_empty_batch_or_says_why_not(path: Path) -> None:
    vector = np.load(path)
    graph = graph_of(str(vector["prototxt"]), Phase[str(vector["phase"])])
    try:
        graph = with_batch(graph, 0)
    except NetcError as error:
        assert all(problem.got for problem in error.problems)
        return
    net = executor_of(graph, train=any(key.startswith("top_diff") for key in vector))
    net.forward()
    if net.plan.train:
        net.backward()
    assert np.isfinite(net.loss())
    assert all(np.isfinite(diff).all() for diff in net.param_diffs if diff is not None)


CHAIN = """
layer { name: "in" type: "Input" top: "x" top: "a" top: "b"
  input_param { shape { dim: 5 dim: 2 } shape { dim: 5 } shape { dim: 5 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param {
  num_output: 3 weight_filler { type: "gaussian" } } }
layer { name: "one" type: "Filter" bottom: "ip" bottom: "b" bottom: "a" top: "one" top: "b1" }
layer { name: "two" type: "Filter" bottom: "one" bottom: "b1" top: "two"
  propagate_down: true propagate_down: false }
layer { name: "relu" type: "ReLU" bottom: "two" top: "relu" }
layer { name: "loss" type: "Reduction" bottom: "relu" top: "loss" loss_weight: 1
  reduction_param { operation: SUMSQ } }
"""


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.lists(st.booleans(), min_size=5, max_size=5)] * 2), min_size=1))
def test_filters_in_a_row(passes: list[tuple[list[bool], list[bool]]]) -> None:
    net = executor_of(net_of(CHAIN), keep=("ip", "two"))
    rng = np.random.default_rng(1)
    plain = [net.param_array(i).copy() for i in range(2)]
    for a, b in passes:
        x = rng.standard_normal((5, 2)).astype(np.float32)
        net.data("x")[...], net.data("a")[...], net.data("b")[...] = x, a, b
        net.clear_param_diffs()
        net.forward()
        net.backward()
        chosen = np.logical_and(a, b)
        y = (x @ plain[0].T + plain[1])[chosen]
        np.testing.assert_allclose(net.data("two"), y, rtol=1e-5, atol=1e-6)
        dy = 2 * np.maximum(y, 0)
        np.testing.assert_allclose(net.param_diff_array(0), dy.T @ x[chosen], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(net.param_diff_array(1), dy.sum(axis=0), rtol=1e-4, atol=1e-5)


def test_plans_are_remembered_up_to_a_bound() -> None:
    text = INPUT % (2 * PLANS, 2 * PLANS, 2 * PLANS) + BEFORE + FILTER
    net = executor_of(net_of(text), train=False)
    plans = net.replan
    assert isinstance(plans, Plans)
    seen = {}
    for count in (*range(1, 2 * PLANS), 3, 2 * PLANS - 1):
        net.data("selector")[...] = np.arange(2 * PLANS) < count
        net.forward()
        assert net.data("some").shape[0] == count and len(plans) <= PLANS
        if count in seen:
            assert (net.plan is seen[count]) == (count == 2 * PLANS - 1)
        seen[count] = net.plan


def test_a_net_that_cannot_follow_says_so() -> None:
    # Params that depend on the number of items cannot: the text is wrong, and is told with its
    # place.
    text = CHAIN.partition('layer { name: "relu"')[0] + (
        'layer { name: "flat" type: "Flatten" bottom: "two" top: "flat" flatten_param { axis: 0 } }'
        '\nlayer { name: "last" type: "InnerProduct" bottom: "flat" top: "y"'
        " inner_product_param { num_output: 1 axis: 0 } }"
    )
    net = executor_of(net_of(text), train=False)
    for key in ("a", "b"):
        net.data(key)[...] = 1
    net.forward()
    net.data("a")[...] = [1, 0, 1, 1, 1]
    with pytest.raises(NetcError, match="param 0 depends on the shape of the data") as error:
        net.forward()
    assert "layer 'last' (InnerProduct)" in str(error.value)


def test_parts_of_a_pass_follow_too() -> None:
    net = executor_of(net_of(CHAIN), keep="all")
    whole = executor_of(net_of(CHAIN), keep="all")
    one = net.plan.graph.node_index("one")
    for selector in ([1, 0, 1, 1, 0], [0, 1, 0, 0, 1]):
        for each in (net, whole):
            each.data("x")[...] = np.arange(10).reshape(5, 2)
            each.data("a")[...], each.data("b")[...] = selector, [1, 1, 0, 1, 0]
        whole.forward()
        net.forward(last=one)
        assert net.data("one").shape == whole.data("one").shape
        net.forward(first=one + 1)
        np.testing.assert_array_equal(net.data("relu"), whole.data("relu"))
        assert net.loss() == whole.loss()
    assert [d for d, _, _ in net.timed()].count(Direction.FORWARD) == len(net.plan.forward)


REGIONS = """
layer { name: "in" type: "Input" top: "scores" top: "deltas" top: "info" top: "maps" top: "truth"
  input_param { shape { dim: 1 dim: 18 dim: 5 dim: 6 } shape { dim: 1 dim: 36 dim: 5 dim: 6 }
  shape { dim: 1 dim: 3 } shape { dim: 1 dim: 16 dim: 5 dim: 6 } shape { dim: 3 dim: 5 } } }
layer { name: "conv" type: "Convolution" bottom: "maps" top: "conv" convolution_param {
  num_output: 16 kernel_size: 3 pad: 1 weight_filler { type: "gaussian" std: 0.3 } } }
layer { name: "propose" type: "Proposal" bottom: "scores" bottom: "deltas" bottom: "info"
  top: "rois" top: "p" proposal_param { post_nms_topn: 20 nms_thresh: 0.3 } }
layer { name: "target" type: "ProposalTarget" bottom: "rois" bottom: "truth" top: "some"
  top: "labels" top: "t" top: "win" top: "wout"
  proposal_target_param { num_classes: 3 batch_size: 16 } }
layer { name: "pool" type: "ROIPooling" bottom: "conv" bottom: "some" top: "pool"
  roi_pooling_param { pooled_h: 2 pooled_w: 2 spatial_scale: 0.0625 } }
layer { name: "cls" type: "InnerProduct" bottom: "pool" top: "cls" inner_product_param {
  num_output: 3 weight_filler { type: "gaussian" std: 0.1 } } }
layer { name: "box" type: "InnerProduct" bottom: "pool" top: "box" inner_product_param {
  num_output: 12 weight_filler { type: "gaussian" std: 0.1 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "cls" bottom: "labels" top: "loss" }
layer { name: "loss2" type: "SmoothL1Loss" bottom: "box" bottom: "t" bottom: "win" bottom: "wout"
  top: "loss2" loss_weight: 1 }
"""


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_regions_are_as_many_as_there_are(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    require(backend)
    keep = ("rois", "p", "some", "labels", "t", "conv", "pool")
    net = executor_of(net_of(REGIONS), backend_name=backend, keep=keep)
    poison(net, monkeypatch)
    filled = executor_of(graph_of(REGIONS), keep="all")
    for i in range(len(net.params)):
        filled.set_param(i, net.param_array(i))
    counts = set()
    for seed in range(6):
        rng = np.random.default_rng(seed)
        for key in ("scores", "deltas", "maps"):
            values = rng.standard_normal(net.data(key).shape) * (0.3 if key == "deltas" else 1)
            for each in (net, filled):
                each.data(key)[...] = values
        for each in (net, filled):
            each.data("info")[...] = 80, 96, 1
            each.data("truth")[...] = [[5, 5, 50, 50, 1], [40, 30, 90, 75, 2], [0] * 5]
            each.clear_param_diffs()
            each.forward()
            each.backward()
        rois = filled.data("rois")
        count = int((rois != 0).any(axis=1).sum())
        counts.add(count)
        np.testing.assert_array_equal(net.data("rois"), rois[:count])
        np.testing.assert_array_equal(net.data("p"), filled.data("p")[:count])
        n_some = len(net.data("some"))
        assert net.data("labels").shape == (n_some, 1, 1, 1)
        assert net.data("pool").shape == (n_some, 16, 2, 2) and np.isfinite(net.loss())
        # Where the shapes must stay, the same regions come again until the batch is full.
        np.testing.assert_array_equal(net.data("some"), filled.data("some")[:n_some])
        np.testing.assert_array_equal(net.data("t"), filled.data("t")[:n_some])
        assert any(gradient.any() for gradient in gradients(net))
    assert len(counts) > 1


DETECTIONS = """
layer { name: "in" type: "Input" top: "loc" top: "conf" top: "prior" top: "objects"
  input_param { shape { dim: 2 dim: 24 } shape { dim: 2 dim: 18 } shape { dim: 1 dim: 2 dim: 24 }
  shape { dim: 1 dim: 1 dim: 3 dim: 8 } } }
layer { name: "found" type: "DetectionOutput" bottom: "loc" bottom: "conf" bottom: "prior"
  top: "found" detection_output_param { num_classes: 3 keep_top_k: 5 confidence_threshold: 0.5
  nms_param { nms_threshold: 0.4 } } }
layer { name: "judge" type: "DetectionEvaluate" bottom: "found" bottom: "objects" top: "judged"
  detection_evaluate_param { num_classes: 3 } }
"""


def test_detections_are_as_many_as_there_are() -> None:
    net = executor_of(net_of(DETECTIONS, Phase.TEST), train=False, keep=("found",))
    filled = executor_of(graph_of(DETECTIONS, Phase.TEST), train=False, keep="all")
    rng = np.random.default_rng(0)
    low = rng.random((6, 2)) / 2
    priors = np.concatenate([low, low + rng.random((6, 2)) / 2], axis=1).ravel()
    counts = set()
    for scale in (1.0, 0.7, 0.0, 0.9):
        for each in (net, filled):
            each.data("loc")[...] = 0
            each.data("conf")[...] = scale * np.random.default_rng(1).random((2, 18))
            each.data("prior")[0, 0], each.data("prior")[0, 1] = priors, 0.1
            each.data("objects")[...] = [0, 1, 0, 0.1, 0.1, 0.5, 0.5, 0]
            each.forward()
        rows = filled.data("found")[0, 0]
        count = int((rows[:, 0] >= 0).sum())
        counts.add(count)
        if count:
            np.testing.assert_array_equal(net.data("found")[0, 0], rows[:count])
        else:
            assert net.data("found")[0, 0].tolist() == [[0, *[-1] * 6], [1, *[-1] * 6]]
        judged = filled.data("judged")
        np.testing.assert_array_equal(net.data("judged"), judged[:, :, : 2 + count])
    assert len(counts) > 2


def selecting(text: str) -> tuple[str, list[str]]:
    """Have each loss of a net judge a selection of its items; return the selectors too."""
    lines, selectors = [], []
    for line in text.split("\n"):
        found = re.search(r'type: "EuclideanLoss" bottom: "(\S+)" bottom: "(\S+)"', line)
        if found:
            bottom, target = found.groups()
            selectors.append(f"selector{len(selectors)}")
            name = selectors[-1]
            lines += [
                f'layer {{ name: "in {name}" type: "Input" top: "{name}" '
                "input_param { shape { dim: 2 } } }",
                f'layer {{ name: "{name}" type: "Filter" bottom: "{bottom}" bottom: "{target}" '
                f'bottom: "{name}" top: "some {name}" top: "want {name}" }}',
                f'layer {{ name: "after {name}" type: "TanH" bottom: "some {name}" '
                f'top: "some {name}" }}',
            ]
            line = line.replace(f'"{bottom}"', f'"some {name}"', 1)
            line = line.replace(f'"{target}"', f'"want {name}"', 1)
        lines.append(line)
    return "\n".join(lines), selectors


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=net_texts(), selections=st.lists(st.lists(st.booleans()), min_size=2, max_size=4))
def test_sharing_memory_changes_no_number_when_plans_change(
    text: str, selections: list[list[bool]]
) -> None:
    """Nets with layers whose tops depend on the data, anywhere in the second half of the pass."""
    text, selectors = selecting(text)
    shared, kept = executor_of(net_of(text)), executor_of(net_of(text), keep="all")
    with pytest.MonkeyPatch.context() as monkeypatch:
        poison(shared, monkeypatch)
        for seed, flags in enumerate(selections):
            for net in (shared, kept):
                set_inputs(net, seed)
                for i, name in enumerate(selectors):
                    net.data(name)[...] = [(flags + [True] * 99)[2 * i + j] for j in range(2)]
                net.clear_param_diffs()
                net.forward()
                net.backward()
            assert shared.loss() == kept.loss()
            for a, b in zip(gradients(shared), gradients(kept), strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_plans_that_are_forgotten_take_no_memory() -> None:
    require("cpu")
    convolutions = "".join(
        f"""
    layer {{ name: "c{i}" type: "Convolution" bottom: "c{i - 1}" top: "c{i}" convolution_param {{
      num_output: 16 kernel_size: 3 pad: 1 weight_filler {{ type: "xavier" }} }} }}"""
        for i in range(1, 9)
    )
    text = f"""
    layer {{ name: "c0" type: "Input" top: "c0"
      input_param {{ shape {{ dim: 1 dim: 16 dim: 8 dim: 8 }} }} }}{convolutions}
    layer {{ name: "sum" type: "Reduction" bottom: "c8" top: "sum" loss_weight: 1 }}"""
    net = executor_of(net_of(text), backend_name="cpu")

    def run_sizes(sizes: range) -> float:
        for size in sizes:
            net.follow({"c0": (1, 16, size, 8)})
            net.forward()
            net.backward()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    # The library keeps the last 1024 primitives that it has made for itself.
    first = run_sizes(range(9, 60))
    assert run_sizes(range(60, 110)) - first < 20  # MiB; 60 while they were kept
