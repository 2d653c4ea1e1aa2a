"""SegAccuracy against its definition, counted pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.errors import NetcError
from netc.layers.segaccuracy import SegAccuracy
from netc.layers.types import BlobType, Refusal
from tests.support.audit import definition
from tests.support.layer_harness import assert_close, check_layer, forward, infer
from tests.support.lowering import check_lowering


@definition("SegAccuracy")
def measures(pairs: list[tuple[int, int]], classes: int) -> list[float]:
    """Return the three measures of (label, best class) pairs."""
    hits = [sum(p == (c, c) for p in pairs) for c in range(classes)]
    occur = [sum(label == c for label, _ in pairs) for c in range(classes)]
    chosen = [sum(best == c for _, best in pairs) for c in range(classes)]
    present = [c for c in range(classes) if occur[c]]
    overlaps = [
        hits[c] / (occur[c] + chosen[c] - hits[c]) if occur[c] + chosen[c] else 1.0
        for c in range(classes)
    ]
    return [
        sum(hits) / max(len(pairs), 1),
        sum(hits[c] / occur[c] for c in present) / max(len(present), 1),
        sum(overlaps) / classes,
    ]


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Draw scores with ties, and labels some of which are 255 or 7."""
    n, k, h, w = (draw(st.integers(1, most)) for most in (3, 5, 4, 4))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    scores = rng.integers(0, 3, (n, k, h, w)).astype(float)
    return scores, rng.choice([*range(k), 255, 7], (n, 1, h, w)).astype(float)


@given(scored())
@settings(max_examples=30)
def test_the_measures_are_counted_over_all_pixels(given_: tuple[np.ndarray, np.ndarray]) -> None:
    scores, labels = given_
    layer = SegAccuracy(ignore_label=(255, 7))
    run = check_layer(layer, [scores, labels], gradient=False)
    k = scores.shape[1]
    pairs = []
    for i, _, y, x in np.ndindex(*labels.shape):
        label = int(labels[i, 0, y, x])
        if label not in (255, 7):
            best = max(range(k), key=lambda c, at=(i, y, x): (scores[at[0], c, at[1], at[2]], c))
            pairs.append((label, best))
    assert run.tops[0].shape == (1, 1, 1, 3)
    assert_close(run.tops[0].ravel(), measures(pairs, k), rtol=1e-9)


@pytest.mark.parametrize("ignore", [(), (255,), (255, 7)])
def test_onnx_gives_the_same(ignore: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    for labels in (rng.choice([0, 1, 2, *ignore], (2, 1, 4, 5)), np.zeros((2, 1, 4, 5))):
        scores = rng.standard_normal((2, 4, 4, 5))
        check_lowering(SegAccuracy(ignore_label=ignore), [scores, labels.astype(float)])


def test_a_pass_in_which_nothing_counts_gives_0_0_and_1() -> None:
    x = [np.ones((1, 3, 2, 2)), np.full((1, 1, 2, 2), 255.0)]
    layer = SegAccuracy(ignore_label=(255,))
    assert forward(layer, x).tops[0].ravel().tolist() == [0, 0, 1]
    check_lowering(layer, x)


def test_without_reset_the_counts_go_on_and_stay_exact() -> None:
    layer = SegAccuracy(reset=False)
    rng = np.random.default_rng(2)
    x = [rng.standard_normal((2, 3, 4, 4)), rng.integers(0, 3, (2, 1, 4, 4)).astype(float)]
    once = forward(layer, x)
    again = forward(layer, x, kept=once.kept)
    assert_close(again.tops[0], once.tops[0], rtol=1e-12)
    np.testing.assert_array_equal(again.kept[0][0], 2 * once.kept[0][0])
    # A count beyond what float32 can say, plus the pixels of one more pass.
    many = np.zeros((2, 3, 3), np.float32)
    many[:, 0, 0] = 5, 1 << 14
    x32 = [v.astype(np.float32) for v in x]
    after = forward(layer, x32, kept=[many]).kept[0].astype(np.int64)
    one = forward(layer, x32).kept[0].astype(np.int64)
    total = (after[0] + after[1] * (1 << 20)).sum()
    assert total == 5 + (1 << 34) + one[0].sum()
    with pytest.raises(NetcError, match="memory"):
        check_lowering(layer, x)


def test_a_label_that_no_class_has_is_refused() -> None:
    labels = np.array([[[[0.0, 255.0]]]])
    with pytest.raises(Refusal, match="255"):
        forward(SegAccuracy(ignore_label=(7,)), [np.ones((1, 3, 1, 2)), labels])


@pytest.mark.parametrize("labels", [(2, 1, 4, 5), (1, 1, 4, 4), (2, 2, 4, 4)])
def test_labels_have_to_fit_the_scores(labels: tuple[int, ...]) -> None:
    with pytest.raises(Refusal):
        infer(SegAccuracy(), [np.zeros((2, 3, 4, 4)), np.zeros(labels)])


def test_no_gradient_passes_and_a_deployed_net_does_without_it() -> None:
    assert SegAccuracy().gradient_bottoms(2) == (False, False)
    assert SegAccuracy().deployed() is None
    assert not SegAccuracy().infer(BlobType((1, 2, 3, 3)), BlobType((1, 1, 3, 3))).kept
