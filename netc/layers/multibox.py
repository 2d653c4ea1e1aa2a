"""The loss of the single shot detector: which prior is which object, and what it should say."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from netc.layers.annotated import OBJECT
from netc.layers.boxes import CodeType, area, decode, encode, overlap, suppress
from netc.layers.labels import Normalization
from netc.layers.losses import FLT_MIN, SCALAR, Loss
from netc.layers.metric import FocalLoss
from netc.layers.registry import layer
from netc.layers.softmax import softmax
from netc.layers.ssd import (
    ALIKE,
    LEAST_OBJECT,
    check_classes,
    check_first_step,
    check_predictions,
    split_priors,
    with_content,
)
from netc.layers.suppression import NmsParam
from netc.layers.types import (
    Arity,
    Array,
    ArrayNamespace,
    BackwardCall,
    BlobType,
    ForwardCall,
    Gradients,
    KeptType,
    OnnxBuilder,
    Reads,
    Refusal,
    Signature,
    Value,
    between,
)

# A prior with a smaller area takes no part in the suppression of hard examples.
SMALLEST_AREA = 1e-5


class LocationLoss(enum.Enum):
    """How MultiBoxLoss measures a wrong location."""

    L2 = 0
    SMOOTH_L1 = 1


class ConfidenceLoss(enum.Enum):
    """How MultiBoxLoss measures a wrong confidence."""

    SOFTMAX = 0
    LOGISTIC = 1


class MatchType(enum.Enum):
    """Which priors an object gets: its best one only, or each that overlaps it enough, too."""

    BIPARTITE = 0
    PER_PREDICTION = 1


class MiningType(enum.Enum):
    """Which priors enter the loss.

    NONE: all. MAX_NEGATIVE: those with an object, and of the others the hardest, `neg_pos_ratio`
    times as many. HARD_EXAMPLE: the `sample_size` hardest.
    """

    NONE = 0
    MAX_NEGATIVE = 1
    HARD_EXAMPLE = 2


# What became of a prior in the matching, where no object was found for it.
NO_OBJECT, LEFT_OUT = -1, -2


@layer("MultiBoxLoss", "multibox_loss_param", "loss_param")
@dataclass(frozen=True)
class MultiBoxLoss(Loss):
    """(loc_weight * location loss + confidence loss) / M, over priors matched with objects.

    Matching, for each image: every object takes the prior (with `use_prior_for_matching: false`,
    the predicted box) that overlaps it most, the best pair first; then, PER_PREDICTION, each other
    prior takes the object that it overlaps most, if by at least `overlap_threshold`.
    `ignore_cross_boundary_bbox` leaves out the boxes that stick out of the image.

    Mining chooses the priors in the loss, see `MiningType`. Negatives overlap no object by
    `neg_overlap` or more, and the hardest are those with the largest loss; `nms_param` thins out
    those that overlap each other.

    Location loss: the sum over matched priors of SMOOTH_L1 or L2 of the four predicted numbers
    minus those that tell the object. Confidence loss: the sum over the chosen priors of the
    cross-entropy with the object's class, the background for negatives: SOFTMAX, or LOGISTIC for
    each class by itself. M is by `normalization` the number of matched priors (VALID, the default),
    of images (BATCH_SIZE), of all priors of all images (FULL) or 1, and at least 1. A loss whose
    `propagate_down` is false is left out.

    A fifth and a sixth bottom are the first step of RefineDet, whose second this loss trains:
    scores (N, 2 * priors), nothing and object, and locations (N, 4 * priors). No prior is a
    negative whose score of an object is below `objectness_score`, 0.01 unless set; the locations
    move the priors of each image. With `objectness_score` and two classes, of both steps, every
    object is class 1.

    Shapes: locations (N, 4 * priors), confidences (N, classes * priors), priors (1, 2, 4 * priors),
    objects (1, 1, G, 8), if wanted the first step -> loss (). Objects of image -1 do not exist,
    difficult ones only with `use_difficult_gt`. Gradients reach locations and confidences; with
    `encode_variance_in_target` that of the locations lacks the factor 1 / variance, as in the fork.
    With LOGISTIC and no mining the fork's labels are right for the first image only; here they are
    for all.

    ONNX: none, the matching is a loop over objects; the deployed net detects.

    Source: SSD's fork of Caffe (Liu et al., ECCV 2016); two steps: Zhang et al., CVPR 2018.
    """

    num_classes: int | None = None
    share_location: bool = True
    background_label_id: int = 0
    loc_loss_type: LocationLoss = LocationLoss.SMOOTH_L1
    conf_loss_type: ConfidenceLoss = ConfidenceLoss.SOFTMAX
    loc_weight: float = 1.0
    match_type: MatchType = MatchType.PER_PREDICTION
    overlap_threshold: float = 0.5
    use_prior_for_matching: bool = True
    use_difficult_gt: bool = True
    do_neg_mining: bool | None = None
    mining_type: MiningType = MiningType.MAX_NEGATIVE
    neg_pos_ratio: float = 3.0
    neg_overlap: float = 0.5
    sample_size: int = 64
    nms_param: NmsParam | None = None
    use_prior_for_nms: bool = False
    code_type: CodeType = CodeType.CORNER
    encode_variance_in_target: bool = False
    map_object_to_agnostic: bool = False
    ignore_cross_boundary_bbox: bool = False
    bp_inside: bool = False
    objectness_score: float | None = None
    normalization: Normalization | None = None
    normalize: bool | None = None
    propagate_down: tuple[bool, ...] = ()

    bottoms: ClassVar[Arity] = between(4, 6)

    def infer(self, *bottoms: BlobType) -> Signature:
        classes, n_priors = check_predictions(
            bottoms, self.num_classes, self.share_location, "multibox_loss_param"
        )
        self._check(classes)
        objects = bottoms[3]
        if not objects.axes or objects.shape[-1] != OBJECT:
            raise Refusal(
                "the fourth bottom does not hold objects",
                expected="shape (1, 1, objects, 8): image, class, instance, xmin, ymin, xmax, "
                "ymax, difficult",
                got=f"shape {objects}",
                setting="bottom",
            )
        n = bottoms[0].shape[0]
        if len(bottoms) > 4:
            check_first_step(bottoms[4:], n, n_priors)
            self._check_second_step(len(bottoms))
        kept = (
            KeptType("target", (n, n_priors), "int32"),
            KeptType("difference", (n, n_priors, bottoms[0].span(1) // n_priors)),
            KeptType("matched", (1,)),
        )
        return Signature((SCALAR,), kept=kept)

    def _check(self, classes: int) -> None:
        mines = self.mining_type is not MiningType.NONE
        if self.nms_param:
            self.nms_param.check()
        if self.do_neg_mining is not None and self.do_neg_mining != mines:
            raise Refusal(
                "do_neg_mining, the older setting, contradicts mining_type",
                expected=f"do_neg_mining: {str(mines).lower()} for mining_type "
                f"{self.mining_type.name}",
                got=f"do_neg_mining: {str(self.do_neg_mining).lower()}",
                hint="remove do_neg_mining",
                setting="do_neg_mining",
            )
        if mines and not self.share_location:
            raise Refusal(
                "mining needs locations that all classes share",
                expected="share_location: true, or mining_type: NONE",
                got=f"share_location: false, mining_type {self.mining_type.name}",
                setting="mining_type",
            )
        softmax_needs_it = self.conf_loss_type is ConfidenceLoss.SOFTMAX or mines
        if softmax_needs_it and not 0 <= self.background_label_id < classes:
            raise Refusal(
                "background_label_id is not one of the classes",
                expected=f"0 <= background_label_id < {classes}",
                got=f"background_label_id {self.background_label_id}",
                setting="background_label_id",
            )
        if self.map_object_to_agnostic and classes != 2:
            raise Refusal(
                "map_object_to_agnostic knows background and object only",
                expected="num_classes: 2",
                got=f"num_classes {classes}",
                setting="map_object_to_agnostic",
            )
        if self.mining_type is MiningType.HARD_EXAMPLE and self.sample_size <= 0:
            raise Refusal(
                "sample_size is not above 0",
                expected="sample_size > 0",
                got=f"sample_size {self.sample_size}",
                setting="sample_size",
            )

    def _check_second_step(self, n_bottoms: int) -> None:
        asked = {"mining_type": self.mining_type is MiningType.MAX_NEGATIVE}
        asked["nms_param"] = self.nms_param is None
        if n_bottoms > 5:
            asked["use_prior_for_matching"] = self.use_prior_for_matching
        for setting, right in asked.items():
            if not right:
                raise Refusal(
                    f"a second step with another {setting} is not defined",
                    expected="mining_type: MAX_NEGATIVE, no nms_param, and with six bottoms "
                    "use_prior_for_matching: true",
                    got=f"{n_bottoms} bottoms, and this {setting}",
                    setting=setting,
                )

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (True, True, *(False,) * (n_bottoms - 2))

    def whole_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return tuple(index == 3 for index in range(n_bottoms))

    def _divisor(self, call: ForwardCall | BackwardCall, matched: Array) -> Array | float:
        """Return M, at least 1."""
        n, n_priors = call.kept[0].shape
        mode = self.normalization
        if mode is None:
            by_batch = self.normalize is False
            mode = Normalization.BATCH_SIZE if by_batch else Normalization.VALID
        match mode:
            case Normalization.VALID:
                return call.xp.maximum(matched[0], 1)
            case Normalization.BATCH_SIZE:
                return float(max(n, 1))
            case Normalization.FULL:
                return float(max(n * n_priors, 1))
            case Normalization.NONE:
                return 1.0

    def _enters(self, index: int) -> bool:
        """Say whether the location loss (0) or the confidence loss (1) is part of the loss."""
        return self.propagate_down[index] if len(self.propagate_down) > index else True

    # -- forward -----------------------------------------------------------------------------------

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (target, difference, matched) = call.xp, call.kept
        location, confidence = call.bottoms[:2]
        priors, variances = split_priors(xp, call.bottoms[2], self.code_type)
        n, n_priors = target.shape
        location = location.reshape(n, n_priors, -1, 4)
        confidence = confidence.reshape(n, n_priors, -1)
        objects = self._objects(xp, call.bottoms[3], confidence.shape[2])
        # Without mining every prior is in the loss, with it only those that are chosen.
        mines = self.mining_type is not MiningType.NONE
        target[...] = LEFT_OUT if mines else self.background_label_id
        difference[...] = 0
        count = 0
        for image in range(n):
            own = objects[objects[:, 0] == image]
            if len(own):
                count += self._one_image(
                    xp,
                    location[image],
                    confidence[image],
                    self._moved(call, image, priors, variances),
                    own,
                    self._absent(call, image),
                    (target[image], difference[image].reshape(n_priors, -1, 4)),
                )
        matched[...] = count
        loss = xp.zeros((), dtype=confidence.dtype)
        if self._enters(0):
            loss = loss + self.loc_weight * self._location_costs(xp, difference).sum()
        if self._enters(1):
            chosen = target >= 0
            loss = loss + self._class_costs(xp, confidence[chosen], target[chosen]).sum()
        return (loss / self._divisor(call, matched),)

    def _moved(
        self, call: ForwardCall, image: int, priors: Array, variances: Array
    ) -> tuple[Array, Array]:
        """Return the priors of an image, where the first step moves them to, and variances."""
        if len(call.bottoms) < 6:
            return priors, variances
        moves = call.bottoms[5][image].reshape(-1, 4)
        return self._predicted(moves, (priors, variances), call.xp), variances

    def _absent(self, call: ForwardCall, image: int) -> Array | None:
        """Return at which priors the first step saw nothing."""
        if len(call.bottoms) < 5:
            return None
        least = LEAST_OBJECT if self.objectness_score is None else self.objectness_score
        return call.bottoms[4][image].reshape(-1, 2)[:, 1] < least

    def _objects(self, xp: ArrayNamespace, bottom: Array, classes: int) -> Array:
        """Return the rows of objects that count, their classes checked."""
        rows = with_content(xp, bottom.reshape(-1, OBJECT))
        labels = xp.trunc(rows[:, 1])
        if self.map_object_to_agnostic:
            rows = rows.copy()
            rows[:, 1] = labels = xp.where(
                labels == self.background_label_id, labels, self.background_label_id + 1
            )
        elif self.objectness_score is not None and classes == 2:
            rows = rows.copy()
            rows[:, 1] = labels = xp.minimum(labels, 1)
        check_classes(xp, labels, classes, self.background_label_id, "an object")
        return rows if self.use_difficult_gt else rows[rows[:, 7] == 0]

    def _one_image(
        self,
        xp: ArrayNamespace,
        location: Array,
        confidence: Array,
        priors: tuple[Array, Array],
        objects: Array,
        absent: Array | None,
        kept: tuple[Array, Array],
    ) -> int:
        """Fill targets and differences of an image; return how many priors have an object.

        Shapes: location (priors, locations, 4), confidence (priors, classes), priors and variances
        (priors, 4), objects (G, 8); kept: target (priors,), difference (priors, locations, 4).
        """
        target, difference = kept
        labels = xp.trunc(objects[:, 1]).astype("int32")
        index, overlaps = self._matches(xp, location, priors, objects, labels)
        if absent is not None:
            index = xp.where((index == NO_OBJECT) & absent[:, None], LEFT_OUT, index)
        found = self._differences(xp, location, priors, objects, index)
        if self.mining_type is not MiningType.NONE:
            index = index[:, 0]
            own = labels[xp.maximum(index, 0)]
            own = xp.where(index >= 0, own, self.background_label_id)
            costs = self._confidence_costs(xp, confidence, own)
            if self.mining_type is MiningType.HARD_EXAMPLE:
                costs = costs + self._location_costs(xp, found)[:, 0]
            chosen = self._mined(xp, costs, index, overlaps[:, 0], location[:, 0], priors)
            target[chosen & (index == NO_OBJECT)] = self.background_label_id
            if self.mining_type is MiningType.HARD_EXAMPLE:
                index = xp.where(chosen | (index < 0), index, NO_OBJECT)
                found = found * (index >= 0)[:, None, None]
            index = index[:, None]
        # Of several classes that a prior is matched for, the last one counts.
        for column in range(index.shape[1]):
            has_object = index[:, column] >= 0
            target[has_object] = labels[index[has_object, column]]
        difference[...] = found
        return int((index >= 0).sum())

    def _matches(
        self,
        xp: ArrayNamespace,
        location: Array,
        priors: tuple[Array, Array],
        objects: Array,
        labels: Array,
    ) -> tuple[Array, Array]:
        """Return the object of each prior for each location, and the largest overlaps.

        Both have shape (priors, locations); the object is an index, NO_OBJECT or LEFT_OUT.
        """
        n_locations = location.shape[1]
        boxes = objects[:, 3:7]
        if self.use_prior_for_matching:
            index, overlaps = self._match(xp, priors[0], boxes)
            index, overlaps = (xp.stack([a] * n_locations, axis=1) for a in (index, overlaps))
            if not self.share_location:
                # A match belongs to the locations of the object's class.
                belongs = labels[xp.maximum(index, 0)] == xp.arange(n_locations)
                index = xp.where((index >= 0) & ~belongs, NO_OBJECT, index)
                index[:, self.background_label_id : self.background_label_id + 1] = NO_OBJECT
            return index, overlaps
        found = []
        for place in range(n_locations):
            own = xp.arange(len(boxes))
            if not self.share_location:
                own = own[labels == place]
            index, overlaps = self._match(
                xp, self._predicted(location[:, place], priors, xp), boxes[own]
            )
            if len(own):
                index = xp.where(index >= 0, own[xp.maximum(index, 0)], index)
            found.append((index, overlaps))
        index, overlaps = (xp.stack(arrays, axis=1) for arrays in zip(*found, strict=True))
        return index, overlaps

    def _predicted(self, location: Array, priors: tuple[Array, Array], xp: ArrayNamespace) -> Array:
        """Return the boxes (priors, 4) that the locations tell."""
        boxes, variances = priors
        numbers = location if self.encode_variance_in_target else location * variances
        return decode(xp, numbers, boxes, self.code_type)

    def _match(self, xp: ArrayNamespace, boxes: Array, objects: Array) -> tuple[Array, Array]:
        """Return for each box (P, 4) the index of its object (G, 4), and its largest overlap."""
        index = xp.full((len(boxes),), NO_OBJECT, "int32")
        if not len(objects):
            return index, xp.zeros((len(boxes),), dtype=boxes.dtype)
        overlaps = overlap(xp, boxes[:, None], objects)
        overlaps = xp.where(overlaps > ALIKE, overlaps, 0)
        if self.ignore_cross_boundary_bbox:
            outside = ((boxes < 0) | (boxes > 1)).any(axis=1)
            index[outside] = LEFT_OUT
            overlaps[outside] = 0
        most = overlaps.max(axis=1)
        still = overlaps.copy()
        for _ in range(len(objects)):
            box, own = divmod(int(xp.argmax(still)), len(objects))
            if not still[box, own] > 0:
                break
            index[box] = own
            most[box] = overlaps[box, own]
            still[box] = 0
            still[:, own] = 0
        if self.match_type is MatchType.PER_PREDICTION:
            rest = (index == NO_OBJECT) & (most > 0) & (most >= self.overlap_threshold)
            index = xp.where(rest, overlaps.argmax(axis=1), index)
        return index, most

    def _differences(
        self,
        xp: ArrayNamespace,
        location: Array,
        priors: tuple[Array, Array],
        objects: Array,
        index: Array,
    ) -> Array:
        """Return predicted minus wanted numbers (priors, locations, 4), 0 without an object."""
        prior, place = xp.nonzero(index >= 0)
        boxes, variances = (values[prior] for values in priors)
        numbers = location[prior, place]
        wanted = encode(xp, objects[index[prior, place], 3:7], boxes, self.code_type)
        if self.encode_variance_in_target:
            apart = (numbers - wanted) / variances
        else:
            apart = numbers - wanted / variances
        if self.bp_inside:
            where = boxes
            if not self.use_prior_for_matching:
                where = self._predicted(numbers, (boxes, variances), xp)
            apart = xp.where((where < 0) | (where > 1), 0, apart)
        found = xp.zeros(location.shape, dtype=location.dtype)
        found[prior, place] = apart
        return found

    def _mined(
        self,
        xp: ArrayNamespace,
        costs: Array,
        index: Array,
        overlaps: Array,
        location: Array,
        priors: tuple[Array, Array],
    ) -> Array:
        """Return which priors (a bool for each) are chosen."""
        if self.mining_type is MiningType.MAX_NEGATIVE:
            eligible = (index == NO_OBJECT) & (overlaps < self.neg_overlap)
            count = int(int((index >= 0).sum()) * self.neg_pos_ratio)
        else:
            eligible = index == index
            count = self.sample_size
        places = xp.nonzero(eligible)[0]
        # The hardest first; of equal ones the first.
        places = places[xp.argsort(-costs[places], kind="stable")]
        if self.nms_param is not None and self.nms_param.nms_threshold > 0:
            places = places[: self.nms_param.looked_at(len(places))]
            boxes = priors[0] if self.use_prior_for_nms else self._predicted(location, priors, xp)
            boxes = boxes[places]
            stays = suppress(
                xp,
                boxes[None],
                (area(xp, boxes) >= SMALLEST_AREA)[None],
                self.nms_param.nms_threshold,
            )
            places = places[stays[0]]
        chosen = xp.zeros(index.shape, bool)
        chosen[places[:count]] = True
        return chosen

    # -- the two losses ----------------------------------------------------------------------------

    def _location_costs(self, xp: ArrayNamespace, apart: Array) -> Array:
        """Return what differences (..., 4) cost (...)."""
        squares = apart * apart / 2
        if self.loc_loss_type is LocationLoss.SMOOTH_L1:
            far = abs(apart)
            squares = xp.where(far < 1, squares, far - 0.5)
        return squares.sum(axis=-1)

    def _confidence_costs(self, xp: ArrayNamespace, scores: Array, labels: Array) -> Array:
        """Return what scores (rows, classes) cost, given the right classes (rows,)."""
        rows = xp.arange(len(scores))
        if self.conf_loss_type is ConfidenceLoss.SOFTMAX:
            prob = softmax(xp, scores, 1, out=xp.empty_like(scores))
            return -xp.log(xp.maximum(prob[rows, labels], FLT_MIN))
        # log(1 + exp(s)) - s for the right class, without overflow.
        costs = xp.maximum(scores, 0) + xp.log1p(xp.exp(-abs(scores)))
        return (costs - scores * self._wanted(xp, scores, labels)).sum(axis=1)

    def _class_costs(self, xp: ArrayNamespace, scores: Array, labels: Array) -> Array:
        """Return the same for the priors that are in the loss: mining chooses by the former."""
        return self._confidence_costs(xp, scores, labels)

    def _class_slopes(self, xp: ArrayNamespace, scores: Array, labels: Array) -> Array:
        """Return the slopes of these costs by the scores."""
        if self.conf_loss_type is ConfidenceLoss.SOFTMAX:
            prob = softmax(xp, scores, 1, out=xp.empty_like(scores))
        else:
            prob = 1 / (1 + xp.exp(-scores))
        return prob - self._wanted(xp, scores, labels)

    @staticmethod
    def _wanted(xp: ArrayNamespace, scores: Array, labels: Array) -> Array:
        """Return 1 for the right class of each row, 0 for the others."""
        return (xp.arange(scores.shape[1]) == labels[:, None]).astype(scores.dtype)

    # -- backward ----------------------------------------------------------------------------------

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        xp, (target, difference, matched) = call.xp, call.kept
        location, confidence = call.bottoms[:2]
        weight = call.top_diffs[0] / self._divisor(call, matched)
        found: list[Array | None] = [None] * len(call.bottoms)
        if call.wants_bottoms[0]:
            slope = difference
            if self.loc_loss_type is LocationLoss.SMOOTH_L1:
                slope = xp.clip(difference, -1, 1)
            factor = weight * self.loc_weight if self._enters(0) else 0 * weight
            found[0] = (slope * factor).reshape(location.shape)
        if call.wants_bottoms[1]:
            scores = confidence.reshape(*target.shape, -1)
            dx = xp.zeros(scores.shape, dtype=confidence.dtype)
            if self._enters(1):
                chosen = target >= 0
                dx[chosen] = self._class_slopes(xp, scores[chosen], target[chosen]) * weight
            found[1] = dx.reshape(confidence.shape)
        return Gradients(tuple(found))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        raise g.refuse(
            "the matching of priors with objects has no ONNX form",
            hint="export the net that detects: the one with a DetectionOutput layer",
        )


@layer("MultiBoxFocalLoss", "multibox_loss_param", "loss_param", "focal_loss_param")
@dataclass(frozen=True)
class MultiBoxFocalLoss(MultiBoxLoss):
    """MultiBoxLoss that counts what is classified well already less.

    With SOFTMAX each prior in the confidence loss costs -alpha (1 - p)^gamma log p, p the share of
    its class. Mining, which is of little use then, goes by -log p. Without settings alpha is 0.25.

    Shapes: as MultiBoxLoss.

    ONNX: none, the matching is a loop over objects; the deployed net detects.

    Source: Lin et al., "Focal loss for dense object detection", ICCV 2017; the fork of
    imistyrain's SSD models.
    """

    alpha: float | None = None
    gamma: float = 2.0

    def infer(self, *bottoms: BlobType) -> Signature:
        self._focal.check()
        return super().infer(*bottoms)

    @property
    def _focal(self) -> FocalLoss:
        return FocalLoss(gamma=self.gamma, alpha=0.25 if self.alpha is None else self.alpha)

    def _class_costs(self, xp: ArrayNamespace, scores: Array, labels: Array) -> Array:
        costs = super()._class_costs(xp, scores, labels)
        if self.conf_loss_type is not ConfidenceLoss.SOFTMAX:
            return costs
        return self._focal.focus(xp, xp.exp(-costs))[0] * costs

    def _class_slopes(self, xp: ArrayNamespace, scores: Array, labels: Array) -> Array:
        slopes = super()._class_slopes(xp, scores, labels)
        if self.conf_loss_type is not ConfidenceLoss.SOFTMAX:
            return slopes
        costs = super()._class_costs(xp, scores, labels)
        p = xp.exp(-costs)
        weight, slope = self._focal.focus(xp, p)
        # The cost w(p) c, where c = -log p falls by dp / p.
        return slopes * (weight - slope * p * costs)[:, None]
