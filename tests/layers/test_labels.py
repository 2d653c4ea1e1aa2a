from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netc.layers.labels import ScoreShape, check_items, check_labels, class_index
from netc.layers.types import BlobType, Refusal


@given(
    labels=st.lists(st.floats(-0.99, 4.99) | st.just(255.5), min_size=1, max_size=6),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_labels_are_truncated_and_ignored_ones_marked(labels: list[float], dtype: type) -> None:
    found = class_index(np, np.array(labels, dtype), 5, ignore_label=255)
    assert found.dtype == np.int32
    assert found.tolist() == [-1 if int(v) == 255 else int(v) for v in np.array(labels, dtype)]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(5, "5"), (-1, "-1"), (1e20, "1" + 20 * "0"), (np.nan, "nan"), (np.inf, "inf")],
)
def test_a_label_that_is_no_class_is_named_with_its_place(value: float, shown: str) -> None:
    labels = np.zeros((2, 3, 4))
    labels[1, 0, 2] = labels[1, 2, 3] = value
    with pytest.raises(Refusal) as refusal:
        class_index(np, labels, 5, ignore_label=255)
    assert refusal.value.what == f"label {shown} is outside 0..4"
    assert refusal.value.got == f"label {shown} at (1, 0, 2) of the labels, and 1 more outside"
    assert "ignore_label 255" in refusal.value.expected
    assert "5 classes" in refusal.value.expected
    assert "num_output" in refusal.value.hint


def test_the_ignored_label_may_be_a_class() -> None:
    assert class_index(np, np.array([0.0, 1, 2]), 3, ignore_label=1).tolist() == [0, -1, 2]


def test_labels_are_left_as_they_are() -> None:
    labels = np.array([1.9, 255])
    class_index(np, labels, 3, ignore_label=255)
    assert labels.tolist() == [1.9, 255]


def test_scores_as_three_axes() -> None:
    assert ScoreShape.of((2, 3, 4, 5), 1) == ScoreShape(2, 3, 20)
    assert ScoreShape.of((2, 3, 4, 5), -1) == ScoreShape(24, 5, 1)
    assert check_labels(BlobType((2, 3, 4)), BlobType((8,)), 1).labels == 8


@pytest.mark.parametrize(
    ("scores", "labels", "hint"),
    [
        ((4, 10), (4, 10), "the index of a class, not a vector"),
        ((4, 10, 3, 3), (4,), "global Pooling"),
        ((4, 10, 3, 3), (4, 9, 9), "want labels (N, H, W)"),
    ],
)
def test_labels_of_another_number(
    scores: tuple[int, ...], labels: tuple[int, ...], hint: str
) -> None:
    with pytest.raises(Refusal, match="scores and labels do not match") as refusal:
        check_labels(BlobType(scores), BlobType(labels), 1)
    assert str(BlobType(scores)) in refusal.value.got
    assert str(BlobType(labels)) in refusal.value.got
    assert hint in refusal.value.hint


def test_bottoms_of_other_batches() -> None:
    assert check_items(BlobType((4, 2)), BlobType((4,))) == 4
    for second in ((3,), ()):
        with pytest.raises(Refusal, match="different numbers of items"):
            check_items(BlobType((4, 2)), BlobType(second))
