"""How good detections are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from netc.layers.annotated import OBJECT
from netc.layers.boxes import clipped, overlap
from netc.layers.data import Reader
from netc.layers.registry import layer
from netc.layers.ssd import check_classes, with_content
from netc.layers.suppression import DETECTION
from netc.layers.transform import ResizeMode, ResizeParam
from netc.layers.types import (
    Arity,
    Array,
    ArrayNamespace,
    BlobType,
    ForwardCall,
    KeptType,
    Layer,
    OnnxBuilder,
    Part,
    Refusal,
    Signature,
    Value,
    exactly,
)


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


@layer("DetectionEvaluate", "detection_evaluate_param")
@dataclass(frozen=True)
class DetectionEvaluate(Layer):
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
    the images that have detections, in their order, over and over.

    ONNX: none, it measures what a net outputs.

    Source: SSD's fork of Caffe (Liu et al., ECCV 2016).
    """

    num_classes: int | None = None
    background_label_id: int = 0
    overlap_threshold: float = 0.5
    evaluate_difficult_gt: bool = True
    name_size_file: str = ""
    resize_param: ResizeParam | None = None

    bottoms: ClassVar[Arity] = exactly(2)
    data_dependent: ClassVar[bool] = True
    pads: ClassVar[bool] = True

    def expand(self, *bottoms: BlobType) -> tuple[Part, ...] | None:
        """Return a layer that reads the sizes, and this one with them as its third bottom."""
        if not self.name_size_file:
            return None
        sizes = SizeFile(source=self.name_size_file)
        return (
            Part("sizes", sizes, (), (".sizes",)),
            Part("evaluate", replace(self, name_size_file=""), ("$b0", "$b1", ".sizes"), ("$t0",)),
        )

    def infer(self, *bottoms: BlobType) -> Signature:
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
        for index, (name, width) in enumerate((("detections", DETECTION), ("objects", OBJECT))):
            blob = bottoms[index]
            if blob.axes != 4 or blob.shape[:2] != (1, 1) or blob.shape[3] != width:
                raise Refusal(
                    f"bottom {index} does not hold {name}",
                    expected=f"shape (1, 1, {name}, {width})",
                    got=f"shape {blob}",
                    setting="bottom",
                )
        rows = len(self._classes) + bottoms[0].shape[2]
        kept = (KeptType("line", (1,), persistent=True),) if len(bottoms) > 2 else ()
        return Signature((BlobType((1, 1, rows, 5)),), kept=kept)

    @property
    def _classes(self) -> list[int]:
        return [c for c in range(self.num_classes or 0) if c != self.background_label_id]

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp = call.xp
        found = with_content(xp, call.bottoms[0].reshape(-1, DETECTION))
        found = found[xp.trunc(found[:, 1]) != -1]
        objects = with_content(xp, call.bottoms[1].reshape(-1, OBJECT))
        for rows, what in ((found, "a detection"), (objects, "an object")):
            labels = xp.trunc(rows[:, 1])
            check_classes(xp, labels, self.num_classes or 0, self.background_label_id, what)
        place = len(self._classes)
        rows = place + len(found) if not call.out else call.out[0].shape[2]
        top = xp.full((1, 1, rows, 5), -1, dtype=found.dtype)
        counted = objects if self.evaluate_difficult_gt else objects[objects[:, 7] == 0]
        top[0, 0, :place, 1] = xp.asarray(self._classes)
        for row, label in enumerate(self._classes):
            top[0, 0, row, 2] = (xp.trunc(counted[:, 1]) == label).sum()
        for image in xp.unique(xp.trunc(found[:, 0])).tolist():
            own = [rows[xp.trunc(rows[:, 0]) == image] for rows in (found, objects)]
            size = self._next_size(call)
            for label in xp.unique(xp.trunc(own[0][:, 1])).tolist():
                of_class = [rows[xp.trunc(rows[:, 1]) == label] for rows in own]
                results = self._judged(xp, of_class[0], of_class[1], size)
                top[0, 0, place : place + len(results)] = results
                place += len(results)
        return (top,)

    @staticmethod
    def _next_size(call: ForwardCall) -> tuple[float, float] | None:
        """Return height and width of the next image, None where boxes stay fractions."""
        if not call.kept:
            return None
        line, sizes = call.kept[0], call.bottoms[2].reshape(-1, 2)
        index = int(line[0])
        line[0] = (index + 1) % len(sizes)
        return float(sizes[index, 0]), float(sizes[index, 1])

    def _judged(
        self, xp: ArrayNamespace, found: Array, objects: Array, size: tuple[float, float] | None
    ) -> Array:
        """Return the rows (D, 5) for the detections of one class in one image."""
        rows = xp.zeros((len(found), 5), dtype=found.dtype)
        if not len(objects):
            rows[:, :3] = found[:, :3]
            rows[:, 4] = 1
            return rows
        found = found[xp.argsort(-found[:, 2], kind="stable")]
        rows[:, :3] = found[:, :3]
        boxes, wanted = found[:, 3:7], objects[:, 3:7]
        if size:
            boxes, wanted = (in_pixels(xp, b, *size, self.resize_param) for b in (boxes, wanted))
        overlaps = overlap(xp, boxes[:, None], wanted, pixels=size is not None)
        best = overlaps.argmax(axis=1).tolist()
        enough = (overlaps.max(axis=1) >= self.overlap_threshold).tolist()
        difficult = (objects[:, 7] != 0).tolist()
        taken: set[int] = set()
        for row, (index, hit) in enumerate(zip(best, enough, strict=True)):
            if hit and difficult[index] and not self.evaluate_difficult_gt:
                continue
            right = hit and index not in taken
            rows[row, 3 if right else 4] = 1
            if right:
                taken.add(index)
        return rows

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False,) * n_bottoms

    def whole_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False, *(True,) * (n_bottoms - 1))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        raise g.refuse(
            "the evaluation of detections has no ONNX form",
            hint="export the detections themselves: the bottom of this layer",
        )

    def deployed(self) -> Layer | None:
        return None
