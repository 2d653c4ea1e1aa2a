"""Layers that read images with a label for each pixel. The reading is done in `netc.data`."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import ClassVar

from netc.layers.data import ImageReader
from netc.layers.registry import layer
from netc.layers.transform import TransformParam
from netc.layers.types import Arity, BlobType, Refusal, Signature, between, exactly


@dataclass(frozen=True)
class PairReader(ImageReader):
    """Base of the types whose lists name two files per line: an image and its labels.

    What is done to the geometry of an image (resizing, mirror, crop) is done to its labels too, to
    the nearest label instead of by interpolation; their values stay as they are.

    Shapes: image (C, H, W) -> tops (N, C, H, W), and labels (N, 1, H, W).
    """

    shuffle: bool = False
    new_height: int = 0
    new_width: int = 0
    is_color: bool = True
    root_folder: str = ""

    #: Whether the place of a crop is random in phase TEST, too.
    always_random: ClassVar[bool] = False

    def crop(self) -> tuple[int, int]:
        """Return height and width of the part that is cut out, (0, 0) for all of it."""
        raise NotImplementedError

    def label_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size of the labels of an image."""
        return height, width

    def check(self) -> None:
        super().check()
        self._check_both("new_height", self.new_height, "new_width", self.new_width)

    def _check_both(self, first: str, one: int, second: str, other: int) -> None:
        if (one > 0) != (other > 0):
            raise Refusal(
                f"{first if one else second} is set without {second if one else first}",
                expected="both, or neither",
                got=f"{first} {one}, {second} {other}",
                setting=first if one else second,
            )

    def check_mean(self, image: BlobType) -> None:
        """Refuse mean values that are not those of an image."""
        TransformParam(mean_value=self.transform_param.mean_value).infer(image)

    def infer(self, *bottoms: BlobType) -> Signature:
        self.check()
        image = bottoms[0]
        self.check_mean(image)
        crop = self.crop()
        size = crop if any(crop) else (image.shape[1], image.shape[2])
        n = self.batch_size
        blobs = (
            BlobType((n, image.shape[0], *size)),
            BlobType((n, 1, *self.label_size(*size))),
            BlobType((n, 1, 1, 2)),
        )
        return Signature(blobs[: len(self.top)])


@layer("DenseImageData", "dense_image_data_param")
@dataclass(frozen=True)
class DenseImageData(PairReader):
    """Images and labels from the files that a list names, one `image labels` per line.

    Images are resized bilinearly to `new_height` and `new_width`, labels to these divided by
    `label_divide_factor`, rounded down. Half of the pairs, at random, are mirrored with `mirror`;
    `crop_height` and `crop_width` cut out a random part, in every phase. Of `transform_param` scale
    and mean apply, to the images only. `root_folder` is put before each path as it is.

    Shapes: image (C, H, W) as stored -> tops (N, C, H', W') and labels (N, 1, H", W").
    Source: the fork of SegNet; `label_divide_factor` is ENet's.
    """

    mirror: bool = False
    crop_height: int = 0
    crop_width: int = 0
    label_divide_factor: int = 1

    always_random: ClassVar[bool] = True
    message: ClassVar[str] = "dense_image_data_param"

    def crop(self) -> tuple[int, int]:
        return self.crop_height, self.crop_width

    def label_size(self, height: int, width: int) -> tuple[int, int]:
        return height // self.label_divide_factor, width // self.label_divide_factor

    def check(self) -> None:
        super().check()
        self._check_both("crop_height", self.crop_height, "crop_width", self.crop_width)
        for name in ("mirror", "crop_size"):
            if getattr(self.transform_param, name):
                raise Refusal(
                    f"the {name} of transform_param would miss the labels",
                    expected="mirror, crop_height and crop_width of dense_image_data_param",
                    got=f"transform_param {{ {name} }}",
                    setting=name,
                )
        if self.label_divide_factor < 1:
            raise Refusal(
                "label_divide_factor is not positive",
                expected="label_divide_factor >= 1",
                got=self.label_divide_factor,
                setting="label_divide_factor",
            )
        if self.label_divide_factor > 1 and any(self.crop()):
            raise Refusal(
                "a part of smaller labels cannot be cut out",
                expected="no crop, or label_divide_factor 1",
                got=f"crop_height {self.crop_height}, crop_width {self.crop_width}, "
                f"label_divide_factor {self.label_divide_factor}",
                setting="label_divide_factor",
            )

    def infer(self, *bottoms: BlobType) -> Signature:
        signature = super().infer(*bottoms)
        _, height, width = bottoms[0].shape
        if self.crop_height > height or self.crop_width > width:
            raise Refusal(
                "the crop is larger than the images",
                expected=f"crop_height <= {height} and crop_width <= {width}",
                got=f"crop_height {self.crop_height}, crop_width {self.crop_width}",
                setting="crop_height" if self.crop_height > height else "crop_width",
            )
        return signature


@layer("ImageLabelmapData", "image_data_param")
@dataclass(frozen=True)
class ImageLabelmapData(PairReader):
    """Images and maps of edges from the files that a list names, one `image map` per line.

    A map is an image in grey of the image's size: what is 128 or more there is 1, the rest 0. Both
    are resized to `new_height` and `new_width`, the map before that and by interpolation, too. Of
    `transform_param`, `mirror` and a random part of `crop_size` go for both, in every phase; mean
    and scale apply to the images only.

    Shapes: image (C, H, W) as stored -> tops (N, C, H', W') and labels (N, 1, H', W').
    Source: the fork of HED (Xie and Tu, ICCV 2015).
    """

    batch_size: int = 1

    tops: ClassVar[Arity] = between(1, 2)
    always_random: ClassVar[bool] = True
    message: ClassVar[str] = "image_data_param"

    def crop(self) -> tuple[int, int]:
        return self.transform_param.crop_size, self.transform_param.crop_size

    def check(self) -> None:
        super().check()
        param = self.transform_param
        if param.crop_size and param.mean_file:
            raise Refusal(
                "of a mean image no part is cut out",
                expected="mean_value, or no crop_size",
                got=f"mean_file '{param.mean_file}', crop_size {param.crop_size}",
                setting="mean_file",
            )

    def infer(self, *bottoms: BlobType) -> Signature:
        # Refuses a crop that is larger than the images.
        self.transform_param.infer(bottoms[0])
        return super().infer(*bottoms)


class LabelType(enum.Enum):
    """What the second word of a line is: not there, the label of all pixels, or a file."""

    NONE = 0
    IMAGE = 1
    PIXEL = 2


@dataclass(frozen=True, slots=True)
class PairTransform(TransformParam):
    """A `transform_param` of DeepLab's and PSPNet's forks.

    `scale_factors`: the pair is first resized by one of them, at random. The crop may be given as
    `crop_height` and `crop_width`. Where a pair is smaller than its crop it is filled up at the
    bottom and on the right: images with the mean, which becomes 0, labels with `ignore_label`.
    """

    scale_factors: tuple[float, ...] = ()
    crop_height: int = 0
    crop_width: int = 0


@layer("ImageSegData", "image_data_param")
@dataclass(frozen=True)
class ImageSegData(PairReader):
    """Images and labels from the files that a list names, one `image labels` per line.

    `label_type` says what `labels` is: the path of an image of labels (PIXEL), one number from
    0 to 255 for all pixels (IMAGE), or nothing at all (NONE): then all labels are `ignore_label`.
    The transformation is that of `PairTransform`; crops are random in phase TRAIN and in the middle
    in phase TEST. A third top, (N, 1, 1, 2), takes height and width of each image before the
    transformation, at most those of the first top. In the fork all three tops are needed.

    Shapes: image (C, H, W) as stored -> tops (N, C, H', W'), labels (N, 1, H', W') and sizes
    (N, 1, 1, 2).
    Source: the forks of DeepLab (Chen et al., ICLR 2015) and PSPNet (Zhao et al., CVPR 2017). There
    labels are brought to `new_height` and `new_width` by interpolation, which invents classes.
    """

    batch_size: int = 1
    ignore_label: int = 255
    label_type: LabelType = LabelType.IMAGE
    transform_param: PairTransform = field(default_factory=PairTransform)

    tops: ClassVar[Arity] = between(1, 3)
    message: ClassVar[str] = "image_data_param"

    def crop(self) -> tuple[int, int]:
        param = self.transform_param
        if param.crop_size:
            return param.crop_size, param.crop_size
        return param.crop_height, param.crop_width

    def check(self) -> None:
        super().check()
        param = self.transform_param
        self._check_both("crop_height", param.crop_height, "crop_width", param.crop_width)
        if param.crop_size and param.crop_height:
            raise Refusal(
                "crop_size and crop_height, crop_width exclude each other",
                expected="one of the two ways",
                got=f"crop_size {param.crop_size}, crop_height {param.crop_height}",
                setting="crop_size",
            )
        if param.mean_file:
            raise Refusal(
                "ImageSegData subtracts no mean image",
                expected="mean_value",
                got=f"mean_file '{param.mean_file}'",
                setting="mean_file",
            )
        if any(factor <= 0 for factor in param.scale_factors):
            raise Refusal(
                "an image cannot be resized by this factor",
                expected="scale_factors above 0",
                got=f"{min(param.scale_factors):g}",
                setting="scale_factors",
            )
        if not any(self.crop()) and any(factor != 1 for factor in param.scale_factors):
            raise Refusal(
                "images resized at random have no size of their own",
                expected="crop_size, or crop_height and crop_width, besides scale_factors",
                got="no crop",
                setting="scale_factors",
            )


@layer("WindowSegData", "image_data_param")
@dataclass(frozen=True)
class WindowSegData(ImageSegData):
    """Windows of images and of their labels: a list has one `image labels x1 y1 x2 y2` per line.

    The corners are in pixels and belong to the window. Where it reaches over the edge the image
    goes on in black and its labels with `ignore_label`; then both are resized to `new_height` and
    `new_width`, and transformed, as in ImageSegData. The words `labels` are those of ImageSegData
    too. The third top takes the size of each image, not of its window.

    Shapes: image (C, H, W) as stored -> tops (N, C, H', W'), labels (N, 1, H', W') and sizes
    (N, 1, 1, 2).
    Source: the fork of DeconvNet (Noh et al., ICCV 2015).
    """


@dataclass(frozen=True, slots=True)
class StrideTransform(TransformParam):
    """The `transform_param` of SegData.

    Images are resized by a factor from the first to the second of `scale_ratios`, in steps of
    0.001; a part is cut out, at a random place, of the largest height and width that are multiples
    of `stride` and not above `upper_size`, or `upper_height` and `upper_width`.
    """

    scale_ratios: tuple[float, ...] = ()
    stride: int = 1
    upper_size: int | None = None
    upper_height: int | None = None
    upper_width: int | None = None

    def part(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the part of an image."""
        most_h = most_w = self.upper_size
        if self.upper_size is None and None not in (self.upper_height, self.upper_width):
            most_h, most_w = self.upper_height, self.upper_width
        height, width = (side // self.stride * self.stride for side in (height, width))
        if most_h is None or most_w is None:
            return height, width
        return min(height, most_h), min(width, most_w)

    def check(self) -> None:
        """Raise `Refusal` for what the fork's transformation of pairs cannot do."""
        for name in ("mean_file", "crop_size", "force_color", "force_gray"):
            if getattr(self, name):
                raise Refusal(
                    f"images with labels have no {name}",
                    expected="mean_value, scale, mirror, scale_ratios, stride, upper_size",
                    got=name,
                    setting=name,
                )
        if len(self.scale_ratios) not in (0, 2):
            raise Refusal(
                "scale_ratios is no range",
                expected="two numbers, the least and the largest, or none",
                got=f"{len(self.scale_ratios)} numbers",
                setting="scale_ratios",
            )
        if self.scale_ratios and not 0 < self.scale_ratios[0] <= self.scale_ratios[1]:
            raise Refusal(
                "scale_ratios is no range",
                expected="0 < the first <= the second",
                got=f"{self.scale_ratios[0]:g}, {self.scale_ratios[1]:g}",
                setting="scale_ratios",
            )
        for name in ("stride", "upper_size", "upper_height", "upper_width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise Refusal(
                    f"{name} is too small",
                    expected=f"{name} >= 1",
                    got=f"{name} {value}",
                    setting=name,
                )


@layer("SegData", "seg_data_param")
@dataclass(frozen=True)
class SegData(ImageReader):
    """One image and its labels from the files that a list names, one `image labels` per line.

    `root_dir` is put before each path as it is. `transform_param` resizes both, and cuts out a part
    that moves from image to image; this, and `mirror`, is random in every phase. With `balance` the
    part is drawn anew, up to ten times, while one label has more than 0.8 of it.

    Shapes: image (3, H, W) as stored -> tops (1, 3, H', W') and labels (1, 1, H', W'), another H'
    and W' for each image.
    Source: the action_recog branch of yjxiong's fork.
    """

    batch_size: int = field(default=1, init=False)
    rand_skip: int = field(default=0, init=False)
    shuffle: bool = False
    root_dir: str = ""
    balance: bool = False
    transform_param: StrideTransform = field(default_factory=StrideTransform)

    tops: ClassVar[Arity] = exactly(2)
    message: ClassVar[str] = "seg_data_param"

    def infer(self, *bottoms: BlobType) -> Signature:
        self.check()
        image = bottoms[0]
        TransformParam(mean_value=self.transform_param.mean_value).infer(image)
        size = self.transform_param.part(image.shape[1], image.shape[2])
        if min(size) < 1:
            raise Refusal(
                "an image is smaller than the stride",
                expected=f"height and width >= {self.transform_param.stride}",
                got=f"an image of shape {image}",
                setting="stride",
            )
        return Signature((BlobType((1, image.shape[0], *size)), BlobType((1, 1, *size))))
