from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from netc.errors import NetcError
from netc.graph.discrete import discrete_blobs
from netc.layers.boxes import CodeType
from netc.layers.labels import Normalization
from netc.layers.multibox import (
    ConfidenceLoss,
    LocationLoss,
    MatchType,
    MiningType,
    MultiBoxFocalLoss,
    MultiBoxLoss,
)
from netc.layers.suppression import NmsParam
from netc.layers.types import BlobType, Refusal
from tests.support.audit import definition, note
from tests.support.detection import objects, predictions, priors, random_objects
from tests.support.layer_harness import assert_close, check_layer, forward
from tests.support.lowering import check_lowering
from tests.support.nets import executor_of, graph_of

Box = list[float]


def size(box: Box) -> float:
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def jaccard(a: Box, b: Box) -> float:
    common = [max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])]
    if common[0] >= common[2] or common[1] >= common[3]:
        return 0
    return size(common) / (size(a) + size(b) - size(common))


def encoded(box: Box, prior: Box, code: CodeType) -> Box:
    w, h = prior[2] - prior[0], prior[3] - prior[1]
    apart = [b - p for b, p in zip(box, prior, strict=True)]
    if code is CodeType.CORNER:
        return apart
    if code is CodeType.CORNER_SIZE:
        return [apart[0] / w, apart[1] / h, apart[2] / w, apart[3] / h]
    return [
        (apart[0] + apart[2]) / 2 / w,
        (apart[1] + apart[3]) / 2 / h,
        math.log((box[2] - box[0]) / w),
        math.log((box[3] - box[1]) / h),
    ]


def decoded(numbers: Box, prior: Box, code: CodeType) -> Box:
    w, h = prior[2] - prior[0], prior[3] - prior[1]
    if code is CodeType.CORNER:
        return [p + n for p, n in zip(prior, numbers, strict=True)]
    if code is CodeType.CORNER_SIZE:
        return [p + n * s for p, n, s in zip(prior, numbers, [w, h, w, h], strict=True)]
    x, y = (prior[0] + prior[2]) / 2 + numbers[0] * w, (prior[1] + prior[3]) / 2 + numbers[1] * h
    w, h = w * math.exp(numbers[2]) / 2, h * math.exp(numbers[3]) / 2
    return [x - w, y - h, x + w, y + h]


class Slowly:
    """The loss by its definition: one image, prior and object at a time."""

    def __init__(self, layer: MultiBoxLoss, bottoms: list[np.ndarray]) -> None:
        self.layer = layer
        self.priors, self.variances = bottoms[2].reshape(2, -1, 4).tolist()
        self.boxes = self.priors
        self.n, self.p = len(bottoms[0]), len(self.boxes)
        self.location = bottoms[0].reshape(self.n, self.p, -1, 4)
        self.confidence = bottoms[1].reshape(self.n, self.p, -1)
        self.rows = bottoms[3].reshape(-1, 8).tolist()
        self.matched = 0
        self.location_loss = self.confidence_loss = 0.0
        # Prior and class of each location in the loss, prior and class of each confidence.
        self.located: set[tuple[int, int, int]] = set()
        self.chosen: dict[tuple[int, int], int] = {}
        least = 0.01 if layer.objectness_score is None else layer.objectness_score
        for image in range(self.n):
            self.absent: set[int] = set()
            if len(bottoms) > 4:
                self.absent = {p for p in range(self.p) if bottoms[4][image, 2 * p + 1] < least}
            if len(bottoms) > 5:
                moves = bottoms[5][image].reshape(-1, 4).tolist()
                self.boxes = [self.moved(p, moves[p]) for p in range(self.p)]
            self.one(image)
        self.loss = self.total()

    def moved(self, prior: int, numbers: Box) -> Box:
        """The prior of one image, where the first of two steps moves it to."""
        if not self.layer.encode_variance_in_target:
            numbers = [v * n for v, n in zip(self.variances[prior], numbers, strict=True)]
        return decoded(numbers, self.priors[prior], self.layer.code_type)

    def box(self, image: int, prior: int, place: int) -> Box:
        numbers = self.location[image, prior, place].tolist()
        if not self.layer.encode_variance_in_target:
            numbers = [v * n for v, n in zip(self.variances[prior], numbers, strict=True)]
        return decoded(numbers, self.boxes[prior], self.layer.code_type)

    def match(self, boxes: list[Box], wanted: list[Box]) -> tuple[list[int], list[float]]:
        layer = self.layer
        overlaps = [[jaccard(b, w) for w in wanted] for b in boxes]
        out = [layer.ignore_cross_boundary_bbox and not all(0 <= v <= 1 for v in b) for b in boxes]
        overlaps = [[0] * len(r) if o else r for r, o in zip(overlaps, out, strict=True)]
        found = [-2 if o else -1 for o in out]
        left = set(range(len(wanted)))
        while left:
            pairs = [
                (overlaps[b][w], -b, -w) for b in range(len(boxes)) for w in left if found[b] == -1
            ]
            if not pairs or max(pairs)[0] <= 1e-6:
                break
            _, b, w = max(pairs)
            found[-b] = -w
            left.remove(-w)
        if layer.match_type is MatchType.PER_PREDICTION:
            for b, row in enumerate(overlaps):
                best = max(row, default=0)
                if found[b] == -1 and best > 1e-6 and best >= layer.overlap_threshold:
                    found[b] = row.index(best)
        return found, [max(row, default=0) for row in overlaps]

    def matches(
        self, image: int, own: list[list[float]]
    ) -> dict[int, tuple[list[int], list[float]]]:
        """Object and overlap of each prior, for each place of a location."""
        layer, classes = self.layer, self.layer.num_classes or 0
        wanted = [row[3:7] for row in own]
        if layer.use_prior_for_matching:
            found, most = self.match(self.boxes, wanted)
            if layer.share_location:
                return {0: (found, most)}
            return {
                c: ([i if i < 0 or own[i][1] == c else -1 for i in found], most)
                for c in range(classes)
                if c != layer.background_label_id
            }
        if layer.share_location:
            return {0: self.match([self.box(image, p, 0) for p in range(self.p)], wanted)}
        result = {}
        for c in range(classes):
            if c == layer.background_label_id:
                continue
            places = [i for i, row in enumerate(own) if row[1] == c]
            boxes = [self.box(image, p, c) for p in range(self.p)]
            found, most = self.match(boxes, [wanted[i] for i in places])
            if not places:  # then not even boxes that stick out are noted
                found = [-1] * self.p
            result[c] = ([places[i] if i >= 0 else i for i in found], most)
        return result

    def location_cost(self, image: int, prior: int, place: int, row: list[float]) -> float:
        layer = self.layer
        wanted = encoded(row[3:7], self.boxes[prior], layer.code_type)
        where = self.boxes[prior]
        if not layer.use_prior_for_matching:
            where = self.box(image, prior, place)
        cost = 0.0
        for i, number in enumerate(self.location[image, prior, place].tolist()):
            v = self.variances[prior][i]
            apart = number - wanted[i] / v
            if layer.encode_variance_in_target:
                apart = (number - wanted[i]) / v
            if layer.bp_inside and not 0 <= where[i] <= 1:
                apart = 0
            smooth = layer.loc_loss_type is LocationLoss.SMOOTH_L1 and abs(apart) >= 1
            cost += abs(apart) - 0.5 if smooth else apart * apart / 2
        return cost

    def confidence_cost(self, image: int, prior: int, label: int) -> float:
        scores = self.confidence[image, prior].tolist()
        if self.layer.conf_loss_type is ConfidenceLoss.SOFTMAX:
            return math.log(sum(math.exp(s - scores[label]) for s in scores))
        wanted = [s if c == label else -s for c, s in enumerate(scores)]
        return sum(math.log(1 + math.exp(-s)) for s in wanted)

    def one(self, image: int) -> None:
        layer, background = self.layer, self.layer.background_label_id
        own = [r for r in self.rows if r[0] == image and (layer.use_difficult_gt or not r[7])]
        if layer.map_object_to_agnostic:
            own = [[r[0], background + 1, *r[2:]] for r in own]
        mines = layer.mining_type is not MiningType.NONE
        labels = {} if mines else dict.fromkeys(range(self.p), background)
        found = self.matches(image, own) if own else {}
        if mines and own:
            index, most = found[0]
            costs = []
            for p in range(self.p):
                label = int(own[index[p]][1]) if index[p] >= 0 else background
                cost = self.confidence_cost(image, p, label)
                if layer.mining_type is MiningType.HARD_EXAMPLE and index[p] >= 0:
                    cost += self.location_cost(image, p, 0, own[index[p]])
                costs.append(cost)
            chosen = self.mine(image, index, most, costs)
            if layer.mining_type is MiningType.HARD_EXAMPLE:
                index = [i if i < 0 or p in chosen else -3 for p, i in enumerate(index)]
            found = {0: (index, most)}
            labels = {p: background for p in chosen if index[p] == -1}
        for place, (index, _) in found.items():
            for p, i in enumerate(index):
                if i >= 0:
                    self.matched += 1
                    labels[p] = int(own[i][1])
                    self.located.add((image, p, place))
                    self.location_loss += self.location_cost(image, p, place, own[i])
        for p, label in labels.items():
            self.chosen[image, p] = label
            self.confidence_loss += self.class_cost(image, p, label)

    def class_cost(self, image: int, prior: int, label: int) -> float:
        return self.confidence_cost(image, prior, label)

    def mine(self, image: int, index: list[int], most: list[float], costs: list[float]) -> set[int]:
        layer = self.layer
        places = list(range(self.p))
        count = layer.sample_size
        if layer.mining_type is MiningType.MAX_NEGATIVE:
            places = [p for p in places if index[p] == -1 and most[p] < layer.neg_overlap]
            places = [p for p in places if p not in self.absent]
            count = int(sum(i >= 0 for i in index) * layer.neg_pos_ratio)
        places.sort(key=lambda p: -costs[p])
        if layer.nms_param and layer.nms_param.nms_threshold > 0:
            if layer.nms_param.top_k is not None:
                places = places[: layer.nms_param.top_k]
            kept: list[int] = []
            for p in places:
                boxes = self.boxes if layer.use_prior_for_nms else None
                box = boxes[p] if boxes else self.box(image, p, 0)
                others = [boxes[k] if boxes else self.box(image, k, 0) for k in kept]
                near = any(jaccard(box, o) > layer.nms_param.nms_threshold for o in others)
                if size(box) >= 1e-5 and not near:
                    kept.append(p)
            places = kept
        return set(places[:count])

    @definition("MultiBoxLoss")
    def total(self) -> float:
        layer = self.layer
        divisor = {
            None: self.matched if layer.normalize is not False else self.n,
            Normalization.VALID: self.matched,
            Normalization.BATCH_SIZE: self.n,
            Normalization.FULL: self.n * self.p,
            Normalization.NONE: 1,
        }[layer.normalization]
        enters = layer.propagate_down or (True, True)
        loss = layer.loc_weight * self.location_loss * enters[0] + self.confidence_loss * enters[1]
        return loss / max(divisor, 1)


@st.composite
def losses(draw: st.DrawFn) -> MultiBoxLoss:
    mining = draw(st.sampled_from(MiningType))
    agnostic = draw(st.integers(0, 5)) == 0
    thin = draw(st.integers(0, 3)) == 0
    return MultiBoxLoss(
        num_classes=2 if agnostic else draw(st.integers(2, 4)),
        share_location=mining is not MiningType.NONE or draw(st.booleans()),
        loc_loss_type=draw(st.sampled_from(LocationLoss)),
        conf_loss_type=draw(st.sampled_from(ConfidenceLoss)),
        loc_weight=draw(st.sampled_from([1.0, 0.25])),
        match_type=draw(st.sampled_from(MatchType)),
        overlap_threshold=draw(st.sampled_from([0.2, 0.5])),
        use_prior_for_matching=draw(st.booleans()),
        use_difficult_gt=draw(st.booleans()),
        do_neg_mining=draw(st.sampled_from([None, mining is not MiningType.NONE])),
        mining_type=mining,
        neg_pos_ratio=draw(st.sampled_from([3.0, 0.5])),
        neg_overlap=draw(st.sampled_from([0.5, 0.2])),
        sample_size=draw(st.sampled_from([3, 64])),
        nms_param=NmsParam(0.4, draw(st.sampled_from([None, 4]))) if thin else None,
        use_prior_for_nms=draw(st.booleans()),
        code_type=draw(st.sampled_from(CodeType)),
        encode_variance_in_target=draw(st.booleans()),
        map_object_to_agnostic=agnostic,
        ignore_cross_boundary_bbox=draw(st.integers(0, 3)) == 0,
        bp_inside=draw(st.booleans()),
        normalization=draw(st.sampled_from([None, *Normalization])),
        normalize=draw(st.sampled_from([None, False, True])),
        propagate_down=draw(st.sampled_from([(), (True, False, False, False), (False, True)])),
    )


def bottoms_for(layer: MultiBoxLoss, images: int, n: int, seed: int) -> list[np.ndarray]:
    classes = layer.num_classes or 0
    location, confidence = predictions(images, n, classes, seed, shared=layer.share_location)
    found = random_objects(images, 3, classes, seed)
    scores = np.log(confidence)
    return [location * 0.5, scores, priors(n, seed), found]


@given(losses(), st.integers(1, 3), st.integers(1, 14), st.integers(0, 999))
@settings(max_examples=200, deadline=None)
def test_by_the_definition(layer: MultiBoxLoss, images: int, n: int, seed: int) -> None:
    bottoms = bottoms_for(layer, images, n, seed)
    # The gradient of the fork lacks a factor there; what it is, is tested below.
    gradient = not layer.encode_variance_in_target
    # The one prior that is matched for several classes has the last one's label.
    if not layer.share_location and not layer.use_prior_for_matching:
        found = Slowly(layer, bottoms)
        assume(len({place[:2] for place in found.located}) == len(found.located))
    run = check_layer(layer, bottoms, gradient=gradient)
    want = Slowly(layer, bottoms)
    assert run.kept[2][0] == want.matched
    assert_close(run.tops[0], np.array(want.loss), rtol=1e-9, atol=1e-9)
    for (image, prior), label in np.ndenumerate(run.kept[0]):
        assert want.chosen.get((image, prior), -2) == label


class Focused(Slowly):
    """The loss with focus, likewise."""

    def class_cost(self, image: int, prior: int, label: int) -> float:
        cost = self.confidence_cost(image, prior, label)
        if self.layer.conf_loss_type is ConfidenceLoss.LOGISTIC:
            return cost
        alpha = 0.25 if self.layer.alpha is None else self.layer.alpha
        return alpha * (1 - math.exp(-cost)) ** self.layer.gamma * cost


@given(
    losses(),
    st.sampled_from([None, 0.5, 1.0]),
    st.sampled_from([2.0, 1.0, 0.0]),
    st.integers(1, 14),
    st.integers(0, 999),
)
@settings(max_examples=50, deadline=None)
def test_focus_by_the_definition(
    drawn: MultiBoxLoss, alpha: float | None, gamma: float, n: int, seed: int
) -> None:
    plain = replace(drawn, share_location=True, encode_variance_in_target=False)
    layer = MultiBoxFocalLoss(**vars(plain), alpha=alpha, gamma=gamma)
    bottoms = bottoms_for(layer, 2, n, seed)
    run = check_layer(layer, bottoms)
    assert_close(run.tops[0], np.array(Focused(layer, bottoms).loss), rtol=1e-9, atol=1e-9)
    note("definition", "MultiBoxFocalLoss")


def test_focus_refused() -> None:
    shapes = [BlobType(s) for s in ((1, 8), (1, 6), (1, 2, 8), (1, 1, 1, 8))]
    with pytest.raises(Refusal, match="gamma is out of range"):
        MultiBoxFocalLoss(num_classes=3, gamma=-1.0).infer(*shapes)


@given(losses(), st.integers(5, 6), st.integers(2, 14), st.integers(0, 999))
@settings(max_examples=100, deadline=None)
def test_second_steps_by_the_definition(
    drawn: MultiBoxLoss, n_bottoms: int, n: int, seed: int
) -> None:
    layer = replace(
        drawn,
        share_location=True,
        mining_type=MiningType.MAX_NEGATIVE,
        do_neg_mining=None,
        nms_param=None,
        use_prior_for_matching=n_bottoms == 6 or drawn.use_prior_for_matching,
        # Boxes that were moved keep their area with this one.
        code_type=CodeType.CENTER_SIZE,
        objectness_score=None if seed % 2 else 0.4,
    )
    rng = np.random.default_rng(seed)
    step = [rng.random((2, 2 * n)), rng.standard_normal((2, 4 * n)) * 0.3]
    bottoms = [*bottoms_for(layer, 2, n, seed), *step][:n_bottoms]
    run = check_layer(layer, bottoms, gradient=not layer.encode_variance_in_target)
    want = Slowly(layer, bottoms)
    assert run.kept[2][0] == want.matched
    assert_close(run.tops[0], np.array(want.loss), rtol=1e-9, atol=1e-9)
    for (image, prior), label in np.ndenumerate(run.kept[0]):
        assert want.chosen.get((image, prior), -2) == label


def test_no_negative_where_the_first_step_saw_nothing() -> None:
    bottoms = [np.zeros((1, 8)), np.zeros((1, 6)), TWO, objects([(0, 2, 0, 0, 0.5, 0.5)])]
    absent = np.array([[1.0, 0, 1, 0]])
    run = forward(PERFECT, [*bottoms, absent])
    assert run.tops[0] == pytest.approx(math.log(3))
    assert forward(PERFECT, [*bottoms, 1 - absent]).tops[0] == pytest.approx(2 * math.log(3))


def test_two_steps_call_every_object_class_1_where_there_are_two_classes() -> None:
    layer = replace(PERFECT, num_classes=2, objectness_score=0.01)
    rows = [objects([(0, label, 0, 0, 0.5, 0.5)]) for label in (1, 7)]
    tops = [
        forward(layer, [np.zeros((1, 8)), np.ones((1, 4)), TWO, found]).tops[0] for found in rows
    ]
    assert tops[0] == tops[1] == pytest.approx(2 * math.log(2))


@pytest.mark.parametrize(
    ("settings", "shapes", "setting"),
    [
        ({}, [(1, 3)], "bottom"),
        ({}, [(1, 4), (1, 7)], "bottom"),
        ({"mining_type": MiningType.NONE}, [(1, 4)], "mining_type"),
        ({"nms_param": NmsParam()}, [(1, 4)], "nms_param"),
        ({"use_prior_for_matching": False}, [(1, 4), (1, 8)], "use_prior_for_matching"),
    ],
)
def test_second_steps_refused(settings, shapes, setting: str) -> None:
    layer = replace(PERFECT, **settings)
    found = [(1, 8), (1, 6), (1, 2, 8), (1, 1, 1, 8), *shapes]
    with pytest.raises(Refusal) as caught:
        layer.infer(*map(BlobType, found))
    assert caught.value.setting == setting


def test_gradient_with_variances_in_the_target_lacks_them() -> None:
    layer = MultiBoxLoss(num_classes=3, loc_loss_type=LocationLoss.L2)
    bottoms = bottoms_for(layer, 2, 12, 5)
    ones = np.ones(())
    plain = forward(layer, bottoms).backward([ones]).bottoms[0]
    moved = replace(layer, encode_variance_in_target=True)
    variances = np.tile(bottoms[2].reshape(2, -1)[1], (2, 1))
    other = forward(moved, [bottoms[0] * variances, *bottoms[1:]])
    # The same differences, hence the same gradient, though these numbers weigh 1 / variance.
    assert_close(other.backward([ones]).bottoms[0], plain, rtol=1e-12, atol=1e-12)


PERFECT = MultiBoxLoss(num_classes=3, code_type=CodeType.CENTER_SIZE)
TWO = np.zeros((1, 2, 8))
TWO[0, 0] = 0, 0, 0.5, 0.5, 0.5, 0.5, 1, 1
TWO[0, 1] = 0.1


def test_by_hand() -> None:
    # Prior 0 is the object, prior 1 the only other one: it is the hardest negative.
    bottoms = [np.zeros((1, 8)), np.zeros((1, 6)), TWO, objects([(0, 2, 0, 0, 0.5, 0.5)])]
    run = forward(PERFECT, bottoms)
    assert run.tops[0] == pytest.approx(2 * math.log(3))
    location, confidence = run.backward([np.ones(())]).bottoms[:2]
    assert not location.any()
    third = 1 / 3
    assert_close(confidence[0], np.array([third, third, third - 1, third - 1, third, third]))


def test_an_image_without_objects_costs_nothing() -> None:
    bottoms = [np.ones((2, 8)), np.ones((2, 6)), TWO, objects([(-1, -1)])]
    run = forward(PERFECT, bottoms)
    assert run.tops[0] == 0
    assert not any(g.any() for g in run.backward([np.ones(())]).bottoms[:2])


def test_without_mining_all_priors_count() -> None:
    layer = replace(PERFECT, mining_type=MiningType.NONE, normalization=Normalization.FULL)
    bottoms = [np.zeros((2, 8)), np.zeros((2, 6)), TWO, objects([(-1, -1)])]
    assert forward(layer, bottoms).tops[0] == pytest.approx(math.log(3))


def test_every_object_gets_its_best_prior_though_it_overlaps_little() -> None:
    layer = replace(PERFECT, match_type=MatchType.BIPARTITE)
    far = objects([(0, 1, 0, 0, 0.1, 0.1), (0, 2, 0.9, 0.9, 1, 1)])
    run = forward(layer, [np.zeros((1, 8)), np.zeros((1, 6)), TWO, far])
    assert run.kept[0].tolist() == [[1, 2]]


def test_in_a_net() -> None:
    graph = graph_of("""
        layer { name: "in" type: "Input" top: "loc" top: "conf" top: "prior" top: "label"
                input_param { shape { dim: 2 dim: 8 } shape { dim: 2 dim: 6 }
                              shape { dim: 1 dim: 2 dim: 8 }
                              shape { dim: 1 dim: 1 dim: 4 dim: 8 } } }
        layer { name: "loss" type: "MultiBoxLoss" top: "loss"
                bottom: "loc" bottom: "conf" bottom: "prior" bottom: "label"
                include { phase: TRAIN } propagate_down: true propagate_down: true
                propagate_down: false propagate_down: false
                loss_param { normalization: VALID }
                multibox_loss_param { loc_loss_type: SMOOTH_L1 conf_loss_type: SOFTMAX loc_weight: 1
                  num_classes: 3 share_location: true match_type: PER_PREDICTION
                  overlap_threshold: 0.5 use_prior_for_matching: true background_label_id: 0
                  use_difficult_gt: true mining_type: MAX_NEGATIVE neg_pos_ratio: 3
                  neg_overlap: 0.5 code_type: CENTER_SIZE ignore_cross_boundary_bbox: false } }
    """)
    net = executor_of(graph)
    assert discrete_blobs(graph) == {"label"}
    net.data("prior")[...] = TWO
    net.forward()
    assert net.loss() == 0  # rows of zeros are no objects
    net.data("label")[...] = -1
    net.data("label")[0, 0, 0] = 1, 2, 0, 0, 0, 0.5, 0.5, 0
    net.forward()
    assert net.loss() == pytest.approx(2 * math.log(3))


def test_has_no_onnx_form() -> None:
    bottoms = bottoms_for(PERFECT, 1, 4, 0)
    with pytest.raises(NetcError, match="no ONNX form"):
        check_lowering(PERFECT, bottoms)


SHAPES = ((2, 40), (2, 30), (1, 2, 40), (1, 1, 5, 8))


@pytest.mark.parametrize(("layer", "setting"), [
    (replace(PERFECT, num_classes=None), "num_classes"),
    (replace(PERFECT, do_neg_mining=False), "do_neg_mining"),
    (replace(PERFECT, mining_type=MiningType.NONE, do_neg_mining=True), "do_neg_mining"),
    (replace(PERFECT, background_label_id=3), "background_label_id"),
    (replace(PERFECT, map_object_to_agnostic=True), "map_object_to_agnostic"),
    (replace(PERFECT, mining_type=MiningType.HARD_EXAMPLE, sample_size=0), "sample_size"),
    (replace(PERFECT, nms_param=NmsParam(-1)), "nms_param"),
    (replace(PERFECT, nms_param=NmsParam(0.5, soft_nms=True)), "nms_param"),
])  # fmt: skip
def test_refused(layer: MultiBoxLoss, setting: str) -> None:
    with pytest.raises(Refusal) as caught:
        layer.infer(*map(BlobType, SHAPES))
    assert caught.value.setting == setting
    assert caught.value.expected
    assert caught.value.got


def test_mining_needs_shared_locations() -> None:
    layer = replace(PERFECT, share_location=False)
    with pytest.raises(Refusal) as caught:
        layer.infer(BlobType((2, 120)), *map(BlobType, SHAPES[1:]))
    assert caught.value.setting == "mining_type"


@pytest.mark.parametrize("shape", [(1, 1, 5, 7), ()])
def test_objects_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(Refusal, match="objects"):
        PERFECT.infer(*map(BlobType, SHAPES[:3]), BlobType(shape))


@pytest.mark.parametrize("label", [0, 3, -2, math.nan])
def test_an_object_of_no_class_is_named(label: float) -> None:
    bottoms = [np.zeros((1, 8)), np.zeros((1, 6)), TWO, objects([(0, label, 0, 0, 1, 1)])]
    with pytest.raises(Refusal, match=f"class {label:g}"):
        forward(PERFECT, bottoms)
