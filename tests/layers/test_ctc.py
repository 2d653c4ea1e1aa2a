from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.layers.ctc import (
    CTCGreedyAccuracy,
    CTCGreedyDecoder,
    CTCLoss,
    LabelsequenceAccuracy,
)
from netc.layers.softmax import Softmax
from netc.layers.types import BlobType, Layer, Refusal
from tests.support.audit import definition
from tests.support.layer_harness import check_layer, forward, smooth
from tests.support.lowering import check_lowering
from tests.support.nets import executor_of, graph_of, set_inputs


def meaning(said: tuple[int, ...], blank: int, merge: bool) -> tuple[int, ...]:
    """Return the labels that a class for each step stands for."""
    runs = [k for k, _ in itertools.groupby(said)] if merge else said
    return tuple(c for c in runs if c != blank)


@definition("CTCLoss")
def slow_ctc(x: np.ndarray, steps: int, labels: list[int], blank: int, merge: bool = True) -> float:
    """Sum over all sequences of classes, for the scores (T, C) of one item."""
    exps = np.exp(x)
    prob = exps / exps.sum(axis=1, keepdims=True)
    total = math.fsum(
        math.prod(prob[t, c] for t, c in enumerate(said))
        for said in itertools.product(range(x.shape[1]), repeat=steps)
        if meaning(said, blank, merge) == tuple(labels)
    )
    return -math.log(total)


def needed(labels: list[int], merge: bool) -> int:
    return len(labels) + merge * sum(a == b for a, b in itertools.pairwise(labels))


def padded(rows: list[list[int]], value: int, length: int) -> np.ndarray:
    return np.array([row + [value] * (length - len(row)) for row in rows], np.float64)


@st.composite
def batches(draw: st.DrawFn) -> tuple[np.ndarray, list[list[int]], list[int], int, bool]:
    """Draw scores (T, N, C), labels and steps of each item, the blank, and whether runs merge."""
    total, n, classes = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(2, 4))
    blank, merge = draw(st.integers(0, classes - 1)), draw(st.booleans())
    others = [c for c in range(classes) if c != blank]
    rows, steps = [], []
    for _ in range(n):
        row = draw(st.lists(st.sampled_from(others), max_size=total))
        while needed(row, merge) > total:
            row.pop()
        rows.append(row)
        steps.append(draw(st.integers(max(needed(row, merge), 1), total)))
    return smooth(total, n, classes, seed=draw(st.integers(0, 99))), rows, steps, blank, merge


Batch = tuple[np.ndarray, list[list[int]], list[int], int, bool]


def mean_loss(batch: Batch, steps: list[int]) -> float:
    x, rows, _, blank, merge = batch
    n = len(rows)
    return sum(slow_ctc(x[:, i], steps[i], rows[i], blank, merge) for i in range(n)) / n


@settings(max_examples=30)
@given(batch=batches())
def test_labels_alone(batch: Batch) -> None:
    x, rows, _, blank, merge = batch
    layer = CTCLoss(blank_label=blank, ctc_merge_repeated=merge)
    run = check_layer(layer, [x, padded(rows, blank, len(x))])
    want = mean_loss(batch, [len(x)] * len(rows))
    assert math.isclose(run.tops[0], want, rel_tol=1e-10, abs_tol=1e-12)


@settings(max_examples=30)
@given(batch=batches())
def test_indicators(batch: Batch) -> None:
    x, rows, steps, blank, merge = batch
    going = (np.arange(len(x))[:, None] < np.array(steps)) & (np.arange(len(x))[:, None] > 0)
    layer = CTCLoss(blank_index=blank, ctc_merge_repeated=merge)
    run = check_layer(layer, [x, going.astype(float), padded(rows, -1, len(x)).T])
    want = mean_loss(batch, steps)
    assert math.isclose(run.tops[0], want, rel_tol=1e-10, abs_tol=1e-12)


@settings(max_examples=30)
@given(batch=batches())
def test_lengths(batch: Batch) -> None:
    x, rows, steps, blank, merge = batch
    layer = CTCLoss(blank_index=blank, ctc_merge_repeated=merge)
    lengths = [np.array(steps, float), np.array([len(r) for r in rows], float)]
    # What lies behind the labels of an item is not read.
    run = check_layer(layer, [x, *lengths, padded(rows, 77, len(x)).T])
    want = mean_loss(batch, steps)
    assert math.isclose(run.tops[0], want, rel_tol=1e-10, abs_tol=1e-12)


@settings(max_examples=8, deadline=None)
@given(batch=batches())
def test_onnx(batch: Batch) -> None:
    x, rows, steps, blank, merge = batch
    total = len(x)
    check_lowering(
        CTCLoss(blank_label=blank, ctc_merge_repeated=merge), [x, padded(rows, blank, total)]
    )
    layer = CTCLoss(blank_index=blank, ctc_merge_repeated=merge)
    lengths = [np.array(steps, float), np.array([len(r) for r in rows], float)]
    check_lowering(layer, [x, *lengths, padded(rows, -1, total).T])
    going = (np.arange(total)[:, None] < np.array(steps)) & (np.arange(total)[:, None] > 0)
    check_lowering(layer, [x, going.astype(float), padded(rows, -1, total).T])


def test_gaps_among_the_labels_are_closed() -> None:
    x = smooth(6, 2, 4)
    gaps = np.array([[0, 2, 0, 0, 3], [1, -1, 0, 2, 2]], float)
    closed = np.array([[2, 3, 0, 0, 0], [1, 2, 2, 0, 0]], float)
    run, other = forward(CTCLoss(), [x, gaps]), forward(CTCLoss(), [x, closed])
    assert run.tops[0] == other.tops[0]
    check_lowering(CTCLoss(), [x, gaps])


def test_runs_among_the_labels_can_be_one() -> None:
    x = smooth(6, 2, 4)
    runs = np.array([[2, 2, 3, 3, 2], [1, 0, 1, 1, 0]], float)
    once = np.array([[2, 3, 2, 0, 0], [1, 0, 0, 0, 0]], float)
    layer = CTCLoss(preprocess_collapse_repeated=True)
    assert forward(layer, [x, runs]).tops[0] == forward(CTCLoss(), [x, once]).tops[0]
    check_lowering(layer, [x, runs])


def test_long_sequences_neither_overflow_nor_vanish() -> None:
    x = 30 * smooth(400, 2, 30)
    labels = np.random.default_rng(0).integers(1, 30, (2, 100)).astype(float)
    run = forward(CTCLoss(), [x, labels])
    dx = run.backward([np.array(1.0)]).bottoms[0]
    assert np.isfinite(run.tops[0]) and np.isfinite(dx).all()
    # A softmax's gradient sums to 0 over the classes.
    np.testing.assert_allclose(dx.sum(axis=2), 0, atol=1e-9)


def test_one_class_per_step_is_cross_entropy() -> None:
    """With as many labels as steps, all different, there is one way only."""
    x, labels = smooth(3, 1, 5), np.array([[1.0, 4, 2]])
    logs = x[:, 0] - np.log(np.exp(x[:, 0]).sum(axis=1, keepdims=True))
    want = -sum(logs[t, int(c)] for t, c in enumerate(labels[0]))
    assert math.isclose(forward(CTCLoss(), [x, labels]).tops[0], want, rel_tol=1e-12)


def test_blank_is_the_first_class_or_the_last() -> None:
    x, labels = smooth(4, 1, 3), np.array([[1.0]])
    first, last = forward(CTCLoss(), [x, labels]), forward(CTCLoss(blank_index=-1), [x, labels])
    assert math.isclose(first.tops[0], slow_ctc(x[:, 0], 4, [1], 0), rel_tol=1e-12)
    assert math.isclose(last.tops[0], slow_ctc(x[:, 0], 4, [1], 2), rel_tol=1e-12)
    lengths = forward(CTCLoss(), [x, np.array([4.0]), np.array([1.0]), labels.T])
    assert lengths.tops[0] == last.tops[0]
    assert CTCLoss().deployed() == Softmax(axis=2)


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        ([[1.0, 7]], "label 7 is not one of the classes"),
        ([[1.0, math.nan]], "not one of the classes"),
        ([[1.0, 2, 1, 2]], "more labels than its time steps"),
        ([[1.0, 1]], "more labels than its time steps"),
    ],
)
def test_refuses_labels(labels: list[list[float]], match: str) -> None:
    steps = 2 if len(labels[0]) == 2 else 3
    with pytest.raises(Refusal, match=match):
        forward(CTCLoss(), [smooth(steps, 1, 4), np.array(labels)])


def test_refuses_the_blank_among_labels_that_have_lengths() -> None:
    counts = [np.array([3.0]), np.array([2.0])]
    with pytest.raises(Refusal, match="label 3 is not one of the classes"):
        forward(CTCLoss(), [smooth(3, 1, 4), *counts, np.array([[1.0], [3]])])
    with pytest.raises(Refusal, match="number of labels"):
        forward(CTCLoss(), [smooth(3, 1, 4), counts[0], np.array([5.0]), np.array([[1.0], [2]])])
    with pytest.raises(Refusal, match="more labels"):
        forward(CTCLoss(), [smooth(3, 1, 4), np.array([1.0]), counts[1], np.array([[1.0], [2]])])


@pytest.mark.parametrize(
    ("settings", "shapes", "setting"),
    [
        ({}, [(4, 2), (2, 1)], "bottom"),
        ({}, [(4, 2, 3, 2), (2, 1)], "bottom"),
        ({}, [(0, 2, 3), (2, 1)], "bottom"),
        ({}, [(4, 2, 3), (3, 1)], "bottom"),
        ({}, [(4, 2, 3), (4, 3), (5, 2)], "bottom"),
        ({}, [(4, 2, 3), (4, 2), (2, 5)], "bottom"),
        ({}, [(4, 2, 3), (2,), (3,), (5, 2)], "bottom"),
        ({"blank_label": 3}, [(4, 2, 3), (2, 1)], "blank_label"),
        ({"blank_label": -1}, [(4, 2, 3), (2, 1)], "blank_label"),
        ({"blank_index": -2}, [(4, 2, 3), (2, 1)], "blank_index"),
        ({"blank_index": 0, "blank_label": 0}, [(4, 2, 3), (2, 1)], "blank_label"),
        ({"time_step": 5}, [(4, 2, 3), (2, 1)], "time_step"),
        ({"alphabet_size": 4}, [(4, 2, 3), (2, 1)], "alphabet_size"),
    ],
)
def test_refuses(settings: dict[str, Any], shapes: list[tuple[int, ...]], setting: str) -> None:
    with pytest.raises(Refusal) as caught:
        CTCLoss(**settings).infer(*map(BlobType, shapes))
    assert caught.value.setting == setting


def test_from_text() -> None:
    net = executor_of(
        graph_of(
            """
            layer { name: "x" type: "Input" top: "x"
              input_param { shape { dim: 5 dim: 2 dim: 6 } } }
            layer { name: "f" type: "InnerProduct" bottom: "x" top: "f"
              inner_product_param { num_output: 4 axis: 2 weight_filler { type: "xavier" } } }
            layer { name: "l" type: "DummyData" top: "l"
              dummy_data_param { shape { dim: 2 dim: 2 } data_filler { value: 3 } } }
            layer { name: "loss" type: "CTCLoss" bottom: "f" bottom: "l" top: "loss"
              ctc_loss_param { blank_label: 0 alphabet_size: 4 time_step: 5 } }
            """
        )
    )
    set_inputs(net)
    net.forward()
    net.backward()
    assert all(d.any() for d in net.param_diffs)


# -- LabelsequenceAccuracy -------------------------------------------------------------------------


@definition("LabelsequenceAccuracy")
def share_read(x: np.ndarray, labels: np.ndarray, blank: int) -> float:
    """The share of items (N, T, C) whose best classes stand for their labels (N, L)."""
    hits = 0
    for scores, row in zip(x, labels, strict=True):
        said = tuple(max(range(len(s)), key=lambda c, s=s: (s[c], -c)) for s in scores)
        hits += meaning(said, blank, True) == tuple(int(v) for v in row if v != blank)
    return hits / len(x)


@given(st.integers(0, 10_000), st.integers(0, 2))
@settings(max_examples=40, deadline=None)
def test_sequences_that_are_read_without_a_mistake(seed: int, blank: int) -> None:
    rng = np.random.default_rng(seed)
    n, steps, length = (int(rng.integers(1, most)) for most in (5, 5, 4))
    # Few values: many ties, runs and hits.
    x = rng.integers(0, 3, (n, steps, 3)).astype(float)
    labels = rng.integers(0, 3, (n, length)).astype(float)
    run = check_layer(LabelsequenceAccuracy(blank), [x, labels], gradient=False)
    assert run.tops[0] == pytest.approx(share_read(x, labels, blank))


def test_reading_counts_runs_once_and_repeats_behind_a_blank_twice() -> None:
    classes = np.array([[1, 1, 0, 1, 2], [0, 1, 1, 2, 2], [2, 2, 2, 2, 2]])
    x = np.eye(3)[classes]
    labels = np.array([[1.0, 1, 2], [1, 2, 0], [2, 2, 0]])
    assert forward(LabelsequenceAccuracy(), [x, labels]).tops[0] == pytest.approx(2 / 3)


@pytest.mark.parametrize(("steps", "length"), [(1, 3), (5, 2), (4, 4)])
def test_reading_in_onnx(steps: int, length: int) -> None:
    rng = np.random.default_rng(steps)
    x = rng.integers(0, 3, (6, steps, 3)).astype(float)
    x[0] = np.eye(3)[[1] * steps]
    labels = rng.integers(0, 3, (6, length)).astype(float)
    labels[0] = [1.0] + [0] * (length - 1)
    assert share_read(x, labels, 0) > 0
    check_lowering(LabelsequenceAccuracy(), [x, labels])


@pytest.mark.parametrize(
    ("shapes", "match"),
    [
        ([(2, 3), (2, 1)], "scores are not those"),
        ([(2, 3, 4), (3, 1)], "labels do not match"),
        ([(2, 3, 4), (2,)], "labels do not match"),
        ([(2, 0, 4), (2, 1)], "scores are not those"),
    ],
)
def test_reading_refuses(shapes: list[tuple[int, ...]], match: str) -> None:
    with pytest.raises(Refusal, match=match) as caught:
        LabelsequenceAccuracy().infer(*map(BlobType, shapes))
    assert caught.value.setting == "bottom"


def said_by(x: np.ndarray) -> list[list[int]]:
    """Return the best class of each step, for each item of scores (T, N, C)."""
    return [[int(np.argmax(x[t, n])) for t in range(len(x))] for n in range(x.shape[1])]


@definition("CTCGreedyDecoder")
def decoded(x: np.ndarray, blank: int, merge: bool, ends: list[int]) -> np.ndarray:
    out = np.full((x.shape[1], len(x), 1, 1), -1.0)
    for n, said in enumerate(said_by(x)):
        labels = meaning(tuple(said[: ends[n]]), blank, merge)
        out[n, : len(labels), 0, 0] = labels
    return out


def few_classes(t: int, n: int, c: int, seed: int = 0) -> np.ndarray:
    """Scores whose best classes come in runs."""
    rng = np.random.default_rng(seed)
    runs = np.repeat(rng.integers(0, c, (t, n)), 2, axis=0)[:t]
    return rng.random((t, n, c)) + 2 * (runs[:, :, None] == np.arange(c))


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("blank", [None, 1, -1])
@pytest.mark.parametrize("shape", [(1, 1, 2), (9, 3, 3), (12, 2, 4)])
def test_greedy_decoding(shape: tuple[int, int, int], blank: int | None, merge: bool) -> None:
    x = few_classes(*shape)
    steps, n, classes = shape
    layer = CTCGreedyDecoder(blank, merge)
    run = check_layer(layer, [x], gradient=False)
    index = {None: 0, -1: classes - 1}.get(blank, blank)
    np.testing.assert_array_equal(run.tops[0], decoded(x, index, merge, [steps] * n))
    check_lowering(layer, [x])
    marks = np.ones((steps, n))
    marks[0] = 0  # where each begins
    marks[steps // 2 :, 0] = 0
    ends = [max(steps // 2, 1), *[steps] * (n - 1)]
    run = check_layer(layer, [x, marks], gradient=False)
    index = classes - 1 if blank is None else index
    np.testing.assert_array_equal(run.tops[0], decoded(x, index, merge, ends))
    check_lowering(layer, [x, marks])


@definition("CTCGreedyAccuracy")
def accuracy(x: np.ndarray, labels: np.ndarray, blank: int, merge: bool) -> list[float]:
    errors, right = [], 0

    def edits(a: tuple[int, ...], b: tuple[int, ...]) -> int:
        if not a or not b:
            return len(a) + len(b)
        same = edits(a[1:], b[1:]) + (a[0] != b[0])
        return min(same, edits(a[1:], b) + 1, edits(a, b[1:]) + 1)

    for said, row in zip(said_by(x), labels, strict=True):
        read = meaning(tuple(said), blank, merge)
        row = tuple(int(label) for label in itertools.takewhile(lambda v: v >= 0, row))
        wanted = tuple(label for label in row if label != blank)
        longest = max(len(read), len(wanted))
        errors.append(edits(read, wanted) / longest if longest else 0)
        right += bool(longest) and not errors[-1]
    return [1 - sum(errors) / len(errors), right / len(errors)]


@pytest.mark.parametrize("merge", [True, False])
def test_greedy_accuracy(merge: bool) -> None:
    x = few_classes(7, 6, 4)
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, (6, 5)).astype(float)
    labels[1, 2:] = -1
    right = meaning(tuple(said_by(x)[2]), 0, merge)
    labels[2] = [*right, -1, -1, -1, -1, -1][:5] if len(right) <= 5 else labels[2]
    x[:, 3] = [9, 0, 0, 0]  # nothing is read, and there is nothing
    labels[3] = 0
    layer = CTCGreedyAccuracy(ctc_merge_repeated=merge)
    run = check_layer(layer, [x, labels], gradient=False)
    want = accuracy(x, labels, 0, merge)
    np.testing.assert_allclose(run.tops[0].reshape(-1), want)
    assert not merge or want[1] >= 1 / 6
    # The decoder with labels is that type.
    shapes = BlobType(x.shape), BlobType(labels.shape)
    (part,) = CTCGreedyDecoder(None, merge).expand(*shapes) or ()
    assert part.layer == layer
    assert CTCGreedyDecoder().expand(shapes[0]) is None
    assert CTCGreedyDecoder().expand(shapes[0], BlobType((7, 6))) is None


@pytest.mark.parametrize(
    ("layer", "shapes", "setting"),
    [
        (CTCGreedyDecoder(), ((7, 6),), "bottom"),
        (CTCGreedyDecoder(4), ((7, 6, 4),), "blank_index"),
        (CTCGreedyDecoder(), ((7, 6, 4), (6, 5)), "bottom"),
        (CTCGreedyAccuracy(), ((7, 6, 4), (7, 6)), "bottom"),
        (CTCGreedyAccuracy(9), ((7, 6, 4), (6, 5)), "blank_index"),
    ],
)
def test_greedy_types_refuse(
    layer: Layer, shapes: tuple[tuple[int, ...], ...], setting: str
) -> None:
    with pytest.raises(Refusal) as error:
        layer.infer(*map(BlobType, shapes))
    assert error.value.setting == setting
    assert error.value.expected and str(error.value.got)
