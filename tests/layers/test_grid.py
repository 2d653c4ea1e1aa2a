"""YOLO's first version: against loops over cells, boxes and objects."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from netc.errors import NetcError
from netc.layers.grid import BoxData, ScoreType, YoloGridEvaluate, YoloGridLoss
from netc.layers.mscnn import DetectionLoss
from netc.layers.region import EvalDetection
from netc.layers.transform import TransformParam
from netc.layers.types import BlobType, Refusal
from tests.support.audit import definition, note
from tests.support.layer_harness import check_layer, forward
from tests.support.lowering import check_lowering
from tests.support.nets import graph_of

S, K, B = 3, 4, 2
LOSS = YoloGridLoss(S, K, B, 1.5, 0.5, 2.0, 5.0, True, True)
JUDGE = YoloGridEvaluate(side=S, num_class=K, num_object=B, threshold=0.3)


def some_labels(n: int, objects: int, seed: int = 0) -> np.ndarray:
    """Labels of images with objects in some cells."""
    rng = np.random.default_rng(seed)
    rows = np.zeros((n, 7, S * S))
    rows[:, 2] = -1
    boxes = np.zeros((n, S * S, 4))
    for image in range(n):
        for cell in rng.permutation(S * S)[:objects]:
            place = (np.array([cell % S, cell // S]) + rng.random(2)) / S
            rows[image, :3, cell] = rng.integers(0, 2), 1, rng.integers(0, K)
            boxes[image, cell] = *place, *rng.uniform(0.1, 0.6, 2)
    rows[:, 3:] = boxes.reshape(n, 4, S * S)
    return rows.reshape(n, -1)


def some_maps(n: int, labels: np.ndarray, seed: int = 1) -> np.ndarray:
    """Maps some of whose boxes are near those of the labels."""
    rng = np.random.default_rng(seed)
    maps = rng.uniform(0, 1, (n, K + 5 * B, S * S))
    true = labels.reshape(n, 7, S * S)[:, 3:].reshape(n, S * S, 4)
    for image, cell in np.ndindex(n, S * S):
        if not true[image, cell].any():
            continue
        x, y, w, h = true[image, cell]
        near = [x * S - cell % S, y * S - cell // S, math.sqrt(w), math.sqrt(h)]
        maps[image, K + B : K + B + 4, cell] = near + rng.normal(0, 0.1, 4)
    return maps.reshape(n, -1)


LABELS = some_labels(2, 4)
MAPS = some_maps(2, LABELS)


def iou(a, b) -> float:
    sides = [
        min(a[i] + a[i + 2] / 2, b[i] + b[i + 2] / 2)
        - max(a[i] - a[i + 2] / 2, b[i] - b[i + 2] / 2)
        for i in (0, 1)
    ]
    if min(sides) < 0:
        return 0.0
    common = sides[0] * sides[1]
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def box_of(layer, row: np.ndarray, k: int, cell: int) -> list[float]:
    x, y, w, h = row[layer.num_class + layer.num_object + 4 * k :, cell][:4]
    if layer.constriant:
        x, y = (cell % layer.side + x) / layer.side, (cell // layer.side + y) / layer.side
    return [x, y, w * w, h * h] if layer.sqrt else [x, y, w, h]


@definition("YoloGridLoss")
def grid_loss(layer: YoloGridLoss, maps, labels) -> tuple[float, float]:
    """The loss, and what has the gradient of the fork: with this `maps` alone may change."""
    n, cells = len(maps), layer.side**2
    rows = maps.reshape(n, -1, cells)
    marks = labels.reshape(n, 7, cells)
    true = marks[:, 3:].reshape(n, cells, 4)
    count, of_objects, others, surrogate = 0, 0.0, 0.0, 0.0
    for image, cell in np.ndindex(n, cells):
        sure = rows[image, layer.num_class : layer.num_class + layer.num_object, cell]
        best, found = -1, []
        if marks[image, 1, cell]:
            count += 1
            found = [box_of(layer, rows[image], k, cell) for k in range(layer.num_object)]
            overlaps = [iou(box, true[image, cell]) for box in found]
            apart = [math.dist(box, true[image, cell]) for box in found]
            best = overlaps.index(max(overlaps)) if max(overlaps) > 0 else apart.index(min(apart))
            for c in range(layer.num_class):
                d = rows[image, c, cell] - (c == marks[image, 2, cell])
                of_objects += layer.class_scale * d * d
                surrogate += layer.class_scale * d * d / 2
            x, y, w, h = true[image, cell]
            if layer.constriant:
                x, y = x * layer.side - cell % layer.side, y * layer.side - cell // layer.side
            wanted = [x, y, math.sqrt(w), math.sqrt(h)] if layer.sqrt else [x, y, w, h]
            raw = rows[image, layer.num_class + layer.num_object + 4 * best :, cell][:4]
            for a, b in zip(raw, wanted, strict=True):
                of_objects += layer.coord_scale * (a - b) ** 2
                surrogate += layer.coord_scale * (a - b) ** 2 / 2
            of_objects += layer.object_scale * (sure[best] - 1) ** 2
        for k in range(layer.num_object):
            if k == best:
                fixed = iou(box_of(layer, BASE.reshape(n, -1, cells)[image], k, cell),
                            true[image, cell])  # fmt: skip
                surrogate += layer.object_scale * (sure[k] - fixed) ** 2 / 2
            else:
                others += layer.noobject_scale * sure[k] ** 2
                surrogate += layer.noobject_scale * sure[k] ** 2 / 2
    rest = cells * layer.num_object * n - count
    return of_objects / max(count, 1) + others / rest, surrogate / n


# What the overlaps that boxes should be sure of are taken from.
BASE = MAPS


@pytest.mark.parametrize(
    "layer",
    [
        LOSS,
        replace(LOSS, constriant=False),
        replace(LOSS, sqrt=False, object_scale=1.0),
        replace(LOSS, coord_scale=0.0),
    ],
)
@pytest.mark.parametrize("labels", [LABELS, some_labels(2, 0)])
def test_the_loss_and_its_gradient(layer: YoloGridLoss, labels: np.ndarray) -> None:
    run = check_layer(layer, [MAPS, labels], gradient=False)
    assert run.tops[0] == pytest.approx(grid_loss(layer, MAPS, labels)[0], rel=1e-9)
    (gradient, none) = run.backward([np.array(3.0)]).bottoms
    assert none is None
    for at in list(np.ndindex(*MAPS.shape))[::5]:
        ends = []
        for step in (1e-6, -1e-6):
            moved = MAPS.copy()
            moved[at] += step
            ends.append(grid_loss(layer, moved, labels)[1])
        assert gradient[at] == pytest.approx(3 * (ends[0] - ends[1]) / 2e-6, abs=1e-6)
    note("gradient", "YoloGridLoss")


def test_the_nearest_box_is_responsible_where_none_overlaps() -> None:
    labels = some_labels(1, 0)
    rows = labels.reshape(7, S * S)
    rows[1:3, 4] = 1, 2
    rows[3:].reshape(S * S, 4)[4] = 0.5, 0.5, 0.01, 0.01
    maps = np.zeros((1, K + 5 * B, S * S))
    maps[0, K + B :, 4] = [0.9, 0.9, 0.01, 0.01, 0.7, 0.7, 0.01, 0.01]
    run = forward(LOSS, [maps.reshape(1, -1), labels])
    slope = run.kept[0].reshape(K + 5 * B, S * S)[K + B :, 4]
    assert not slope[:4].any() and slope[4:].any()


@definition("YoloGridEvaluate")
def judged(layer: YoloGridEvaluate, maps, labels) -> list[list[float]]:
    """The rows of the top."""
    cells, tops = layer.side**2, []
    for row, marks in zip(
        maps.reshape(len(maps), -1, cells), labels.reshape(len(maps), 7, cells), strict=True
    ):
        true = marks[3:].reshape(cells, 4)
        objects = [cell for cell in range(cells) if marks[1, cell]]
        top = [
            float(sum(marks[2, cell] == c and marks[0, cell] != 1 for cell in objects))
            for c in range(layer.num_class)
        ]
        found = []
        for cell in range(cells):
            classes = row[: layer.num_class, cell].tolist()
            label = classes.index(max(classes))
            for k in range(layer.num_object):
                sure = row[layer.num_class + k, cell]
                score = {
                    ScoreType.OBJ: sure, ScoreType.PROB: classes[label],
                    ScoreType.MULTIPLY: sure * classes[label],
                }[layer.score_type]  # fmt: skip
                found.append((label, score, box_of(layer, row, k, cell)))
        found.sort(key=lambda box: -box[1])
        if layer.nms >= 0:
            kept: list = []
            for box in found:
                if all(iou(box[2], other[2]) < layer.nms for other in kept):
                    kept.append(box)
            found = kept
        taken: set[int] = set()
        for label in range(layer.num_class):
            own = [cell for cell in objects if marks[2, cell] == label]
            for _, score, box in (b for b in found if b[0] == label):
                overlaps = [iou(box, true[cell]) for cell in own]
                best = own[overlaps.index(max(overlaps))] if own else -1
                result = [0.0, 1.0]
                if own and max(overlaps) >= layer.threshold:
                    result = [0.0, 0.0] if marks[0, best] == 1 else [1.0, 0.0]
                    if best in taken and marks[0, best] != 1:
                        result = [0.0, 1.0]
                    taken.add(best)
                top += [label, score, *result]
        tops.append(top + [0.0] * (layer.num_class + 4 * cells * layer.num_object - len(top)))
    return tops


@pytest.mark.parametrize("score", list(ScoreType))
@pytest.mark.parametrize(
    "settings", [{}, {"nms": 0.3}, {"nms": 0.7}, {"sqrt": False}, {"constriant": False}]
)
def test_boxes_are_judged(settings, score: ScoreType) -> None:
    layer = replace(JUDGE, score_type=score, **settings)
    labels = some_labels(3, 6, seed=4)
    maps = some_maps(3, labels)
    rows = maps.reshape(3, -1, S * S)
    for image, cell in np.ndindex(3, S * S):
        label = int(labels.reshape(3, 7, -1)[image, 2, cell])
        if label >= 0 and cell % 3:
            rows[image, label, cell] += 1
    bottoms = [maps, labels, np.zeros((3, 3, 5, 5))]
    (top,) = check_layer(layer, bottoms, gradient=False).tops
    want = np.array(judged(layer, maps, labels))
    np.testing.assert_allclose(top, want, rtol=1e-9, atol=1e-9)
    results = want[:, K:].reshape(3, -1, 4)[:, :, 2:]
    assert results[:, :, 0].any() and results[:, :, 1].any()


@pytest.mark.parametrize("layer", [LOSS, JUDGE])
def test_no_onnx_form(layer) -> None:
    with pytest.raises(NetcError, match="has no ONNX form"):
        check_lowering(layer, [MAPS, LABELS])
    assert layer.deployed() is None


def test_the_text_tells_which_loss_is_meant() -> None:
    assert DetectionLoss().resolve(None) == YoloGridLoss()
    assert DetectionLoss(side=9, sqrt=False).resolve(None) == YoloGridLoss(side=9, sqrt=False)
    other = DetectionLoss(cls_num=3)
    assert other.resolve(None) is other
    with pytest.raises(Refusal, match="exclude each other"):
        replace(other, side=7).resolve(None)
    text = """
        input: "maps" input_shape { dim: 2 dim: 126 }
        input: "labels" input_shape { dim: 2 dim: 63 }
        layer { name: "loss" type: "DetectionLoss" bottom: "maps" bottom: "labels" top: "loss"
          detection_loss_param { side: 3 num_class: 4 num_object: 2 constriant: true } }
        layer { name: "judge" type: "EvalDetection" bottom: "maps" bottom: "labels" top: "judge"
          eval_detection_param { side: 3 num_class: 4 num_object: 2 nms: 0.5 %s } }
        """
    graph = graph_of(text % "")
    loss, judge = (node.layer for node in graph.nodes[-2:])
    assert loss == YoloGridLoss(3, 4, 2, constriant=True)
    assert judge == YoloGridEvaluate(side=3, num_class=4, num_object=2, nms=0.5)
    assert graph.nodes[-1].name == "judge"
    with pytest.raises(NetcError, match="no biases"):
        graph_of(text % "biases: 1 biases: 2 biases: 1 biases: 2")
    assert EvalDetection().expand(BlobType((1, 50, 7, 7)), BlobType((1, 1, 2, 8))) is None


@pytest.mark.parametrize(
    ("layer", "shapes", "setting"),
    [
        (replace(LOSS, side=0), ((2, 126), (2, 63)), "side"),
        (replace(LOSS, num_class=0), ((2, 126), (2, 63)), "num_class"),
        (replace(JUDGE, num_object=0), ((2, 126), (2, 63)), "num_object"),
        (LOSS, ((2, 125), (2, 63)), "side"),
        (JUDGE, ((2, 126), (2, 64)), "side"),
        (JUDGE, ((2, 126), (1, 63)), "side"),
    ],
)
def test_refused(layer, shapes, setting: str) -> None:
    with pytest.raises(Refusal) as caught:
        layer.infer(*map(BlobType, shapes))
    assert caught.value.setting == setting and caught.value.got


def test_a_class_that_there_is_not() -> None:
    labels = LABELS.copy()
    labels.reshape(2, 7, -1)[0, 2] = K
    with pytest.raises(Refusal, match="a class that there is not"):
        forward(LOSS, [MAPS, labels])


def test_shapes_of_the_data() -> None:
    layer = BoxData("db", 2, ("data", "a", "b"), side=(7, 9))
    tops = layer.infer(BlobType((3, 40, 50))).tops
    assert [top.shape for top in tops] == [(2, 3, 40, 50), (2, 343), (2, 567)]
    assert len(replace(layer, top=("data",)).infer(BlobType((3, 40, 50))).tops) == 1
    for settings, setting in (
        ({"side": (7,)}, "side"),
        ({"side": (7, 0)}, "side"),
        ({"transform_param": replace(layer.transform_param, mirror=True)}, "mirror"),
        ({"transform_param": replace(layer.transform_param, crop_size=8)}, "crop_size"),
        ({"transform_param": replace(layer.transform_param, crop_h=8, crop_w=9)},
         "transform_param"),
    ):  # fmt: skip
        with pytest.raises(Refusal) as caught:
            replace(layer, **settings).check()
        assert caught.value.setting == setting
    assert isinstance(layer.transform_param, TransformParam)
