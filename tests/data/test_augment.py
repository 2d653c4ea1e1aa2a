from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.data import augment
from netc.layers.annotated import BatchSampler, SampleConstraint, Sampler
from netc.layers.transform import (
    EFFECTS,
    DistortionParam,
    EmitConstraint,
    EmitType,
    ImageTransform,
    InterpMode,
    NoiseParam,
    PadMode,
    RandomAspectRatioParam,
    RandomResizeParam,
    ResizeMode,
    ResizeParam,
    SaltPepperParam,
)
from tests.data.samples import pixels

BOXES = np.array([[0.1, 0.2, 0.5, 0.6], [0.4, 0.4, 1.2, 0.9], [0.0, 0.0, 0.1, 0.1]])
PART = np.array([0.3, 0.3, 0.9, 0.8])


def test_boxes_as_parts_of_a_part() -> None:
    moved, remains = augment.project(BOXES, PART, None)
    assert remains.tolist() == [True, True, False]
    want = [[0, 0, 0.2 / 0.6, 0.6], [0.1 / 0.6, 0.2, 1, 1]]
    np.testing.assert_allclose(moved[:2], want, atol=1e-12)


@pytest.mark.parametrize(("emit", "remain"), [
    (EmitConstraint(), [True, True, False]),
    (EmitConstraint(EmitType.MIN_OVERLAP, 0.3), [True, True, False]),
    (EmitConstraint(EmitType.MIN_OVERLAP, 0.4), [False, True, False]),
    (EmitConstraint(EmitType.MIN_OVERLAP, 0.7), [False, False, False]),
])  # fmt: skip
def test_which_objects_belong_to_a_part(emit: EmitConstraint, remain: list[bool]) -> None:
    # 0.2 * 0.3 of 0.4 * 0.4 is in the part, 0.5 * 0.4 of 0.8 * 0.5, and nothing.
    assert augment.project(BOXES, PART, emit)[1].tolist() == remain


def test_a_centre_outside_does_not_belong() -> None:
    emit = EmitConstraint()
    assert not augment.project(np.array([[0.0, 0.0, 0.4, 0.4]]), PART, emit)[1].any()


def test_mirrored_boxes() -> None:
    got = augment.mirrored_boxes(BOXES[:1])
    np.testing.assert_allclose(got, [[0.5, 0.2, 0.9, 0.6]])


# -- resizing --------------------------------------------------------------------------------------


def marked(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """A black image with a white box (left, top, right, bottom)."""
    image = np.zeros((height, width, 3), np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 255
    return image


@pytest.mark.parametrize("mode", ResizeMode)
@pytest.mark.parametrize(("height", "width"), [(60, 120), (120, 60), (80, 80)])
def test_a_box_stays_around_its_object(mode: ResizeMode, height: int, width: int) -> None:
    box = (width // 4, height // 4, width // 2, height * 3 // 4)
    image = marked(height, width, box)
    param = ResizeParam(resize_mode=mode, height=90, width=150, interp_mode=(InterpMode.AREA,))
    resized = augment.resize(image, param, 0.0)
    boxes = np.array([box]) / [width, height, width, height]
    ((x0, y0, x1, y1),) = augment.resized_boxes(boxes, param, height, width)
    rows, columns = resized.shape[:2]
    if mode is ResizeMode.FIT_SMALL_SIZE:
        assert (rows, columns) == param.size(height, width)
        assert min(rows / 90, columns / 150) == 1
    else:
        assert (rows, columns) == (90, 150)
    inside = np.argwhere(resized[..., 0] > 127)
    (top, left), (bottom, right) = inside.min(axis=0), inside.max(axis=0) + 1
    found = np.array([left / columns, top / rows, right / columns, bottom / rows])
    # A pixel of the resized image, and the half of one that a border of odd size is off.
    np.testing.assert_allclose(found, [x0, y0, x1, y1], atol=1.6 / 90)


@pytest.mark.parametrize(("pad_mode", "corner"), [
    (PadMode.CONSTANT, [7, 8, 9]),
    (PadMode.REPEAT_NEAREST, [200, 200, 200]),
    (PadMode.MIRRORED, [200, 200, 200]),
])  # fmt: skip
def test_borders(pad_mode: PadMode, corner: list[int]) -> None:
    param = ResizeParam(
        resize_mode=ResizeMode.FIT_LARGE_SIZE_AND_PAD, height=40, width=20, pad_mode=pad_mode,
        pad_value=(7, 8, 9),
    )  # fmt: skip
    resized = augment.resize(np.full((10, 10, 3), 200, np.uint8), param, 0.5)
    assert resized.shape == (40, 20, 3)
    assert resized[0, 0].tolist() == corner
    assert resized[20, 10].tolist() == [200, 200, 200]


def test_one_of_several_interpolations_is_drawn() -> None:
    image = pixels(9, 7, 3)
    param = ResizeParam(height=5, width=6, interp_mode=(InterpMode.NEAREST, InterpMode.CUBIC))
    for number, flag in ((0.49, cv2.INTER_NEAREST), (0.5, cv2.INTER_CUBIC), (1.0, cv2.INTER_CUBIC)):
        want = cv2.resize(image, (6, 5), interpolation=flag)
        np.testing.assert_array_equal(augment.resize(image, param, number), want)


def test_grey_images_keep_their_axis() -> None:
    for mode in ResizeMode:
        param = ResizeParam(resize_mode=mode, height=6, width=8)
        assert augment.resize(pixels(9, 7, 1), param, 0).shape[2] == 1


def test_another_scale_for_boxes() -> None:
    param = ResizeParam(
        resize_mode=ResizeMode.FIT_SMALL_SIZE, height=8, width=8, height_scale=10, width_scale=5
    )
    got = augment.rescaled_boxes(BOXES[:1], param, (20, 40))
    np.testing.assert_allclose(got, BOXES[:1] * [8, 2, 8, 2])
    assert augment.rescaled_boxes(BOXES, ResizeParam(), (20, 40)) is BOXES


# -- patches ---------------------------------------------------------------------------------------

OBJECTS = np.array([[0.2, 0.2, 0.5, 0.5], [0.6, 0.6, 0.7, 0.9]])


@given(
    st.floats(0.1, 1), st.floats(0.1, 1), st.floats(0.3, 3), st.floats(0.3, 3), st.integers(0, 99)
)
@settings(deadline=None)
def test_patches_are_what_the_sampler_says(
    a: float, b: float, c: float, d: float, seed: int
) -> None:
    scales, ratios = sorted((a, b)), sorted((c, d))
    sampler = BatchSampler(sampler=Sampler(*scales, *ratios))
    found = augment.patches(sampler, OBJECTS, np.random.default_rng(seed).random((50, 4)))
    assert len(found) == 50
    assert (found > -1e-9).all()
    assert (found < 1 + 1e-9).all()
    w, h = (found[:, 2:] - found[:, :2]).T
    scale = np.sqrt(w * h)
    assert (scale >= scales[0] - 1e-9).all()
    assert (scale <= scales[1] + 1e-9).all()
    low, high = np.maximum(ratios[0], scale**2), np.minimum(ratios[1], scale**-2)
    wanted = np.clip(w / h, np.minimum(low, high), np.maximum(low, high))
    np.testing.assert_allclose(w / h, wanted, rtol=1e-6)


def jaccard(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """Overlap, and the fractions of the one and of the other that both have in common."""
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(w, 0) * max(h, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return common / (sum(areas) - common), common / areas[0], common / areas[1]


@pytest.mark.parametrize("kind", ["jaccard_overlap", "sample_coverage", "object_coverage"])
@pytest.mark.parametrize(("low", "high"), [(0.2, None), (None, 0.1), (0.1, 0.3)])
def test_constraints(kind: str, low: float | None, high: float | None) -> None:
    numbers = np.random.default_rng(0).random((200, 4))
    free = BatchSampler(sampler=Sampler(0.2, 0.9, 0.5, 2.0))
    objects = OBJECTS[:1] if low is None else OBJECTS
    every = augment.patches(free, objects, numbers)
    index = ["jaccard_overlap", "sample_coverage", "object_coverage"].index(kind)
    wanted = []
    for patch in every:
        values = [jaccard(patch, o)[index] for o in objects]
        wanted.append(any((low or 0) <= v <= (math.inf if high is None else high) for v in values))
    constraint = SampleConstraint(**{f"min_{kind}": low, f"max_{kind}": high})
    found = augment.patches(BatchSampler(True, free.sampler, constraint), objects, numbers)
    assert 0 < len(found) < len(every)
    np.testing.assert_array_equal(found, every[wanted])
    few = augment.patches(BatchSampler(True, free.sampler, constraint, 2), objects, numbers)
    np.testing.assert_array_equal(few, found[:2])


def test_no_objects_no_constrained_patches() -> None:
    numbers = np.random.default_rng(0).random((9, 4))
    none = np.empty((0, 4))
    asked = BatchSampler(sample_constraint=SampleConstraint(max_jaccard_overlap=1.0))
    assert len(augment.patches(asked, none, numbers)) == 0
    assert len(augment.patches(BatchSampler(), none, numbers)) == 9


def test_crop() -> None:
    image = pixels(10, 20, 3)
    np.testing.assert_array_equal(augment.crop(image, PART), image[3:8, 6:18])
    assert augment.crop(image, np.array([0.5, 0.5, 0.501, 0.501])).shape == (1, 1, 3)
    assert augment.crop(image, np.array([1.0, 1.0, 1.0, 1.0])).shape == (1, 1, 3)


def test_expand() -> None:
    image = pixels(10, 20, 3)
    found = augment.expand(image, 3.0, (104, 117, 123.5), np.array([0.5, 0.25, 0.999]))
    assert found is not None
    canvas, part = found
    assert canvas.shape == (20, 40, 3)
    np.testing.assert_array_equal(canvas[2:12, 19:39], image)
    assert canvas[0, 0].tolist() == [104, 117, 124]
    # The canvas, seen from the image: a box of the whole image comes to lie where the image does.
    moved, _ = augment.project(augment.WHOLE[None], part, None)
    np.testing.assert_allclose(moved, [[19 / 40, 2 / 20, 39 / 40, 12 / 20]])
    assert augment.expand(image, 1.005, (), np.zeros(3)) is None


# -- colours ---------------------------------------------------------------------------------------


def numbers_for(first: float, **changes: float) -> np.ndarray:
    """Numbers by which only some changes are made, each with this number."""
    names = ["brightness", "contrast", "saturation", "hue", "order"]
    numbers = np.ones(augment.DISTORT_NUMBERS)
    numbers[0] = first
    for name, number in changes.items():
        place = 1 + 2 * names.index(name)
        numbers[place : place + 2] = 0, number
    return numbers


ALL = DistortionParam(
    brightness_prob=0.5, brightness_delta=32, contrast_prob=0.5, contrast_lower=0.5,
    contrast_upper=1.5, hue_prob=0.5, hue_delta=18, saturation_prob=0.5, saturation_lower=0.5,
    saturation_upper=1.5, random_order_prob=0.5,
)  # fmt: skip


def test_no_change() -> None:
    image = pixels(5, 6, 3)
    np.testing.assert_array_equal(augment.distort(image, ALL, numbers_for(0)), image)


def test_brightness_and_contrast() -> None:
    image = pixels(5, 6, 3).astype(np.float64)
    got = augment.distort(image.astype(np.uint8), ALL, numbers_for(0, brightness=0.0))
    np.testing.assert_array_equal(got, np.maximum(image - 32, 0))
    got = augment.distort(image.astype(np.uint8), ALL, numbers_for(0, contrast=1.0))
    np.testing.assert_array_equal(got, np.minimum(np.rint(image * 1.5), 255))


def test_the_order_of_changes_is_drawn() -> None:
    image = np.full((1, 1, 3), (200, 100, 50), np.uint8)
    made = {"contrast": 1.0, "saturation": 1.0}
    early, late = (augment.distort(image, ALL, numbers_for(n, **made)) for n in (1.0, 0.0))
    assert early.tolist() != late.tolist()


def test_hue_saturation_and_order() -> None:
    image = np.full((1, 1, 3), (0, 0, 200), np.uint8)  # red
    turned = augment.distort(image, ALL, numbers_for(0, hue=1.0))
    hue = cv2.cvtColor(turned, cv2.COLOR_BGR2HSV)[0, 0, 0]
    assert hue == 18
    pale = augment.distort(image, ALL, numbers_for(0, saturation=0.0))
    # Half of 255, but for the rounding of two conversions.
    assert abs(int(cv2.cvtColor(pale, cv2.COLOR_BGR2HSV)[0, 0, 1]) - 128) <= 2
    numbers = numbers_for(0, order=0.9)
    numbers[11:] = 0.1, 0.5
    assert augment.distort(image, ALL, numbers)[0, 0].tolist() == [0, 200, 0]


# -- noise -----------------------------------------------------------------------------------------


def noisy(image: np.ndarray, **settings: object) -> np.ndarray:
    def numbers(n: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        return rng.random(n), rng.random(n)

    return augment.add_noise(image, NoiseParam(**settings), numbers)  # type: ignore[arg-type]


def test_noise() -> None:
    image = pixels(16, 12, 3)
    grey = noisy(image, decolorize=True)
    assert (grey == grey[..., :1]).all()
    np.testing.assert_array_equal(noisy(image, inverse=True), 255 - image)
    assert set(np.unique(noisy(image, posterize=True))) <= {32, 96, 160, 224}
    np.testing.assert_array_equal(
        noisy(image, convert_to_hsv=True), cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    )
    np.testing.assert_array_equal(
        noisy(image, convert_to_ycrcb=True), cv2.cvtColor(image, cv2.COLOR_BGR2YCrCb)
    )
    np.testing.assert_array_equal(
        noisy(image, gauss_blur=True), cv2.GaussianBlur(image, (7, 7), 1.5)
    )
    salt = noisy(image, saltpepper=True, saltpepper_param=SaltPepperParam(0.1, (1, 2, 3)))
    changed = (salt != image).any(axis=2)
    assert 0 < changed.sum() <= int(0.1 * 16 * 12)
    assert (salt[changed] == [1, 2, 3]).all()
    assert noisy(image, erode=True).mean() < image.mean()


@pytest.mark.parametrize("channels", [1, 3])
def test_noise_keeps_the_shape(channels: int) -> None:
    image = pixels(16, 12, channels)
    for setting in ("hist_eq", "clahe", "gauss_blur", "erode", "posterize", "inverse"):
        changed = noisy(image, **{setting: True})
        assert (changed.shape, changed.dtype) == (image.shape, np.uint8)
        assert (changed != image).any()
    assert noisy(image, jpeg=50.0).shape == image.shape


def test_turned_by_an_angle_within_the_limit() -> None:
    """An image whose left half is bright: a quarter turn puts that half at the bottom or the top.

    OpenCV turns counter-clockwise for positive angles.
    """
    image = np.zeros((41, 41, 3), np.uint8)
    image[:, :20] = 255
    param = ResizeParam(height=41, width=41, max_angle=90)
    straight, left, right = (augment.resize(image, param, 0.5, turn) for turn in (0.5, 1.0, 0.0))
    np.testing.assert_array_equal(straight, image)
    assert left[30:, 5:35].min() == 255
    assert left[:10, 5:35].max() == 0
    assert right[:10, 5:35].min() == 255
    assert right[30:, 5:35].max() == 0
    still = augment.resize(image, ResizeParam(height=41, width=41), 0.5, 1.0)
    np.testing.assert_array_equal(still, image)


@pytest.mark.parametrize(
    ("numbers", "size"),
    [
        ((0.19, 0.0, 0.0, 0.5, 0.5), (1.0, 1.0)),
        ((0.2, 0.0, 0.5, 0.5, 0.5), (0.8, 0.9)),
        ((0.4, 0.0, 0.5, 0.0, 1.0), (0.6, 0.8)),
    ],
)
def test_what_jitter_leaves(numbers: tuple[float, ...], size: tuple[float, float]) -> None:
    part = augment.jittered(0.4, False, numbers)
    np.testing.assert_allclose(part[2:] - part[:2], size)
    np.testing.assert_allclose(part[:2], np.array(numbers[3:]) * (1 - np.array(size)))
    fitted = augment.jittered(0.4, True, numbers)
    np.testing.assert_allclose(fitted[2:] - fitted[:2], size[0])


def test_one_chance_for_the_changes_that_are_named() -> None:
    param = DistortionParam(
        prob=0.5, brightness=True, brightness_delta=32, contrast_lower=0.5, contrast_upper=1.5
    )
    image = pixels(5, 6, 3)
    got = augment.distort(image, param, numbers_for(0, brightness=1.0))
    np.testing.assert_array_equal(got, np.minimum(image.astype(int) + 32, 255))
    same = augment.distort(image, param, numbers_for(0, contrast=1.0))
    np.testing.assert_array_equal(same, image)
    every = replace(param, brightness=False, all_effects=True)
    assert every.needs_color
    assert not param.needs_color
    changed = augment.distort(image, every, numbers_for(0, contrast=1.0))
    np.testing.assert_array_equal(changed, np.minimum(np.rint(image * 1.5), 255))


def test_every_effect_has_the_chance_of_the_message() -> None:
    param = NoiseParam(prob=0.3, all_effects=True)
    drawn = param.drawn([0.29 if name in ("inverse", "erode") else 0.3 for name in EFFECTS])
    assert drawn == NoiseParam(prob=0.3, inverse=True, erode=True)
    alone = NoiseParam(inverse=True)
    assert alone.drawn([1.0] * len(EFFECTS)) is alone
    assert param.needs_color
    assert not replace(param, prob=0.0).needs_color


def test_the_shorter_side_is_drawn() -> None:
    image = pixels(20, 30, 3)
    param = ImageTransform(random_resize_param=RandomResizeParam(min_size=10, max_size=12))
    for number, shape in ((0.0, (10, 15)), (0.5, (11, 16)), (0.999, (12, 18))):
        found = augment.stretch(image, param, np.full((1, 5), number), 0.5)
        np.testing.assert_array_equal(found, cv2.resize(image, shape[::-1]))
    as_it_is = ImageTransform(random_resize_param=RandomResizeParam())
    assert augment.stretch(image, as_it_is, np.zeros((1, 5)), 0.5).shape == (20, 30, 3)
    assert augment.stretch(image, as_it_is, np.ones((1, 5)), 0.5).shape == (30, 45, 3)


def test_a_part_of_another_aspect_is_drawn() -> None:
    image = pixels(20, 30, 3)
    part = RandomAspectRatioParam(0.25, 1.0, 0.5, max_attempt=2)
    param = ImageTransform(crop_size=8, random_aspect_ratio_param=part)
    # A quarter of the area, one side half of the root of it: 12.24 / 2 and 12.24 * 2.
    fits = [[0.0, 0.0, 0.5, 0.99, 0.0]]
    found = augment.stretch(image, param, np.array(fits), 0.5)
    np.testing.assert_array_equal(found, cv2.resize(image[14:20, :24], (8, 8)))
    # Turned round it would be 24 high; the second attempt counts.
    found = augment.stretch(image, param, np.array([[0.0, 0.0, 0.0, 0.99, 0.0], *fits]), 0.5)
    np.testing.assert_array_equal(found, cv2.resize(image[14:20, :24], (8, 8)))
    found = augment.stretch(image, param, np.array([[0.0, 0.0, 0.0, 0.99, 0.0]] * 2), 0.5)
    np.testing.assert_array_equal(found, cv2.resize(image, (12, 8)))


@pytest.mark.parametrize(
    ("settings", "numbers", "size"),
    [
        ({"img_rand_resize_lower": 10, "img_rand_resize_upper": 12}, [0.5] * 5, (11, 17)),
        ({"img_rand_resize_lower": 40, "img_rand_resize_upper": 40}, [0.5] * 5, (20, 30)),
        ({"rand_resize_ratio_lower": 1, "rand_resize_ratio_upper": 2}, [0.0] * 5, (20, 20)),
        ({"vertical_stretch_lower": 0.5}, [0.0] * 5, (10, 30)),
        ({"horizontal_stretch_lower": 0.5, "crop_size": 16}, [0.0] * 5, (20, 16)),
        (
            {"horizontal_stretch_upper": 2, "vertical_stretch_upper": 2, "allow_upscale": True},
            [1.0] * 5,
            (40, 60),
        ),
    ],
)
def test_sizes_as_nvidia_draws_them(
    settings: dict[str, Any], numbers: list[float], size: tuple[int, int]
) -> None:
    param = ImageTransform(**settings)
    assert param.stretches
    assert param.nvidia_size(20, 30, numbers) == size
    found = augment.stretch(pixels(20, 30, 3), param, np.array([numbers]), 0.5)
    assert found.shape == (*size, 3)
    turned = param.nvidia_size(30, 20, numbers)
    assert turned[0] * turned[1] <= 30 * 20 * 4
