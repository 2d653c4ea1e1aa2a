"""What is done to images before a net sees them: the settings `transform_param` of their readers.

The reading, and the changes themselves, are in `netc.data`.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from netc.layers.types import BlobType, Refusal

# By how much the chances of several messages may miss 1, as in the forks.
_PROB_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True)
class TransformParam:
    """A `transform_param` message: y = (x - mean) * scale on a window of the image.

    The window is a square of `crop_size`, at a random place in the TRAIN phase and in the centre in
    the TEST phase; 0 takes the whole image. With `mirror` every other window, at random, is
    mirrored. The mean is an image (`mean_file`), one value, or one value for each channel, in the
    units of the stored pixels (0-255). `allow_upscale` speaks of NVCaffe's resizing, see
    `ImageTransform`, and changes nothing without it.
    """

    scale: float = 1.0
    mirror: bool = False
    crop_size: int = 0
    mean_file: str = ""
    mean_value: tuple[float, ...] = ()
    force_color: bool = False
    force_gray: bool = False
    allow_upscale: bool = False

    def check(self) -> None:
        """Raise `Refusal` for settings that exclude each other."""
        if self.mean_file and self.mean_value:
            raise Refusal(
                "mean_file and mean_value exclude each other",
                expected="a mean image or mean values",
                got=f"mean_file '{self.mean_file}' and {len(self.mean_value)} mean_value",
                hint="remove one of them",
                setting="mean_value",
            )
        if self.force_color and self.force_gray:
            raise Refusal(
                "force_color and force_gray exclude each other",
                expected="one of them",
                got="both",
                setting="force_gray",
            )

    def infer(self, image: BlobType) -> BlobType:
        """Return the shape of a transformed image (C, H, W); refuse one that does not suit."""
        channels, height, width = image.shape
        if len(self.mean_value) not in (0, 1, channels):
            raise Refusal(
                "the number of mean values does not match the images",
                expected=f"1 mean_value, or {channels}: one for each channel",
                got=f"{len(self.mean_value)} mean_value, images of shape {image}",
                setting="mean_value",
            )
        if not self.crop_size:
            return image
        if self.crop_size > min(height, width):
            raise Refusal(
                "crop_size is larger than the images",
                expected=f"crop_size <= {min(height, width)}",
                got=f"crop_size {self.crop_size}, images of height {height} and width {width}",
                setting="crop_size",
            )
        return BlobType((channels, self.crop_size, self.crop_size))


class ResizeMode(enum.Enum):
    """How an image gets the size that is wanted.

    WARP: stretched. FIT_SMALL_SIZE: in its proportions, large enough to cover that size.
    FIT_LARGE_SIZE_AND_PAD: in its proportions, small enough to lie within, with a border around.
    """

    WARP = 1
    FIT_SMALL_SIZE = 2
    FIT_LARGE_SIZE_AND_PAD = 3


class PadMode(enum.Enum):
    """What a border shows: one value, the image mirrored, or its last pixels repeated."""

    CONSTANT = 1
    MIRRORED = 2
    REPEAT_NEAREST = 3


class InterpMode(enum.Enum):
    """How pixels of a resized image are computed, by OpenCV's names."""

    LINEAR = 1
    AREA = 2
    NEAREST = 3
    CUBIC = 4
    LANCZOS4 = 5


@dataclass(frozen=True, slots=True)
class ResizeParam:
    """A `resize_param` message of SSD. One of the `interp_mode` is drawn; LINEAR without any.

    `prob` is the chance of this message among several; the forks resize with one alone whatever its
    `prob`, and so does netc. `height_scale` and `width_scale` are the size that boxes are told for,
    if it is another. Before that the image is turned by an angle within +-`max_angle` degrees.
    """

    prob: float = 1.0
    resize_mode: ResizeMode = ResizeMode.WARP
    height: int = 0
    width: int = 0
    height_scale: int = 0
    width_scale: int = 0
    pad_mode: PadMode = PadMode.CONSTANT
    pad_value: tuple[float, ...] = ()
    interp_mode: tuple[InterpMode, ...] = ()
    max_angle: float = 0.0
    center_object: bool = False

    def check(self) -> None:
        """Raise `Refusal` for what cannot be done to an image."""
        if not (self.height and self.width):
            raise Refusal(
                "resize_param names no size",
                expected="height > 0 and width > 0",
                got=f"height {self.height}, width {self.width}",
                setting="resize_param",
            )
        if not 0 <= self.prob <= 1:
            raise Refusal(
                "the prob of resize_param is no probability",
                expected="0 <= prob <= 1",
                got=f"prob {self.prob:g}",
                setting="resize_param",
            )
        if not 0 <= self.max_angle <= 180:
            raise Refusal(
                "max_angle is no angle",
                expected="0 <= max_angle <= 180, in degrees",
                got=f"max_angle {self.max_angle:g}",
                setting="resize_param",
            )
        if self.center_object:
            raise Refusal(
                "netc does not look for the object of an image",
                expected="center_object: false",
                got="center_object: true",
                hint="cut the images out when the database is made",
                setting="resize_param",
            )

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width that an image of some size gets."""
        if self.resize_mode is not ResizeMode.FIT_SMALL_SIZE:
            return self.height, self.width
        if (height == self.height and width >= self.width) or (
            width == self.width and height >= self.height
        ):
            return height, width  # which rounding might make a pixel smaller
        aspect = width / height
        if aspect < self.width / self.height:
            return int(self.width / aspect), self.width
        return self.height, int(self.height * aspect)


@dataclass(frozen=True, slots=True)
class RandomResizeParam:
    """A `random_resize_param` message of IntelCaffe: a length for the shorter side is drawn.

    From `min_size` to `max_size` pixels; 0 stands for the shorter and the longer side as they are.
    `resize_param` says how to interpolate.
    """

    min_size: int = 0
    max_size: int = 0
    resize_param: ResizeParam = field(default_factory=ResizeParam)

    def check(self) -> None:
        """Raise `Refusal` for a range without lengths."""
        if self.min_size > self.max_size > 0:
            raise Refusal(
                "random_resize_param has no length to draw",
                expected="min_size <= max_size",
                got=f"min_size {self.min_size}, max_size {self.max_size}",
                setting="random_resize_param",
            )

    def shorter(self, height: int, width: int, number: float) -> int:
        """Return the shorter side that a number in 0..1 draws."""
        least = self.min_size or min(height, width)
        most = max(self.max_size or max(height, width), least)
        return min(least + int(number * (most - least + 1)), most)


@dataclass(frozen=True, slots=True)
class RandomAspectRatioParam:
    """A `random_aspect_ratio_param` message of IntelCaffe: a part of the image is cut out.

    Its area is a fraction of the image's, from `min_area_ratio` to `max_area_ratio`; its sides are
    the root of that, one times and one divided by a number from `aspect_ratio_change` to its
    inverse. The first of `max_attempt` that lies within the image is stretched to a square of
    `crop_size`; without one the shorter side of the image gets that length.
    """

    min_area_ratio: float = 0.5
    max_area_ratio: float = 1.0
    aspect_ratio_change: float = 1.0
    max_attempt: int = 10
    resize_param: ResizeParam = field(default_factory=ResizeParam)

    def check(self, crop_size: int) -> None:
        """Raise `Refusal` for parts that cannot be."""
        if not crop_size:
            raise Refusal(
                "random_aspect_ratio_param needs a size to stretch parts to",
                expected="crop_size > 0",
                got="no crop_size",
                setting="random_aspect_ratio_param",
            )
        if not 0 < self.min_area_ratio <= self.max_area_ratio or not self.aspect_ratio_change > 0:
            raise Refusal(
                "random_aspect_ratio_param has no part to draw",
                expected="0 < min_area_ratio <= max_area_ratio, aspect_ratio_change > 0",
                got=f"{self.min_area_ratio:g}, {self.max_area_ratio:g}, "
                f"{self.aspect_ratio_change:g}",
                setting="random_aspect_ratio_param",
            )


class InterpolationAlgo(enum.Enum):
    """How NVCaffe computes the pixels of a resized image, by OpenCV's names."""

    INTER_NEAREST = 0
    INTER_LINEAR = 1
    INTER_CUBIC = 2
    INTER_AREA = 3


class EmitType(enum.Enum):
    """When an object still belongs to a part of the image: by its centre, or by its overlap."""

    CENTER = 0
    MIN_OVERLAP = 1


@dataclass(frozen=True, slots=True)
class EmitConstraint:
    """An `emit_constraint` message: an object belongs to a part of the image that has its centre.

    Or, MIN_OVERLAP, more than the fraction `emit_overlap` of its area.
    """

    emit_type: EmitType = EmitType.CENTER
    emit_overlap: float = 0.0


@dataclass(frozen=True, slots=True)
class ExpansionParam:
    """An `expand_param` message: with probability `prob` the image is put on a larger canvas.

    The canvas shows the mean values; its sides are up to `max_expand_ratio` times as long.
    """

    prob: float = 1.0
    max_expand_ratio: float = 1.0


@dataclass(frozen=True, slots=True)
class GeometryParam:
    """A `geometry_param` message of DeepDetect: `prob` is how often it changes the view.

    The image, continued as `pad_mode` says, is seen from nearer or further away (`zoom_in`,
    `zoom_out`) by up to `zoom_factor`, and from a side (`persp_horizontal`, `persp_vertical`) by up
    to `persp_factor`. netc leaves images as they are: `prob` must be 0.
    """

    prob: float = 0.0
    persp_horizontal: bool = True
    persp_vertical: bool = True
    zoom_out: bool = True
    zoom_in: bool = True
    zoom_factor: float = 0.25
    persp_factor: float = 0.25
    all_effects: bool = False
    pad_mode: PadMode = PadMode.MIRRORED


@dataclass(frozen=True, slots=True)
class DistortionParam:
    """A `distort_param` message: changes of colour, each with a probability.

    A brightness within +-delta is added, the contrast is a factor, and so is the saturation, of
    HSV; a hue within +-delta is added, in OpenCV's units of two degrees; channels are shuffled.
    In the form of some forks, `prob` is the probability of each change that is named (`hue: true`),
    or, with `all_effects`, of every one.
    """

    brightness_prob: float = 0.0
    brightness_delta: float = 0.0
    contrast_prob: float = 0.0
    contrast_lower: float = 0.0
    contrast_upper: float = 0.0
    hue_prob: float = 0.0
    hue_delta: float = 0.0
    saturation_prob: float = 0.0
    saturation_lower: float = 0.0
    saturation_upper: float = 0.0
    random_order_prob: float = 0.0
    prob: float = 0.0
    brightness: bool = False
    contrast: bool = False
    hue: bool = False
    saturation: bool = False
    random_order: bool = False
    all_effects: bool = False

    def chance(self, change: str) -> float:
        """Return the probability of a change: "hue"."""
        own: float = getattr(self, f"{change}_prob")
        return max(own, self.prob if self.all_effects or getattr(self, change) else 0.0)

    @property
    def needs_color(self) -> bool:
        """Whether some change is one that only images of three channels can undergo."""
        return max(map(self.chance, ("hue", "saturation", "random_order"))) > 0


@dataclass(frozen=True, slots=True)
class SaltPepperParam:
    """A `saltpepper_param` message: which fraction of the pixels gets the value."""

    fraction: float = 0.0
    value: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class NoiseParam:
    """A `noise_param` message: what is done to every image, in the order of the fork.

    `prob` is the chance of this message among several; with one alone the fork does it to all
    images, and so does netc. `convert_to_lab` makes pixels that are no bytes, at which the fork
    stops: it is refused. With `all_effects`, of another fork, each of the others is done with the
    probability `prob`.
    """

    prob: float = 0.0
    hist_eq: bool = False
    inverse: bool = False
    decolorize: bool = False
    gauss_blur: bool = False
    jpeg: float = -1.0
    posterize: bool = False
    erode: bool = False
    saltpepper: bool = False
    saltpepper_param: SaltPepperParam = field(default_factory=SaltPepperParam)
    clahe: bool = False
    convert_to_hsv: bool = False
    convert_to_lab: bool = False
    convert_to_ycrcb: bool = False
    all_effects: bool = False

    @property
    def needs_color(self) -> bool:
        """Whether something is done that only images of three channels can undergo."""
        converts = self.decolorize or self.convert_to_hsv or self.convert_to_ycrcb
        return converts or (self.all_effects and self.prob > 0)

    def drawn(self, numbers: Sequence[float]) -> NoiseParam:
        """Return what is done to one image, given a number in 0..1 for each of `EFFECTS`."""
        if not self.all_effects:
            return self
        done: dict[str, Any] = {
            name: number < self.prob for name, number in zip(EFFECTS, numbers, strict=True)
        }
        return replace(self, all_effects=False, **done)


#: What `all_effects` of a `noise_param` stands for.
EFFECTS = (
    "decolorize",
    "gauss_blur",
    "hist_eq",
    "clahe",
    "erode",
    "posterize",
    "inverse",
    "saltpepper",
    "convert_to_hsv",
)


def in_proportion(height: int, width: int, shorter: int) -> tuple[int, int]:
    """Return height and width of an image whose shorter side gets another length."""
    if height < width:
        return shorter, int(width / height * shorter)
    return int(height / width * shorter), shorter


def _draw(policies: Sequence[ResizeParam] | Sequence[NoiseParam], number: float) -> int:
    """Return which of several messages a number in 0..1 stands for, by their `prob`."""
    sums = list(itertools.accumulate(policy.prob for policy in policies))
    return next((i for i, end in enumerate(sums) if number * sums[-1] < end), len(sums) - 1)


@dataclass(frozen=True, slots=True)
class ImageTransform(TransformParam):
    """A `transform_param` message with the fields of SSD.

    In this order: `distort_param`, `expand_param`, the patch of a batch sampler, `resize_param`,
    `noise_param`, a window of `crop_size` (or `crop_h` by `crop_w`), `mirror`, mean and scale. Of
    several `resize_param` or `noise_param` one is drawn; their `prob` add up to 1.

    Before all that come IntelCaffe's `random_resize_param` or `random_aspect_ratio_param`, and
    NVCaffe's resizing: the shorter side is drawn from `img_rand_resize_lower` to `_upper`, a longer
    side of `rand_resize_ratio_lower` to `_upper` times it, and factors for each side
    (`vertical_stretch_...`, `horizontal_stretch_...`); no side gets shorter than `crop_size`, nor
    longer than it was, unless `allow_upscale`.
    """

    resize_param: tuple[ResizeParam, ...] = ()
    noise_param: tuple[NoiseParam, ...] = ()
    distort_param: DistortionParam | None = None
    expand_param: ExpansionParam | None = None
    geometry_param: GeometryParam | None = None
    emit_constraint: EmitConstraint | None = None
    crop_h: int = 0
    crop_w: int = 0
    random_resize_param: RandomResizeParam | None = None
    random_aspect_ratio_param: RandomAspectRatioParam | None = None
    img_rand_resize_lower: int = 0
    img_rand_resize_upper: int = 0
    rand_resize_ratio_lower: float = 0.0
    rand_resize_ratio_upper: float = 0.0
    vertical_stretch_lower: float = 1.0
    vertical_stretch_upper: float = 1.0
    horizontal_stretch_lower: float = 1.0
    horizontal_stretch_upper: float = 1.0
    interpolation_algo_down: InterpolationAlgo = InterpolationAlgo.INTER_NEAREST
    interpolation_algo_up: InterpolationAlgo = InterpolationAlgo.INTER_CUBIC

    @property
    def changes(self) -> bool:
        """Whether more is done to images than `TransformParam` says."""
        changes = self.resize_param, self.noise_param, self.distort_param, self.expand_param
        return any(changes) or self.stretches or (any(self.window) and not self.crop_size)

    @property
    def nvidia_resizes(self) -> bool:
        """Whether NVCaffe's fields ask for another size."""
        stretches = (
            self.vertical_stretch_lower,
            self.vertical_stretch_upper,
            self.horizontal_stretch_lower,
            self.horizontal_stretch_upper,
        )
        lengths = self.img_rand_resize_lower > 0 and self.img_rand_resize_upper > 0
        return lengths or self.rand_resize_ratio_upper > 1 or any(x != 1 for x in stretches)

    @property
    def stretches(self) -> bool:
        """Whether images get sizes of their own, before all other changes."""
        own = self.random_resize_param, self.random_aspect_ratio_param
        return self.nvidia_resizes or any(param is not None for param in own)

    def nvidia_size(self, height: int, width: int, numbers: Sequence[float]) -> tuple[int, int]:
        """Return height and width that NVCaffe's fields give, with five numbers in 0..1.

        They draw the shorter side, the ratio, which side is longer, and the two factors.
        """
        shorter = min(height, width)
        if self.img_rand_resize_lower > 0 and self.img_rand_resize_upper > 0:
            least, most = self.img_rand_resize_lower, self.img_rand_resize_upper
            shorter = min(least + int(numbers[0] * (most - least + 1)), most)
        scale = shorter / min(height, width)
        h, w = height * scale, width * scale
        low, high = self.rand_resize_ratio_lower, self.rand_resize_ratio_upper
        if low >= 1 and high > 1:
            ratio = low + (high - low) * numbers[1]
            if w > h or (w == h and numbers[2] >= 0.5):
                w = h * ratio
            else:
                h = w * ratio
        for i, (low, high) in enumerate(
            (
                (self.vertical_stretch_lower, self.vertical_stretch_upper),
                (self.horizontal_stretch_lower, self.horizontal_stretch_upper),
            )
        ):
            factor = low + (high - low) * numbers[3 + i] if low > 0 and high > 0 else 1.0
            h, w = (h * factor, w) if i == 0 else (h, w * factor)
        found = [max(self.crop_size, math.floor(side + 0.5)) for side in (h, w)]
        if not self.allow_upscale:
            found = [min(side, own) for side, own in zip(found, (height, width), strict=True)]
        return found[0], found[1]

    def resize(self, number: float) -> ResizeParam | None:
        """Return the `resize_param` that a number in 0..1 draws; None where there is none."""
        return self.resize_param[_draw(self.resize_param, number)] if self.resize_param else None

    def noise(self, number: float) -> NoiseParam | None:
        """Return the `noise_param` that a number in 0..1 draws; None where there is none."""
        return self.noise_param[_draw(self.noise_param, number)] if self.noise_param else None

    def check(self) -> None:
        """Raise `Refusal` for settings that exclude each other or mean nothing."""
        TransformParam.check(self)
        expand = self.expand_param
        for resize in self.resize_param:
            resize.check()
        self._check_chances("resize_param", self.resize_param)
        self._check_chances("noise_param", self.noise_param)
        if self.random_resize_param:
            self.random_resize_param.check()
        if self.random_aspect_ratio_param:
            self.random_aspect_ratio_param.check(self.crop_size)
        if self.img_rand_resize_lower > self.img_rand_resize_upper > 0:
            raise Refusal(
                "img_rand_resize has no length to draw",
                expected="img_rand_resize_lower <= img_rand_resize_upper",
                got=f"{self.img_rand_resize_lower} and {self.img_rand_resize_upper}",
                setting="img_rand_resize_lower",
            )
        if expand and expand.max_expand_ratio <= 1:
            raise Refusal(
                "max_expand_ratio does not expand",
                expected="max_expand_ratio > 1",
                got=f"max_expand_ratio {expand.max_expand_ratio:g}",
                hint="remove expand_param for images as they are",
                setting="expand_param",
            )
        if expand and self.mean_file:
            raise Refusal(
                "a mean file cannot fill the canvas that expand_param puts images on",
                expected="mean_value",
                got=f"mean_file '{self.mean_file}'",
                setting="mean_file",
            )
        if self.geometry_param and self.geometry_param.prob > 0:
            raise Refusal(
                "netc does not change the view of an image",
                expected="geometry_param with prob: 0",
                got=f"prob: {self.geometry_param.prob:g}",
                hint="remove geometry_param",
                setting="geometry_param",
            )
        if any(noise.convert_to_lab for noise in self.noise_param):
            raise Refusal(
                "convert_to_lab makes pixels that are no bytes",
                expected="a noise_param without convert_to_lab",
                got="convert_to_lab: true",
                setting="noise_param",
            )
        if self.distort_param:
            self._check_distortion(self.distort_param)

    @staticmethod
    def _check_chances(
        setting: str, policies: Sequence[ResizeParam] | Sequence[NoiseParam]
    ) -> None:
        whole = sum(policy.prob for policy in policies)
        if len(policies) > 1 and abs(whole - 1) > _PROB_TOLERANCE:
            raise Refusal(
                f"the prob of several {setting} do not add up to 1",
                expected=f"prob of {len(policies)} {setting} with the sum 1",
                got=f"the sum {whole:g}",
                setting=f"{setting}.{len(policies) - 1}",
            )

    @staticmethod
    def _check_distortion(param: DistortionParam) -> None:
        for low, high, name in (
            (0.0, param.brightness_delta, "brightness_delta"),
            (param.contrast_lower, param.contrast_upper, "contrast_lower, contrast_upper"),
            (0.0, param.hue_delta, "hue_delta"),
            (param.saturation_lower, param.saturation_upper, "saturation_lower, saturation_upper"),
        ):
            if not 0 <= low <= high:
                shown = f"{high:g}" if name.endswith("delta") else f"{low:g}, {high:g}"
                raise Refusal(
                    f"{name} of distort_param is no range",
                    expected="values that are not negative, the lower one first",
                    got=f"{name} {shown}",
                    setting="distort_param",
                )

    @property
    def window(self) -> tuple[int, int]:
        """Height and width of the window that is cut out; 0 for all of it."""
        return (self.crop_size, self.crop_size) if self.crop_size else (self.crop_h, self.crop_w)

    def resized(self, image: BlobType, number: float = 0.0) -> BlobType:
        """Return the shape of an image (C, H, W) after the resizing that a number draws."""
        channels, height, width = image.shape
        height, width = self._least(height, width)
        resize = self.resize(number)
        return BlobType((channels, *(resize.size(height, width) if resize else (height, width))))

    def _least(self, height: int, width: int) -> tuple[int, int]:
        """Return the smallest size that images of some size get before `resize_param`."""
        if self.random_resize_param:
            shorter = self.random_resize_param.shorter(height, width, 0.0)
            height, width = in_proportion(height, width, shorter)
        elif self.random_aspect_ratio_param:
            height = width = self.crop_size
        return (
            self.nvidia_size(height, width, [0.0] * 5) if self.nvidia_resizes else (height, width)
        )

    def infer(self, image: BlobType, number: float = 0.0) -> BlobType:
        """Return the shape of a transformed image (C, H, W); refuse one that does not suit.

        `number` in 0..1 draws its resizing, where there are several.
        """
        resized = self.resized(image, number)
        channels, height, width = resized.shape
        for setting, changes in (
            ("distort_param", (self.distort_param,) if self.distort_param else ()),
            ("noise_param", self.noise_param),
        ):
            if any(change.needs_color for change in changes) and channels != 3:
                raise Refusal(
                    f"{setting} changes what only colour images have",
                    expected="images of 3 channels",
                    got=f"images of shape {image}",
                    hint="force_color: true makes 3 channels of encoded images",
                    setting=setting,
                )
        for resize in self.resize_param:
            if len(resize.pad_value) not in (0, 1, channels):
                raise Refusal(
                    "the number of pad values does not match the images",
                    expected=f"1 pad_value, or {channels}: one for each channel",
                    got=f"{len(resize.pad_value)} pad_value, images of shape {image}",
                    setting="resize_param",
                )
        # Its own crop is a square: the check of the means is what is wanted here.
        TransformParam.infer(
            TransformParam(mean_value=self.mean_value, crop_size=self.crop_size), resized
        )
        window = self.window
        if window[0] > height or window[1] > width:
            raise Refusal(
                "the window is larger than the images",
                expected=f"crop_h <= {height} and crop_w <= {width}",
                got=f"crop_h {window[0]}, crop_w {window[1]}",
                setting="crop_h" if window[0] > height else "crop_w",
            )
        return BlobType((channels, window[0] or height, window[1] or width))
