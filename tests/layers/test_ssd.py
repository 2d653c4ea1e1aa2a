from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.errors import NetcError
from netc.layers.boxes import CodeType
from netc.layers.ssd import DetectionOutput, PriorBox
from netc.layers.suppression import NmsParam
from netc.layers.types import BlobType, ForwardCall, Layer, Phase, Refusal
from tests.support.audit import definition
from tests.support.detection import predictions, priors
from tests.support.layer_harness import assert_close, check_layer, forward
from tests.support.lowering import check_lowering
from tests.support.nets import graph_of


def net_text(text: str, inputs: Mapping[str, np.ndarray]) -> str:
    """Return a net of inputs and the layer of this text, called "y" as its top is."""
    lines = [
        f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ '
        + " ".join(f"dim: {n}" for n in array.shape)
        + " } } }"
        for name, array in inputs.items()
    ]
    bottoms = " ".join(f'bottom: "{name}"' for name in inputs)
    return "\n".join([*lines, f'layer {{ name: "y" {bottoms} top: "y" {text} }}'])


def both(
    text: str, inputs: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray] | None = None
) -> tuple[Layer, np.ndarray, np.ndarray]:
    """Run a layer here and in OpenCV, which gets `theirs` instead; return it and the two tops."""
    layer = graph_of(net_text(text, inputs), Phase.TEST).nodes[-1].layer
    bottoms = [np.asarray(array, np.float32) for array in inputs.values()]
    given = dict(inputs) | dict(theirs or {})
    net = cv2.dnn.readNetFromCaffe(np.frombuffer(net_text(text, given).encode(), np.uint8))
    for name, array in given.items():
        net.setInput(np.asarray(array, np.float32), name)
    return layer, forward(layer, bottoms).tops[0], net.forward("y")


# -- PriorBox --------------------------------------------------------------------------------------


@definition("PriorBox")
def priors_slowly(layer: PriorBox, features: BlobType, image: BlobType) -> list[float]:
    """The boxes, position by position."""
    height, width = layer.img_h or layer.img_size, layer.img_w or layer.img_size
    if height is None or width is None:
        height, width = image.shape[2:]
    rows, columns = features.shape[2:]
    step_h, step_w = layer.step_h or layer.step, layer.step_w or layer.step
    found = []
    for y in range(rows):
        for x in range(columns):
            centre_x = (x + layer.offset) * (step_w or width / columns)
            centre_y = (y + layer.offset) * (step_h or height / rows)
            sides = []
            for i, size in enumerate(layer.min_size):
                size = int(size)
                sides.append((size, size))
                if layer.max_size:
                    sides.append((math.sqrt(size * int(layer.max_size[i])),) * 2)
                for ratio in layer.aspect_ratio:
                    if ratio == 1:
                        continue
                    for r in (ratio, 1 / ratio) if layer.flip else (ratio,):
                        sides.append((size * r**0.5, size / r**0.5))
            centres = [centre_y]
            if layer.denser_prior_boxes:
                centres.append((y + 1) * (step_h or height / rows))
            for (w, h), middle in itertools.product(sides, centres):
                box = [
                    (centre_x - w / 2) / width,
                    (middle - h / 2) / height,
                    (centre_x + w / 2) / width,
                    (middle + h / 2) / height,
                ]
                found += [min(max(v, 0), 1) for v in box] if layer.clip else box
    return found


@st.composite
def prior_layers(draw: st.DrawFn) -> PriorBox:
    sizes = draw(st.lists(st.floats(5, 40), min_size=1, max_size=3))
    image = draw(st.sampled_from([{}, {"img_size": 60}, {"img_h": 50, "img_w": 70}]))
    step = draw(st.sampled_from([{}, {"step": 8.0}, {"step_h": 6.0, "step_w": 9.5}]))
    return PriorBox(
        min_size=tuple(sizes),
        max_size=tuple(size + 10 for size in sizes) if draw(st.booleans()) else (),
        aspect_ratio=tuple(draw(st.lists(st.sampled_from([1.0, 2.0, 3.0]), unique=True))),
        flip=draw(st.booleans()),
        clip=draw(st.booleans()),
        variance=draw(st.sampled_from([(), (0.2,), (0.1, 0.1, 0.2, 0.3)])),
        offset=draw(st.floats(0, 1)),
        denser_prior_boxes=draw(st.booleans()),
        **image,
        **step,
    )


@given(prior_layers(), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_priors_one_by_one(layer: PriorBox, height: int, width: int) -> None:
    features, image = np.zeros((2, 5, height, width)), np.zeros((2, 3, 64, 48))
    (top,) = check_layer(layer, [features, image], gradient=False).tops
    want = priors_slowly(layer, BlobType(features.shape), BlobType(image.shape))
    assert_close(top[0, 0], np.array(want), rtol=1e-12, atol=1e-12)
    variance = layer.variance or (0.1,)
    np.testing.assert_array_equal(top[0, 1], np.resize(variance, len(want)))


# One ulp of a number around 1.
ULP = 1.2e-7


@pytest.mark.parametrize("settings", [
    "min_size: 30 variance: 0.1 clip: false",
    "min_size: 30 max_size: 60 aspect_ratio: 2 clip: true variance: 0.2",
    "min_size: 30 max_size: 60 aspect_ratio: 2 aspect_ratio: 3 flip: false offset: 0.25 "
    "variance: 0.1 clip: false",
    "min_size: 20 min_size: 40 aspect_ratio: 2 step: 16 variance: 0.1 clip: true",
    "min_size: 30 variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 "
    "step_h: 9 step_w: 11 clip: false",
    "width: 9.4 width: 25.1 height: 15 height: 39.6 step: 16 variance: 0.1 clip: false",
    "width: 90 height: 70.5 variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 clip: true",
])  # fmt: skip
def test_priors_of_opencv(settings: str) -> None:
    inputs = {"f": np.zeros((1, 8, 3, 4)), "image": np.zeros((1, 3, 90, 120))}
    _, here, there = both(f'type: "PriorBox" prior_box_param {{ {settings} }}', inputs)
    assert_close(here, there, rtol=ULP, atol=ULP)


def test_sizes_are_cut_down_to_whole_pixels() -> None:
    # A net of MobileNet-SSD says 60.8; the fork made its priors 60 pixels large.
    features, image = BlobType((1, 1, 1, 1)), np.zeros((1, 3, 100, 100))
    for given_size, max_size in ((60.8, 90.9), (60, 90)):
        layer = PriorBox(min_size=(given_size,), max_size=(max_size,))
        (top,) = forward(layer, [np.zeros(features.shape), image]).tops
        half, root = 0.3, math.sqrt(60 * 90) / 200
        expected = [0.5 + side * part for part in (half, root) for side in (-1, -1, 1, 1)]
        assert_close(top[0, 0], np.array(expected), rtol=1e-12, atol=1e-12)


def test_one_bottom_is_enough_with_an_image_size() -> None:
    (top,) = forward(PriorBox(min_size=(8,), img_size=16), [np.zeros((1, 1, 1, 1))]).tops
    assert top[0, 0].tolist() == [0.25, 0.25, 0.75, 0.75]


def test_priors_in_onnx() -> None:
    layer = PriorBox(min_size=(8, 16), aspect_ratio=(2,), clip=True)
    bottoms = [np.zeros((2, 4, 3, 2)), np.zeros((2, 3, 24, 20))]
    assert set(check_lowering(layer, bottoms)) <= {"Identity"}


@pytest.mark.parametrize(("layer", "setting"), [
    (PriorBox(), "min_size"),
    (PriorBox(min_size=(0,)), "min_size.0"),
    (PriorBox(min_size=(5, -1)), "min_size.1"),
    (PriorBox(min_size=(5,), max_size=(6, 7)), "max_size"),
    (PriorBox(min_size=(5, 6), max_size=(6, 6)), "max_size.1"),
    (PriorBox(min_size=(5,), aspect_ratio=(0,)), "aspect_ratio.0"),
    (PriorBox(min_size=(5,), variance=(0.1, 0.2)), "variance"),
    (PriorBox(min_size=(5,), variance=(0.1, 0.2, 0, 0.1)), "variance.2"),
    (PriorBox(min_size=(5,), img_size=0), "img_size"),
    (PriorBox(min_size=(5,), img_size=5, img_h=5, img_w=5), "img_size"),
    (PriorBox(min_size=(5,), img_h=5), "img_h"),
    (PriorBox(min_size=(5,), step=-1), "step"),
    (PriorBox(min_size=(5,), step=2, step_h=2, step_w=2), "step"),
    (PriorBox(min_size=(5,), step_w=2), "step_h"),
    (PriorBox(width=(5, 6), height=(5,)), "width"),
    (PriorBox(height=(5,)), "height"),
    (PriorBox(width=(5, 0), height=(5, 5)), "width.1"),
    (PriorBox(width=(5,), height=(-1,)), "height.0"),
    (PriorBox(min_size=(5,), width=(5,), height=(5,)), "min_size"),
    (PriorBox(aspect_ratio=(2,), width=(5,), height=(5,)), "aspect_ratio"),
])  # fmt: skip
def test_priors_refused(layer: PriorBox, setting: str) -> None:
    with pytest.raises(Refusal) as caught:
        layer.infer(BlobType((1, 2, 3, 3)), BlobType((1, 3, 30, 30)))
    assert caught.value.setting == setting
    assert caught.value.expected
    assert caught.value.got


@pytest.mark.parametrize("shapes", [
    ((1, 2, 3), (1, 3, 30, 30)),
    ((1, 2, 3, 3), (1, 3, 30)),
    ((1, 2, 3, 3),),
    ((1, 2, 0, 3), (1, 3, 30, 30)),
])  # fmt: skip
def test_priors_of_what_is_no_image(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(Refusal) as caught:
        PriorBox(min_size=(5,)).infer(*map(BlobType, shapes))
    assert caught.value.setting == "bottom"


# -- DetectionOutput -------------------------------------------------------------------------------


def decoded_slowly(
    numbers: np.ndarray, prior: np.ndarray, variance: np.ndarray, layer: DetectionOutput
) -> list[float]:
    if not layer.variance_encoded_in_target:
        numbers = numbers * variance
    x0, y0, x1, y1 = prior
    w, h = x1 - x0, y1 - y0
    match layer.code_type:
        case CodeType.CORNER:
            return list(prior + numbers)
        case CodeType.CORNER_SIZE:
            return list(prior + numbers * np.array([w, h, w, h]))
        case CodeType.CENTER_SIZE:
            x, y = (x0 + x1) / 2 + numbers[0] * w, (y0 + y1) / 2 + numbers[1] * h
            w, h = w * math.exp(numbers[2]), h * math.exp(numbers[3])
            return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


def moved_corners(prior: np.ndarray, variance: np.ndarray, moves: np.ndarray) -> list[float]:
    x0, y0, x1, y1 = prior
    found = []
    for (x, y), (right, down) in zip(
        ((x0, y0), (x1, y0), (x1, y1), (x0, y1)), moves.reshape(4, 2), strict=True
    ):
        found += [x + variance[0] * right * (x1 - x0), y + variance[1] * down * (y1 - y0)]
    return found


def jaccard_slowly(a: list[float], b: list[float]) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return w * h / (sum(areas) - w * h)


@definition("DetectionOutput")
def detected_slowly(layer: DetectionOutput, bottoms: list[np.ndarray]) -> list[list[float]]:
    """The rows, image by image, class by class, box by box."""
    location, confidence = bottoms[:2]
    boxes, variances = bottoms[2].reshape(2, -1, 4)
    n, classes = len(location), layer.num_classes or 0
    location = location.reshape(n, len(boxes), -1, 12 if layer.use_polygon else 4)
    confidence = confidence.reshape(n, len(boxes), classes).copy()
    if len(bottoms) > 3:
        least = 0.01 if layer.objectness_score is None else layer.objectness_score
        for i, p in np.ndindex(n, len(boxes)):
            if bottoms[3][i, 2 * p + 1] < least:
                confidence[i, p] = [1] + [0] * (classes - 1)
    moves = bottoms[4].reshape(n, -1, 4) if len(bottoms) > 4 else None
    floor = -math.inf if layer.confidence_threshold is None else layer.confidence_threshold
    top_k = layer.nms_param.top_k
    rows = []
    for image in range(n):
        found = []
        for label in range(classes):
            if label == layer.background_label_id:
                continue
            scores = confidence[image, :, label]
            order = sorted(range(len(boxes)), key=lambda p: -scores[p])
            order = [p for p in order if scores[p] > floor]
            if top_k is not None and top_k >= 0:
                order = order[:top_k]
            limit, kept = layer.nms_param.nms_threshold, []
            for p in order:
                place = 0 if layer.share_location else label
                prior = boxes[p]
                if moves is not None:
                    prior = np.array(decoded_slowly(moves[image, p], prior, variances[p], layer))
                numbers = location[image, p, place]
                box = decoded_slowly(numbers[:4], prior, variances[p], layer)
                if all(jaccard_slowly(box, other) <= limit for other in kept):
                    kept.append(box)
                    found.append([image, label, scores[p], *box])
                    if layer.use_polygon:
                        found[-1] += moved_corners(prior, variances[p], numbers[4:])
                    if layer.nms_param.eta < 1 and limit > 0.5:
                        limit *= layer.nms_param.eta
        if layer.keep_top_k >= 0:
            best = sorted(range(len(found)), key=lambda i: -found[i][2])
            found = [found[i] for i in sorted(best[: layer.keep_top_k])]
        rows += found
    return rows


def without_padding(top: np.ndarray) -> np.ndarray:
    rows = top[0, 0]
    used = rows[:, 0] != -1
    assert not used[np.argmin(used) :].any() or used.all(), "a row follows the padding"
    assert (rows[~used] == -1).all()
    return rows[used]


CODES = st.sampled_from(CodeType)


@st.composite
def detectors(draw: st.DrawFn) -> DetectionOutput:
    classes = draw(st.integers(2, 4))
    return DetectionOutput(
        num_classes=classes,
        share_location=draw(st.booleans()),
        background_label_id=draw(st.integers(-1, classes - 1)),
        nms_param=NmsParam(
            draw(st.sampled_from([0.1, 0.45, 0.8, 1.0])),
            draw(st.sampled_from([None, -1, 3, 5, 100])),
            draw(st.sampled_from([1.0, 0.8])),
        ),
        code_type=draw(CODES),
        variance_encoded_in_target=draw(st.booleans()),
        keep_top_k=draw(st.sampled_from([-1, 1, 4, 100])),
        confidence_threshold=draw(st.sampled_from([None, 0.0, 0.3, 2.0])),
    )


def bottoms_for(layer: DetectionOutput, images: int, n: int, seed: int) -> list[np.ndarray]:
    location, confidence = predictions(
        images, n, layer.num_classes or 0, seed, shared=layer.share_location
    )
    if layer.variance_encoded_in_target:
        location *= 0.1
    return [location, confidence, priors(n, seed)]


@given(detectors(), st.integers(1, 3), st.integers(1, 12), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_detections_one_by_one(layer: DetectionOutput, images: int, n: int, seed: int) -> None:
    bottoms = bottoms_for(layer, images, n, seed)
    (top,) = check_layer(layer, bottoms, gradient=False).tops
    got, want = without_padding(top), np.array(detected_slowly(layer, bottoms)).reshape(-1, 7)
    assert_close(got, want, rtol=1e-9, atol=1e-9)


@given(detectors(), st.integers(1, 3), st.integers(1, 12), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_polygons_one_by_one(drawn: DetectionOutput, images: int, n: int, seed: int) -> None:
    layer = replace(
        drawn, code_type=CodeType.CENTER_SIZE, variance_encoded_in_target=False, use_polygon=True
    )
    bottoms = polygons_for(layer, images, n, seed)
    (top,) = check_layer(layer, bottoms, gradient=False).tops
    got, want = without_padding(top), np.array(detected_slowly(layer, bottoms)).reshape(-1, 15)
    assert_close(got, want, rtol=1e-9, atol=1e-9)


def polygons_for(layer: DetectionOutput, images: int, n: int, seed: int) -> list[np.ndarray]:
    location, *others = bottoms_for(layer, images, n, seed)
    more = np.random.default_rng(seed).standard_normal((location.size // 4, 8))
    location = np.concatenate([location.reshape(-1, 4), more], axis=1)
    return [location.reshape(images, -1), *others]


@pytest.mark.parametrize("shared", [True, False])
def test_polygons_in_onnx(shared: bool) -> None:
    layer = DetectionOutput(
        num_classes=3,
        share_location=shared,
        nms_param=NmsParam(0.4, 6),
        code_type=CodeType.CENTER_SIZE,
        keep_top_k=5,
        use_polygon=True,
    )
    assert "NonMaxSuppression" in check_lowering(layer, polygons_for(layer, 2, 9, 1))
    bottoms = (np.zeros((1, 108)), np.zeros((1, 27)), priors(9))
    call = ForwardCall(np, bottoms, (), (), (), lambda: np.random.default_rng(0))
    none = replace(layer, share_location=True, confidence_threshold=1.0).forward(call)[0]
    assert none.shape == (1, 1, 1, 15) and (none[..., 1:] == -1).all()


def test_polygons_refused() -> None:
    shapes = [BlobType(shape) for shape in ((1, 24), (1, 4), (1, 2, 8))]
    layer = DetectionOutput(num_classes=2, use_polygon=True)
    with pytest.raises(Refusal, match="one way only"):
        layer.infer(*shapes)
    assert replace(layer, code_type=CodeType.CENTER_SIZE).infer(*shapes)


def test_a_hint_to_denser_boxes() -> None:
    shapes = [BlobType(shape) for shape in ((1, 16), (1, 4), (1, 2, 8))]
    with pytest.raises(Refusal) as error:
        DetectionOutput(num_classes=2).infer(*shapes)
    assert "prior_box_param { denser_prior_boxes: true }" in error.value.hint


@pytest.mark.parametrize("code", [CodeType.CENTER_SIZE, CodeType.CORNER])
@pytest.mark.parametrize(("score", "n_bottoms"), [(None, 5), (0.4, 5), (0.4, 4)])
@pytest.mark.parametrize("background", [0, -1])
def test_detections_in_two_steps(code, score: float | None, n_bottoms: int, background) -> None:
    layer = DetectionOutput(
        num_classes=3,
        background_label_id=background,
        code_type=code,
        nms_param=NmsParam(0.45),
        keep_top_k=20,
        confidence_threshold=0.1,
        objectness_score=score,
    )
    bottoms = bottoms_for(layer, 2, 12, 3)
    rng = np.random.default_rng(4)
    objects = rng.random((2, 24))
    moves = rng.standard_normal((2, 48)) * 0.3
    bottoms = [*bottoms, objects, moves][:n_bottoms]
    (top,) = check_layer(layer, bottoms, gradient=False).tops
    got, want = without_padding(top), np.array(detected_slowly(layer, bottoms)).reshape(-1, 7)
    assert_close(got, want, rtol=1e-9, atol=1e-9)
    one_step = np.array(detected_slowly(replace(layer, objectness_score=None), bottoms[:3]))
    assert len(got) > 2 and not np.array_equal(got, one_step)
    check_lowering(layer, bottoms)


@pytest.mark.parametrize(
    ("settings", "shapes", "setting"),
    [
        ({"objectness_score": 0.1}, [], "objectness_score"),
        ({}, [(2, 11), (2, 24)], "bottom"),
        ({}, [(2, 12), (2, 23)], "bottom"),
        ({"objectness_score": 0.1}, [(1, 12)], "bottom"),
        ({"share_location": False}, [(2, 12), (2, 24)], "share_location"),
    ],
)
def test_first_steps_that_do_not_fit(settings, shapes, setting: str) -> None:
    layer = DetectionOutput(num_classes=3, **settings)
    found = [BlobType(b.shape) for b in bottoms_for(layer, 2, 6, 1)]
    with pytest.raises(Refusal) as caught:
        layer.infer(*found, *map(BlobType, shapes))
    assert caught.value.setting == setting


def spelled(layer: DetectionOutput) -> str:
    nms = layer.nms_param
    lines = [
        f"num_classes: {layer.num_classes}",
        f"share_location: {str(layer.share_location).lower()}",
        f"background_label_id: {layer.background_label_id}",
        f"nms_param {{ nms_threshold: {nms.nms_threshold} top_k: {nms.top_k} }}",
        f"code_type: {layer.code_type.name}",
        f"variance_encoded_in_target: {str(layer.variance_encoded_in_target).lower()}",
        f"keep_top_k: {layer.keep_top_k}",
        f"confidence_threshold: {layer.confidence_threshold}",
    ]
    return 'type: "DetectionOutput" detection_output_param { ' + " ".join(lines) + " }"


@pytest.mark.parametrize("code", [CodeType.CORNER, CodeType.CENTER_SIZE])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("encoded", [True, False])
@pytest.mark.parametrize("keep", [1000, 7])
def test_detections_of_opencv(code: CodeType, shared: bool, encoded: bool, keep: int) -> None:
    layer = DetectionOutput(
        num_classes=4,
        share_location=shared,
        nms_param=NmsParam(0.4, 10),
        code_type=code,
        variance_encoded_in_target=encoded,
        keep_top_k=keep,
        confidence_threshold=0.2,
    )
    location, confidence, boxes = bottoms_for(layer, 2, 40, seed=3)
    if code is CodeType.CORNER:
        location *= 0.3  # OpenCV stops at a box whose ends are in the wrong order
    # OpenCV wants no variances where the net says that the targets have them.
    theirs = boxes[:, :1] if encoded else boxes
    inputs = {"location": location, "confidence": confidence, "priors": boxes}
    read, here, there = both(spelled(layer), inputs, {"priors": theirs})
    assert read == layer
    # OpenCV orders rows by their scores, and fills up with others where there are too few.
    rows, there = (r[np.lexsort((-r[:, 2], r[:, 1], r[:, 0]))] for r in (here[0, 0], there[0, 0]))
    rows, there = rows[rows[:, 0] >= 0], there[there[:, 2] > 0]
    assert len(rows) == 2 * 7 if keep == 7 else len(rows) > 2 * 7
    assert_close(rows, there, rtol=2e-5, atol=2e-6)


NOTHING = DetectionOutput(num_classes=3, keep_top_k=5, confidence_threshold=2.0)


def test_rows_are_as_many_as_there_can_be() -> None:
    def rows(layer: DetectionOutput) -> int:
        shapes = [(2, 40), (2, 30), (1, 2, 40)]
        return layer.infer(*map(BlobType, shapes)).tops[0].shape[2]

    assert rows(NOTHING) == 2 * 5
    assert rows(replace(NOTHING, keep_top_k=-1)) == 2 * 2 * 10
    assert rows(replace(NOTHING, keep_top_k=200)) == 2 * 2 * 10
    assert rows(replace(NOTHING, keep_top_k=200, nms_param=NmsParam(top_k=4))) == 2 * 2 * 4


def test_a_caller_that_follows_the_data_gets_rows_as_in_the_fork() -> None:
    bottoms = tuple(bottoms_for(NOTHING, 2, 6, 0))

    def tops(layer: DetectionOutput) -> np.ndarray:
        call = ForwardCall(np, bottoms, (), (), (), lambda: None)
        return layer.forward(call)[0]

    assert tops(NOTHING).tolist() == [[[[0, *[-1] * 6], [1, *[-1] * 6]]]]
    some = replace(NOTHING, confidence_threshold=0.3)
    padded = forward(some, bottoms).tops[0]
    np.testing.assert_array_equal(tops(some)[0, 0], without_padding(padded))


def test_equal_scores_go_by_class_and_prior() -> None:
    layer = DetectionOutput(num_classes=3, keep_top_k=3, nms_param=NmsParam(1.0))
    bottoms = [np.zeros((1, 8)), np.full((1, 6), 0.5), priors(2)]
    rows = without_padding(forward(layer, bottoms).tops[0])
    assert rows[:, 1].tolist() == [1, 1, 2]
    assert_close(rows[:2, 3:], priors(2).reshape(2, 2, 4)[0], rtol=1e-12, atol=1e-12)


def test_a_score_at_the_threshold_does_not_count() -> None:
    layer = DetectionOutput(num_classes=2, confidence_threshold=0.5)
    bottoms = [np.zeros((1, 8)), np.array([[0.5, 0.5, 0.25, 0.75]]), priors(2)]
    assert len(without_padding(forward(layer, bottoms).tops[0])) == 1
    check_lowering(layer, bottoms)


@pytest.mark.parametrize("code", CodeType)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("keep", "top_k", "threshold"), [
    (-1, None, None),
    (5, 8, 0.3),
    (1, 100, 0.05),
    (100, 1, 2.0),
])  # fmt: skip
def test_detections_in_onnx(
    code: CodeType, shared: bool, keep: int, top_k: int | None, threshold: float | None
) -> None:
    layer = DetectionOutput(
        num_classes=4,
        share_location=shared,
        background_label_id=1,
        nms_param=NmsParam(0.45, top_k),
        code_type=code,
        keep_top_k=keep,
        confidence_threshold=threshold,
    )
    operators = check_lowering(layer, bottoms_for(layer, 3, 20, seed=1))
    assert operators.count("NonMaxSuppression") == 1


def test_variances_in_the_target_in_onnx() -> None:
    layer = replace(NOTHING, variance_encoded_in_target=True, confidence_threshold=0.2)
    check_lowering(layer, bottoms_for(layer, 2, 10, seed=1))


def test_a_falling_threshold_has_no_onnx_form() -> None:
    falling = replace(NOTHING, nms_param=NmsParam(0.7, None, 0.9))
    with pytest.raises(NetcError, match="threshold"):
        check_lowering(falling, bottoms_for(falling, 1, 5, 0))
    # Below 0.5 it does not fall.
    low = replace(NOTHING, nms_param=NmsParam(0.4, None, 0.9), confidence_threshold=0.1)
    check_lowering(low, bottoms_for(low, 1, 5, 0))


def test_what_a_published_net_says() -> None:
    text = """
      type: "DetectionOutput" include { phase: TEST } detection_output_param {
        num_classes: 21 share_location: true background_label_id: 0
        nms_param { nms_threshold: 0.45 top_k: 400 }
        save_output_param { output_directory: "out" output_name_prefix: "comp4_det_test_"
          output_format: "VOC" label_map_file: "labelmap.prototxt"
          name_size_file: "sizes.txt" num_test_image: 4952 }
        code_type: CENTER_SIZE keep_top_k: 200 confidence_threshold: 0.01 }
    """
    location, confidence = predictions(1, 10, 21)
    inputs = {"location": location, "confidence": confidence, "priors": priors(10)}
    graph = graph_of(net_text(text, inputs), Phase.TEST)
    assert graph.nodes[-1].signature.tops == (BlobType((1, 1, 200, 7)),)


SHAPES = ((2, 40), (2, 30), (1, 2, 40))


@pytest.mark.parametrize(("layer", "setting"), [
    (DetectionOutput(), "num_classes"),
    (DetectionOutput(num_classes=1), "num_classes"),
    (replace(NOTHING, keep_top_k=0), "keep_top_k"),
    (replace(NOTHING, nms_param=NmsParam(-0.1)), "nms_param"),
    (replace(NOTHING, nms_param=NmsParam(top_k=0)), "nms_param"),
    (replace(NOTHING, nms_param=NmsParam(eta=0)), "nms_param"),
    (replace(NOTHING, nms_param=NmsParam(eta=1.1)), "nms_param"),
    (replace(NOTHING, share_location=False), "bottom"),
])  # fmt: skip
def test_detections_refused(layer: DetectionOutput, setting: str) -> None:
    shapes = [BlobType(s) for s in SHAPES]
    if layer.num_classes == 1:
        shapes[1] = BlobType((2, 10))
    with pytest.raises(Refusal) as caught:
        layer.infer(*shapes)
    assert caught.value.setting == setting
    assert caught.value.expected
    assert caught.value.got


@pytest.mark.parametrize(("index", "shape"), [
    (0, (2, 36)),
    (0, (40,)),
    (0, (3, 40)),
    (1, (2, 31)),
    (2, (2, 2, 40)),
    (2, (1, 2, 41)),
    (2, (1, 80)),
])  # fmt: skip
def test_predictions_that_do_not_match(index: int, shape: tuple[int, ...]) -> None:
    shapes = [BlobType(s) for s in SHAPES]
    shapes[index] = BlobType(shape)
    with pytest.raises(Refusal) as caught:
        NOTHING.infer(*shapes)
    assert caught.value.setting == "bottom"


def test_a_prior_without_an_area_is_named() -> None:
    layer = DetectionOutput(num_classes=2, code_type=CodeType.CENTER_SIZE)
    boxes = priors(3)
    boxes[0, 0, 4:8] = 1, 0, 1, 0.5
    with pytest.raises(Refusal, match="1 of 3 priors") as caught:
        forward(layer, [np.zeros((1, 12)), np.zeros((1, 6)), boxes])
    assert "prior 1: 1, 0, 1, 0.5" in caught.value.got
