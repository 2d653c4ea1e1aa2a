"""Reorg and the outputs of YOLO: against loops over the definition, and ONNX Runtime."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from netc.export import Session, lower_layer
from netc.layers.types import BlobType, ForwardCall, Layer, Refusal
from netc.layers.yolo import Reorg, YoloDetectionOutput, Yolov3DetectionOutput
from tests.support.audit import definition, note
from tests.support.layer_harness import check_layer, distinct, forward, smooth
from tests.support.lowering import check_lowering


@definition("Reorg")
def darknet(x: np.ndarray, s: int, reverse: bool) -> np.ndarray:
    """Darknet's own walk over the memory."""
    n, c, h, w = x.shape
    left = c // (s * s)
    y, flat = np.zeros(x.size), x.ravel()
    for b in range(n):
        for k in range(c):
            for j in range(h):
                for i in range(w):
                    here = i + w * (j + h * (k + c * b))
                    c2, offset = k % left, k // left
                    w2, h2 = i * s + offset % s, j * s + offset // s
                    there = w2 + w * s * (h2 + h * s * (c2 + left * b))
                    if reverse:
                        y[there] = flat[here]
                    else:
                        y[here] = flat[there]
    shape = (n, left, h * s, w * s) if reverse else (n, c * s * s, h // s, w // s)
    return y.reshape(shape)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("stride", "shape"), [(1, (2, 3, 2, 5)), (2, (2, 8, 4, 6)), (3, (1, 18, 3, 6))]
)
def test_reorg_is_that_of_darknet(stride: int, shape: tuple[int, ...], reverse: bool) -> None:
    layer = Reorg(stride=stride, reverse=reverse)
    x = distinct(*shape)
    run = check_layer(layer, [x])
    np.testing.assert_array_equal(run.tops[0], darknet(x, stride, reverse))
    check_lowering(layer, [x], other_batch=[distinct(3, *shape[1:])])


ANCHORS = (1.0, 1.5, 2.0, 0.7, 3.0, 2.5)
TWO = YoloDetectionOutput(num_classes=4, num_box=3, biases=ANCHORS, confidence_threshold=0.2)
THREE = Yolov3DetectionOutput(
    num_classes=4,
    num_box=2,
    biases=(10.0, 14.0, 30.0, 20.0, 60.0, 50.0, 90.0, 40.0),
    anchors_scale=(16, 8),
    mask_group_num=2,
    mask=(2, 3, 0, 1),
    confidence_threshold=0.3,
)

MAPS = ((1, 18, 3, 3), (1, 18, 6, 6))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def detections(layer: Layer, bottoms: list[np.ndarray]) -> list[list[float]]:
    """Return the rows that the definition gives."""
    found = []
    for image in range(len(bottoms[0])):
        every = []
        for index, x in enumerate(bottoms):
            _, _, h, w = x.shape
            for row in range(h):
                for column in range(w):
                    for k in range(layer.num_box):
                        values = x[image, k * 9 : k * 9 + 9, row, column]
                        if isinstance(layer, YoloDetectionOutput):
                            e = np.exp(values[5:])
                            scores = e / e.sum()
                            bias = np.divide(layer.biases[2 * k : 2 * k + 2], (w, h))
                        else:
                            scores = [sigmoid(v) for v in values[5:]]
                            i = layer.mask[index * 2 + k]
                            scale = layer.anchors_scale[index]
                            bias = np.divide(
                                layer.biases[2 * i : 2 * i + 2], (w * scale, h * scale)
                            )
                        label = int(np.argmax(scores))
                        cx = (column + sigmoid(values[0])) / w
                        cy = (row + sigmoid(values[1])) / h
                        wide, high = np.exp(values[2:4]) * bias
                        score = sigmoid(values[4]) * scores[label]
                        box = [cx - wide / 2, cy - high / 2, cx + wide / 2, cy + high / 2]
                        every.append([image, label + 1, score, *box])
        kept: list[list[float]] = []
        for one in sorted(every, key=lambda r: -r[2]):
            shared = [iou(one[3:], other[3:]) for other in kept]
            if one[2] > layer.confidence_threshold and all(
                not o >= layer.nms_threshold or o == 0 for o in shared
            ):
                kept.append(one)
        found += kept
    return found


def iou(a, b) -> float:
    w = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    h = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return w * h / (sum(areas) - w * h)


@pytest.mark.parametrize(
    ("layer", "shapes"),
    [
        (TWO, [(1, 27, 4, 4)]),
        (TWO, [(2, 27, 3, 5), (2, 27, 2, 2)]),
        (THREE, [(1, 18, 3, 3), (1, 18, 6, 6)]),
        (THREE, [(2, 18, 2, 3), (2, 18, 4, 6)]),
    ],
)
@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.45, 1.0])
def test_what_is_found(layer: Layer, shapes: list[tuple[int, ...]], threshold: float) -> None:
    layer = type(layer)(**{**vars(layer), "nms_threshold": threshold})
    bottoms = [smooth(*shape, seed=i) for i, shape in enumerate(shapes)]
    run = check_layer(layer, bottoms, gradient=False)
    want = detections(layer, bottoms)
    note("definition", layer.type)
    top = run.tops[0]
    assert 0 < len(want) < top.shape[2] and top.shape[:2] == (1, 1)
    np.testing.assert_allclose(top[0, 0, : len(want)], want, atol=1e-12)
    assert (top[0, 0, len(want) :] == -1).all()
    assert "NonMaxSuppression" in check_lowering(layer, bottoms)
    call = ForwardCall(np, tuple(bottoms), (), (), (), lambda: np.random.default_rng(0))
    assert layer.forward(call)[0].shape == (1, 1, len(want), 7)


@pytest.mark.parametrize(("layer", "shapes"), [(TWO, [(2, 27, 3, 5)]), (THREE, MAPS)])
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
def test_boxes_that_are_infinite(layer: Layer, shapes: Sequence[tuple[int, ...]]) -> None:
    """Nothing tells how much of them two such boxes share, so that both stay."""
    bottoms = [smooth(*shape, seed=i) for i, shape in enumerate(shapes)]
    bottoms[0][:, 2:4, 1:3] = 1000
    want = detections(layer, bottoms)
    top = forward(layer, bottoms).tops[0][0, 0, : len(want)]
    np.testing.assert_allclose(top, want, rtol=1e-12)
    assert np.isinf(want).sum() > 8
    model = lower_layer(layer, list(map(BlobType, shapes)), [])
    names = [value.name for value in model.graph.input]
    (got,) = (
        Session(model, threads=1)
        .run({name: x.astype(np.float32) for name, x in zip(names, bottoms, strict=True)})
        .values()
    )
    np.testing.assert_allclose(got[0, 0, : len(want)], want, rtol=1e-5)


def test_nothing_is_found() -> None:
    layer = type(TWO)(**{**vars(TWO), "confidence_threshold": 1.0})
    x = smooth(1, 27, 2, 2)
    assert (forward(layer, [x]).tops[0] == -1).all()
    check_lowering(layer, [x])


def with_(layer: Layer, **settings: object) -> Layer:
    return type(layer)(**{**vars(layer), **settings})


@pytest.mark.parametrize(
    ("layer", "shapes", "setting"),
    [
        (Reorg(), ((1, 4, 2, 2),), "stride"),
        (Reorg(stride=2), ((1, 4, 3, 2),), "stride"),
        (Reorg(stride=2), ((1, 6, 2, 2),), "stride"),
        (Reorg(stride=2, reverse=True), ((1, 6, 3, 2),), "stride"),
        (Reorg(stride=2), ((4, 2, 2),), "bottom"),
        (TWO, ((1, 26, 4, 4),), "num_box"),
        (TWO, ((1, 27, 4),), "bottom"),
        (TWO, ((1, 27, 4, 4), (2, 27, 2, 2)), "num_box"),
        (with_(TWO, biases=(1.0,)), ((1, 27, 4, 4),), "biases"),
        (with_(TWO, biases=(1.0, 2.0)), ((1, 27, 4, 4),), "biases"),
        (with_(TWO, biases=(1.0, -2.0)), ((1, 27, 4, 4),), "biases"),
        (with_(TWO, coords=3), ((1, 27, 4, 4),), "coords"),
        (with_(TWO, num_classes=0), ((1, 15, 4, 4),), "num_classes"),
        (with_(TWO, nms_threshold=-1.0), ((1, 27, 4, 4),), "nms_threshold"),
        (THREE, MAPS[:1], "mask_group_num"),
        (with_(THREE, anchors_scale=(32,)), MAPS, "anchors_scale"),
        (with_(THREE, mask=(0, 1)), MAPS, "mask"),
        (with_(THREE, mask=(0, 1, 2, 4)), MAPS, "mask"),
    ],
)
def test_refused(layer: Layer, shapes: tuple[tuple[int, ...], ...], setting: str) -> None:
    with pytest.raises(Refusal) as error:
        layer.infer(*map(BlobType, shapes))
    assert error.value.setting == setting
    assert error.value.expected and str(error.value.got)
