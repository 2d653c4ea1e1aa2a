"""Regions of a feature pyramid: against plain loops over the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest

from netc.errors import NetcError
from netc.layers.proposal import AnchorTarget, Proposal
from netc.layers.pyramid import PyramidAnchorTarget, PyramidProposal, PyramidRegions
from netc.layers.types import BlobType, Phase, Refusal
from tests.layers.test_proposal import TRUTH, anchor_labels, iou, net_says, proposals
from tests.support.audit import definition
from tests.support.layer_harness import check_layer, forward
from tests.support.lowering import check_lowering
from tests.support.nets import executor_of, graph_of, net_of

STRIDES = (4, 8, 16)
SIZES = ((8, 10), (4, 5), (2, 3))
SHAPES = {"ratio": (0.5, 1.0), "scale": (1.0, 2.0)}
SMALL = PyramidProposal(**SHAPES, min_size=4, post_nms_topn=20, nms_thresh=0.4, stride=STRIDES)


def of_map(layer: PyramidProposal, stride: int) -> Proposal:
    """All boxes that the anchors of one map become, none of them chosen yet."""
    return Proposal(
        ratio=layer.ratio, scale=layer.scale, feat_stride=stride, base_size=stride,
        min_size=layer.min_size, pre_nms_topn=0, post_nms_topn=0, nms_thresh=1.0,
    )  # fmt: skip


@definition("PyramidProposal")
def pyramid_proposals(layer, info, maps):
    """Return the rows (score, box) that the definition gives."""
    found = []
    for stride, (scores, deltas) in zip(layer.stride, maps, strict=True):
        rows, columns = (int(side / stride) for side in info.ravel()[:2])
        scores, deltas = scores[:, :, :rows, :columns], deltas[:, :, :rows, :columns]
        found += proposals(of_map(layer, stride), scores, deltas, info)
    found.sort(key=lambda row: -row[0])
    kept = []
    for score, box in found[: layer.pre_nms_topn or None]:
        if all(iou(box, other) <= layer.nms_thresh for _, other in kept):
            kept.append((score, box))
    return kept[: layer.post_nms_topn or None]


def maps_of(layer: PyramidProposal) -> list[list[np.ndarray]]:
    return [
        net_says(of_map(layer, stride), *size, seed=k)[:2]
        for k, (stride, size) in enumerate(zip(STRIDES, SIZES, strict=True))
    ]


@pytest.mark.parametrize("info", [(32, 40, 1.0), (29, 30, 1.5)])
@pytest.mark.parametrize(
    "settings",
    [{}, {"pre_nms_topn": 30}, {"post_nms_topn": 200}, {"post_nms_topn": 0}, {"min_size": 99}],
)
def test_proposals_of_several_maps(settings: dict[str, object], info: tuple[float, ...]) -> None:
    layer = PyramidProposal(**{**vars(SMALL), **settings})
    size, maps = np.array([info]), maps_of(layer)
    bottoms = [size, *(deltas for _, deltas in maps), *(scores for scores, _ in maps)]
    run = check_layer(layer, bottoms, gradient=False)
    want = [box for _, box in pyramid_proposals(layer, size, maps)] or [[0, 0, 16, 16]]
    assert layer.min_size == 99 or len(want) > 3
    count = len(run.tops[0])
    assert layer.post_nms_topn == 0 or count == layer.post_nms_topn
    again = [[0, *want[k % len(want)]] for k in range(count)]
    np.testing.assert_allclose(run.tops[0], again, atol=1e-9)
    assert "NonMaxSuppression" in check_lowering(layer, bottoms)


@definition("PyramidAnchorTarget")
def pyramid_labels(layer, boxes, info):
    """Return the labels of each map, as if it were alone."""
    found = []
    for stride in layer.stride:
        alone = AnchorTarget(
            ratio=layer.ratio, scale=layer.scale, feat_stride=stride, base_size=stride,
            allowed_border=layer.allowed_border, batch_size=999, each_truth=False,
        )  # fmt: skip
        found.append((alone, anchor_labels(alone, boxes, info)))
    return found


def test_targets_of_several_maps_are_those_of_each() -> None:
    """Without the rule that each box of the truth has an anchor, no map looks at another."""
    layer = PyramidAnchorTarget(
        **SHAPES, allowed_border=9, batch_size=999, each_truth=False, stride=(4, 8)
    )
    maps = [np.zeros((1, 8, 6, 7)), np.zeros((1, 8, 6, 7))]
    info = np.array([[48.0, 56, 1]])
    tops = check_layer(layer, [*maps, TRUTH, info], gradient=False).tops
    assert [top.shape for top in tops] == [(1, 336), *[(1, 16, 84)] * 3]
    places = 0
    counted = 0
    for alone, (_, want) in pyramid_labels(layer, TRUTH, info):
        labels, targets, inner, outer = (
            top[..., places * (4 if k == 0 else 1) :] for k, top in enumerate(tops)
        )
        own = forward(alone, [maps[0], TRUTH, info]).tops
        np.testing.assert_array_equal(labels[0, :168], own[0].ravel())
        for found, wanted in ((targets, own[1]), (inner, own[2])):
            np.testing.assert_array_equal(found[0, :, :42], wanted.reshape(16, 42))
        assert (outer[0, :, :42] > 0).sum() == 4 * (own[0] >= 0).sum()
        counted += sum(w is not None for w in want)
        places += 42
    assert counted > 100


def test_the_best_anchor_is_that_of_all_maps() -> None:
    layer = PyramidAnchorTarget(ratio=(1.0,), scale=(2.0,), allowed_border=99, stride=(4, 16))
    truth = np.array([[0.0, 0, 31, 31, 1]])
    maps = [np.zeros((1, 2, 8, 8)), np.zeros((1, 2, 2, 2))]
    labels = forward(layer, [*maps, truth, np.array([[32.0, 32, 1]])]).tops[0]
    # Those of stride 4 are 8 x 8: however one of them fits, one of stride 16 is better.
    assert not (labels[0, :64] == 1).any() and (labels[0, 64:] == 1).any()


TOPS = ("p2", "p3", "p4", "p5")
REGIONS = np.array(
    [
        [0, 0, 0, 400, 400],  # p4
        [0, 9, 9, 20, 20],  # p2
        [0, 0, 0, 224, 224],  # p4: exactly the size
        [0, 0, 0, 223, 224],  # p3
        [0, 5, 5, 5, 90],  # no area: p2
        [0, 0, 0, 900, 900],  # beyond p5
        [0, 0, 0, 448, 448],  # p5
        [0, 0, 0, 0, 0],  # padding
    ],
    float,
)
LEVELS = [[1, 4], [3], [0, 2], [5, 6]]


@definition("PyramidRegions")
def level_of(row) -> int:
    area = (row[3] - row[1]) * (row[4] - row[2])
    level = math.floor(4 + math.log2(math.sqrt(area if area > 0 else 1e-6) / 224))
    return min(max(level, 2), 5)


@pytest.mark.parametrize("rows", [0, 8, 11])
def test_regions_by_level(rows: int) -> None:
    assert [[i for i in range(7) if level_of(REGIONS[i]) == k] for k in (2, 3, 4, 5)] == LEVELS
    labels, targets = np.arange(1.0, 9), np.arange(24.0).reshape(8, 3, 1)
    layer = PyramidRegions(rows=rows, top=("all", *TOPS, "labels", "targets"))
    run = check_layer(layer, [REGIONS, labels, targets], gradient=False)
    count = rows or 8
    want = [np.zeros((count, 5)) for _ in LEVELS]
    marks, shifts = -np.ones((4, count)), np.zeros((4, count, 3, 1))
    for k, level in enumerate(LEVELS):
        want[k][: len(level)], marks[k, : len(level)] = REGIONS[level], labels[level]
        shifts[k, : len(level)] = targets[level]
    np.testing.assert_array_equal(run.tops[0], np.concatenate(want))
    for found, wanted in zip(run.tops[1:5], want, strict=True):
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(run.tops[5], marks.reshape(-1))
    np.testing.assert_array_equal(run.tops[6], shifts.reshape(-1, 3, 1))
    check_lowering(layer, [REGIONS, labels, targets])


NET = """
    input: "rois" input_shape { dim: 8 dim: 5 }
    layer { name: "r" type: "PyramidRegions" bottom: "rois" top: "p2" top: "p3" top: "p4" top: "p5"
      pyramid_param { %s } }
    """


def test_levels_have_as_many_rows_as_regions() -> None:
    net = executor_of(net_of(NET % ""))
    net.data("rois")[...] = np.where(REGIONS[:, 3:4] > 300, 0, REGIONS)
    net.forward()
    assert [net.data(name).shape for name in TOPS] == [(2, 5), (1, 5), (1, 5), (4, 5)]
    assert not net.data("p5").any()


def test_what_does_not_fit_is_refused() -> None:
    assert graph_of(NET % "rows: 9").blobs["p5"].shape == (9, 5)
    with pytest.raises(NetcError, match="more regions than rows"):
        graph_of(NET % "rows: 7")
    with pytest.raises(NetcError, match="number of tops"):
        graph_of((NET % "").replace('top: "p5"', ""))
    with pytest.raises(Refusal, match="one row for each region"):
        PyramidRegions(top=(*TOPS, "labels")).infer(BlobType((8, 5)), BlobType((7,)))
    with pytest.raises(Refusal, match="does not fit the strides"):
        SMALL.infer(*[BlobType((1, 3))] * 6)
    target = PyramidAnchorTarget(stride=(4,))
    with pytest.raises(Refusal, match="does not fit the strides"):
        target.infer(*[BlobType((1, 3))] * 4)
    with pytest.raises(NetcError, match="export the net for testing"):
        check_lowering(
            PyramidAnchorTarget(**SHAPES, stride=(8,)),
            [np.zeros((1, 8, 6, 7)), TRUTH, np.array([[48.0, 56, 1]])],
        )


def fpn(phase: Phase) -> str:
    """FPN's wiring of its Python layers, on maps of a convolution each."""
    maps = (2, 3, 4, 5, 6)
    text = """
        input: "data" input_shape { dim: 1 dim: 3 dim: 128 dim: 128 }
        input: "im_info" input_shape { dim: 1 dim: 3 }
        input: "gt_boxes" input_shape { dim: 2 dim: 5 }
        """
    for k in maps:
        for name, outputs in (("p", 4), ("score", 12), ("shift", 24)):
            bottom = "data" if name == "p" else f"p{k}"
            stride = 2**k if name == "p" else 1
            text += f"""layer {{ name: "{name}{k}" type: "Convolution" bottom: "{bottom}"
                top: "{name}{k}" convolution_param {{ num_output: {outputs} kernel_size: {stride}
                stride: {stride} weight_filler {{ type: "gaussian" std: 0.01 }} }} }}"""
    shifts = " ".join(f'bottom: "shift{k}"' for k in maps)
    scores = " ".join(f'bottom: "score{k}"' for k in maps)
    strides = "param_str: \"'feat_stride': 4,8,16,32,64\""
    levels = " ".join(f'top: "h{k}"' for k in maps[:4])
    text += f"""layer {{ name: "proposal" type: "Python" bottom: "im_info" {shifts} {scores}
        top: "rois" python_param {{ module: "rpn.proposal_layer" layer: "ProposalLayer"
        {strides} }} }}"""
    if phase is Phase.TEST:
        text += f"""layer {{ name: "split" type: "Python" bottom: "rois" top: "all" {levels}
            python_param {{ module: "rpn.as_rois" layer: "As_roisLayer" }} }}"""
    else:
        text += f"""
            layer {{ name: "a" type: "Python" {scores} bottom: "gt_boxes" bottom: "im_info"
              top: "anchor_labels" top: "at" top: "ai" top: "ao" python_param {{ {strides}
              module: "rpn.anchor_target_layer" layer: "AnchorTargetLayer" }} }}
            layer {{ name: "t" type: "Python" bottom: "rois" bottom: "gt_boxes" bottom: "data"
              {levels} top: "labels" top: "t" top: "ti" top: "to" python_param {{
              module: "rpn.proposal_target_layer" layer: "ProposalTargetLayer"
              param_str: "'num_classes': 3" }} }}"""
    pools = ""
    for k in maps[:4]:
        text += f"""layer {{ name: "pool{k}" type: "ROIPooling" bottom: "p{k}" bottom: "h{k}"
            top: "pool{k}" roi_pooling_param {{ pooled_w: 2 pooled_h: 2
            spatial_scale: {2.0**-k} }} }}"""
        pools += f'bottom: "pool{k}" '
    text += f"""layer {{ name: "pools" type: "Concat" {pools} top: "pools"
        concat_param {{ axis: 0 }} }}
        layer {{ name: "cls" type: "InnerProduct" bottom: "pools" top: "cls"
        inner_product_param {{ num_output: 3 weight_filler {{ type: "gaussian" std: 0.01 }} }} }}"""
    if phase is Phase.TRAIN:
        text += """layer { name: "loss" type: "SoftmaxWithLoss" bottom: "cls" bottom: "labels"
            top: "loss" loss_param { ignore_label: -1 } }"""
    return text


def test_fpn_of_a_few_layers_trains() -> None:
    net = executor_of(graph_of(fpn(Phase.TRAIN), Phase.TRAIN), keep="all")
    net.data("data")[...] = np.random.default_rng(0).standard_normal((1, 3, 128, 128))
    net.data("im_info")[...] = [[128, 128, 1]]
    net.data("gt_boxes")[...] = [[10, 10, 60, 70, 1], [50, 20, 120, 100, 2]]
    net.fill_params()
    net.forward()
    net.backward()
    assert net.data("h2").shape == (256, 5) and net.data("at").shape == (1, 24, 1364)
    assert (net.data("labels") == 1).any() and (net.data("labels") == -1).any()
    assert (net.data("anchor_labels") == 1).any()
    assert 0.9 < float(net.data("loss")) < 1.3 and any(d.any() for d in net.param_diffs)
    test = graph_of(fpn(Phase.TEST), Phase.TEST)
    assert test.blobs["all"].shape == (4000, 5)
