"""Layers that read images with the boxes of their objects, as MS-CNN and Cascade R-CNN learn them.

The reading itself is done in `netc.data`. Boxes are in pixels.
"""

from __future__ import annotations

import enum
import math
import struct
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

from netc.layers.data import Reader
from netc.layers.mscnn import BOX, LABEL, OBJECT
from netc.layers.proposal import CASCADE_TRUTH
from netc.layers.registry import layer
from netc.layers.transform import DistortionParam, TransformParam
from netc.layers.types import Arity, BlobType, Refusal, Signature, at_least, between

Number = TypeVar("Number", int, float)

# The sides of images of Cascade R-CNN that have no size of their own are multiples of this.
GRID = 32


def single(value: float) -> float:
    """Return a number as a float32 has it: the forks compute sizes so, and half a pixel decides."""
    (rounded,) = struct.unpack("f", struct.pack("f", value))
    return float(rounded)


def whole(value: float) -> int:
    """Return the nearest whole number, halves away from zero, of a number that is not negative."""
    return math.floor(value + 0.5)


def _on_grid(side: float, ratio: float = 1.0) -> int:
    """Return a multiple of `GRID` that is near to a side times a ratio."""
    return whole(single(side * ratio) / GRID) * GRID


def _both(first: Number | None, second: Number | None) -> tuple[Number, Number] | None:
    """Return two settings that count only together; None where one is not given."""
    return None if first is None or second is None else (first, second)


def _together(reader: Reader, *names: str) -> bool:
    """Return whether settings are given that count only together."""
    return all(getattr(reader, name) is not None for name in names)


@dataclass(frozen=True)
class ObjectReader(Reader):
    """Base of the types whose `source` lists images with their objects."""

    transform_param: TransformParam = field(default_factory=TransformParam)
    root_folder: str = ""

    #: What is known of an object in the list, before its corners x1 y1 x2 y2.
    columns: ClassVar[str] = "class ignored difficult"
    #: The images of the list must have their numbers, from 0 on.
    numbered: ClassVar[bool] = True

    def check(self) -> None:
        super().check()
        self.transform_param.check()
        for name in ("crop_size", "mean_file"):
            if getattr(self.transform_param, name):
                raise Refusal(
                    f"{self.type} does not look at the {name} of transform_param",
                    expected=f"mean_value, and the sizes in {self.message}",
                    got=f"transform_param {{ {name} }}",
                    setting=name,
                )

    def assumed(self) -> tuple[int, int] | None:
        """Return height and width of images without any data; None where only the data tells."""
        raise NotImplementedError


@dataclass(frozen=True)
class FieldReader(ObjectReader):
    """Base of the types that say for each position of several maps which object it should find."""

    coord_num: int = 4
    field_h: tuple[int, ...] = ()
    field_w: tuple[int, ...] = ()
    fg_threshold: float = 0.5
    min_gt_width: float = 0.0
    min_gt_height: float = 0.0
    output_gt_boxes: bool = False
    cache_images: bool = False

    tops: ClassVar[Arity] = at_least(2)
    #: The values of an object in the last top.
    values: ClassVar[int] = CASCADE_TRUTH
    #: Both corners belong to a box: it is a pixel longer than they are apart.
    pixels: ClassVar[bool] = True
    #: Too much of a field in regions of no interest counts even where it has an object.
    interest_first: ClassVar[bool] = False
    #: The setting that has the strides of the maps.
    stride_setting: ClassVar[str] = "stride"

    @property
    def no_interest(self) -> float:
        """Which share of a field in regions of no interest is too much."""
        return 0.4

    @property
    def least_overlap(self) -> float:
        """By how much an object must overlap a field to be looked for at its centre."""
        return 0.2

    @property
    def margin(self) -> float | None:
        """By how many of its half sizes a field may leave the image; None for any number."""
        return None

    @property
    def least_inside(self) -> float:
        """Which share of a field must at least be in the image."""
        return 0.0

    @property
    def strides(self) -> tuple[int, ...]:
        """The strides of the maps."""
        strides: tuple[int, ...] = getattr(self, self.stride_setting)
        return strides

    def label_size(self, side: int, stride: int) -> int:
        """Return how many positions a map has along a side of the images."""
        return whole(side / stride)

    def check(self) -> None:
        super().check()
        if self.coord_num != BOX:
            raise Refusal(
                "coord_num has one value only",
                expected="coord_num: 4",
                got=f"coord_num: {self.coord_num}",
                setting="coord_num",
            )
        count, name = len(self.strides), self.stride_setting
        if min(self.strides, default=1) < 1:
            raise Refusal(
                f"{name} does not fit",
                expected="a number above 0 for each map",
                got=" ".join(map(str, self.strides)),
                setting=name,
            )
        for other, values in (("field_h", self.field_h), ("field_w", self.field_w)):
            if len(values) != count or min(values, default=1) < 1:
                raise Refusal(
                    f"there is not one {other} for each map",
                    expected=f"{count} numbers above 0: as many as {name}",
                    got=" ".join(map(str, values)) or "none",
                    setting=other,
                )
        if len(self.top) != 1 + count + self.output_gt_boxes:
            raise Refusal(
                "there is not one top for each map",
                expected=f"{1 + count + self.output_gt_boxes} tops: images, {count} of labels"
                + (", objects" if self.output_gt_boxes else ""),
                got=f"{len(self.top)}",
                setting="top",
            )

    def infer(self, *bottoms: BlobType) -> Signature:
        self.check()
        TransformParam(mean_value=self.transform_param.mean_value).infer(bottoms[0])
        channels, height, width = bottoms[0].shape
        n = self.batch_size
        tops = [BlobType((n, channels, height, width))]
        for stride in self.strides:
            size = self.label_size(height, stride), self.label_size(width, stride)
            tops.append(BlobType((n, LABEL, *size)))
        if self.output_gt_boxes:
            tops.append(BlobType((1, self.values, 1, 1)))
        return Signature(tuple(tops))


@layer("ImageGtData", "image_gt_data_param")
@dataclass(frozen=True)
class ImageGtData(FieldReader):
    """Images, and labels for the maps of MS-CNN, from a list of images with their objects.

    Each image of the list has these lines, and then one for each object and for each region that is
    of no interest:

        # 0
        path
        channels
        height
        width
        number of objects
        class ignored x1 y1 x2 y2
        number of regions
        x1 y1 x2 y2

    An image is mirrored, or not, with `mirror` of `transform_param`; stretched to `resize_width` x
    `resize_height`; with `do_multiple_scale` half of those with objects are scaled, so that one of
    them, drawn at random, has a size from `min_scale` to `max_scale`, in steps of the root of 2;
    of these half also in one direction alone, so that its width over its height is one of
    `min_whaspect` to `max_whaspect`, in steps of 0.05. Then a window of `crop_width` x
    `crop_height` is cut out around that object, up to 10 pixels off; what lies outside the image is
    0. From pixels `mean_value` is subtracted, and the difference multiplied with `scale`.

    A position of a map is the middle of a field of `field_h` x `field_w`. It has the object that
    the field overlaps most, if by more than `fg_threshold`: class, centre, width, height, overlap
    (class 0 and the rest for an object that is ignored, whose centre has left the window, or which
    is narrower than `min_gt_width` or lower than `min_gt_height`). An object that no position has
    goes to the one at its centre, in the map with the field that it overlaps most, by at least 0.2.
    Positions outside the image, or four tenths within regions of no interest, have an overlap of 1.

    `shuffle` draws a new order for every pass. An image with an object that is not ignored comes
    `fg_img_multiple` times in a pass. `root_folder` is put before each path as it is. `mirror`,
    `mean_file` and `cache_images` have no effect, as the first two have none in the fork.

    Shapes: tops (N, 3, H, W), for each `downsample_rate` s labels (N, 6, H / s, W / s), rounded
    down, and with `output_gt_boxes` objects (G, 7, 1, 1): image, x1, y1, x2, y2, class, ignored.
    G is that of each batch; the shape told beforehand is that of one object, and where a batch has
    none there is one that is ignored, (0, 1, 1, 2, 2, 1, 1).

    Source: Z. Cai et al., "A Unified Multi-scale Deep Convolutional Neural Network for Fast Object
    Detection", ECCV 2016, and its fork of Caffe.
    """

    scale: float = 1.0
    mean_file: str = ""
    mirror: bool = False
    downsample_rate: tuple[int, ...] = ()
    resize_width: int | None = None
    resize_height: int | None = None
    crop_width: int | None = None
    crop_height: int | None = None
    do_multiple_scale: bool = False
    min_scale: int | None = None
    max_scale: int | None = None
    min_whaspect: float | None = None
    max_whaspect: float | None = None
    shuffle: bool = False
    fg_img_multiple: int = 1

    message: ClassVar[str] = "image_gt_data_param"
    columns: ClassVar[str] = "class ignored"
    numbered: ClassVar[bool] = False
    values: ClassVar[int] = OBJECT
    pixels: ClassVar[bool] = False
    interest_first: ClassVar[bool] = True
    stride_setting: ClassVar[str] = "downsample_rate"

    def label_size(self, side: int, stride: int) -> int:
        # The fork rounds down when it makes room, and to the nearest when it fills it.
        if side // stride != whole(side / stride):
            raise Refusal(
                "downsample_rate does not divide the images",
                expected=f"sides that are at most {(stride - 1) // 2} pixels more than a multiple",
                got=f"{side} pixels, downsample_rate {stride}",
                setting="downsample_rate",
            )
        return side // stride

    @property
    def _resized(self) -> tuple[int, int] | None:
        return _both(self.resize_height, self.resize_width)

    @property
    def scales(self) -> tuple[float, float] | None:
        """The least and the largest size that an object is scaled to; None where it is not."""
        return _both(self.min_scale, self.max_scale) if self.do_multiple_scale else None

    @property
    def aspects(self) -> tuple[float, float] | None:
        """The least and the largest width over height that an object is stretched to."""
        return _both(self.min_whaspect, self.max_whaspect)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Return the size that an image is stretched to."""
        return self._resized or (height, width)

    def window(self, height: int, width: int) -> tuple[int, int]:
        """Return the size of the window of an image that has been stretched to this one."""
        if not _together(self, "crop_width", "crop_height"):
            return height, width
        return self.crop_height or height, self.crop_width or width

    def assumed(self) -> tuple[int, int] | None:
        height, width = self.window(*(self._resized or (0, 0)))
        return (height, width) if height and width else None

    def check(self) -> None:
        super().check()
        if not self.downsample_rate:
            raise Refusal(
                "downsample_rate does not fit",
                expected="a number above 0 for each map",
                got="none",
                setting="downsample_rate",
            )
        if self.transform_param.scale != 1:
            raise Refusal(
                "ImageGtData does not look at the scale of transform_param",
                expected="image_gt_data_param { scale }",
                got=f"transform_param {{ scale: {self.transform_param.scale:g} }}",
                setting="scale",
            )
        if self.fg_img_multiple < 1:
            raise Refusal(
                "fg_img_multiple leaves no image with objects",
                expected="fg_img_multiple >= 1",
                got=f"{self.fg_img_multiple}",
                setting="fg_img_multiple",
            )
        height, width = self._resized or (0, 0)
        sides = ("crop_height", "resize_height", height), ("crop_width", "resize_width", width)
        for name, limit, side in sides:
            if self._resized and (getattr(self, name) or 0) > side:
                raise Refusal(
                    f"{name} is larger than {limit}",
                    expected=f"{name} <= {side}",
                    got=f"{name} {getattr(self, name)}",
                    setting=name,
                )
        if self.scales and not 0 < self.scales[0] <= self.scales[1]:
            raise Refusal(
                "min_scale and max_scale are no range",
                expected="0 < min_scale <= max_scale",
                got=f"min_scale {self.min_scale}, max_scale {self.max_scale}",
                setting="min_scale",
            )
        if self.aspects and whole((self.aspects[1] - self.aspects[0]) / ASPECT_STEP) < 1:
            raise Refusal(
                "min_whaspect and max_whaspect are no range",
                expected=f"max_whaspect at least {ASPECT_STEP:g} larger than min_whaspect",
                got=f"min_whaspect {self.aspects[0]:g}, max_whaspect {self.aspects[1]:g}",
                setting="min_whaspect",
            )


# By how much the widths over heights differ that ImageGtData stretches objects to.
ASPECT_STEP = 0.05


class Shuffling(enum.Enum):
    """The order of the images of a pass.

    RANDOM: any. RANDOM_ASPECT: all that are at least as high as wide, then the others, or the other
    way round. RANDOM_MIX_ASPECT: groups of both in turn.
    """

    RANDOM = "random"
    RANDOM_ASPECT = "random_aspect"
    RANDOM_MIX_ASPECT = "random_mix_aspect"


@layer("DetectionData", "detection_data_param")
@dataclass(frozen=True)
class DetectionData(FieldReader):
    """Images, and labels for the maps of Cascade R-CNN, from a list of images with their objects.

    Each image of the list has these lines, and then one for each object and for each region that is
    of no interest:

        # 0
        path
        channels
        height
        width
        number of objects
        class ignored difficult x1 y1 x2 y2
        number of regions
        x1 y1 x2 y2

    The colours of an image are changed as `distort_param` says; it is mirrored, or not, with
    `mirror` of `transform_param`, and resized: to `resize_width` x `resize_height`, or by the
    factor `resize_ratio`, or in its proportions so that its shorter side is `short_size`. With
    `min_scale` and `max_scale` it is then, with probability `multiscale_prob`, scaled so that one
    of its objects, drawn at random, has a size of that range (without objects: twice as large),
    with `low_scale_ratio` and `high_scale_ratio` by a factor of that range; and stretched so that
    the ratio of both factors is in `min_whaspect` to `max_whaspect`.

    Then a window is cut out around that object, up to 10 pixels off; what lies outside the image is
    0. Its size is `crop_width` x `crop_height`, or `resize_width` x `resize_height`. Without them
    the first image of a batch decides whether `crop_short_size`, or else `short_size`, is its width
    or its height, `crop_long_size` or `long_size` being the other side; `short_size` and
    `long_size` are first multiplied with one of `template_ratio`, drawn for each batch, and rounded
    to multiples of 32. With none of them it is the size of the first image. From pixels
    `mean_value` is subtracted, and the difference multiplied with the `scale` of `transform_param`.

    A position of a map is the middle of a field of `field_h` x `field_w`. It has the object that
    the field overlaps most, if by more than `fg_threshold`: class, centre, width, height, overlap
    (class 0 and the rest for an object that is ignored, whose centre has left the window, or which
    is narrower than `min_gt_width` or lower than `min_gt_height`). An object that no position has
    goes to the one at its centre, in the map with the field that it overlaps most, by at least
    `pickup_iou_thr`. Other positions have an overlap of 1 if `ignore_fg_threshold` of their field
    is within regions of no interest. So have those outside the image, and those whose field leaves
    it by more than `anchor_ignore_margin_ratio` of half its size, or has less than
    `anchor_ignore_iou_thr` within it.

    `shuffle` names the order of each pass: "random", "random_aspect" (those that are at least as
    high as wide before or behind the others) or "random_mix_aspect" (`mix_group_size` of both in
    turn); without it images come in the order of the list. `root_folder` is put before each path as
    it is. `cache_images` has no effect.

    Shapes: tops (N, 3, H, W), for each `stride` s labels (N, 6, H / s, W / s), rounded, and with
    `output_gt_boxes` objects (G, 8, 1, 1): image, x1, y1, x2, y2, class, ignored, difficult. G is
    that of each batch; the shape told beforehand is that of one object, and where a batch has none
    there is a row of -1.

    Source: Z. Cai, N. Vasconcelos, "Cascade R-CNN: Delving into High Quality Object Detection",
    CVPR 2018, and its fork of Caffe.
    """

    stride: tuple[int, ...] = ()
    ignore_fg_threshold: float = 0.4
    resize_width: int | None = None
    resize_height: int | None = None
    resize_ratio: float | None = None
    crop_width: int | None = None
    crop_height: int | None = None
    min_scale: float | None = None
    max_scale: float | None = None
    low_scale_ratio: float | None = None
    high_scale_ratio: float | None = None
    multiscale_prob: float = 0.5
    min_whaspect: float | None = None
    max_whaspect: float | None = None
    short_size: int | None = None
    long_size: int | None = None
    crop_short_size: int | None = None
    crop_long_size: int | None = None
    template_ratio: tuple[float, ...] = ()
    anchor_ignore_margin_ratio: float | None = None
    anchor_ignore_iou_thr: float | None = None
    pickup_iou_thr: float = 0.2
    shuffle: str | None = None
    mix_group_size: int = 64
    distort_param: DistortionParam | None = None

    message: ClassVar[str] = "detection_data_param"

    @property
    def no_interest(self) -> float:
        return self.ignore_fg_threshold

    @property
    def least_overlap(self) -> float:
        return self.pickup_iou_thr

    @property
    def margin(self) -> float | None:
        return self.anchor_ignore_margin_ratio

    @property
    def least_inside(self) -> float:
        # The margin alone counts where both are given.
        if self.anchor_ignore_margin_ratio is not None:
            return 0.0
        return self.anchor_ignore_iou_thr or 0.0

    @property
    def scales(self) -> tuple[float, float] | None:
        """The least and the largest size that an object is scaled to; None where it is not."""
        return _both(self.min_scale, self.max_scale)

    @property
    def factors(self) -> tuple[float, float] | None:
        """The least and the largest factor that an image is scaled by; None where it is not."""
        return _both(self.low_scale_ratio, self.high_scale_ratio)

    @property
    def aspects(self) -> tuple[float, float] | None:
        """The least and the largest ratio of the factors of both sides."""
        return _both(self.min_whaspect, self.max_whaspect)

    @property
    def _short(self) -> tuple[int, int] | None:
        return _both(self.short_size, self.long_size)

    @property
    def _crop_short(self) -> tuple[int, int] | None:
        return _both(self.crop_short_size, self.crop_long_size)

    @property
    def _resized(self) -> tuple[int, int] | None:
        return _both(self.resize_height, self.resize_width)

    def resized(self, height: int, width: int, ratio: float = 1.0) -> tuple[int, int]:
        """Return the size that an image gets; `ratio` is the template ratio of its batch."""
        if self._resized:
            return self._resized
        if self.resize_ratio is not None:
            factor = self.resize_ratio
        elif self._short:
            factor = single(_on_grid(self._short[0], ratio) / min(height, width))
        else:
            return height, width
        return whole(single(height * factor)), whole(single(width * factor))

    def window(self, height: int, width: int, ratio: float = 1.0) -> tuple[int, int]:
        """Return the size of the windows of a batch whose first image has been resized to this."""
        if crop := _both(self.crop_height, self.crop_width):
            return crop
        if self._resized:
            return self._crop_short[::-1] if self._crop_short else self._resized
        sides = self._crop_short or self._short
        if not sides:
            return height, width
        if not self._crop_short:
            sides = _on_grid(sides[0], ratio), _on_grid(sides[1], ratio)
        return sides[::-1] if height >= width else sides

    def assumed(self) -> tuple[int, int] | None:
        if crop := _both(self.crop_height, self.crop_width):
            return crop
        sides = self._crop_short or self._short
        if self._resized and not self._crop_short:
            return self._resized
        # As the fork does before it has seen an image.
        return sides[::-1] if sides else None

    def check(self) -> None:
        super().check()
        self._check_exclusive()
        self._check_ranges()
        if self.shuffle is not None and self.shuffle not in {kind.value for kind in Shuffling}:
            raise Refusal(
                "unknown shuffle",
                expected=", ".join(f'"{kind.value}"' for kind in Shuffling),
                got=f'"{self.shuffle}"',
                setting="shuffle",
            )
        for name, value in (
            ("fg_threshold", self.fg_threshold),
            ("mix_group_size", self.mix_group_size),
            *(("template_ratio", ratio) for ratio in self.template_ratio),
        ):
            if not value > 0:
                raise Refusal(
                    f"{name} is not positive",
                    expected=f"{name} > 0",
                    got=f"{value:g}",
                    setting=name,
                )

    def _check_exclusive(self) -> None:
        """Refuse sizes that say different things."""
        ways: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
            (("resize_width", "resize_height"), ("resize_ratio",)),
            (("resize_width", "resize_height"), ("short_size",)),
            (("resize_width", "resize_height"), ("long_size",)),
            (("resize_ratio",), ("short_size", "long_size")),
            (("crop_width", "crop_height"), ("crop_short_size",)),
            (("crop_width", "crop_height"), ("crop_long_size",)),
            (("min_scale", "max_scale"), ("low_scale_ratio",)),
            (("min_scale", "max_scale"), ("high_scale_ratio",)),
        )
        for first, second in ways:
            if _together(self, *first) and _together(self, *second):
                raise Refusal(
                    f"{' and '.join(first)} exclude {' and '.join(second)}",
                    expected="one of the ways to say a size",
                    got="both",
                    setting=second[0],
                )

    def _check_ranges(self) -> None:
        """Refuse ranges whose ends are in wrong order, and sizes of nothing."""
        ranges = (
            ("short_size", "long_size"), ("crop_short_size", "crop_long_size"),
            ("min_scale", "max_scale"), ("low_scale_ratio", "high_scale_ratio"),
            ("min_whaspect", "max_whaspect"),
        )  # fmt: skip
        for first, second in ranges:
            low, high = getattr(self, first), getattr(self, second)
            if low is None or high is None:
                continue
            equal = first in ("min_scale", "low_scale_ratio")
            if low <= 0 or high < low or (high == low and not equal):
                raise Refusal(
                    f"{first} and {second} are no range",
                    expected=f"0 < {first} {'<=' if equal else '<'} {second}",
                    got=f"{first} {low:g}, {second} {high:g}",
                    setting=first,
                )
        for name in ("crop_width", "crop_height", "resize_width", "resize_height", "resize_ratio"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise Refusal(
                    f"{name} is not positive",
                    expected=f"{name} > 0",
                    got=f"{value:g}",
                    setting=name,
                )


@layer("EvalData", "eval_data_param")
@dataclass(frozen=True)
class EvalData(ObjectReader):
    """Images with their objects, to test Cascade R-CNN on.

    The list is that of DetectionData, and so are mean and scale; regions of no interest are read,
    but nobody looks at them. An image is resized to `resize_width` x `resize_height`, or in its
    proportions so that its shorter side is `short_size`, its longer one then cut down to
    `long_size` (out of proportion), and in any case to multiples of 32. Images come in the order of
    the list.

    Shapes: tops (N, 3, H, W), objects (G, 8, 1, 1): image, x1, y1, x2, y2, class, ignored,
    difficult; and, with a third top, heights and widths (N, 2, 1, 1). G is that of each batch; the
    shape told beforehand is that of one object, and where a batch has none there is a row of -1.
    Without `resize_width` and `resize_height` images have different sizes, and `batch_size` is 1.

    Source: Z. Cai, N. Vasconcelos, "Cascade R-CNN: Delving into High Quality Object Detection",
    CVPR 2018, and its fork of Caffe.
    """

    resize_width: int | None = None
    resize_height: int | None = None
    short_size: int | None = None
    long_size: int | None = None

    tops: ClassVar[Arity] = between(2, 3)
    message: ClassVar[str] = "eval_data_param"

    def check(self) -> None:
        super().check()
        if self.batch_size > 1 and not _together(self, "resize_width", "resize_height"):
            raise Refusal(
                "images of different sizes make no batch",
                expected="batch_size: 1, or resize_width and resize_height",
                got=f"batch_size {self.batch_size}",
                setting="batch_size",
            )
        if self.transform_param.mirror:
            raise Refusal(
                "EvalData mirrors nothing",
                expected="mirror: false",
                got="mirror: true",
                setting="mirror",
            )

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Return the size that an image gets."""
        if self.resize_height is not None and self.resize_width is not None:
            height, width = self.resize_height, self.resize_width
        elif self.short_size is not None and self.long_size is not None:
            factor = single(self.short_size / min(height, width))
            sides = (whole(single(side * factor)) for side in (height, width))
            height, width = (min(side, self.long_size) for side in sides)
        return _on_grid(height), _on_grid(width)

    def assumed(self) -> tuple[int, int] | None:
        if self.resize_height is not None and self.resize_width is not None:
            return self.resized(1, 1)
        if self.short_size is None or self.long_size is None:
            return None
        # As the fork does before it has seen an image.
        return self.long_size, self.short_size

    def infer(self, *bottoms: BlobType) -> Signature:
        self.check()
        TransformParam(mean_value=self.transform_param.mean_value).infer(bottoms[0])
        n = self.batch_size
        tops = (
            BlobType((n, *bottoms[0].shape)),
            BlobType((1, CASCADE_TRUTH, 1, 1)),
            BlobType((n, 2, 1, 1)),
        )
        return Signature(tops[: len(self.top)])
