"""RegionLoss and EvalDetection: against loops over the definition, and differences of the sum."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from netc.errors import NetcError
from netc.layers.region import EvalDetection, IouLoss, RegionLoss, ScoreType, Yolov3
from netc.layers.types import BlobType, Refusal
from tests.support.audit import definition, note
from tests.support.detection import objects
from tests.support.layer_harness import check_layer, forward, smooth
from tests.support.lowering import check_lowering

ANCHORS = (1.0, 1.5, 2.0, 0.7)
LOSS = RegionLoss(num_class=3, num=2, biases=ANCHORS, object_scale=5, coord_scale=1, thresh=0.3)
MAPS = smooth(2, 16, 2, 3)

# Two objects of the first image have centres at one position, and one anchor.
TABLE = objects(
    [
        (0, 1, 0.1, 0.2, 0.5, 0.6),
        (0, 3, 0.55, 0.5, 0.95, 0.6),
        (0, 2, 0.12, 0.2, 0.5, 0.64),
        (-1, -1, -1, -1, -1, -1, -1),
        (1, 2, 0.3, 0.1, 0.9, 0.8),
    ]
)
LISTS = [
    [(0, 0.3, 0.4, 0.4, 0.4), (2, 0.75, 0.55, 0.4, 0.1), (1, 0.31, 0.42, 0.38, 0.44)],
    [(1, 0.6, 0.45, 0.6, 0.7)],
]


def listed(*, most: int) -> np.ndarray:
    """The objects of TABLE as a list of `most` for each image: (2, 5 * most)."""
    blob = np.zeros((2, most, 5))
    for image, rows in enumerate(LISTS):
        blob[image, : len(rows)] = rows
    return blob.reshape(2, -1)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def predicted(x: np.ndarray, image: int, k: int, j: int, i: int) -> tuple[float, ...]:
    """Centre, width and height of a box."""
    _, _, h, w = x.shape
    t = x[image, k * 8 : k * 8 + 4, j, i]
    width, height = np.exp(t[2:]) * ANCHORS[2 * k : 2 * k + 2] / (w, h)
    return (i + sigmoid(t[0])) / w, (j + sigmoid(t[1])) / h, width, height


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    sides = [
        max(
            min(a[d] + a[d + 2] / 2, b[d] + b[d + 2] / 2)
            - max(a[d] - a[d + 2] / 2, b[d] - b[d + 2] / 2),
            0,
        )
        for d in (0, 1)
    ]
    common = sides[0] * sides[1]
    return common / (a[2] * a[3] + b[2] * b[3] - common)


@definition("RegionLoss")
def terms(layer: RegionLoss, x: np.ndarray, found: np.ndarray) -> list[float]:
    """The terms of the sum for `x`, where matches and overlaps are those of `found`."""
    n, _, h, w = x.shape
    out = []
    for image in range(n):
        learns = {}
        for t, (_, cx, cy, width, height) in enumerate(LISTS[image]):
            i, j = int(cx * w), int(cy * h)
            sizes = [
                ANCHORS[2 * k : 2 * k + 2]
                if layer.bias_match
                else np.multiply(predicted(found, image, k, j, i)[2:], (w, h))
                for k in range(2)
            ]
            shapes = [iou((0, 0, *size), (0, 0, width * w, height * h)) for size in sizes]
            learns[int(np.argmax(shapes)), j, i] = t
        for k in range(2):
            for j in range(h):
                for i in range(w):
                    v = x[image, k * 8 : k * 8 + 8, j, i]
                    box = predicted(found, image, k, j, i)
                    if (k, j, i) not in learns:
                        if max(iou(box, tuple(b[1:])) for b in LISTS[image]) <= layer.thresh:
                            out.append(layer.noobject_scale / 2 * sigmoid(v[4]) ** 2)
                        continue
                    label, cx, cy, width, height = LISTS[image][learns[k, j, i]]
                    scale = layer.coord_scale * (1 if layer.rescore else 2 - width * height)
                    tw = math.log(width * w / ANCHORS[2 * k])
                    th = math.log(height * h / ANCHORS[2 * k + 1])
                    out.append(scale / 2 * (sigmoid(v[0]) - (cx * w - i)) ** 2)
                    out.append(scale / 2 * (sigmoid(v[1]) - (cy * h - j)) ** 2)
                    out.append(scale / 2 * (v[2] - tw) ** 2)
                    out.append(scale / 2 * (v[3] - th) ** 2)
                    goal = iou(box, (cx, cy, width, height)) if layer.rescore else 1
                    out.append(layer.object_scale / 2 * (sigmoid(v[4]) - goal) ** 2)
                    e = np.exp(v[5:])
                    out.append(-layer.class_scale * math.log(e[label] / e.sum()))
    return out


def slopes(layer: RegionLoss, x: np.ndarray) -> np.ndarray:
    """Central differences of the sum of `terms`, for each value of the maps."""
    out = np.zeros(x.shape)
    for index in np.ndindex(*x.shape):
        ends = []
        for step in (1e-5, -1e-5):
            moved = x.copy()
            moved[index] += step
            ends.append(math.fsum(terms(layer, moved, x)))
        out[index] = (ends[0] - ends[1]) / 2e-5
    return out


@pytest.mark.parametrize(
    "settings",
    [{}, {"rescore": 0}, {"bias_match": 0, "class_scale": 2.0}, {"thresh": 0.05, "rescore": 0}],
)
def test_the_gradient_is_that_of_the_sum_and_the_top_that_of_its_slopes(settings) -> None:
    layer = replace(LOSS, **settings)
    wanted = slopes(layer, MAPS)
    for blob in (TABLE, listed(most=4), listed(most=3)):
        run = check_layer(layer, [MAPS, blob], gradient=False)
        np.testing.assert_allclose(run.tops[0], (wanted**2).sum() / 2, rtol=1e-6)
        (dx, none) = run.backward([np.array(3.0)]).bottoms
        np.testing.assert_allclose(dx, wanted * 3 / 2, atol=1e-8)
        assert none is None
    note("gradient", "RegionLoss")


def test_some_boxes_overlap_enough_to_be_left_alone() -> None:
    layer = replace(LOSS, thresh=0.05)
    assert len(terms(layer, MAPS, MAPS)) < len(terms(replace(LOSS, thresh=1), MAPS, MAPS))


def test_an_image_without_objects() -> None:
    p = 1 / (1 + np.exp(-MAPS.reshape(2, 2, 8, 2, 3)[:, :, 4]))
    run = forward(LOSS, [MAPS, np.zeros((2, 10))])
    np.testing.assert_allclose(run.tops[0], ((0.5 * p * p * (1 - p)) ** 2).sum() / 2)


def test_a_centre_on_the_far_border_belongs_to_the_last_position() -> None:
    blob = np.zeros((2, 5))
    blob[0] = (0, 1.0, 1.0, 0.4, 0.4)
    (dx, _) = forward(LOSS, [MAPS, blob]).backward([np.array(1.0)]).bottoms
    learns = np.nonzero(dx[0].reshape(2, 8, 2, 3)[:, 5])
    assert [int(axis[0]) for axis in learns[1:]] == [1, 2]


@pytest.mark.parametrize(
    ("layer", "shapes", "words"),
    [
        (LOSS, [(2, 15, 3, 4), (2, 10)], r"16 channels: num 2 \* \(5 \+ num_class 3\)"),
        (LOSS, [(2, 16, 3), (2, 10)], r"shape \(N, C, H, W\)"),
        (LOSS, [(2, 16, 3, 0), (2, 10)], "height and width above 0"),
        (LOSS, [(2, 16, 3, 4), (2, 9)], r"\(1, 1, G, 8\), as AnnotatedData"),
        (LOSS, [(2, 16, 3, 4), (3, 10)], r"or \(2, \.\.\.\) with 5 values"),
        (replace(LOSS, biases=(1.0, 2.0)), [(2, 16, 3, 4), (2, 10)], "4 biases above 0"),
        (replace(LOSS, biases=(1.0, 2.0, 0.0, 1.0)), [(2, 16, 3, 4), (2, 10)], "from 0"),
        (replace(LOSS, coords=5), [(2, 16, 3, 4), (2, 10)], "coords: 4"),
        (replace(LOSS, softmax=0), [(2, 16, 3, 4), (2, 10)], "softmax: 1"),
        (replace(LOSS, num=0), [(2, 16, 3, 4), (2, 10)], "num > 0"),
    ],
)
def test_what_does_not_fit_is_refused(layer, shapes, words) -> None:
    with pytest.raises(Refusal) as caught:
        layer.infer(*map(BlobType, shapes))
    assert re.search(words, caught.value.expected + caught.value.got)


def test_classes_and_images_that_there_are_not() -> None:
    for rows, words in (
        ([(0, 4, 0.1, 0.1, 0.5, 0.5)], ("a class: 1..3", "4")),
        ([(2, 1, 0.1, 0.1, 0.5, 0.5)], ("an image of the batch: 0..1", "2")),
    ):
        with pytest.raises(Refusal) as caught:
            forward(LOSS, [MAPS, objects(rows)])
        assert (caught.value.expected, caught.value.got) == words
    blob = listed(most=3)
    blob[1, 0] = 3
    with pytest.raises(Refusal, match="an object has a class that there is not"):
        forward(LOSS, [MAPS, blob])


# -- EvalDetection ---------------------------------------------------------------------------------

EVAL = EvalDetection(side=3, num_class=3, num_object=2, biases=ANCHORS, nms=0.45)


@definition("EvalDetection")
def judged(layer: EvalDetection, x: np.ndarray) -> np.ndarray:
    """The top, by the definition."""
    top = np.zeros((len(x), 3 + 4 * 18))
    for image, wanted in enumerate(LISTS):
        boxes = []
        for j in range(3):
            for i in range(3):
                for k in range(2):
                    v = x[image, k * 8 : k * 8 + 8, j, i]
                    e = np.exp(v[5:]) / np.exp(v[5:]).sum()
                    parts = (sigmoid(v[4]), e.max())
                    score = {
                        ScoreType.OBJ: parts[0],
                        ScoreType.PROB: parts[1],
                        ScoreType.MULTIPLY: parts[0] * parts[1],
                    }[layer.score_type]
                    boxes.append((score, int(e.argmax()), predicted(x, image, k, j, i)))
        boxes.sort(key=lambda box: -box[0])
        if layer.nms >= 0:
            kept: list = []
            for box in boxes:
                shared = [iou(box[2], other[2]) for other in kept]
                if all(o < layer.nms or o == 0 for o in shared):
                    kept.append(box)
            boxes = [box for box in kept if box[0] >= 0.005]
        for label, *_ in wanted:
            top[image, label] += 1
        taken, place = set(), 3
        for label in range(3):
            for score, own, box in boxes:
                if own != label:
                    continue
                shared = [iou(box, b[1:]) if b[0] == label else -1 for b in wanted]
                best = int(np.argmax(shared))
                right = shared[best] >= layer.threshold and best not in taken
                taken |= {best} if right else set()
                top[image, place : place + 4] = label, score, right, not right
                place += 4
    return top


@pytest.mark.parametrize("score_type", ScoreType)
@pytest.mark.parametrize("nms", [-1.0, 0.0, 0.2, 0.45])
def test_boxes_are_judged_as_defined(score_type: ScoreType, nms: float) -> None:
    layer = replace(EVAL, score_type=score_type, nms=nms, threshold=0.25)
    rights = 0
    for seed in range(3):
        x = smooth(2, 16, 3, 3, seed=seed)
        for blob in (TABLE, listed(most=3)):
            top = check_layer(layer, [x, blob], gradient=False).tops[0]
            np.testing.assert_allclose(top, judged(layer, x), rtol=1e-12)
        rights += top[:, 5::4].sum()
    assert rights > 0 or nms == 0
    # Whatever the images are, a third bottom changes nothing.
    third = forward(layer, [x, blob, smooth(2, 3, 8, 8)]).tops[0]
    np.testing.assert_array_equal(third, top)


def test_an_image_in_which_nothing_is_to_be_found() -> None:
    top = forward(EVAL, [smooth(1, 16, 3, 3), np.full((1, 1, 1, 8), -1.0)]).tops[0]
    assert (top[0, :3] == 0).all()
    assert top[0, 5::4].sum() == 0 and top[0, 6::4].sum() > 0


def test_maps_of_another_size_are_refused() -> None:
    with pytest.raises(Refusal, match="side") as caught:
        EVAL.infer(BlobType((2, 16, 3, 4)), BlobType((2, 10)))
    assert caught.value.setting == "side"


@pytest.mark.parametrize("layer", [LOSS, EVAL])
def test_there_is_no_onnx_form(layer) -> None:
    with pytest.raises(NetcError, match="no ONNX form"):
        check_lowering(layer, [smooth(2, 16, 3, 3), TABLE])
    assert layer.deployed() is None


# -- version 3 -------------------------------------------------------------------------------------

PIXELS = (8.0, 12.0, 16.0, 5.6, 30.0, 40.0)
V3 = Yolov3(
    num_class=3, num=2, biases=PIXELS, mask=(0, 1), anchors_scale=8, coord_scale=1.5, thresh=0.3
)


@definition("Yolov3")
def entropies(layer: Yolov3, x: np.ndarray, found: np.ndarray) -> list[float]:
    """The terms whose slopes Yolov3 gives, for `x`; matches and overlaps are those of `found`.

    Cross entropies, or with `use_logic_gradient` halves of squares.
    """
    n, _, h, w = x.shape

    def pair(goal: float, t: float) -> float:
        p = sigmoid(t)
        if layer.use_logic_gradient:
            return (p - goal) ** 2 / 2
        return -goal * math.log(p) - (1 - goal) * math.log(1 - p)

    out = []
    for image in range(n):
        learns: dict[tuple[int, int, int], list[int]] = {}
        for t, (_, cx, cy, width, height) in enumerate(LISTS[image]):
            alike = [
                iou((0, 0, PIXELS[2 * a], PIXELS[2 * a + 1]), (0, 0, width * w * 8, height * h * 8))
                for a in range(3)
            ]
            for k, a in enumerate(layer.mask):
                if a == int(np.argmax(alike)) or alike[a] > layer.iou_thresh:
                    learns.setdefault((k, int(cy * h), int(cx * w)), []).append(t)
        for k, j, i in np.ndindex(2, h, w):
            v = x[image, k * 8 : k * 8 + 8, j, i]
            if (k, j, i) not in learns:
                box = predicted(found, image, k, j, i)
                if max(iou(box, tuple(b[1:])) for b in LISTS[image]) <= layer.thresh:
                    out.append(pair(0, v[4]))
                continue
            objects_here = [LISTS[image][t] for t in learns[k, j, i]]
            _, cx, cy, width, height = objects_here[-1]
            scale = layer.coord_scale * (2 - width * height)
            anchor = PIXELS[2 * layer.mask[k] : 2 * layer.mask[k] + 2]
            out += [scale * pair(cx * w - i, v[0]), scale * pair(cy * h - j, v[1])]
            out.append(scale / 2 * (v[2] - math.log(width * w * 8 / anchor[0])) ** 2)
            out.append(scale / 2 * (v[3] - math.log(height * h * 8 / anchor[1])) ** 2)
            weight = layer.object_scale if layer.use_logic_gradient else 1
            out.append(weight * pair(1, v[4]))
            for label in range(3):
                here = any(label == o[0] for o in objects_here)
                goal = (1 - layer.label_smooth_eps) * here + layer.label_smooth_eps / 2
                out.append(layer.class_scale * pair(goal, v[5 + label]))
    return out


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"iou_thresh": 0.1},
        {"iou_thresh": 1.0, "label_smooth_eps": 0.0},
        {"use_logic_gradient": True, "object_scale": 2.0, "class_scale": 0.5},
        {"mask": (0, 2), "biases": (8.0, 12.0, 30.0, 40.0, 16.0, 5.6)},
    ],
)
def test_the_gradient_is_that_of_cross_entropies(settings, monkeypatch) -> None:
    layer = replace(V3, **settings)
    monkeypatch.setitem(globals(), "PIXELS", layer.biases)
    anchors = tuple(layer.biases[2 * m + d] / 8 for m in layer.mask for d in (0, 1))
    monkeypatch.setitem(globals(), "ANCHORS", anchors)
    wanted = np.zeros(MAPS.shape)
    for index in np.ndindex(*MAPS.shape):
        ends = []
        for step in (1e-5, -1e-5):
            moved = MAPS.copy()
            moved[index] += step
            ends.append(math.fsum(entropies(layer, moved, MAPS)))
        wanted[index] = (ends[0] - ends[1]) / 2e-5
    for blob in (TABLE, listed(most=4)):
        run = check_layer(layer, [MAPS, blob], gradient=False)
        (dx, none) = run.backward([np.array(3.0)]).bottoms
        np.testing.assert_allclose(dx, wanted * 3 / 2, atol=1e-7)
        assert none is None
    if not layer.use_logic_gradient:
        np.testing.assert_allclose(run.tops[0], (wanted**2).sum() / 2, rtol=1e-6)
    note("gradient", "Yolov3")


def test_what_yolo_version_3_refuses() -> None:
    shapes = BlobType((2, 16, 2, 3)), BlobType((1, 1, 4, 8))
    for settings, words in (
        ({"biases": (1.0, 2.0, 3.0)}, "no sizes of anchors"),
        ({"mask": (0,)}, "does not name an anchor for each box"),
        ({"mask": (0, 3)}, "does not name an anchor for each box"),
        ({"anchors_scale": 0}, "anchors_scale is not positive"),
        ({"iou_loss": IouLoss.GIOU}, "one iou_loss only"),
        ({"use_focal_loss": True}, "one use_focal_loss only"),
        ({"num_class": 4}, "do not fit the boxes"),
    ):
        with pytest.raises(Refusal, match=words):
            replace(V3, **settings).infer(*shapes)
    with pytest.raises(Refusal, match="no positions"):
        V3.infer(BlobType((2, 16, 0, 3)), shapes[1])
