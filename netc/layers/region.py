"""The training of YOLO, versions 2 and 3, and its evaluation: predicted boxes against true ones.

Maps predict `num` boxes at each position, as in the types of YOLO: x, y, w, h, the logit of "an
object", and one of each class.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields

from netc.layers.annotated import OBJECT
from netc.layers.boxes import overlap, suppress
from netc.layers.grid import BoxEvaluation, ScoreType, YoloGridEvaluate
from netc.layers.losses import SCALAR, Loss
from netc.layers.registry import layer
from netc.layers.roi import check_maps
from netc.layers.softmax import softmax
from netc.layers.types import (
    Array,
    ArrayNamespace,
    BackwardCall,
    BlobType,
    ForwardCall,
    Gradients,
    KeptType,
    Layer,
    OnnxBuilder,
    Part,
    Reads,
    Refusal,
    Signature,
    Value,
)
from netc.layers.yolo import FIXED

# A box of an image's own list: class from 0 on, x and y of its centre, width, height.
LISTED = 5

# EvalDetection drops what it is less sure of once it suppresses, as Darknet does.
LEAST_SCORE = 0.005


@dataclass(frozen=True)
class BoxMaps:
    """The settings that say what the maps of a bottom hold: `boxes` for each position.

    `biases` are the sizes of the anchors in positions, a width and a height for each box.
    """

    boxes: int
    classes: int
    biases: tuple[float, ...]

    def check(self, maps: BlobType, boxes: str, classes: str) -> None:
        """Refuse maps that do not fit; `boxes` and `classes` are the settings' names."""
        check_maps(maps, "the maps, bottom 0,")
        for name, value in ((boxes, self.boxes), (classes, self.classes)):
            if value <= 0:
                raise Refusal(
                    f"{name} is not positive", expected=f"{name} > 0", got=value, setting=name
                )
        channels = self.boxes * (FIXED + self.classes)
        if maps.shape[1] != channels:
            raise Refusal(
                "the maps do not fit the boxes",
                expected=f"{channels} channels: {boxes} {self.boxes} * ({FIXED} + {classes} "
                f"{self.classes})",
                got=f"bottom 0 of shape {maps}",
                setting=boxes,
            )
        if len(self.biases) != 2 * self.boxes or min(self.biases) <= 0:
            raise Refusal(
                "the biases do not fit the boxes",
                expected=f"{2 * self.boxes} biases above 0: width and height for each of {boxes} "
                f"{self.boxes}",
                got=f"{len(self.biases)} biases"
                + (f", from {min(self.biases):g}" if self.biases else ""),
                setting="biases",
            )

    def split(self, xp: ArrayNamespace, maps: Array) -> tuple[Array, Array, Array, Array]:
        """Return raw values (N, A, 4, H, W), object logits (N, A, H, W), class logits, anchors.

        The class logits are (N, A, K, H, W), the anchors (A, 2).
        """
        n, _, h, w = maps.shape
        values = maps.reshape(n, self.boxes, FIXED + self.classes, h, w)
        anchors = xp.asarray(self.biases, dtype=maps.dtype).reshape(self.boxes, 2)
        return values[:, :, :4], values[:, :, 4], values[:, :, FIXED:], anchors

    @staticmethod
    def corners(xp: ArrayNamespace, raw: Array, anchors: Array) -> Array:
        """Return the boxes (N, A, H, W, 4) that raw values (N, A, 4, H, W) tell, as corners.

        In fractions of the image.
        """
        h, w = raw.shape[3:]
        column, row = xp.arange(w).astype(raw.dtype), xp.arange(h).astype(raw.dtype)[:, None]
        x = (column + _sigmoid(xp, raw[:, :, 0])) / w
        y = (row + _sigmoid(xp, raw[:, :, 1])) / h
        half_w = xp.exp(raw[:, :, 2]) * anchors[:, 0, None, None] / (2 * w)
        half_h = xp.exp(raw[:, :, 3]) * anchors[:, 1, None, None] / (2 * h)
        return xp.stack((x - half_w, y - half_h, x + half_w, y + half_h), axis=-1)


def _sigmoid(xp: ArrayNamespace, x: Array) -> Array:
    return (xp.tanh(x / 2) + 1) / 2


def _check_objects(objects: BlobType, images: int) -> None:
    """Refuse a bottom 1 that holds neither the objects of all images nor a list for each."""
    table = objects.axes == 4 and objects.shape[:2] == (1, 1) and objects.shape[3] == OBJECT
    listed = objects.axes > 1 and objects.shape[0] == images and objects.span(1) % LISTED == 0
    if not (table or listed):
        raise Refusal(
            "bottom 1 does not hold objects",
            expected=f"shape (1, 1, G, {OBJECT}), as AnnotatedData gives them, or ({images}, ...) "
            f"with {LISTED} values for each object of an image",
            got=f"shape {objects}",
            setting="bottom",
        )


def _objects_of(xp: ArrayNamespace, blob: Array, images: int, classes: int) -> list[Array]:
    """Return for each image its objects (G, 5): class from 0 on, centre, width, height.

    Refuses a class or an image that there is not.
    """
    if blob.ndim == 4 and blob.shape[:2] == (1, 1) and blob.shape[3] == OBJECT:
        rows = blob.reshape(-1, OBJECT)
        # An input that nobody has set holds zeros.
        rows = rows[(xp.trunc(rows[:, 0]) != -1) & (rows != 0).any(axis=1)]
        image, low, high = xp.trunc(rows[:, 0]), rows[:, 3:5], rows[:, 5:7]
        label = xp.trunc(rows[:, 1]) - 1
        found = xp.concatenate((label[:, None], (low + high) / 2, high - low), axis=1)
        _check_range(xp, image, images, "an object names an image", "an image of the batch", 0)
        _check_range(xp, label, classes, "an object has a class", "a class", 1)
        return [found[image == index] for index in range(images)]
    lists = blob.reshape(images, BlobType(blob.shape).span(1) // LISTED, LISTED)
    found = []
    for rows in lists:
        ended = (rows[:, 1:] == 0)[:, [0, 2]].any(axis=1)
        count = int(xp.argmax(ended)) if bool(ended.any()) else len(rows)
        _check_range(xp, xp.trunc(rows[:count, 0]), classes, "an object has a class", "a class", 0)
        found.append(rows[:count])
    return found


def _check_range(
    xp: ArrayNamespace, values: Array, count: int, what: str, of_what: str, first: int
) -> None:
    """Refuse numbers outside 0..count-1; the text counts them from `first` on."""
    wrong = ~((values >= 0) & (values < count))
    if bool(wrong.any()):
        value = float(values[int(xp.argmax(wrong))]) + first
        raise Refusal(
            f"{what} that there is not",
            expected=f"{of_what}: {first}..{count - 1 + first}",
            got=f"{value:g}",
            setting="bottom",
        )


@dataclass(frozen=True)
class BoxLoss(Loss):
    """Base of the losses of YOLO, which keep the slope of the objective by each map."""

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        (slope,) = call.kept
        return Gradients((slope * (call.top_diffs[0] / max(len(slope), 1)), None))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        raise g.refuse(
            "the matching of boxes and objects has no ONNX form",
            hint="export the maps: the bottom of this layer",
        )

    def deployed(self) -> Layer | None:
        return None

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return 2 * bottoms[0].count

    @staticmethod
    def _shaped(maps: BlobType, objects: BlobType) -> Signature:
        """Return the signature for maps and objects; refuse maps without positions."""
        if 0 in maps.shape[2:]:
            raise Refusal(
                "the maps have no positions",
                expected="height and width above 0",
                got=f"bottom 0 of shape {maps}",
                setting="bottom",
            )
        _check_objects(objects, maps.shape[0])
        return Signature((SCALAR,), kept=(KeptType("slope", maps.shape),))


def _corners_of(xp: ArrayNamespace, wanted: Array) -> Array:
    """Return objects (G, 5) as corners (G, 4), in fractions of the image."""
    centre, half = wanted[:, 1:3], wanted[:, 3:] / 2
    return xp.concatenate((centre - half, centre + half), axis=1)


def _likeness(xp: ArrayNamespace, sizes: Array, size: Array) -> Array:
    """Return how much boxes of some sizes (A, 2) overlap one of a size (2,) at the same place."""
    common = xp.minimum(sizes, size).prod(axis=1)
    return common / (sizes.prod(axis=1) + size.prod() - common)


@layer("RegionLoss", "region_loss_param")
@dataclass(frozen=True)
class RegionLoss(BoxLoss):
    """What YOLO version 2 minimises: places and sizes of boxes, "an object" or none, and classes.

    Each object is learned by one box: of those at the position of its centre, the one whose anchor
    (without `bias_match`: whose predicted size) overlaps it most when both lie at one place.
    With p = sigmoid(t) of a logit t, the box of an object costs coord_scale / 2 times the squares
    of p_x - x, p_y - y within the position and of t_w - log(w / w_anchor), t_h - log(h / h_anchor)
    (without `rescore` times 2 - w h besides), and object_scale / 2 (p_object - o)^2, where o, its
    overlap with the object, counts as given (without `rescore` it is 1), and class_scale times -log
    of the softmax of the object's class. Each other box that overlaps no object by more than
    `thresh` costs noobject_scale / 2 p_object^2.

    Gradients are those of the sum of all costs over N. The top, as in the forks, is another number:
    the sum of the squares of those slopes, over N.

    Shapes: maps (N, num (5 + num_class), H, W), and objects, either (1, 1, G, 8) as AnnotatedData
    gives them, with classes from 1 on, or (N, ...) with class from 0 on, x, y, w, h for each, of
    which the first without a place or width ends the list -> loss (). `side`, `jitter`,
    `absolute` and `random` change nothing.

    ONNX: none, the matching is a loop over objects; the deployed net ends with the maps.

    Source: J. Redmon, A. Farhadi, "YOLO9000", CVPR 2017; the layer of MobileNet-YOLO, whose maps
    are squares. IntelCaffe limits the slopes of places and sizes to 1 and has (1 - p_object)^4 / 2
    for an object; it divides the gradient by N, but not the top.
    """

    num_class: int = 20
    num: int = 5
    coords: int = 4
    softmax: int = 1
    bias_match: int = 1
    rescore: int = 1
    object_scale: float = 1.0
    class_scale: float = 1.0
    noobject_scale: float = 0.5
    coord_scale: float = 5.0
    thresh: float = 0.2
    biases: tuple[float, ...] = ()
    side: int = 13
    jitter: float = 0.2
    absolute: int = 1
    random: int = 1

    def infer(self, *bottoms: BlobType) -> Signature:
        maps, objects = bottoms
        self._maps.check(maps, "num", "num_class")
        for name, value, wanted in (("coords", self.coords, 4), ("softmax", self.softmax, 1)):
            if value != wanted:
                raise Refusal(
                    f"{name} has one value only",
                    expected=f"{name}: {wanted}",
                    got=f"{name}: {value}",
                    setting=name,
                )
        return self._shaped(maps, objects)

    @property
    def _maps(self) -> BoxMaps:
        return BoxMaps(self.num, self.num_class, self.biases)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (maps, blob) = call.xp, call.bottoms
        n, _, h, w = maps.shape
        raw, logits, class_logits, anchors = self._maps.split(xp, maps)
        boxes = self._maps.corners(xp, raw, anchors)
        places, objects = _sigmoid(xp, raw[:, :, :2]), _sigmoid(xp, logits)
        shares = softmax(xp, class_logits, 2, xp.empty_like(class_logits))
        slopes = xp.zeros((n, self.num, FIXED + self.num_class, h, w), dtype=maps.dtype)
        slopes[:, :, 4] = self.noobject_scale * objects * objects * (1 - objects)
        for image, wanted in enumerate(_objects_of(xp, blob, n, self.num_class)):
            if not len(wanted):
                continue
            centre = wanted[:, 1:3]
            overlaps = overlap(xp, boxes[image][..., None, :], _corners_of(xp, wanted))
            slopes[image, :, 4][overlaps.max(axis=-1) > self.thresh] = 0
            columns = xp.clip(centre[:, 0] * w, 0, w - 1).astype(int).tolist()
            rows = xp.clip(centre[:, 1] * h, 0, h - 1).astype(int).tolist()
            labels = wanted[:, 0].astype(int).tolist()
            # In turn: of two objects at one box, the last counts.
            for index, (i, j, label) in enumerate(zip(columns, rows, labels, strict=True)):
                size = wanted[index, 3:] * xp.asarray((w, h), dtype=maps.dtype)
                a = self._best_anchor(xp, raw[image, :, 2:4, j, i], anchors, size)
                place = centre[index] * xp.asarray((w, h), dtype=maps.dtype)
                place = place - xp.asarray((i, j), dtype=maps.dtype)
                at, p = places[image, a, :, j, i], objects[image, a, j, i]
                scale = self.coord_scale
                if not self.rescore:
                    scale = scale * (2 - wanted[index, 3] * wanted[index, 4])
                slope = slopes[image, a, :, j, i]
                slope[:2] = scale * (at - place) * at * (1 - at)
                slope[2:4] = scale * (raw[image, a, 2:4, j, i] - xp.log(size / anchors[a]))
                goal = overlaps[a, j, i, index] if self.rescore else 1
                slope[4] = self.object_scale * (p - goal) * p * (1 - p)
                share = shares[image, a, :, j, i]
                slope[FIXED:] = self.class_scale * share
                slope[FIXED + label] = self.class_scale * (share[label] - 1)
        slopes = slopes.reshape(maps.shape)
        call.kept[0][...] = slopes
        flat = slopes.reshape(-1)
        return (flat @ flat / max(n, 1),)

    def _best_anchor(self, xp: ArrayNamespace, raw: Array, anchors: Array, size: Array) -> int:
        """Return which box learns an object of some size (in positions), of raw sizes (A, 2)."""
        sizes = anchors if self.bias_match else xp.exp(raw) * anchors
        return int(xp.argmax(_likeness(xp, sizes, size)))


class IouLoss(enum.Enum):
    """How Yolov3 compares boxes: by squares (MSE), or by a form of their overlap."""

    IOU = 0
    GIOU = 1
    MSE = 2
    DIOU = 3
    CIOU = 4


@layer("Yolov3", "yolov3_param")
@dataclass(frozen=True)
class Yolov3(BoxLoss):
    """What YOLO version 3 minimises: places and sizes of boxes, "an object" or none, and classes.

    `biases` are the sizes of all anchors in pixels, of which `mask` names those of these maps; a
    position is `anchors_scale` pixels wide. Each object is learned at the position of its centre by
    the anchor whose size is most like its own (by overlap at one place), if that is one of the
    mask, and by every other one of the mask whose overlap is above `iou_thresh`. With p =
    sigmoid(t) of a logit t, the slopes are

    - coord_scale (2 - w h) times p_x - x, p_y - y within the position and t_w - log(w / w_anchor),
      t_h - log(h / h_anchor);
    - p_object - 1, with `use_logic_gradient` times `object_scale`;
    - class_scale (p - y) for each class, y = 1 - e / 2 for the object's and e / 2 for the others,
      e = `label_smooth_eps`; an object that comes to a box that learns already adds its class;
    - p_object for all other boxes that overlap no object by more than `thresh`.

    The top, as in the fork, is the sum of their squares divided by N; the gradient is the slopes
    divided by N, which are those of cross entropies; with `use_logic_gradient` all but those of t_w
    and t_h times p (1 - p).

    Shapes: maps (N, num (5 + num_class), H, W), and objects, as RegionLoss takes them: (N, 1, 300,
    5) of AnnotatedData with `yolo_data_type: 1`, say -> loss (). `side`, `noobject_scale`,
    `iou_normalizer`, `max_delta` and `accumulate` change nothing with `iou_loss: MSE`. The other
    forms of `iou_loss` and `use_focal_loss` are refused: no published net sets them.

    ONNX: none, the matching is a loop over objects; the deployed net ends with the maps.

    Source: J. Redmon, A. Farhadi, "YOLOv3", 2018; the layer of MobileNet-YOLO.
    """

    num_class: int = 20
    num: int = 5
    object_scale: float = 1.0
    class_scale: float = 1.0
    noobject_scale: float = 0.5
    coord_scale: float = 5.0
    thresh: float = 0.2
    anchors_scale: int = 32
    biases: tuple[float, ...] = ()
    mask: tuple[int, ...] = ()
    use_logic_gradient: bool = False
    use_focal_loss: bool = False
    iou_loss: IouLoss = IouLoss.MSE
    iou_normalizer: float = 0.25
    iou_thresh: float = 0.5
    max_delta: float = 10.0
    accumulate: bool = True
    label_smooth_eps: float = 0.1
    side: int = 13

    def infer(self, *bottoms: BlobType) -> Signature:
        maps, objects = bottoms
        n_anchors = len(self.biases) // 2
        if len(self.biases) % 2 or not n_anchors or min(self.biases) <= 0:
            raise Refusal(
                "the biases are no sizes of anchors",
                expected="a width and a height above 0 for each anchor",
                got=f"{len(self.biases)} biases",
                setting="biases",
            )
        if len(self.mask) != self.num or any(m >= n_anchors for m in self.mask):
            raise Refusal(
                "mask does not name an anchor for each box",
                expected=f"{self.num} mask below {n_anchors}, the number of anchors",
                got=", ".join(map(str, self.mask)) or "none",
                setting="mask",
            )
        if self.anchors_scale <= 0:
            raise Refusal(
                "anchors_scale is not positive",
                expected="anchors_scale > 0, in pixels for each position",
                got=self.anchors_scale,
                setting="anchors_scale",
            )
        for name, value, wanted in (
            ("iou_loss", self.iou_loss, IouLoss.MSE),
            ("use_focal_loss", self.use_focal_loss, False),
        ):
            if value != wanted:
                raise Refusal(
                    f"netc computes Yolov3 with one {name} only",
                    expected=f"{name}: {'MSE' if wanted else 'false'}",
                    got=getattr(value, "name", "true"),
                    setting=name,
                )
        self._maps.check(maps, "num", "num_class")
        return self._shaped(maps, objects)

    @property
    def _maps(self) -> BoxMaps:
        scale = self.anchors_scale
        chosen = (b / scale for m in self.mask for b in self.biases[2 * m : 2 * m + 2])
        return BoxMaps(self.num, self.num_class, tuple(chosen))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (maps, blob) = call.xp, call.bottoms
        n, _, h, w = maps.shape
        raw, logits, class_logits, anchors = self._maps.split(xp, maps)
        boxes = self._maps.corners(xp, raw, anchors)
        values = xp.concatenate((raw, logits[:, :, None], class_logits), axis=2)
        shares = _sigmoid(xp, values)
        shares[:, :, 2:4] = values[:, :, 2:4]
        slopes = xp.zeros_like(shares)
        slopes[:, :, 4] = shares[:, :, 4]
        learns = xp.zeros((n, self.num, h, w), bool)
        every = xp.asarray(self.biases, dtype=maps.dtype).reshape(-1, 2) / self.anchors_scale
        for image, wanted in enumerate(_objects_of(xp, blob, n, self.num_class)):
            if not len(wanted):
                continue
            overlaps = overlap(xp, boxes[image][..., None, :], _corners_of(xp, wanted))
            slopes[image, :, 4][overlaps.max(axis=-1) > self.thresh] = 0
            for row in wanted:
                size = row[3:] * xp.asarray((w, h), dtype=maps.dtype)
                place = row[1:3] * xp.asarray((w, h), dtype=maps.dtype)
                i, j = (min(max(int(p), 0), e - 1) for p, e in zip(place, (w, h), strict=True))
                goal = xp.concatenate((place - xp.asarray((i, j), dtype=maps.dtype), size))
                for a in self._learners(xp, every, size):
                    at = (image, a, slice(None), j, i)
                    goal[2:] = xp.log(size / anchors[a])
                    scale = self.coord_scale * (2 - row[3] * row[4])
                    slopes[at][:4] = scale * (shares[at][:4] - goal)
                    slopes[at][4] = self._object_scale * (shares[at][4] - 1)
                    self._learn_class(slopes[at], shares[at], int(row[0]), learns[image, a, j, i])
                    learns[image, a, j, i] = True
        flat = slopes.reshape(-1)
        top = flat @ flat / max(n, 1)
        if self.use_logic_gradient:
            curved = shares * (1 - shares)
            curved[:, :, 2:4] = 1
            slopes = slopes * curved
        call.kept[0][...] = slopes.reshape(maps.shape)
        return (top,)

    @property
    def _object_scale(self) -> float:
        return self.object_scale if self.use_logic_gradient else 1.0

    def _learners(self, xp: ArrayNamespace, anchors: Array, size: Array) -> list[int]:
        """Return which boxes of these maps learn an object of some size, in positions."""
        likeness = _likeness(xp, anchors, size)
        best = int(xp.argmax(likeness))
        return [
            a
            for a, m in enumerate(self.mask)
            if m == best or (self.iou_thresh < 1 and float(likeness[m]) > self.iou_thresh)
        ]

    def _learn_class(self, slope: Array, share: Array, label: int, again: bool) -> None:
        """Set the slopes of the classes of one box; `again`: that of its other object's stays."""
        half = self.label_smooth_eps / 2
        if not again:
            slope[FIXED:] = self.class_scale * (share[FIXED:] - half)
        slope[FIXED + label] = self.class_scale * (share[FIXED + label] - (1 - half))


@layer("EvalDetection", "eval_detection_param")
@dataclass(frozen=True)
class EvalDetection(BoxEvaluation):
    """Which boxes of YOLO version 2 are right, and how many objects there are.

    The boxes of an image have the class with the largest softmax and the score of `score_type`.
    With `nms` of 0 or more, each that overlaps a better one, of any class, by `nms` or more goes,
    and those with a score below 0.005 too. Then the boxes of a class, the best first, each look at
    the object of that class which they overlap most: if by `threshold` or more, the first to come
    is right. All others are wrong.

    Shapes: maps (N, num_object (5 + num_class), side, side), objects (1, 1, G, 8) as AnnotatedData
    gives them, perhaps the images, which nobody looks at -> top (N, num_class + 4 R): for each
    image the number of objects of each class, then class from 0 on, score, right, wrong for each of
    R = num_object side^2 boxes, by class and falling score; rows that are left over hold 0. `sqrt`
    and `constriant` are of the first version of YOLO and change nothing.

    With labels (N, 7 side^2) as BoxData gives them the layer is that of YOLO's first version,
    YoloGridEvaluate.

    ONNX: none, it measures what a net outputs; the deployed net ends with the maps.

    Source: IntelCaffe; there a box that overlaps its object too little is neither right nor wrong,
    and without `nms` there are no boxes at all.
    """

    side: int = 7
    num_class: int = 20
    num_object: int = 2
    score_type: ScoreType = ScoreType.MULTIPLY
    nms: float = -1.0
    biases: tuple[float, ...] = ()
    sqrt: bool = True
    constriant: bool = True

    def expand(self, *bottoms: BlobType) -> tuple[Part, ...] | None:
        if len(bottoms) < 2 or bottoms[1].axes != 2:
            return None
        if self.biases:
            raise Refusal(
                "the first version of YOLO has no biases",
                expected="labels of shape (1, 1, G, 8), or no biases",
                got=f"labels of shape {bottoms[1]}, {len(self.biases)} biases",
                setting="biases",
            )
        names = [f.name for f in fields(YoloGridEvaluate)]
        judge = YoloGridEvaluate(**{name: getattr(self, name) for name in names})
        own = tuple(f"$b{index}" for index in range(len(bottoms)))
        return (Part("", judge, own, ("$t0",)),)

    def infer(self, *bottoms: BlobType) -> Signature:
        maps, objects = bottoms[:2]
        self._maps.check(maps, "num_object", "num_class")
        if maps.shape[2:] != (self.side, self.side) or self.side < 1:
            raise Refusal(
                "the maps are not of the size that side says",
                expected=f"height and width {self.side}, and not 0",
                got=f"bottom 0 of shape {maps}",
                setting="side",
            )
        _check_objects(objects, maps.shape[0])
        boxes = self.num_object * self.side**2
        return Signature((BlobType((maps.shape[0], self.num_class + 4 * boxes)),))

    @property
    def _maps(self) -> BoxMaps:
        return BoxMaps(self.num_object, self.num_class, self.biases)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (maps, blob) = call.xp, call.bottoms[:2]
        n = len(maps)
        raw, logits, class_logits, anchors = self._maps.split(xp, maps)
        count = self.num_object * self.side**2
        boxes = self._maps.corners(xp, raw, anchors).transpose(0, 2, 3, 1, 4).reshape(n, count, 4)
        shares = softmax(xp, class_logits, 2, xp.empty_like(class_logits))
        scores = {
            ScoreType.OBJ: _sigmoid(xp, logits),
            ScoreType.PROB: shares.max(axis=2),
            ScoreType.MULTIPLY: _sigmoid(xp, logits) * shares.max(axis=2),
        }[self.score_type]
        labels, scores = (
            each.transpose(0, 2, 3, 1).reshape(n, count) for each in (shares.argmax(axis=2), scores)
        )
        top = call.out[0]
        top[...] = 0
        for image, wanted in enumerate(_objects_of(xp, blob, n, self.num_class)):
            top[image, : self.num_class] = xp.bincount(
                wanted[:, 0].astype(int), minlength=self.num_class
            )
            order = self._kept(xp, boxes[image], scores[image])
            order = order[xp.argsort(labels[image, order], kind="stable")]
            classes = wanted[:, 0].astype(int)
            overlaps = overlap(xp, boxes[image, order][:, None], _corners_of(xp, wanted))
            rows = self.rows(
                xp,
                *(labels[image, order], scores[image, order], overlaps),
                *(classes, xp.zeros_like(classes)),
            )
            top[image, self.num_class : self.num_class + rows.size] = rows.reshape(-1)
        return (top,)

    def _kept(self, xp: ArrayNamespace, boxes: Array, scores: Array) -> Array:
        """Return the boxes of one image that count, best first."""
        order = xp.argsort(-scores, kind="stable")
        if self.nms < 0:
            return order
        everyone = xp.ones((1, len(order)), bool)
        # An overlap of just `nms` is too much here, but none at all is none.
        limit = max(float(xp.nextafter(xp.asarray(self.nms, boxes.dtype), -xp.inf)), 0.0)
        stays = suppress(xp, boxes[order][None], everyone, limit)[0]
        return order[stays & (scores[order] >= LEAST_SCORE)]
