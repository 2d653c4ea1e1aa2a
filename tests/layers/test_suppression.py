"""NonMaximumSuppression: against a loop over the definition, and ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.errors import NetcError
from netc.layers.suppression import NonMaximumSuppression
from netc.layers.types import BlobType, ForwardCall, Refusal
from tests.support.audit import definition
from tests.support.layer_harness import check_layer
from tests.support.lowering import check_lowering
from tests.support.nets import graph_of


def some(n: int, classes: int, r: int, seed: int = 0) -> list[np.ndarray]:
    """Boxes (n, r, 4), in pixels, and scores (n, classes, r), no two alike."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 60, (n, r, 2))
    boxes = np.concatenate([low, low + rng.uniform(5, 40, (n, r, 2))], axis=2)
    scores = (rng.permutation(n * classes * r) + 0.5).reshape(n, classes, r) / (n * classes * r)
    return [boxes.astype(np.float32), scores.astype(np.float32)]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    common = 1.0
    for d in (0, 1):
        common *= max(min(a[d + 2], b[d + 2]) - max(a[d], b[d]), 0)
    areas = [max(c[2] - c[0], 0) * max(c[3] - c[1], 0) for c in (a, b)]
    return common / (sum(areas) - common) if common else 0.0


@definition("NonMaximumSuppression")
def detections(layer: NonMaximumSuppression, boxes: np.ndarray, scores: np.ndarray) -> list:
    found = []
    for image in range(len(boxes)):
        for label, own in enumerate(scores[image]):
            order = [i for i in np.argsort(-own, kind="stable")]
            if layer.score_threshold is not None:
                order = [i for i in order if own[i] > layer.score_threshold]
            if layer.top_k is not None and layer.top_k >= 0:
                order = order[: layer.top_k]
            kept, limit = [], layer.nms_threshold
            for i in order:
                if all(iou(boxes[image, i], boxes[image, j]) <= limit for j in kept):
                    kept.append(i)
                    limit *= layer.eta if limit > 0.5 else 1
            found += [[image, label, own[i], *boxes[image, i]] for i in kept]
    return found


@settings(max_examples=30)
@given(
    st.tuples(*[st.integers(1, n) for n in (2, 3, 8)]),
    st.integers(0, 9),
    st.sampled_from([0.0, 0.1, 0.3, 0.7, 1.0]),
    st.sampled_from([None, -1, 1, 3]),
    st.sampled_from([None, 0.0, 0.4, 2.0]),
)
def test_by_definition_and_in_onnx(sizes, seed, threshold, top_k, score_threshold) -> None:
    layer = NonMaximumSuppression(threshold, top_k, 1.0, score_threshold)
    boxes, scores = some(*sizes, seed=seed)
    top = check_layer(layer, [boxes, scores], gradient=False).tops[0]
    found = detections(layer, boxes, scores)
    np.testing.assert_allclose(top[0, 0, : len(found)], np.reshape(found, (-1, 7)), rtol=1e-6)
    assert (top[0, 0, len(found) :] == -1).all()
    check_lowering(layer, [boxes, scores])


def test_a_falling_threshold() -> None:
    layer = NonMaximumSuppression(0.9, eta=0.6)
    boxes, scores = some(2, 2, 12)
    boxes[:, 1:] = boxes[:, :1] + np.arange(1, 12)[:, None] * [0.5, 0, 0.5, 0]
    top = check_layer(layer, [boxes, scores], gradient=False).tops[0]
    found = detections(layer, boxes, scores)
    assert len(found) < len(detections(replace(layer, eta=1.0), boxes, scores))
    np.testing.assert_allclose(top[0, 0, : len(found)], found, rtol=1e-6)
    with pytest.raises(NetcError, match="changes with each box"):
        check_lowering(layer, [boxes, scores])


def test_a_box_with_its_ends_in_wrong_order_overlaps_none() -> None:
    boxes = np.array([[[0, 0, 10, 10], [10, 10, 0, 0], [1, 1, 10, 10]]], np.float32)
    scores = np.array([[[0.9, 0.8, 0.7]]], np.float32)
    layer = NonMaximumSuppression()
    top = check_layer(layer, [boxes, scores], gradient=False).tops[0]
    assert top[0, 0, :, 2].tolist() == pytest.approx([0.9, 0.8, -1])
    check_lowering(layer, [boxes, scores])


def test_a_caller_that_can_follow_gets_as_many_rows_as_there_are() -> None:
    boxes, scores = some(1, 1, 3)
    layer = NonMaximumSuppression(score_threshold=1.0)
    call = ForwardCall(np, (boxes, scores), (), (), (), np.random.default_rng)
    assert layer.forward(call)[0].tolist() == [[[[0, -1, -1, -1, -1, -1, -1]]]]


def test_by_either_name() -> None:
    for name in ("NMS", "NonMaximumSuppression"):
        graph = graph_of(
            f"""
            input: "b" input_shape {{ dim: 2 dim: 9 dim: 4 }}
            input: "s" input_shape {{ dim: 2 dim: 3 dim: 9 }}
            layer {{ name: "n" type: "{name}" bottom: "b" bottom: "s" top: "n"
              nms_param {{ nms_threshold: 0.45 top_k: 5 score_threshold: 0.1 }} }}
            """
        )
        assert graph.blobs["n"].shape == (1, 1, 30, 7)


@pytest.mark.parametrize(
    ("layer", "shapes", "setting"),
    [
        (NonMaximumSuppression(), [(2, 9, 5), (2, 3, 9)], "bottom"),
        (NonMaximumSuppression(), [(2, 9, 4), (2, 3, 8)], "bottom"),
        (NonMaximumSuppression(), [(2, 9, 4), (2, 9)], "bottom"),
        (NonMaximumSuppression(-0.1), [(2, 9, 4), (2, 3, 9)], "nms_threshold"),
        (NonMaximumSuppression(top_k=0), [(2, 9, 4), (2, 3, 9)], "top_k"),
        (NonMaximumSuppression(eta=0), [(2, 9, 4), (2, 3, 9)], "eta"),
    ],
)
def test_what_does_not_fit_is_refused(layer, shapes, setting: str) -> None:
    with pytest.raises(Refusal) as caught:
        layer.infer(*map(BlobType, shapes))
    assert caught.value.setting == setting
