"""Images with the boxes of their objects: settings and shapes of the layer that reads them.

The reading itself is done in `netc.data`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import ClassVar

from netc.layers.data import Data
from netc.layers.registry import layer
from netc.layers.transform import ImageTransform
from netc.layers.types import BlobType, Refusal, Signature

# How many boxes an image may have in the form that YOLO's losses read, and the values of one.
YOLO_BOXES, YOLO_BOX = 300, 5
# What the forks that train YOLO cut off at most, as a fraction of a side, where nothing is said.
_YOLO_JITTER = 0.3

# The values of one object: image, class, instance, xmin, ymin, xmax, ymax, difficult.
OBJECT = 8


@dataclass(frozen=True, slots=True)
class Sampler:
    """A `sampler` message: the ranges from which scale and aspect ratio of a patch are drawn.

    A patch of scale s and aspect ratio r is s * sqrt(r) wide and s / sqrt(r) high, in fractions of
    the image; r is kept within s^2 and 1 / s^2, so that it fits.
    """

    min_scale: float = 1.0
    max_scale: float = 1.0
    min_aspect_ratio: float = 1.0
    max_aspect_ratio: float = 1.0

    def check(self) -> None:
        """Raise `Refusal` for ranges that no patch can come from."""
        if not 0 < self.min_scale <= self.max_scale <= 1:
            raise Refusal(
                "a sampler has scales that no patch can have",
                expected="0 < min_scale <= max_scale <= 1",
                got=f"min_scale {self.min_scale:g}, max_scale {self.max_scale:g}",
                setting="batch_sampler",
            )
        if not 0 < self.min_aspect_ratio <= self.max_aspect_ratio:
            raise Refusal(
                "a sampler has aspect ratios that no patch can have",
                expected="0 < min_aspect_ratio <= max_aspect_ratio",
                got=f"min_aspect_ratio {self.min_aspect_ratio:g}, "
                f"max_aspect_ratio {self.max_aspect_ratio:g}",
                setting="batch_sampler",
            )


@dataclass(frozen=True, slots=True)
class SampleConstraint:
    """A `sample_constraint` message: what a patch must have in common with one of the objects.

    The overlap is intersection over union, a coverage intersection over the area of the patch
    ("sample") or of the object.
    """

    min_jaccard_overlap: float | None = None
    max_jaccard_overlap: float | None = None
    min_sample_coverage: float | None = None
    max_sample_coverage: float | None = None
    min_object_coverage: float | None = None
    max_object_coverage: float | None = None


@dataclass(frozen=True, slots=True)
class BatchSampler:
    """A `batch_sampler` message: up to `max_sample` patches of up to `max_trials` that are drawn.

    Patches that do not meet the constraint do not count. Of those of all samplers one is drawn and
    takes the place of the image. `use_original_image: false` draws none.
    """

    use_original_image: bool = True
    sampler: Sampler = field(default_factory=Sampler)
    sample_constraint: SampleConstraint = field(default_factory=SampleConstraint)
    max_sample: int | None = None
    max_trials: int = 100


class AnnotationType(enum.Enum):
    """What tells where an object is: a box."""

    BBOX = 0


@layer("AnnotatedData", "data_param", "annotated_data_param")
@dataclass(frozen=True)
class AnnotatedData(Data):
    """Images and their objects from a database of `AnnotatedDatum` messages, in key order.

    Shapes: item (C, H, W) as stored -> tops (N, C, H', W'), resized and cropped, and objects
    (1, 1, G, 8): image in the batch, class, instance, xmin, ymin, xmax, ymax, in fractions of the
    image, difficult. G is N times the largest number of objects that an image of the database has;
    rows that are left over hold -1. (The fork's G is another for each batch.) With records that
    have no annotation type, and no `anno_type`, the second top is (N,), the label of the `Datum`.

    With `yolo_data_type: 1` the objects are (N, 1, 300, 5), as YOLO's losses want them: class - 1,
    centre x and y, width and height; rows that are left over hold 0. Without `train_diffcult` those
    that are difficult are left out. Where there is no batch sampler, up to `yolo_data_jitter` of
    each side is cut off at random (0.3 by default with `yolo_data_type: 1`, else nothing).

    Of several `resize_param` another one is drawn every 10 batches, by their `prob`; the shapes
    told beforehand are those of the first.

    Each image is changed at random as `transform_param` and `batch_sampler` say, and its boxes
    alike; objects that this cuts off are left out. The fork compresses the image anew, as JPEG,
    after each step; netc does not. `label_map_file` is read, but not needed here.
    Source: the SSD fork of Caffe; the patches are section 2.2 of Liu et al., ECCV 2016.
    """

    transform_param: ImageTransform = field(default_factory=ImageTransform)
    batch_sampler: tuple[BatchSampler, ...] = ()
    label_map_file: str = ""
    anno_type: AnnotationType | None = None
    yolo_data_type: int = 0
    yolo_data_jitter: float | None = None
    train_diffcult: bool = True

    beside: ClassVar[tuple[BlobType, ...]] = (BlobType((1, OBJECT)),)
    message: ClassVar[str] = "data_param"
    shares_resizing: ClassVar[bool] = True

    @property
    def yolo(self) -> bool:
        """Whether objects have the form that YOLO's losses read."""
        return self.yolo_data_type == 1

    @property
    def jitter(self) -> float:
        """What may be cut off at most, as a fraction of a side."""
        if self.yolo_data_jitter is None:
            return _YOLO_JITTER if self.yolo else 0.0
        return self.yolo_data_jitter

    def check(self) -> None:
        super().check()
        if self.yolo_data_type not in (0, 1):
            raise Refusal(
                "there is no such form of objects",
                expected="yolo_data_type: 0, rows for SSD, or 1, rows for YOLO",
                got=f"yolo_data_type {self.yolo_data_type}",
                setting="yolo_data_type",
            )
        if not 0 <= self.jitter < 1:
            raise Refusal(
                "yolo_data_jitter is no fraction of a side",
                expected="0 <= yolo_data_jitter < 1",
                got=f"yolo_data_jitter {self.jitter:g}",
                setting="yolo_data_jitter",
            )
        for batch_sampler in self.batch_sampler:
            batch_sampler.sampler.check()
        resizes = self.transform_param.resize_param
        if self.transform_param.random_aspect_ratio_param:
            raise Refusal(
                "random_aspect_ratio_param cuts images, but not the boxes of their objects",
                expected="a batch_sampler",
                got="random_aspect_ratio_param",
                setting="random_aspect_ratio_param",
            )
        if any(resize.max_angle for resize in resizes):
            raise Refusal(
                "max_angle turns images, but not the boxes of their objects",
                expected="a resize_param without max_angle",
                got=f"max_angle {max(resize.max_angle for resize in resizes):g}",
                setting="resize_param",
            )

    def infer(self, *bottoms: BlobType) -> Signature:
        self.check()
        n = self.batch_size
        tops = [BlobType((n, *self.transform_param.infer(bottoms[0]).shape))]
        if len(bottoms) > 1:
            tops.append(BlobType(self.labels(n, bottoms[1].shape[0])))
        else:
            tops.append(BlobType((n,)))
        return Signature(tuple(tops[: len(self.top)]))

    def labels(self, n: int, most: int) -> tuple[int, ...]:
        """Return the shape of the objects of n images that have at most `most` each."""
        return (n, 1, YOLO_BOXES, YOLO_BOX) if self.yolo else (1, 1, n * most, OBJECT)
