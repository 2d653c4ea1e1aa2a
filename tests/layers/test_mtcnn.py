"""Rows and losses of a task: against plain loops over the definition."""

from __future__ import annotations

import numpy as np
import pytest

from netc.layers.losses import EuclideanLoss
from netc.layers.mtcnn import KnownEuclideanLoss, KnownRows
from netc.layers.types import BlobType, Refusal
from tests.support.audit import definition
from tests.support.layer_harness import check_layer, forward, smooth
from tests.support.lowering import check_lowering

LABELS = [
    [1.0, -1, 0, -1, 1],
    [-1.0] * 5,
    [0.0, 1, 1, 0, 1],
]


@definition("KnownRows")
def known_rows(rows, labels):
    pairs = [(row, label) for row, label in zip(rows, labels, strict=True) if label != -1]
    pairs += [(np.zeros_like(rows[0]), 0)] * (len(rows) - len(pairs))
    return np.stack([row for row, _ in pairs]), np.array([label for _, label in pairs])


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("shape", [(5, 2), (5, 2, 1, 1)])
def test_known_rows_come_first(labels, shape) -> None:
    rows, labels = smooth(*shape), np.array(labels)
    found = check_layer(KnownRows(), [rows, labels.reshape(5, 1)]).tops
    want = known_rows(rows, labels)
    np.testing.assert_array_equal(found[0], want[0])
    np.testing.assert_array_equal(found[1].ravel(), want[1])
    check_lowering(KnownRows(), [rows, labels.reshape(5, 1)])


@definition("KnownEuclideanLoss")
def known_loss(a, targets):
    if all(target.flat[0] == -1 for target in targets):
        return 0
    pairs = zip(a.ravel(), targets.ravel(), strict=True)
    return sum((x - t) ** 2 for x, t in pairs) / (2 * len(a))


@pytest.mark.parametrize("known", [0, 1, 4])
def test_the_loss_of_a_task_that_no_example_has_is_zero(known: int) -> None:
    a, targets = smooth(4, 6), smooth(4, 6, seed=1)
    targets[known:] = -1
    (loss,) = check_layer(KnownEuclideanLoss(), [a, targets]).tops
    assert loss == pytest.approx(known_loss(a, targets))
    assert (loss > 0) == (known > 0)
    check_lowering(KnownEuclideanLoss(), [a, targets])
    if known == 4:
        assert loss == forward(EuclideanLoss(), [a, targets]).tops[0]


def test_predictions_of_a_convolution_are_rows_too() -> None:
    a, targets = smooth(4, 6), smooth(4, 6, seed=1)
    flat = forward(KnownEuclideanLoss(), [a, targets]).tops[0]
    run = check_layer(KnownEuclideanLoss(), [a.reshape(4, 6, 1, 1), targets])
    assert run.tops[0] == flat


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(Refusal, match="one label for each row"):
        KnownRows().infer(BlobType((5, 2)), BlobType((5, 2)))
