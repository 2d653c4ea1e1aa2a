"""Random changes of an image together with the boxes of its objects, as SSD trains with them.

Images are (H, W, C), boxes (k, 4) in fractions of the image. Everything random is given as numbers
in 0..1, so that it is up to the caller where these come from. Source: the SSD fork of Caffe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netc.data.images import opencv
from netc.layers.annotated import BatchSampler, SampleConstraint
from netc.layers.boxes import area, clipped, intersection, overlap
from netc.layers.transform import (
    DistortionParam,
    EmitConstraint,
    EmitType,
    ImageTransform,
    InterpMode,
    NoiseParam,
    PadMode,
    RandomAspectRatioParam,
    ResizeMode,
    ResizeParam,
    in_proportion,
)

Pixels = NDArray[Any]
Boxes = NDArray[np.float64]
Numbers = NDArray[np.float64]

WHOLE = np.array([0.0, 0.0, 1.0, 1.0])

# A canvas at most this much larger than the image is not worth it.
_HARDLY_LARGER = 1e-2
# How many levels of brightness posterize leaves between two that differ.
_POSTER_STEP = 64


def between(low: float, high: float, number: Any) -> Any:
    """Return the value (or values) that a number in 0..1 (or several) stands for in a range."""
    return low + (high - low) * number


# -- boxes -----------------------------------------------------------------------------------------


def project(
    boxes: Boxes, part: Boxes, emit: EmitConstraint | None
) -> tuple[Boxes, NDArray[np.bool_]]:
    """Return boxes as fractions of a part of the image, cut off at its border, and which remain.

    Those that `emit` leaves out do not, nor those of which nothing is in the part.
    """
    low, size = part[:2], part[2:] - part[:2]
    moved = clipped(np, (boxes - np.tile(low, 2)) / np.tile(size, 2))
    remains = (boxes[:, :2] < part[2:]).all(axis=1) & (boxes[:, 2:] > low).all(axis=1)
    remains &= area(np, moved) > 0
    if emit and emit.emit_type is EmitType.CENTER:
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        remains &= ((centres >= low) & (centres <= part[2:])).all(axis=1)
    elif emit:
        remains &= _coverage(boxes, part) > emit.emit_overlap
    return moved, remains


def _coverage(boxes: Boxes, others: Boxes) -> Boxes:
    """Return which fraction of the area of each box lies in the other one."""
    whole = area(np, boxes)
    shared = intersection(np, boxes, others) / np.where(whole > 0, whole, 1)
    return np.asarray(np.where(whole > 0, shared, 0))


def resized_boxes(boxes: Boxes, resize: ResizeParam, height: int, width: int) -> Boxes:
    """Return the boxes of an image of some size as fractions of the resized one."""
    if resize.resize_mode is not ResizeMode.FIT_LARGE_SIZE_AND_PAD:
        return np.asarray(clipped(np, boxes))
    # The border takes what the proportions leave.
    covered = (resize.width / resize.height) / (width / height)
    inner = np.array([1.0, covered] if covered < 1 else [1 / covered, 1.0])
    return np.asarray(clipped(np, boxes) * np.tile(inner, 2) + np.tile((1 - inner) / 2, 2))


def rescaled_boxes(boxes: Boxes, resize: ResizeParam, window: Sequence[int]) -> Boxes:
    """Return boxes of a window (height, width) as fractions of height_scale and width_scale."""
    asked = resize.height_scale and resize.width_scale
    if not asked or resize.resize_mode is not ResizeMode.FIT_SMALL_SIZE:
        return boxes
    factor = np.array([window[1] / resize.width_scale, window[0] / resize.height_scale])
    return np.asarray(boxes * np.tile(factor, 2))


def mirrored_boxes(boxes: Boxes) -> Boxes:
    """Return the boxes of the mirrored image."""
    return np.stack((1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]), axis=1)


# -- patches ---------------------------------------------------------------------------------------


def patches(sampler: BatchSampler, objects: Boxes, numbers: Numbers) -> Boxes:
    """Return the patches (n, 4) that a sampler finds, given 4 numbers for each of its trials."""
    ranges = sampler.sampler
    scale = between(ranges.min_scale, ranges.max_scale, numbers[:, 0])
    ratio = between(
        ranges.min_aspect_ratio,
        ranges.max_aspect_ratio,
        numbers[:, 1],
    )
    ratio = np.clip(ratio, scale**2, 1 / scale**2)
    size = np.stack((scale * np.sqrt(ratio), scale / np.sqrt(ratio)), axis=1)
    low = numbers[:, 2:] * (1 - size)
    found = np.concatenate((low, low + size), axis=1)
    found = found[_meets(sampler.sample_constraint, found, objects)]
    return found if sampler.max_sample is None else found[: sampler.max_sample]


#: How many numbers `jittered` takes.
JITTER_NUMBERS = 5
# In two images of ten nothing is cut off, in two more half as much as in the rest.
_JITTER_NOTHING, _JITTER_HALF = 0.2, 0.4


def jittered(jitter: float, in_proportion: bool, numbers: Sequence[float]) -> Boxes:
    """Return the patch (4,) that is left when up to the fraction `jitter` of each side is cut off.

    `in_proportion` cuts as much off both. As the forks do that train YOLO.
    """
    if numbers[0] < _JITTER_NOTHING:
        return WHOLE
    if numbers[0] < _JITTER_HALF:
        jitter /= 2
    width = between(1 - jitter, 1, numbers[1])
    height = width if in_proportion else between(1 - jitter, 1, numbers[2])
    left, top = numbers[3] * (1 - width), numbers[4] * (1 - height)
    return np.array([left, top, left + width, top + height])


def _meets(constraint: SampleConstraint, found: Boxes, objects: Boxes) -> NDArray[np.bool_]:
    """Return which patches have with one of the objects in common what is asked for."""
    patch, other = found[:, None], objects[None]
    # In the fork, of several kinds of constraint the first alone decides.
    meets = np.ones((len(found), len(objects)), bool)
    asked = False
    for low, high, measure in (
        (constraint.min_jaccard_overlap, constraint.max_jaccard_overlap, _jaccard),
        (constraint.min_sample_coverage, constraint.max_sample_coverage, _coverage),
        (constraint.min_object_coverage, constraint.max_object_coverage, _covered),
    ):
        if low is None and high is None:
            continue
        asked = True
        values = measure(patch, other)
        meets &= (values >= (-math.inf if low is None else low)) & (
            values <= (math.inf if high is None else high)
        )
    return np.asarray(meets.any(axis=1)) if asked else np.ones(len(found), bool)


def _jaccard(patch: Boxes, other: Boxes) -> Boxes:
    return np.asarray(overlap(np, patch, other))


def _covered(patch: Boxes, other: Boxes) -> Boxes:
    return _coverage(other, patch)


def crop(image: Pixels, part: Boxes) -> Pixels:
    """Return a part of the image, at least one pixel of it."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = clipped(np, part)
    left, top = min(int(x0 * width), width - 1), min(int(y0 * height), height - 1)
    columns, rows = max(int((x1 - x0) * width), 1), max(int((y1 - y0) * height), 1)
    return image[top : top + rows, left : left + columns]


def expand(
    image: Pixels, max_ratio: float, fill: Sequence[float], numbers: Numbers
) -> tuple[Pixels, Boxes] | None:
    """Return the image on a larger canvas, and the canvas as a part of the image.

    Of the three numbers one tells how large the canvas is, the others where the image lies. None
    where a canvas would hardly be larger.
    """
    if abs(max_ratio - 1) < _HARDLY_LARGER:
        return None
    height, width, channels = image.shape
    ratio = between(1, max_ratio, numbers[0])
    rows, columns = int(height * ratio), int(width * ratio)
    top, left = int(numbers[1] * (rows - height)), int(numbers[2] * (columns - width))
    canvas = np.empty((rows, columns, channels), image.dtype)
    colour = np.resize(np.array(fill or [0.0], np.float64), channels)
    if image.dtype == np.uint8:
        colour = np.clip(np.rint(colour), 0, 255)
    canvas[...] = colour
    canvas[top : top + height, left : left + width] = image
    corners = np.array([-left, -top, columns - left, rows - top], np.float64)
    return canvas, corners / np.array([width, height, width, height])


# -- pixels ----------------------------------------------------------------------------------------


def resize(image: Pixels, param: ResizeParam, number: float, turn: float = 0.5) -> Pixels:
    """Return the image in its new size; the number draws one of several ways to interpolate.

    `turn` in 0..1 draws the angle by which it is turned before, where `max_angle` asks for that.
    """
    cv2 = opencv()
    modes = param.interp_mode or (InterpMode.LINEAR,)
    mode = getattr(cv2, f"INTER_{modes[min(int(number * len(modes)), len(modes) - 1)].name}")
    border = {
        PadMode.CONSTANT: cv2.BORDER_CONSTANT,
        PadMode.MIRRORED: cv2.BORDER_REFLECT_101,
        PadMode.REPEAT_NEAREST: cv2.BORDER_REPLICATE,
    }[param.pad_mode]
    value = np.resize(np.array(param.pad_value or [0.0], np.float64), image.shape[2]).tolist()
    if param.max_angle:
        height, width = image.shape[:2]
        angle = between(-param.max_angle, param.max_angle, turn)
        turned = cv2.getRotationMatrix2D((width // 2, height // 2), angle, 1.0)
        image = _with_channels(
            cv2.warpAffine(
                image, turned, (width, height), flags=mode, borderMode=border, borderValue=value
            )
        )
    height, width = param.height, param.width
    if param.resize_mode is ResizeMode.FIT_SMALL_SIZE:
        height, width = param.size(*image.shape[:2])
    elif param.resize_mode is ResizeMode.FIT_LARGE_SIZE_AND_PAD:
        aspect = image.shape[1] / image.shape[0]
        if aspect > width / height:
            height = max(int(width / aspect), 1)
        else:
            width = max(int(aspect * height), 1)
    found = _with_channels(cv2.resize(image, (width, height), interpolation=mode))
    if param.resize_mode is not ResizeMode.FIT_LARGE_SIZE_AND_PAD:
        return found
    rows, columns = param.height - height, param.width - width
    sides = (rows // 2, rows - rows // 2, columns // 2, columns - columns // 2)
    return _with_channels(cv2.copyMakeBorder(found, *sides, border, value=value))


#: How many numbers `stretch` takes for each attempt at a part.
PART_NUMBERS = 5


def stretch(image: Pixels, param: ImageTransform, numbers: Numbers, number: float) -> Pixels:
    """Return the image in a size of its own, as IntelCaffe and NVCaffe draw it.

    `numbers` (attempts, 5), of which the first row serves all that needs no attempts; `number`
    draws the interpolation.
    """
    cv2 = opencv()
    if param.random_resize_param:
        height, width = image.shape[:2]
        shorter = param.random_resize_param.shorter(height, width, numbers[0, 0])
        image = _in_proportion(image, param.random_resize_param.resize_param, shorter, number)
    elif param.random_aspect_ratio_param:
        image = _part(image, param.random_aspect_ratio_param, param.crop_size, numbers, number)
    if param.nvidia_resizes:
        rows, columns = image.shape[:2]
        height, width = param.nvidia_size(rows, columns, numbers[0].tolist())
        if (height, width) != (rows, columns):
            smaller = height <= rows and width <= columns
            algorithm = param.interpolation_algo_down if smaller else param.interpolation_algo_up
            flag = getattr(cv2, algorithm.name)
            image = _with_channels(cv2.resize(image, (width, height), interpolation=flag))
    return image


def _in_proportion(image: Pixels, how: ResizeParam, shorter: int, number: float) -> Pixels:
    height, width = image.shape[:2]
    height, width = in_proportion(height, width, shorter)
    return resize(image, replace(how, height=height, width=width), number)


def _part(
    image: Pixels, param: RandomAspectRatioParam, side: int, numbers: Numbers, number: float
) -> Pixels:
    height, width = image.shape[:2]
    change = param.aspect_ratio_change
    for row in numbers:
        root = math.sqrt(between(param.min_area_ratio, param.max_area_ratio, row[0]))
        root *= math.sqrt(height * width)
        factor = between(change, 1 / change, row[1])
        sides = int(root * factor), int(root / factor)
        rows, columns = sides if row[2] >= 0.5 else sides[::-1]
        if 0 < rows <= height and 0 < columns <= width:
            top, left = int(row[3] * (height - rows + 1)), int(row[4] * (width - columns + 1))
            part = image[top : top + rows, left : left + columns]
            return resize(part, replace(param.resize_param, height=side, width=side), number)
    return _in_proportion(image, param.resize_param, side, number)


def _with_channels(image: Pixels) -> Pixels:
    """Return an image with its axis of channels, which OpenCV drops when there is one."""
    return image[..., None] if image.ndim == 2 else image


def _mapped(image: Pixels, factor: float, summand: float) -> Pixels:
    """Return factor * pixel + summand, rounded and kept within a byte."""
    table = np.clip(np.rint(np.arange(256) * factor + summand), 0, 255).astype(np.uint8)
    return np.asarray(table[image])


def distort(image: Pixels, param: DistortionParam, numbers: Numbers) -> Pixels:
    """Return the image in other colours, given 13 numbers.

    The first tells whether the contrast is changed before saturation and hue or after them; then
    come two for each change, whether it is made and how much, and two more for the last.
    """
    cv2 = opencv()

    def brightness(x: Pixels, number: float) -> Pixels:
        return _mapped(x, 1, between(-param.brightness_delta, param.brightness_delta, number))

    def contrast(x: Pixels, number: float) -> Pixels:
        return _mapped(x, between(param.contrast_lower, param.contrast_upper, number), 0)

    def in_hsv(x: Pixels, channel: int, factor: float, summand: float) -> Pixels:
        hsv = cv2.cvtColor(x, cv2.COLOR_BGR2HSV)
        hsv[..., channel] = _mapped(hsv[..., channel], factor, summand)
        return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR))

    def saturation(x: Pixels, number: float) -> Pixels:
        return in_hsv(x, 1, between(param.saturation_lower, param.saturation_upper, number), 0)

    def hue(x: Pixels, number: float) -> Pixels:
        return in_hsv(x, 0, 1, between(-param.hue_delta, param.hue_delta, number))

    def order(x: Pixels, number: float) -> Pixels:
        return x[..., np.argsort([number, *numbers[11:]], kind="stable")]

    changes: list[tuple[Callable[[Pixels, float], Pixels], float, int]] = [
        (brightness, param.chance("brightness"), 1),
        (contrast, param.chance("contrast"), 3),
        (saturation, param.chance("saturation"), 5),
        (hue, param.chance("hue"), 7),
        (order, param.chance("random_order"), 9),
    ]
    if numbers[0] <= 0.5:
        changes.insert(3, changes.pop(1))
    for change, chance, first in changes:
        if numbers[first] < chance:
            image = np.ascontiguousarray(change(image, float(numbers[first + 1])))
    return image


#: How many numbers `distort` takes.
DISTORT_NUMBERS = 13


def add_noise(
    image: Pixels, param: NoiseParam, numbers: Callable[[int], tuple[Numbers, Numbers]]
) -> Pixels:
    """Return the image after all that the message asks for.

    `numbers(n)` gives the columns and rows of n pixels for salt and pepper, as numbers in 0..1.
    """
    cv2 = opencv()
    color = image.shape[2] == 3
    if param.decolorize:
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        image = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
    if param.gauss_blur:
        image = cv2.GaussianBlur(image, (7, 7), 1.5)
    if param.hist_eq:
        image = _on_luminance(image, cv2.equalizeHist)
    if param.clahe:
        image = _on_luminance(image, cv2.createCLAHE(clipLimit=4).apply)
    if param.jpeg > 0:
        _, content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(param.jpeg)])
        image = cv2.imdecode(content, cv2.IMREAD_COLOR if color else cv2.IMREAD_GRAYSCALE)
    if param.erode:
        image = cv2.erode(image, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3), (1, 1)))
    image = _with_channels(np.asarray(image))
    if param.posterize:
        levels = np.arange(256) // _POSTER_STEP * _POSTER_STEP + _POSTER_STEP // 2
        image = levels.astype(np.uint8)[image]
    if param.inverse:
        image = 255 - image
    if param.saltpepper and param.saltpepper_param.value:
        height, width = image.shape[:2]
        columns, rows = numbers(int(param.saltpepper_param.fraction * height * width))
        image = image.copy()
        places = (rows * height).astype(int), (columns * width).astype(int)
        image[places] = np.resize(param.saltpepper_param.value, image.shape[2]).astype(np.uint8)
    if param.convert_to_hsv:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    if param.convert_to_ycrcb:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2YCrCb)
    return image


def _on_luminance(image: Pixels, change: Callable[[Pixels], Pixels]) -> Pixels:
    """Apply a change of grey values to the luminance of the image."""
    cv2 = opencv()
    if image.ndim == 2 or image.shape[2] == 1:
        return _with_channels(change(image.reshape(image.shape[:2])))
    ycrcb = cv2.cvtColor(image, cv2.COLOR_BGR2YCrCb)
    ycrcb[..., 0] = change(np.ascontiguousarray(ycrcb[..., 0]))
    return np.asarray(cv2.cvtColor(ycrcb, cv2.COLOR_YCrCb2BGR))
