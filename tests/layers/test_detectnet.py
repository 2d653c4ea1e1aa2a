"""DetectNetTransformation: its shapes, its grid by definition, its images as OpenCV makes them."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from netc.layers.blobfile import BlobFile
from netc.layers.detectnet import (
    Augmentation,
    Change,
    ClassMapping,
    DetectNetTransformation,
    GridboxType,
    GroundTruth,
)
from netc.layers.transform import TransformParam
from netc.layers.types import BlobType, Phase, Refusal
from tests.support.audit import definition
from tests.support.layer_harness import distinct, forward, infer, smooth
from tests.support.nets import graph_of

IMAGES, BOXES = np.zeros((2, 3, 384, 1248)), np.zeros((2, 1, 4, 16))


@pytest.mark.parametrize(
    ("truth", "shapes"),
    [
        (GroundTruth(), [(2, 3, 384, 1248), (2, 9, 96, 312)]),
        (GroundTruth(stride=16), [(2, 3, 384, 1248), (2, 9, 24, 78)]),
        (
            GroundTruth(
                stride=16, image_size_x=250, image_size_y=80,
                object_class=(ClassMapping(1, 0), ClassMapping(5, 2)),
            ),
            [(2, 3, 80, 250), (2, 11, 5, 16)],
        ),
    ],
)  # fmt: skip
def test_the_grid_has_a_cell_for_each_stride(
    truth: GroundTruth, shapes: list[tuple[int, ...]]
) -> None:
    layer = DetectNetTransformation(detectnet_groundtruth_param=truth)
    assert [top.shape for top in infer(layer, [IMAGES, BOXES]).tops] == shapes


def test_the_text_of_kitti_is_read() -> None:
    graph = graph_of(
        """
        layer { name: "in" type: "Input" top: "data" top: "label"
                input_param { shape { dim: 2 dim: 3 dim: 384 dim: 1248 }
                              shape { dim: 2 dim: 1 dim: 9 dim: 16 } } }
        layer { name: "t" type: "DetectNetTransformation" bottom: "data" bottom: "label"
                top: "images" top: "grid"
                detectnet_groundtruth_param { stride: 16 scale_cvg: 0.4 gridbox_type: GRIDBOX_MIN
                    coverage_type: RECTANGULAR min_cvg_len: 20 obj_norm: true image_size_x: 1248
                    image_size_y: 384 crop_bboxes: true object_class { src: 1 dst: 0 } }
                detectnet_augmentation_param { crop_prob: 1 shift_x: 32 flip_prob: 0.5 }
                transform_param { mean_value: 127 } }"""
    )
    assert graph.blobs["grid"].shape == (2, 9, 24, 78)


@definition("DetectNetTransformation")
def grid_of(
    truth: GroundTruth, boxes: list[tuple[float, float, float, float, int]], maps: dict[int, int]
) -> np.ndarray:
    """Ask of every cell which box covers it last."""
    rows, columns = truth.image_size_y // truth.stride, truth.image_size_x // truth.stride
    grid = np.zeros((8 + max(maps.values()) + 1, rows, columns))
    for row, column in np.ndindex(rows, columns):
        y, x = row * truth.stride, column * truth.stride
        for left, top, width, height, kind in boxes:
            corners = np.array([left, top, left + width, top + height], float)
            if truth.crop_bboxes:
                corners[::2] = corners[::2].clip(0, truth.image_size_x)
                corners[1::2] = corners[1::2].clip(0, truth.image_size_y)
            size, centre = corners[2:] - corners[:2], (corners[2:] + corners[:2]) / 2
            if kind not in maps or size.prod() <= 0:
                continue
            part = size * truth.scale_cvg
            if truth.gridbox_type is GridboxType.GRIDBOX_MIN:
                part = np.minimum(size, np.maximum(part, truth.min_cvg_len))
            else:
                part = np.minimum(part, truth.max_cvg_len)
            first = np.maximum(centre - part / 2, (x, y))
            last = np.minimum(centre + part / 2, (x + truth.stride, y + truth.stride))
            if (last <= first).any():
                continue
            norm = truth.stride**2 / part.prod()
            grid[:, row, column] = 0
            grid[0, row, column] = 1
            grid[1:5, row, column] = corners - (x, y, x, y)
            grid[5:7, row, column] = 1 / size
            grid[7, row, column] = norm if truth.obj_norm else max(norm, 1)
            grid[8 + maps[kind], row, column] = 1
    return grid


def labels(boxes: list[tuple[float, float, float, float, int]], most: int) -> np.ndarray:
    """Return DetectNet's list of boxes: a row that tells their number, and theirs."""
    found = np.zeros((1, most + 1, 16), np.float32)
    found[0, 0, :2] = len(boxes), 16
    for row, (*box, kind) in zip(found[0, 1:], boxes, strict=False):
        row[:4], row[5] = box, kind
    return found


MAPS = {1: 0, 5: 2}
MAPPED = (ClassMapping(1, 0), ClassMapping(5, 2))
OBJECTS = [(3, 4, 20, 12, 1), (10.5, 6, 9, 9, 5), (-6, 20, 16, 30, 1), (30, 2, 8, 8, 7),
           (60, 3, 9, 5, 1), (40, 25, 2, 3, 5)]  # fmt: skip
TRUTHS = [
    GroundTruth(4, 0.5, GridboxType.GRIDBOX_MAX, 6, object_class=MAPPED),
    GroundTruth(4, 0.5, GridboxType.GRIDBOX_MAX, obj_norm=True, object_class=MAPPED),
    GroundTruth(8, 0.4, GridboxType.GRIDBOX_MIN, 50, 5, crop_bboxes=False, object_class=MAPPED),
]


@pytest.mark.parametrize("truth", TRUTHS)
def test_the_grid_tells_of_each_cell_which_object_is_there(truth: GroundTruth) -> None:
    truth = replace(truth, image_size_x=64, image_size_y=32)
    image = distinct(2, 3, 32, 64) * 255
    boxes = np.stack([labels(OBJECTS, 8), labels(OBJECTS[::-1], 8)])
    layer = DetectNetTransformation(truth, phase=Phase.TEST)
    images, grids = forward(layer, [image, boxes]).tops
    np.testing.assert_allclose(images, image, rtol=1e-6)
    for grid, objects in zip(grids, (OBJECTS, OBJECTS[::-1]), strict=True):
        np.testing.assert_allclose(grid, grid_of(truth, objects, MAPS), rtol=1e-6)


def changed_by_opencv(image: np.ndarray, mean: np.ndarray, change: Change) -> np.ndarray:
    """Change an image as NVIDIA's fork does, with OpenCV's functions, before the window."""
    image = image.transpose(1, 2, 0) / np.float32(255)
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    # OpenCV 4 takes negative hues for others.
    hsv[..., 0] = (hsv[..., 0] + change.hue) % 360
    hsv[..., 1] *= change.saturation
    image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR) - mean / np.float32(255)
    if change.flip:
        image = cv2.flip(image, 1)
    image = cv2.resize(image, change.size, interpolation=cv2.INTER_CUBIC)
    (w, h), (width, height) = change.size, change.frame()
    corners = cv2.boxPoints(((w / 2, h / 2), change.size, change.angle))
    centre = np.array([w / 2, h / 2]) - np.floor(corners.min(axis=0))
    matrix = cv2.getAffineTransform(
        cv2.boxPoints(((w / 2, h / 2), change.size, 0))[:3],
        cv2.boxPoints((centre, change.size, change.angle))[:3],
    )
    turned = np.zeros((height, width, 3), np.float32)
    mode = cv2.BORDER_TRANSPARENT
    cv2.warpAffine(image, matrix, (width, height), turned, cv2.INTER_LINEAR, mode)
    return turned * 255


@pytest.mark.parametrize("angle", [0.8, -7.0, 30.0])
@pytest.mark.parametrize("flip", [False, True])
def test_an_image_is_changed_as_opencv_does(angle: float, flip: bool) -> None:
    rng = np.random.default_rng(0)
    small = rng.uniform(20, 240, (3, 6, 8)).astype(np.float32)
    image = np.stack([cv2.resize(plane, (80, 60)) for plane in small])
    mean = np.array([100, 110, 120], np.float32)
    change = Change((70, 64), hue=-25.0, saturation=0.7, flip=flip, angle=angle)
    width, height = change.frame()
    found = change.image(np, image.transpose(1, 2, 0), mean, width, height)
    wanted = changed_by_opencv(image, mean, change)
    # OpenCV knows 32 places between two pixels; at the edge it may take one more or one fewer.
    off = np.abs(found - wanted).max(axis=-1) > 1.0
    assert off.mean() < 0.01
    assert not off[12:-12, 12:-12].any() or abs(angle) > 20
    # The window may reach beyond the image.
    part = replace(change, offset=(-5, 10)).image(np, image.transpose(1, 2, 0), mean, 40, 30)
    assert not part[:, :5].any()
    np.testing.assert_array_equal(part[:, 5:], found[10:40, :35])


def test_boxes_move_with_their_pixels() -> None:
    """A bright square is looked for again where its box is said to be."""
    image = np.zeros((40, 60, 3), np.float32)
    image[10:16, 20:28] = 255
    rows = labels([(20, 10, 8, 6, 1)], 1)[0, 1:]
    for change in (
        Change((60, 40), flip=True),
        Change((90, 80)),
        Change((60, 40), angle=9.0),
        Change((80, 50), flip=True, angle=-4.0, offset=(7, -3)),
    ):
        size = change.frame()
        made = change.image(np, image, np.zeros(1, np.float32), *size)
        ys, xs = np.nonzero(made[..., 0] > 127)
        x, y, width, height = change.rows(rows, 60, 40)[0, :4]
        # Flipped, a box is one pixel further to the left: so it is in the fork.
        assert abs(xs.mean() + 0.5 - (x + width / 2)) < 1.6
        assert abs(ys.mean() + 0.5 - (y + height / 2)) < 0.6


def test_chances_of_one_always_change_and_the_same_pass_changes_alike() -> None:
    always = Augmentation(
        crop_prob=1, shift_x=3, scale_prob=1, flip_prob=1, rotation_prob=1, hue_rotation_prob=1,
        desaturation_prob=1, max_rotate_degree=5, hue_rotation=200,
    )  # fmt: skip
    truth = GroundTruth(4, image_size_x=32, image_size_y=16)
    drawn = [always.draw(np.random.default_rng(seed), 40, 20, truth) for seed in range(20)]
    for change in drawn:
        assert change.flip and abs(change.hue) <= 180 and 0.5 <= change.saturation <= 1
        assert 28 <= change.size[0] <= 40 and 14 <= change.size[1] <= 20
        assert abs(change.angle) <= 5
        lost = [inner - outer for inner, outer in zip(change.frame(), (32, 16), strict=True)]
        assert -2 <= change.offset[0] <= max(lost[0], 0) + 2 or lost[0] < 0
    assert len({change.offset for change in drawn}) > 10
    layer = DetectNetTransformation(truth, always)
    bottoms = [distinct(2, 3, 20, 40) * 255, np.stack([labels(OBJECTS, 6)] * 2)]
    first, again = (forward(layer, bottoms).tops for _ in range(2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(first[0][0], first[0][1])


def test_nothing_changes_where_no_chance_is_given() -> None:
    never = Augmentation(0, 0, 0, 0, flip_prob=0, rotation_prob=0, hue_rotation_prob=0,
                         desaturation_prob=0)  # fmt: skip
    truth = GroundTruth(4, image_size_x=32, image_size_y=16)
    change = never.draw(np.random.default_rng(0), 41, 20, truth)
    assert change == Change((41, 20), offset=(5, 2))


def test_the_mean_is_an_image_of_any_size() -> None:
    mean = smooth(1, 3, 10, 16) * 50 + 100
    layer = DetectNetTransformation(GroundTruth(image_size_x=32, image_size_y=20), phase=Phase.TEST)
    image = np.full((1, 3, 20, 32), 200)
    (found, _) = forward(layer, [image, labels([], 2), mean]).tops
    wanted = cv2.resize(mean[0].transpose(1, 2, 0), (32, 20), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_allclose(found[0], 200 - wanted.transpose(2, 0, 1), rtol=1e-4, atol=1e-3)


def test_a_mean_file_is_read_by_a_layer_of_its_own() -> None:
    layer = DetectNetTransformation(transform_param=TransformParam(mean_file="m.binaryproto"))
    parts = layer.expand(BlobType(IMAGES.shape), BlobType(BOXES.shape))
    assert parts is not None
    assert parts[0].layer == BlobFile(source="m.binaryproto")
    assert parts[1].layer == DetectNetTransformation()
    assert parts[1].bottoms == ("$b0", "$b1", *parts[0].tops)


@pytest.mark.parametrize(
    ("header", "told"),
    [((1, 15), "does not say that they have 16 values"), ((3, 16), "more boxes than there are")],
)
def test_lists_that_are_none_are_refused(header: tuple[int, int], told: str) -> None:
    boxes = labels([], 2)[None]
    boxes[0, 0, 0, :2] = header
    layer = DetectNetTransformation(GroundTruth(4, image_size_x=8, image_size_y=8))
    with pytest.raises(Refusal, match=told):
        forward(layer, [distinct(1, 3, 8, 8), boxes])


@pytest.mark.parametrize(
    ("truth", "setting", "bottoms"),
    [
        (GroundTruth(), "bottom", [IMAGES[:, :1], BOXES]),
        (GroundTruth(), "bottom", [IMAGES, BOXES[:1]]),
        (GroundTruth(stride=0), "detectnet_groundtruth_param", [IMAGES, BOXES]),
    ],
)
def test_what_does_not_fit_is_refused(
    truth: GroundTruth, setting: str, bottoms: list[np.ndarray]
) -> None:
    with pytest.raises(Refusal) as caught:
        infer(DetectNetTransformation(detectnet_groundtruth_param=truth), bottoms)
    assert caught.value.setting == setting
