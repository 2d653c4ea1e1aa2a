from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.layers.accuracy import Accuracy, ArgMax, EltwiseAccuracy
from netc.layers.types import BlobType, Layer, Refusal
from tests.support.audit import definition
from tests.support.layer_harness import check_layer, forward, smooth, vector_names
from tests.support.lowering import check_lowering
from tests.support.vectors import bound_layers, check_bound_vector, refusal_of


@pytest.mark.parametrize("name", vector_names("accuracy", "argmax"))
def test_golden_vectors(name: str) -> None:
    check_bound_vector(name)


# -- Accuracy --------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple),
    ignore=st.sampled_from([None, -1, 1, 255]),
    two_tops=st.booleans(),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_accuracy(
    shape: tuple[int, ...], ignore: int | None, two_tops: bool, seed: int, data: st.DataObject
) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1), "axis")
    classes = shape[axis]
    top_k = data.draw(st.integers(1, classes), "top_k")
    rng = np.random.default_rng(seed)
    x = rng.integers(-2, 3, shape) / 4  # a few values only: many ties
    allowed = [*range(classes), *([] if ignore is None else [ignore])]
    rest = tuple(n for i, n in enumerate(shape) if i != axis % len(shape))
    labels = rng.choice(allowed, rest).astype(float)
    labels += np.copysign(0.5, labels)
    layer = Accuracy(top_k, axis, ignore, ("accuracy", "each") if two_tops else ())
    run = check_layer(layer, [x, labels], gradient=False)

    hits = [0] * classes
    seen = [0] * classes
    rows = np.moveaxis(x, axis, -1).reshape(-1, classes)
    for scores, label in zip(rows, (int(v) for v in labels.ravel()), strict=True):
        if label == ignore:
            continue
        rivals = sum(s >= scores[label] for k, s in enumerate(scores) if k != label)
        seen[label] += 1
        hits[label] += rivals < top_k
    assert run.tops[0].shape == ()
    assert run.tops[0] == pytest.approx(sum(hits) / max(sum(seen), 1))
    if two_tops:
        want = [hit / max(n, 1) for hit, n in zip(hits, seen, strict=True)]
        assert run.tops[1].tolist() == pytest.approx(want)


def test_a_nan_is_never_a_hit() -> None:
    # In Caffe a net that gives nothing but NaN has an accuracy of 1.
    x = np.array([[np.nan, np.nan], [0.0, np.nan], [np.nan, 0.0]])
    assert forward(Accuracy(), [x, np.zeros(3)]).tops[0] == 0


def test_a_million_labels_are_counted_exactly() -> None:
    x = np.zeros((1, 2, 1000, 1000), np.float32)
    x[0, 0, 0, 0] = 1
    assert forward(Accuracy(), [x, np.zeros((1, 1000, 1000), np.float32)]).tops[0] == np.float32(
        1e-6
    )


def test_a_label_out_of_range() -> None:
    with pytest.raises(Refusal, match=r"label 5 is outside 0\.\.3"):
        forward(Accuracy(), [smooth(2, 4), np.array([1.0, 5])])


def test_accuracy_stops_gradients_and_is_not_deployed() -> None:
    assert not any(Accuracy().gradient_bottoms(2))
    assert Accuracy().deployed() is None
    assert not Accuracy().loss


def test_refusals_of_accuracy() -> None:
    message = refusal_of("accuracy_top_k_too_big")
    assert "layer 'accuracy' (Accuracy): top_k is larger than the number of classes" in message
    assert "expected  top_k <= 5" in message
    for scores, labels in (((4, 5), (3,)), ((4, 5, 2, 2), (4,)), ((4, 0), (4,))):
        with pytest.raises(Refusal):
            Accuracy().infer(BlobType(scores), BlobType(labels))


@pytest.mark.parametrize("ignore", [None, 1])
@pytest.mark.parametrize("top_k", [1, 3])
def test_lowering_of_accuracy(top_k: int, ignore: int | None) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 5, (6, 4, 3)) / 4
    labels = rng.integers(0, 4, (6, 3)) + 0.5
    check_lowering(Accuracy(top_k, ignore_label=ignore, top=("a", "b")), [x, labels])
    check_lowering(Accuracy(top_k, ignore_label=ignore), [x, labels])
    x = np.moveaxis(x, 1, -1)
    check_lowering(Accuracy(top_k, -1, ignore, ("a", "b")), [x, labels])


def test_lowering_of_accuracy_where_all_labels_are_ignored_or_scores_are_nan() -> None:
    check_lowering(Accuracy(ignore_label=2, top=("a", "b")), [smooth(3, 4), np.full(3, 2)])
    check_lowering(Accuracy(), [np.full((2, 3), np.nan), np.zeros(2)])


# -- ArgMax ----------------------------------------------------------------------------------------


def best(values: np.ndarray, k: int) -> list[int]:
    """Return the indices of the k largest values; of two equal ones the later comes first."""
    return sorted(range(len(values)), key=lambda i: (values[i], i), reverse=True)[:k]


@settings(max_examples=80)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple),
    out_max_val=st.booleans(),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_argmax(shape: tuple[int, ...], out_max_val: bool, seed: int, data: st.DataObject) -> None:
    axis = data.draw(st.none() | st.integers(-len(shape), len(shape) - 1), "axis")
    size = math.prod(shape[1:]) if axis is None else shape[axis]
    k = data.draw(st.integers(1, size), "top_k")
    x = np.random.default_rng(seed).integers(-2, 3, shape) / 4
    y = check_layer(ArgMax(out_max_val, k, axis), [x], gradient=False).tops[0]
    if axis is not None:
        lines, found = np.moveaxis(x, axis, -1), np.moveaxis(y, axis, -1)
        for place in np.ndindex(lines.shape[:-1]):
            want = best(lines[place], k)
            values = lines[place][want].tolist()
            assert found[place].tolist() == (values if out_max_val else want)
        return
    channels = 2 if out_max_val else 1
    assert y.shape == (shape[0], channels, k, *(1,) * (len(shape) - 3))
    for item, found in zip(x.reshape(shape[0], -1), y.reshape(shape[0], channels, k), strict=True):
        want = best(item, k)
        assert found[0].tolist() == want
        if out_max_val:
            assert found[1].tolist() == item[want].tolist()


def test_argmax_stays_in_a_net_for_inference() -> None:
    assert not any(ArgMax().gradient_bottoms(1))
    assert ArgMax(top_k=2).deployed() == ArgMax(top_k=2)
    # An axis of 0 is not the same as none.
    assert bound_layers("argmax__axis0")["argmax"] == ArgMax(axis=0)
    assert bound_layers("argmax__default")["argmax"] == ArgMax(axis=None)


@pytest.mark.parametrize(
    ("layer", "shape", "what"),
    [
        (ArgMax(top_k=0), (2, 3), "top_k is out of range"),
        (ArgMax(top_k=7), (2, 3, 2), "top_k is out of range"),
        (ArgMax(top_k=3, axis=2), (2, 3, 2), "top_k is out of range"),
        (ArgMax(axis=3), (2, 3, 2), "axis 3 is out of range"),
        (ArgMax(), (), "single number"),
        (ArgMax(), (2, 0), "top_k is out of range"),
    ],
)
def test_refusals_of_argmax(layer: Layer, shape: tuple[int, ...], what: str) -> None:
    with pytest.raises(Refusal, match=what):
        layer.infer(BlobType(shape))


@pytest.mark.parametrize("out_max_val", [False, True])
@pytest.mark.parametrize("axis", [None, 1, -1])
@pytest.mark.parametrize("top_k", [1, 3])
def test_lowering_of_argmax(top_k: int, axis: int | None, out_max_val: bool) -> None:
    rng = np.random.default_rng(0)
    x, other = (rng.integers(0, 4, (n, 4, 3, 3)) / 4 for n in (2, 5))
    operators = check_lowering(ArgMax(out_max_val, top_k, axis), [x], other_batch=[other])
    assert ("TopK" in operators) is (top_k > 1)


def test_lowering_of_argmax_over_the_batch() -> None:
    check_lowering(ArgMax(axis=0, top_k=2), [smooth(4, 3)])


def test_the_smallest_may_be_the_best() -> None:
    x, labels = smooth(6, 4, 3), np.random.default_rng(0).integers(0, 4, (6, 3)).astype(float)
    for top_k in (1, 2):
        layer = Accuracy(top_k, min_is_better=True)
        run = check_layer(layer, [x, labels], gradient=False)
        assert run.tops[0] == forward(Accuracy(top_k), [-x, labels]).tops[0]
        check_lowering(layer, [x, labels])
    # Equal scores count against the label here, too.
    assert forward(Accuracy(min_is_better=True), [np.zeros((1, 2)), np.zeros(1)]).tops[0] == 0


# -- EltwiseAccuracy


@settings(max_examples=40)
@given(
    shape=st.tuples(*[st.integers(1, 3)] * 4),
    ignore=st.sampled_from([None, 1, 255]),
    seed=st.integers(0, 99),
    data=st.data(),
)
@definition("EltwiseAccuracy")
def test_eltwise_accuracy_puts_the_larger_class_first(
    shape: tuple[int, ...], ignore: int | None, seed: int, data: st.DataObject
) -> None:
    n, classes, height, width = shape
    top_k = data.draw(st.integers(1, classes), "top_k")
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 2, shape) / 2  # ties everywhere
    allowed = [*range(classes), *([] if ignore is None else [ignore])]
    labels = rng.choice(allowed, (n, 1, height, width)).astype(float)
    layer = EltwiseAccuracy(top_k, ignore_label=ignore)
    run = check_layer(layer, [x, labels], gradient=False)
    hits = seen = 0
    for i, row, column in np.ndindex(n, height, width):
        label = int(labels[i, 0, row, column])
        if label == ignore:
            continue
        scores = x[i, :, row, column]
        order = sorted(range(classes), key=lambda k: (scores[k], k), reverse=True)
        seen += 1
        hits += label in order[:top_k]
    assert math.isclose(run.tops[0], hits / seen if seen else 0)
    check_lowering(layer, [x, labels])


@pytest.mark.parametrize(
    ("shape", "labels"), [((2, 3, 4), (2, 1, 4)), ((2, 3, 4, 4), (2, 4, 4)), ((1, 3, 2, 2),) * 2]
)
def test_eltwise_accuracy_wants_a_label_at_each_pixel(
    shape: tuple[int, ...], labels: tuple[int, ...]
) -> None:
    with pytest.raises(Refusal, match="one label for each pixel"):
        EltwiseAccuracy().infer(BlobType(shape), BlobType(labels))
