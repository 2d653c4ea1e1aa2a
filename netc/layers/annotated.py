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
from netc.layers.types import Arity, BlobType, Refusal, Signature, between

# How many boxes an image may have in the form that YOLO's losses read, and the values of one.
YOLO_BOXES, YOLO_BOX = 300, 5
# What the forks that train YOLO cut off at most, as a fraction of a side, where nothing is said.
_YOLO_JITTER = 0.3

# How many lanes an image may have, how many points a lane, and the values of one: x, y, lane.
LANES, LANE_POINTS, LANE_POINT = 5, 64, 3

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
    """What a record tells besides its image: boxes, these and a segmentation, or lanes."""

    BBOX = 0
    BBOXandSeg = 1
    LANE = 2


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
    after each step; netc does not. `label_map_file` is not looked at without a third top.

    A third top, of MobileNet-YOLO, is a segmentation: for each class a map (N, C, H' / s, W' / s),
    rounded down, of how much of a pixel is of it, 0 to 1; s is `seg_scales`. Records then hold a
    grey image too, cut and mirrored as theirs and brought to that size as OpenCV's INTER_AREA does.
    With `single_class` there is one map, 1 where that gives more than 100. Without it, grey v is of
    the class that `label_id` of item v of `label_map_file` says, from 1 on; 0 is none.

    Source: the SSD fork of Caffe; the patches are section 2.2 of Liu et al., ECCV 2016.
    """

    transform_param: ImageTransform = field(default_factory=ImageTransform)
    batch_sampler: tuple[BatchSampler, ...] = ()
    label_map_file: str = ""
    anno_type: AnnotationType | None = None
    yolo_data_type: int = 0
    yolo_data_jitter: float | None = None
    train_diffcult: bool = True
    single_class: bool = True
    seg_scales: int = 8

    tops: ClassVar[Arity] = between(1, 3)
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
        self._check_annotations()
        if self.segments:
            self._check_segments()
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

    def _check_annotations(self) -> None:
        if self.anno_type is AnnotationType.LANE:
            raise Refusal(
                "lanes are no objects",
                expected="anno_type: BBOX or BBOXandSeg",
                got="anno_type: LANE",
                hint="LaneData reads lanes",
                setting="anno_type",
            )

    @property
    def segments(self) -> bool:
        """Whether there is a top for segmentations."""
        return len(self.top) > 2

    @property
    def one_map(self) -> bool:
        """Whether a segmentation is one map, whatever the label map says."""
        return self.single_class

    def _check_segments(self) -> None:
        """Refuse settings that images follow, and segmentations do not."""
        param = self.transform_param
        if self.seg_scales < 1:
            raise Refusal(
                "seg_scales is not positive",
                expected="seg_scales >= 1: how many pixels of an image are one of a segmentation",
                got=self.seg_scales,
                setting="seg_scales",
            )
        if not self.one_map and not self.label_map_file:
            raise Refusal(
                "nothing tells the classes of the segmentations",
                expected="a label_map_file, or single_class: true",
                got="neither",
                setting="label_map_file",
            )
        for name, given in (("expand_param", param.expand_param), ("crop_size", any(param.window))):
            if given:
                raise Refusal(
                    f"{name} changes images, but not their segmentations",
                    expected=f"no {name}, or no third top",
                    got=name,
                    setting=name,
                )

    def infer(self, *bottoms: BlobType) -> Signature:
        self.check()
        n = self.batch_size
        image = self.transform_param.infer(bottoms[0])
        boxed = len(bottoms) > 1 and bottoms[1].axes > 1
        tops = [
            BlobType((n, *image.shape)),
            BlobType(self.labels(n, bottoms[1].shape[0]) if boxed else (n,)),
        ]
        if self.segments:
            if len(bottoms) < 3:
                raise Refusal(
                    "nothing tells how many classes the segmentations have",
                    expected="a label_map_file that is there",
                    got=f"'{self.label_map_file}'",
                    setting="label_map_file",
                )
            size = self.segment_size(*image.shape[1:])
            tops.append(BlobType((n, bottoms[2].shape[0], *size)))
        return Signature(tuple(tops[: len(self.top)]))

    def segment_size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the segmentation of an image."""
        return height // self.seg_scales, width // self.seg_scales

    def labels(self, n: int, most: int) -> tuple[int, ...]:
        """Return the shape of the objects of n images that have at most `most` each."""
        return (n, 1, YOLO_BOXES, YOLO_BOX) if self.yolo else (1, 1, n * most, OBJECT)


@layer("LaneData", "data_param", "annotated_data_param")
@dataclass(frozen=True)
class LaneData(AnnotatedData):
    """Images and the lanes of a road from a database of `AnnotatedDatum` messages, in key order.

    Shapes: item (C, H, W) as stored -> tops (N, C, H', W'), resized, points of lanes (N, 5, 64, 3):
    x, y, lane, and (N, 1, H' / s, W' / s), rounded down, where lines of 1 join the points of each
    lane and all else is 0; s is `seg_scales`.

    Points come in the order opposite to the stored one, in fractions of the image. Those outside of
    it have -1 for a lane, no line leads to them, and the next line begins before them. Rows that
    are left over hold 0, 0, -1. Images change at random as those of AnnotatedData do, without
    `expand_param` and crop, and the lines alike; but points are those of an image that is not
    mirrored. Only with `yolo_data_type: 1`, and without samplers, are sides cut off. The other
    settings of `annotated_data_param` change nothing.

    Source: MobileNet-YOLO, which leaves rows that are left over as they were.
    """

    beside: ClassVar[tuple[BlobType, ...]] = (BlobType((1, OBJECT)), BlobType((1,)))

    @property
    def jitter(self) -> float:
        return super().jitter if self.yolo else 0.0

    @property
    def one_map(self) -> bool:
        return True

    def check(self) -> None:
        super().check()
        self._check_segments()

    def _check_annotations(self) -> None:
        """Whatever the records say, they are read as lanes."""

    def labels(self, n: int, most: int) -> tuple[int, ...]:
        return (n, LANES, LANE_POINTS, LANE_POINT)
