"""Single shot detectors: priors, and the objects that are found from them.

A prior is a box at a fixed place of the image. For each prior a net predicts four numbers, from
which a box is decoded (the location), and a score for each class (the confidence). Boxes are in
fractions of the image. Source: Liu et al., SSD: Single Shot MultiBox Detector, ECCV 2016; numbers
and corner cases are those of the fork of Caffe that the paper was written with.

Objects come as rows of 8 values: image, class, instance, xmin, ymin, xmax, ymax, difficult.
Detections go as rows of 7: image, class, score, xmin, ymin, xmax, ymax. In both an image of -1
marks a row without content: blobs here have a fixed shape, however many objects there are. A row of
zeros, such as inputs start with, has no content either.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from netc.layers.boxes import (
    CodeType,
    decode,
    lower_decode,
)
from netc.layers.registry import layer
from netc.layers.suppression import DETECTION, FLT_MAX, NmsParam, Selection
from netc.layers.transform import ImageTransform, ResizeParam
from netc.layers.types import (
    Arity,
    Array,
    ArrayNamespace,
    BlobType,
    ForwardCall,
    Layer,
    OnnxBuilder,
    Refusal,
    Signature,
    Value,
    between,
)

# Aspect ratios that differ by less are one; overlaps that are not above it are none.
ALIKE = 1e-6
# The least score of an object in RefineDet's first step, where the text gives none.
LEAST_OBJECT = 0.01


@layer("PriorBox", "prior_box_param", aliases=("PriorBoxClustered",))
@dataclass(frozen=True)
class PriorBox(Layer):
    """Boxes of several sizes and shapes around each position of a feature map.

    For each `min_size`: a square of that size; with max_size, a square of sqrt(min * max); and for
    each `aspect_ratio` r but 1 a box of min * sqrt(r) by min / sqrt(r), with `flip` also that of
    1 / r. Or the boxes are given, by `width` and `height`, and taken as they are. Position (y, x)
    lies at ((x + offset) * step_w, (y + offset) * step_h). Sizes and steps are pixels of the image;
    those of min_size and max_size are cut down to whole ones, as in the fork. Without `step` the
    positions cover the image evenly. The image is bottom 1, or of `img_size`. With `clip` boxes end
    at its border. With `denser_prior_boxes` each box is followed by another one that lies at
    (y + 1) * step_h; nets of TextBoxes, whose fork knows no other boxes, want it.

    Shapes: feature map (N, C, H, W), image (N, C', H', W') -> top (1, 2, H * W * boxes * 4): the
    boxes, and for each of their numbers the `variance` (one for all, or one for each of the four).

    Source: SSD's fork of Caffe (Liu et al., ECCV 2016); `width` and `height` as OpenCV reads them
    in the nets of OpenVINO, which call the type PriorBoxClustered; the denser boxes, Liao et al.,
    "TextBoxes++", 2018.
    """

    min_size: tuple[float, ...] = ()
    max_size: tuple[float, ...] = ()
    aspect_ratio: tuple[float, ...] = ()
    flip: bool = True
    clip: bool = False
    variance: tuple[float, ...] = ()
    img_size: int | None = None
    img_h: int | None = None
    img_w: int | None = None
    step: float | None = None
    step_h: float | None = None
    step_w: float | None = None
    offset: float = 0.5
    width: tuple[float, ...] = ()
    height: tuple[float, ...] = ()
    denser_prior_boxes: bool = False

    bottoms: ClassVar[Arity] = between(1, 2)

    def infer(self, *bottoms: BlobType) -> Signature:
        self._check()
        self._image(bottoms)
        self._pair("step", self.step, self.step_h, self.step_w)
        features = bottoms[0]
        if features.axes != 4:
            raise Refusal(
                "the first bottom is not a feature map",
                expected="shape (N, C, H, W)",
                got=f"shape {features}",
                setting="bottom",
            )
        count = features.span(2) * len(self._boxes()) * 4
        if not count:
            raise Refusal(
                "the feature map has no positions",
                expected="H and W above 0",
                got=f"shape {features}",
                setting="bottom",
            )
        return Signature((BlobType((1, 2, count)),))

    def _check(self) -> None:
        if self.width or self.height:
            self._check_given()
        elif not self.min_size:
            raise Refusal(
                "min_size is missing",
                expected="one min_size or more, in pixels",
                got="none",
                hint="add prior_box_param { min_size: 30 }",
                setting="min_size",
            )
        for name in ("min_size", "aspect_ratio", "variance", "width", "height"):
            for index, value in enumerate(getattr(self, name)):
                if not value > 0:
                    raise Refusal(
                        f"{name} is not above 0",
                        expected=f"{name} > 0",
                        got=f"{name} {value:g}",
                        setting=f"{name}.{index}",
                    )
        if self.max_size and len(self.max_size) != len(self.min_size):
            raise Refusal(
                "the numbers of min_size and max_size differ",
                expected=f"{len(self.min_size)} max_size, one for each min_size, or none",
                got=f"{len(self.max_size)} max_size",
                setting="max_size",
            )
        for index, (low, high) in enumerate(zip(self.min_size, self.max_size, strict=False)):
            if high <= low:
                raise Refusal(
                    "a max_size is not above its min_size",
                    expected=f"max_size > {low:g}",
                    got=f"min_size {low:g}, max_size {high:g}",
                    setting=f"max_size.{index}",
                )
        if len(self.variance) not in (0, 1, 4):
            raise Refusal(
                "the number of variances is wrong",
                expected="1 for all, or 4: for xmin, ymin, xmax, ymax",
                got=len(self.variance),
                setting="variance",
            )

    def _check_given(self) -> None:
        if len(self.width) != len(self.height):
            raise Refusal(
                "the numbers of width and height differ",
                expected="a width and a height for each box",
                got=f"{len(self.width)} width, {len(self.height)} height",
                setting="width" if self.width else "height",
            )
        for name in ("min_size", "max_size", "aspect_ratio"):
            if getattr(self, name):
                raise Refusal(
                    f"{name} does not go with width and height",
                    expected="the boxes by width and height, or by min_size and what belongs to it",
                    got=f"{name} and {len(self.width)} width",
                    setting=name,
                )

    @staticmethod
    def _pair(
        name: str, both: float | None, high: float | None, wide: float | None
    ) -> tuple[float, float] | None:
        """Return what a setting and its twins for height and width say; None for nothing."""
        stem = name.removesuffix("_size")
        if high is None and wide is None:
            if both is None:
                return None
            high = wide = both
        elif both is not None:
            raise Refusal(
                f"{name} and {stem}_h or {stem}_w are both set",
                expected=f"{name}, or both of {stem}_h and {stem}_w",
                got=f"{name} {both:g}, {stem}_h {high or 0:g}, {stem}_w {wide or 0:g}",
                setting=name,
            )
        if not ((high or 0) > 0 and (wide or 0) > 0):
            raise Refusal(
                f"{name} is not above 0 in height and width",
                expected=f"{name} > 0, or both of {stem}_h > 0 and {stem}_w > 0",
                got=f"height {high or 0:g}, width {wide or 0:g}",
                setting=name if both is not None else f"{stem}_h",
            )
        assert high is not None
        assert wide is not None
        return high, wide

    def _image(self, bottoms: tuple[BlobType, ...]) -> tuple[float, float]:
        """Return height and width of the image."""
        given = self._pair("img_size", self.img_size, self.img_h, self.img_w)
        if given:
            return given
        if len(bottoms) < 2 or bottoms[1].axes != 4 or not bottoms[1].span(2):
            raise Refusal(
                "the size of the image is not known",
                expected="the image (N, C, H, W) as second bottom, or img_size",
                got=f"second bottom of shape {bottoms[1]}" if len(bottoms) > 1 else "1 bottom",
                hint="add the blob of the images as second bottom",
                setting="bottom",
            )
        return bottoms[1].shape[2], bottoms[1].shape[3]

    def _boxes(self) -> list[tuple[float, float]]:
        """Return width and height of the boxes at each position, in pixels."""
        boxes = self._sizes()
        return [box for box in boxes for _ in range(2)] if self.denser_prior_boxes else boxes

    def _sizes(self) -> list[tuple[float, float]]:
        if self.width:
            return list(zip(self.width, self.height, strict=True))
        ratios = [1.0]
        for ratio in self.aspect_ratio:
            if all(abs(ratio - known) >= ALIKE for known in ratios):
                ratios += [ratio, 1 / ratio] if self.flip else [ratio]
        found = []
        for index, size in enumerate(map(int, self.min_size)):
            found.append((float(size), float(size)))
            if self.max_size:
                middle = math.sqrt(size * int(self.max_size[index]))
                found.append((middle, middle))
            found += [(size * math.sqrt(r), size / math.sqrt(r)) for r in ratios[1:]]
        return found

    def _table(self, xp: ArrayNamespace, bottoms: tuple[BlobType, ...]) -> Array:
        """Return the top in float64."""
        rows, columns = bottoms[0].shape[2:]
        height, width = self._image(bottoms)
        step_h, step_w = self._pair("step", self.step, self.step_h, self.step_w) or (
            height / rows,
            width / columns,
        )
        boxes = self._boxes()
        table = xp.empty((2, rows, columns, len(boxes), 4), dtype="float64")
        x = ((xp.arange(columns) + self.offset) * step_w)[None, :, None]
        offsets = (self.offset, 1.0) * (len(boxes) // 2) if self.denser_prior_boxes else self.offset
        y = (xp.arange(rows)[:, None, None] + xp.asarray(offsets)) * step_h
        wide, high = (xp.asarray(side, dtype="float64") / 2 for side in zip(*boxes, strict=True))
        table[0, ..., 0] = (x - wide) / width
        table[0, ..., 1] = (y - high) / height
        table[0, ..., 2] = (x + wide) / width
        table[0, ..., 3] = (y + high) / height
        if self.clip:
            table[0] = xp.clip(table[0], 0, 1)
        table[1] = xp.asarray(self.variance or (0.1,), dtype="float64")
        return table.reshape(1, 2, -1)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        shapes = tuple(BlobType(bottom.shape) for bottom in call.bottoms)
        return (self._table(call.xp, shapes).astype(call.bottoms[0].dtype),)

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False,) * n_bottoms

    def whole_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False,) * n_bottoms

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        return (g.constant(self._table(g.xp, tuple(BlobType(b.shape) for b in bottoms))),)


@dataclass(frozen=True, slots=True)
class SaveOutputParam:
    """A `save_output_param` message: files that the fork writes its detections to."""

    output_directory: str = ""
    output_name_prefix: str = ""
    output_format: str = ""
    label_map_file: str = ""
    name_size_file: str = ""
    num_test_image: int = 0
    resize_param: ResizeParam | None = None


# What nets of TextBoxes lack, whose fork always makes these boxes.
_DENSER = "\ntwice as many boxes are made with prior_box_param { denser_prior_boxes: true }"


def check_predictions(
    bottoms: tuple[BlobType, ...],
    classes: int | None,
    share_location: bool,
    message: str,
    numbers: int = 4,
) -> tuple[int, int]:
    """Refuse locations, confidences and priors that do not match; return classes and priors.

    A location has so many `numbers`.
    """
    if not classes:
        raise Refusal(
            "num_classes is missing",
            expected="num_classes > 0",
            got="none" if classes is None else classes,
            hint=f"add {message} {{ num_classes: 21 }}; the background is a class too",
            setting="num_classes",
        )
    location, confidence, priors = bottoms[:3]
    for name, blob in (("location", location), ("confidence", confidence)):
        if blob.axes < 2:
            raise Refusal(
                f"the {name} predictions are not one row for each image",
                expected="shape (N, values)",
                got=f"shape {blob}",
                setting="bottom",
            )
    if priors.axes < 3 or priors.shape[:2] != (1, 2) or priors.span(2) % 4:
        raise Refusal(
            "the third bottom does not hold priors",
            expected="shape (1, 2, 4 * priors), as PriorBox makes it",
            got=f"shape {priors}",
            setting="bottom",
        )
    if location.shape[0] != confidence.shape[0]:
        raise Refusal(
            "location and confidence are predicted for different numbers of images",
            expected=f"a first axis of {location.shape[0]} in both",
            got=f"shapes {location} and {confidence}",
            setting="bottom",
        )
    n_priors = priors.span(2) // 4
    per_prior = numbers if share_location else numbers * classes
    for name, blob, wanted in (
        ("location", location, per_prior),
        ("confidence", confidence, classes),
    ):
        if blob.span(1) != n_priors * wanted:
            raise Refusal(
                f"the number of {name} predictions does not match the number of priors",
                expected=f"{n_priors * wanted} for each image: {wanted} for each of "
                f"{n_priors} priors",
                got=f"{blob.span(1)}, shape {blob}",
                hint="compare num_output of the prediction layers with the boxes that their "
                "PriorBox layer makes at each position, and num_classes"
                + _DENSER
                * (blob.span(1) == 2 * n_priors * wanted),
                setting="bottom",
            )
    return classes, n_priors


def check_first_step(given: tuple[BlobType, ...], n: int, n_priors: int) -> None:
    """Refuse scores, and locations where they are given, of RefineDet's first step."""
    for blob, name, wanted in zip(given, ("scores", "locations"), (2, 4), strict=False):
        if blob.axes < 2 or (blob.shape[0], blob.span(1)) != (n, n_priors * wanted):
            raise Refusal(
                f"the {name} of the first step do not match the priors",
                expected=f"shape ({n}, {n_priors * wanted}): {wanted} for each of "
                f"{n_priors} priors",
                got=f"shape {blob}",
                setting="bottom",
            )


def split_priors(xp: ArrayNamespace, bottom: Array, code: CodeType) -> tuple[Array, Array]:
    """Return the priors and their variances, each (priors, 4)."""
    boxes, variances = bottom.reshape(2, -1, 4)
    if code is not CodeType.CORNER:
        empty = (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
        if bool(empty.any()):
            index = int(xp.argmax(empty))
            corners = ", ".join(f"{float(v):g}" for v in boxes[index])
            raise Refusal(
                f"{int(empty.sum())} of {len(boxes)} priors have no area",
                expected=f"xmin < xmax and ymin < ymax, in which code_type {code.name} measures",
                got=f"prior {index}: {corners}",
                hint="clip leaves nothing of a prior outside the image: compare the sizes and "
                "steps of PriorBox with the image",
            )
    return boxes, variances


def with_content(xp: ArrayNamespace, rows: Array) -> Array:
    """Return the rows of objects or detections that are some."""
    # An input that nobody has set holds zeros.
    return rows[(xp.trunc(rows[:, 0]) != -1) & (rows != 0).any(axis=1)]


def check_classes(
    xp: ArrayNamespace, labels: Array, classes: int, background: int, what: str
) -> None:
    """Refuse a class (a truncated number) that is the background's or that there is not."""
    wrong = ~((labels >= 0) & (labels < classes)) | (labels == background)
    if bool(wrong.any()):
        value = float(labels[int(xp.argmax(wrong))])
        others = int(wrong.sum()) - 1
        raise Refusal(
            f"{what} has class {value:g}" + (", the background's" if value == background else ""),
            expected=f"a class of 0..{classes - 1} other than {background}, the background",
            got=f"class {value:g}" + (f", and {others} more like it" if others else ""),
            hint="check the label map that the data was made with, and num_classes",
            setting="bottom",
        )


# Where a prior has x and y of the four corners that its polygon has.
_POLYGON = (0, 1, 2, 1, 2, 3, 0, 3)


@layer("DetectionOutput", "detection_output_param")
@dataclass(frozen=True)
class DetectionOutput(Layer):
    """Objects from predictions: boxes are decoded, and of those that overlap the best is kept.

    For each image and each class but the background: the boxes with a score above
    `confidence_threshold`, of these the `nms_param.top_k` best, of these the ones that non-maximum
    suppression leaves; then, if `keep_top_k` is not negative, the best of all classes together.
    Locations are four numbers for each prior, or with `share_location: false` for each class of
    each prior; `code_type` says how they tell a box, and they are multiplied with the variances of
    the priors unless `variance_encoded_in_target`.

    With five bottoms, or `objectness_score`, the detector is RefineDet's, of two steps. The fourth
    bottom holds the scores of the first, (N, 2 * priors): nothing and object. Where that of an
    object is below `objectness_score`, 0.01 unless set, the second step counts as sure that it is
    class 0. The fifth, (N, 4 * priors), moves the priors before the locations move them again.

    Shapes: locations (N, 4 * priors), confidences (N, classes * priors), priors (1, 2, 4 * priors),
    if wanted the images, or the two of the first step -> top (1, 1, R, 7): image, class, score,
    xmin, ymin, xmax, ymax in the order of image, class and falling score. R is the number of
    objects; with none there is one row for each image, with -1 for all but its number. In an
    exported net R is the largest number there can be, N * keep_top_k as a rule, and rows that are
    left over hold -1. Equal scores: the lower class and prior come first.

    With `use_polygon` a location has eight numbers more, which move the corners of the prior: left
    and right of the upper side, right and left of the lower one. The top is (1, 1, R, 15), with
    x and y of these four behind the box, which alone tells what overlaps.

    `save_output_param` and `visualize`, by which the fork writes files and opens windows, do
    nothing here, nor does the fourth bottom, where it is the images to draw on.

    Source: SSD's fork of Caffe (Liu et al., ECCV 2016); two steps: Zhang et al., "Single-shot
    refinement neural network for object detection", CVPR 2018, and their fork; polygons: Liao et
    al., "TextBoxes++", 2018, and theirs.
    """

    num_classes: int | None = None
    share_location: bool = True
    background_label_id: int = 0
    nms_param: NmsParam = field(default_factory=NmsParam)
    save_output_param: SaveOutputParam | None = None
    code_type: CodeType = CodeType.CORNER
    variance_encoded_in_target: bool = False
    keep_top_k: int = -1
    confidence_threshold: float | None = None
    visualize: bool = False
    visualize_threshold: float | None = None
    save_file: str = ""
    objectness_score: float | None = None
    use_polygon: bool = False
    transform_param: ImageTransform | None = None

    bottoms: ClassVar[Arity] = between(3, 5)
    data_dependent: ClassVar[bool] = True
    pads: ClassVar[bool] = True

    def infer(self, *bottoms: BlobType) -> Signature:
        classes, n_priors = check_predictions(
            bottoms,
            self.num_classes,
            self.share_location,
            "detection_output_param",
            self._numbers,
        )
        self.nms_param.check()
        self._check_polygons(len(bottoms))
        if not self._selection.labels:
            raise Refusal(
                "there is no class but the background",
                expected="num_classes > 1, or background_label_id: -1",
                got=f"num_classes {classes}, background_label_id {self.background_label_id}",
                setting="num_classes",
            )
        if self.keep_top_k == 0:
            raise Refusal(
                "keep_top_k 0 keeps no box",
                expected="keep_top_k > 0, or -1 for all boxes",
                got="keep_top_k 0",
                setting="keep_top_k",
            )
        if self._has_steps(len(bottoms)):
            self._check_first_step(bottoms, n_priors)
        rows = bottoms[0].shape[0] * self._selection.per_image(n_priors)
        return Signature((BlobType((1, 1, rows, DETECTION - 4 + self._numbers)),))

    @property
    def _numbers(self) -> int:
        """How many numbers a location has, and a box with its polygon."""
        return 4 + len(_POLYGON) if self.use_polygon else 4

    def _check_polygons(self, n_bottoms: int) -> None:
        suits = self.code_type is CodeType.CENTER_SIZE and not self.variance_encoded_in_target
        if self.use_polygon and (not suits or self._has_steps(n_bottoms)):
            raise Refusal(
                "polygons are told in one way only",
                expected="code_type: CENTER_SIZE, variance_encoded_in_target: false, and one step",
                got=f"code_type {self.code_type.name}, variance_encoded_in_target "
                f"{str(self.variance_encoded_in_target).lower()}, {n_bottoms} bottoms",
                setting="use_polygon",
            )

    def _has_steps(self, n_bottoms: int) -> bool:
        return n_bottoms > 4 or self.objectness_score is not None

    @property
    def _least_object(self) -> float:
        return LEAST_OBJECT if self.objectness_score is None else self.objectness_score

    def _check_first_step(self, bottoms: tuple[BlobType, ...], n_priors: int) -> None:
        if len(bottoms) < 4:
            raise Refusal(
                "objectness_score needs the scores of a first step",
                expected="4 or 5 bottoms, the fourth of shape (N, 2 * priors)",
                got=f"{len(bottoms)} bottoms",
                setting="objectness_score",
            )
        check_first_step(bottoms[3:], bottoms[0].shape[0], n_priors)
        if len(bottoms) > 4 and not self.share_location:
            raise Refusal(
                "the first step moves the priors for all classes alike",
                expected="share_location: true, with five bottoms",
                got="share_location: false",
                setting="share_location",
            )

    @property
    def _selection(self) -> Selection:
        labels = range(self.num_classes or 1)
        threshold = self.confidence_threshold
        return Selection(
            self.nms_param,
            tuple(label for label in labels if label != self.background_label_id),
            -FLT_MAX if threshold is None else threshold,
            self.keep_top_k,
        )

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (location, confidence) = call.xp, call.bottoms[:2]
        priors, variances = split_priors(xp, call.bottoms[2], self.code_type)
        n, n_priors, classes = len(location), len(priors), self.num_classes or 1
        labels = xp.asarray(self._selection.labels)
        per_prior = 1 if self.share_location else classes
        priors = priors[:, None]
        if len(call.bottoms) > 4:
            moves = call.bottoms[4].reshape(n, n_priors, 1, 4)
            priors = self._decoded(xp, moves, priors, variances)
        numbers = location.reshape(n, n_priors, per_prior, self._numbers)
        boxes = self._decoded(xp, numbers[..., :4], priors, variances)
        if self.use_polygon:
            sizes = (priors[..., 2:] - priors[..., :2]) * variances[:, None, :2]
            moves = numbers[..., 4:] * xp.concatenate([sizes] * 4, axis=-1)
            boxes = xp.concatenate([boxes, moves + priors[..., list(_POLYGON)]], axis=-1)
        boxes = boxes.swapaxes(1, 2)
        if not self.share_location:
            boxes = boxes[:, labels]
        scores = confidence.reshape(n, n_priors, classes)
        if self._has_steps(len(call.bottoms)):
            objects = call.bottoms[3].reshape(n, n_priors, 2)[:, :, 1:]
            scores = xp.where(objects < self._least_object, xp.arange(classes) == 0, scores)
        scores = scores[:, :, labels].transpose(0, 2, 1)
        return (self._selection.detections(call, boxes, scores),)

    def _decoded(
        self, xp: ArrayNamespace, numbers: Array, priors: Array, variances: Array
    ) -> Array:
        """Return the boxes (N, priors, 1 or classes, 4)."""
        if not self.variance_encoded_in_target:
            numbers = numbers * variances[:, None]
        return decode(xp, numbers, priors, self.code_type)

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False,) * n_bottoms

    def whole_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False,) * n_bottoms

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        selection = self._selection
        selection.lower_check(g)
        n, classes = bottoms[0].shape[0], self.num_classes or 1
        n_priors = BlobType(bottoms[2].shape).span(2) // 4
        # The k best of each class, sorted: all that follows counts in these.
        scores = g.reshape(bottoms[1], (n, n_priors, classes))
        if self._has_steps(len(bottoms)):
            step = g.reshape(bottoms[3], (n, n_priors, 2))
            objects = g.op("Gather", step, g.constant([1], "int64"), axis=2)
            nothing = g.constant([[[float(label == 0) for label in range(classes)]]])
            below = g.op("Less", objects, g.constant(self._least_object))
            scores = g.op("Where", below, nothing, scores)
        scores = g.op("Transpose", scores, perm=[0, 2, 1])
        scores = g.op("Gather", scores, g.constant(list(selection.labels), "int64"), axis=1)
        scores, order = selection.lower_order(g, scores)
        boxes = self._lower_sorted(g, bottoms, order, list(selection.labels))
        ordered = self.code_type is CodeType.CENTER_SIZE
        return (selection.lower(g, boxes, scores, ordered=ordered),)

    def _lower_sorted(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], order: Value, labels: list[int]
    ) -> Value:
        """Return the decoded boxes (N, classes, k, 4 or 12) in the order of their scores."""
        (n, count, k), width = order.shape, self._numbers
        n_priors = BlobType(bottoms[2].shape).span(2) // 4
        per_prior = BlobType(bottoms[0].shape).span(1) // (width * n_priors)
        numbers = g.reshape(bottoms[0], (n, n_priors, per_prior, width))
        table = g.reshape(bottoms[2], (2, n_priors, 1, 4))
        priors, variances = (
            g.op("Gather", table, g.constant(part, "int64"), axis=0) for part in (0, 1)
        )
        if len(bottoms) > 4:
            moves = g.reshape(bottoms[4], (n, n_priors, 1, 4))
            priors = self._lower_decoded(g, moves, priors, variances)
        if self.use_polygon:
            boxes = self._lower_polygons(g, numbers, priors, variances)
        else:
            boxes = self._lower_decoded(g, numbers, priors, variances)
        if self.share_location:
            boxes = g.reshape(boxes, (n, n_priors, width))
            found = g.op("GatherND", boxes, g.reshape(order, (n, count * k, 1)), batch_dims=1)
            return g.reshape(found, (n, count, k, width))
        boxes = g.op("Transpose", boxes, perm=[0, 2, 1, 3])
        boxes = g.op("Gather", boxes, g.constant(labels, "int64"), axis=1)
        sorted_boxes: Value = g.op(
            "GatherND", boxes, g.reshape(order, (n, count, k, 1)), batch_dims=2
        )
        return sorted_boxes

    def _lower_decoded(
        self, g: OnnxBuilder, numbers: Value, priors: Value, variances: Value
    ) -> Value:
        if not self.variance_encoded_in_target:
            numbers = g.op("Mul", numbers, variances)
        return lower_decode(g, numbers, priors, self.code_type)

    def _lower_polygons(
        self, g: OnnxBuilder, numbers: Value, priors: Value, variances: Value
    ) -> Value:
        """Return boxes with their polygons (N, priors, 1 or classes, 12)."""

        def part(x: Value, *places: int) -> Value:
            found: Value = g.op("Gather", x, g.constant(places, "int64"), axis=len(x.shape) - 1)
            return found

        boxes = self._lower_decoded(g, part(numbers, 0, 1, 2, 3), priors, variances)
        sizes = g.op("Sub", part(priors, 2, 3), part(priors, 0, 1))
        sizes = g.op("Mul", sizes, part(variances, 0, 1))
        moves = g.op("Mul", part(numbers, *range(4, 12)), part(sizes, *(0, 1) * 4))
        corners = g.op("Add", moves, part(priors, *_POLYGON))
        polygons: Value = g.op("Concat", boxes, corners, axis=3)
        return polygons

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return 2 * bottoms[0].count
