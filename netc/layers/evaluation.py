"""How good detections are."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import ClassVar

from netc.layers.accuracy import Measure
from netc.layers.annotated import OBJECT
from netc.layers.boxes import clipped, judged, overlap
from netc.layers.data import Reader
from netc.layers.proposal import check_rows
from netc.layers.registry import layer
from netc.layers.ssd import check_classes, with_content
from netc.layers.suppression import DETECTION
from netc.layers.transform import ResizeMode, ResizeParam
from netc.layers.types import (
    Arity,
    Array,
    ArrayNamespace,
    BlobType,
    CodeHost,
    ForwardCall,
    KeptType,
    Layer,
    Part,
    Refusal,
    Signature,
    between,
    exactly,
)

# The values of a judged detection: image, class, score, right, wrong.
_JUDGED = 5


def in_pixels(
    xp: ArrayNamespace, boxes: Array, height: float, width: float, resize: ResizeParam | None
) -> Array:
    """Return boxes (..., 4), in fractions of what `resize` made of an image, in pixels of it."""
    mode = resize.resize_mode if resize else ResizeMode.WARP
    if resize and mode is ResizeMode.FIT_LARGE_SIZE_AND_PAD:
        # The part of the resized image that the border leaves, in fractions of it.
        covered = (resize.width / resize.height) / (width / height)
        inner = (1.0, covered) if covered < 1 else (1 / covered, 1.0)
        scale = xp.asarray(inner * 2, dtype=boxes.dtype)
        boxes = (boxes - (1 - scale) / 2) / scale
    if resize and mode is ResizeMode.FIT_SMALL_SIZE and resize.height_scale and resize.width_scale:
        pixels = xp.asarray((resize.width_scale, resize.height_scale) * 2, dtype=boxes.dtype)
        ends = xp.asarray((width, height) * 2, dtype=boxes.dtype)
        return xp.minimum(xp.maximum(boxes * pixels, 0), ends)
    return clipped(xp, boxes) * xp.asarray((width, height) * 2, dtype=boxes.dtype)


@dataclass(frozen=True)
class SizeFile(Reader):
    """The sizes of images from `source`, a file with one `name height width` per line.

    Shapes: (L, 2), height and width of each line -> top (1, L, 2), a batch of one. No text can name
    this type, so it is not registered: DetectionEvaluate expands to it.
    """

    batch_size: int = 1

    type: ClassVar[str] = "SizeFile"

    def infer(self, *bottoms: BlobType) -> Signature:
        """Return the shape of the file's content, as a batch of one."""
        self.check()
        return Signature((BlobType((self.batch_size, *bottoms[0].shape)),))


@dataclass(frozen=True)
class Evaluation(Measure):
    """Base of the types that judge detections, rows (image, class, score, box) of SSD's.

    Objects are rows (image, class, instance, box, difficult).
    """

    num_classes: int | None = None
    background_label_id: int = 0
    overlap_threshold: float = 0.5
    evaluate_difficult_gt: bool = True
    name_size_file: str = ""

    data_dependent: ClassVar[bool] = True
    pads: ClassVar[bool] = True

    def expand(self, *bottoms: BlobType) -> tuple[Part, ...] | None:
        """Return a layer that reads the sizes, and this one with them as one more bottom."""
        if not self.name_size_file:
            return None
        sizes = SizeFile(source=self.name_size_file)
        own = tuple(f"$b{index}" for index in range(self.n_bottoms))
        judge = replace(self, name_size_file="")
        return (
            Part("sizes", sizes, (), (".sizes",)),
            Part("evaluate", judge, (*own, ".sizes"), ("$t0",)),
        )

    @property
    def n_bottoms(self) -> int:
        """How many bottoms there are in the text."""
        return self.bottoms.least

    def check(self) -> None:
        """Raise `Refusal` for settings that do not fit."""
        if not self.num_classes:
            raise Refusal(
                "num_classes is missing",
                expected="num_classes > 0",
                got="none" if self.num_classes is None else self.num_classes,
                hint="add detection_evaluate_param { num_classes: 21 }; the background is a class "
                "too",
                setting="num_classes",
            )
        if not self.overlap_threshold > 0:
            raise Refusal(
                "overlap_threshold is not above 0",
                expected="overlap_threshold > 0",
                got=f"overlap_threshold {self.overlap_threshold:g}",
                setting="overlap_threshold",
            )

    def kept(self, n_bottoms: int) -> tuple[KeptType, ...]:
        """Return what the layer keeps: the line of the sizes that comes next."""
        has_sizes = n_bottoms > self.n_bottoms
        return (KeptType("line", (1,), persistent=True),) if has_sizes else ()

    def rows(self, xp: ArrayNamespace, bottoms: tuple[Array, ...]) -> tuple[Array, Array]:
        """Return detections and objects."""
        raise NotImplementedError

    def shape(self, rows: int) -> tuple[int, ...]:
        """Return the shape of a top that has so many rows."""
        raise NotImplementedError

    def in_pixels(
        self, xp: ArrayNamespace, boxes: Array, image: int, size: Array, bottoms: tuple[Array, ...]
    ) -> Array:
        """Return boxes in pixels of an image of the size (2,), height and width."""
        raise NotImplementedError

    @property
    def _classes(self) -> list[int]:
        return [c for c in range(self.num_classes or 0) if c != self.background_label_id]

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp = call.xp
        found, objects = (with_content(xp, rows) for rows in self.rows(xp, call.bottoms))
        # Also those in which nothing was found, if a row says so.
        images = xp.unique(xp.trunc(found[:, 0])).tolist()
        found = found[xp.trunc(found[:, 1]) != -1]
        for rows, what in ((found, "a detection"), (objects, "an object")):
            labels = xp.trunc(rows[:, 1])
            check_classes(xp, labels, self.num_classes or 0, self.background_label_id, what)
        place = len(self._classes)
        count = place + len(found)
        if call.out:
            count = call.out[0].size // _JUDGED
        top = xp.full((count, _JUDGED), -1, dtype=found.dtype)
        counted = objects if self.evaluate_difficult_gt else objects[objects[:, 7] == 0]
        top[:place, 1] = xp.asarray(self._classes)
        for row, label in enumerate(self._classes):
            top[row, 2] = (xp.trunc(counted[:, 1]) == label).sum()
        for image in images:
            own = [rows[xp.trunc(rows[:, 0]) == image] for rows in (found, objects)]
            size = self._next_size(call)
            for label in xp.unique(xp.trunc(own[0][:, 1])).tolist():
                of_class = [rows[xp.trunc(rows[:, 1]) == label] for rows in own]
                boxes = [rows[:, 3:7] for rows in of_class]
                if size is not None:
                    boxes = [self.in_pixels(xp, b, int(image), size, call.bottoms) for b in boxes]
                results = self._judged(xp, *of_class, *boxes, pixels=size is not None)
                top[place : place + len(results)] = results
                place += len(results)
        return (top.reshape(self.shape(count)),)

    def _next_size(self, call: ForwardCall) -> Array | None:
        """Return height and width of the next image, None where boxes stay as they are."""
        if not call.kept:
            return None
        line, sizes = call.kept[0], call.bottoms[self.n_bottoms].reshape(-1, 2)
        index = int(line[0])
        line[0] = (index + 1) % len(sizes)
        return sizes[index]

    def _judged(
        self,
        xp: ArrayNamespace,
        found: Array,
        objects: Array,
        boxes: Array,
        wanted: Array,
        *,
        pixels: bool,
    ) -> Array:
        """Return the rows (D, 5) for the detections of one class in one image."""
        order = xp.argsort(-found[:, 2], kind="stable") if len(objects) else slice(None)
        found, boxes = found[order], boxes[order]
        rows = xp.zeros((len(found), _JUDGED), dtype=found.dtype)
        rows[:, :3] = found[:, :3]
        overlaps = overlap(xp, boxes[:, None], wanted, pixels=pixels)
        difficult = (objects[:, 7] != 0) & (not self.evaluate_difficult_gt)
        rows[:, 3:5] = judged(xp, overlaps, self.overlap_threshold, difficult)
        return rows

    def whole_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False, *(True,) * (n_bottoms - 1))


@layer("DetectionEvaluate", "detection_evaluate_param")
@dataclass(frozen=True)
class DetectionEvaluate(Evaluation):
    """Which detections are right, and how many objects there are: what average precision is of.

    The detections of a class in an image, the best first, each look at the object of that class
    which they overlap most. If by `overlap_threshold` or more, the first to come is right and the
    others are wrong; a difficult object makes them neither unless `evaluate_difficult_gt`. All
    other detections are wrong.

    Shapes: detections (1, 1, R, 7), objects (1, 1, G, 8) -> top (1, 1, classes + R', 5), the
    background not being one of the classes. The first rows are -1, class, number of objects, -1, -1
    for each class; then come image, class, score, right, wrong for each of R' detections, by image
    and class. A class of -1 is no detection, an image of -1 no object.

    With `name_size_file`, a file with one `name height width` per line, boxes are compared in
    pixels of the images, after what `resize_param` did to them is undone. The lines are those of
    the images that have detections, or a row which says that there are none, in their order, over
    and over.

    With a third bottom the layer is that of Cascade R-CNN, RegionEvaluate.

    ONNX: none, it measures what a net outputs.

    Source: SSD's fork of Caffe (Liu et al., ECCV 2016).
    """

    resize_param: ResizeParam | None = None
    bottom: tuple[str, ...] = ()

    bottoms: ClassVar[Arity] = between(2, 3)

    def resolve(self, host: CodeHost | None) -> Layer:
        if len(self.bottom) < 3:
            return self
        for name, value in (
            ("resize_param", self.resize_param),
            ("background_label_id", self.background_label_id),
        ):
            if value:
                raise Refusal(
                    f"{name} does not go with a third bottom, the size of the images",
                    expected="two bottoms, or the settings of Cascade R-CNN",
                    got=name,
                    setting=name,
                )
        names = [f.name for f in fields(RegionEvaluate) if f.init]
        return RegionEvaluate(**{name: getattr(self, name) for name in names})

    def infer(self, *bottoms: BlobType) -> Signature:
        self.check()
        for index, (name, width) in enumerate((("detections", DETECTION), ("objects", OBJECT))):
            blob = bottoms[index]
            if blob.axes != 4 or blob.shape[:2] != (1, 1) or blob.shape[3] != width:
                raise Refusal(
                    f"bottom {index} does not hold {name}",
                    expected=f"shape (1, 1, {name}, {width})",
                    got=f"shape {blob}",
                    setting="bottom",
                )
        top = self.shape(len(self._classes) + bottoms[0].shape[2])
        return Signature((BlobType(top),), kept=self.kept(len(bottoms)))

    def shape(self, rows: int) -> tuple[int, ...]:
        return (1, 1, rows, _JUDGED)

    def rows(self, xp: ArrayNamespace, bottoms: tuple[Array, ...]) -> tuple[Array, Array]:
        return bottoms[0].reshape(-1, DETECTION), bottoms[1].reshape(-1, OBJECT)

    def in_pixels(
        self, xp: ArrayNamespace, boxes: Array, image: int, size: Array, bottoms: tuple[Array, ...]
    ) -> Array:
        return in_pixels(xp, boxes, float(size[0]), float(size[1]), self.resize_param)


@layer("RegionEvaluate", "detection_evaluate_param")
@dataclass(frozen=True)
class RegionEvaluate(Evaluation):
    """Which detections of Cascade R-CNN are right, and how many objects there are.

    A layer of type DetectionEvaluate with a third bottom becomes this one, and judges as it does,
    in pixels of the images as `name_size_file` tells their sizes: boxes in pixels of the net's
    input, whose size the third bottom tells, are brought to those. Class 0 is the background.

    Shapes: detections (R, 7) as FrcnnOutput gives them: image, x1, y1, x2, y2, class, score;
    objects (G, 8): image, x1, y1, x2, y2, class, ignored, difficult; height and width of each image
    (N, 2) -> top (classes + R', 5, 1, 1), rows as of DetectionEvaluate. A class of -1 is no
    detection, an image of -1 no object; whether an object is ignored makes no difference.

    ONNX: none, it measures what a net outputs.

    Source: Z. Cai, N. Vasconcelos, "Cascade R-CNN: Delving into High Quality Object Detection",
    CVPR 2018, and its fork of Caffe.
    """

    background_label_id: int = field(default=0, init=False)

    bottoms: ClassVar[Arity] = exactly(3)

    def infer(self, *bottoms: BlobType) -> Signature:
        self.check()
        if len(bottoms) == self.n_bottoms:
            raise Refusal(
                "name_size_file is missing",
                expected="a file with one `name height width` per line",
                got="none",
                setting="name_size_file",
            )
        for index, columns in enumerate((DETECTION, OBJECT, 2)):
            check_rows(bottoms[index], index, columns)
        top = self.shape(len(self._classes) + bottoms[0].shape[0])
        return Signature((BlobType(top),), kept=self.kept(len(bottoms)))

    def shape(self, rows: int) -> tuple[int, ...]:
        return (rows, _JUDGED, 1, 1)

    def rows(self, xp: ArrayNamespace, bottoms: tuple[Array, ...]) -> tuple[Array, Array]:
        found = bottoms[0].reshape(-1, DETECTION)[:, [0, 5, 6, 1, 2, 3, 4]]
        return found, bottoms[1].reshape(-1, OBJECT)[:, [0, 5, 6, 1, 2, 3, 4, 7]]

    def in_pixels(
        self, xp: ArrayNamespace, boxes: Array, image: int, size: Array, bottoms: tuple[Array, ...]
    ) -> Array:
        before = bottoms[2].reshape(-1, 2)
        if not 0 <= image < len(before):
            raise Refusal(
                "a detection in an image that the batch does not have",
                expected=f"an image of 0..{len(before) - 1}",
                got=f"image {image}",
                setting="bottom",
            )
        ratio = (size / before[image])[::-1]
        return boxes * xp.concatenate((ratio, ratio))
