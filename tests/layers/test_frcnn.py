"""The layers of makefile's frcnn: those of Faster R-CNN, with settings from a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from netc.assemble import load_graph
from netc.errors import NetcError
from netc.layers.frcnn import (
    FrcnnAnchorTarget,
    FrcnnParam,
    FrcnnProposal,
    FrcnnProposalTarget,
    FrcnnRoiData,
)
from netc.layers.proposal import AnchorTarget, Proposal, ProposalTarget
from netc.layers.types import BlobType, Layer, Phase, Refusal
from netc.schema import read_net
from tests.layers.test_proposal import (
    REGIONS,
    TRUTH,
    anchor_labels,
    iou,
    net_says,
    proposals,
    truth,
)
from tests.support.audit import definition
from tests.support.layer_harness import check_layer, forward

CORNERS = (-8.0, -4, 7, 3, -4, -8, 3, 7, -16, -16, 15, 15)
PARAM = FrcnnParam(
    anchors=CORNERS,
    feat_stride=8,
    n_classes=6,
    batch_size=12,
    rpn_min_size=4,
    rpn_pre_nms_top_n=50,
    rpn_post_nms_top_n=20,
    test_rpn_min_size=9,
    test_rpn_pre_nms_top_n=30,
    test_rpn_post_nms_top_n=7,
    test_rpn_nms_thresh=0.4,
    rpn_allowed_border=3,
)


def only(layer: Layer, *shapes: tuple[int, ...]) -> Layer:
    """Return the one layer that stands for another."""
    parts = layer.expand(*map(BlobType, shapes))
    assert parts is not None
    (part,) = parts
    return part.layer


@definition("FrcnnProposal")
def chosen(layer, bottoms):
    """Return the boxes that Proposal's definition gives with the settings of the phase."""
    plain = {
        Phase.TRAIN: Proposal(
            feat_stride=8, anchor=CORNERS, min_size=4, pre_nms_topn=50, post_nms_topn=20
        ),
        Phase.TEST: Proposal(
            feat_stride=8, anchor=CORNERS, min_size=9, pre_nms_topn=30, post_nms_topn=7,
            nms_thresh=0.4,
        ),
    }[layer.phase]  # fmt: skip
    return [box for _, box in proposals(plain, *bottoms)]


@pytest.mark.parametrize("phase", Phase)
def test_proposals_have_the_settings_of_their_phase(phase: Phase) -> None:
    layer = FrcnnProposal(PARAM, phase=phase, top=("rois",))
    bottoms = net_says(Proposal(feat_stride=8, anchor=CORNERS), 5, 6)
    stands = only(layer, *(b.shape for b in bottoms))
    (rows,) = check_layer(stands, bottoms, gradient=False).tops
    want = chosen(layer, bottoms)
    assert len(rows) == (20 if phase is Phase.TRAIN else 7) and len(want) > 3
    np.testing.assert_allclose(rows[: len(want), 1:], want, atol=1e-9)
    assert only(FrcnnProposal(PARAM, feat_stride=4)).feat_stride == 4


@definition("FrcnnAnchorTarget")
def labelled(layer, boxes, info):
    plain = AnchorTarget(feat_stride=8, anchor=CORNERS, allowed_border=3)
    return anchor_labels(plain, boxes, info)[1]


def test_anchors_are_labelled() -> None:
    layer, info = FrcnnAnchorTarget(PARAM), np.array([[48.0, 56, 1]])
    bottoms = [np.zeros((1, 6, 6, 7)), TRUTH, info]
    labels = forward(only(layer, *(b.shape for b in bottoms)), bottoms).tops[0]
    labels = labels.reshape(3, 6, 7).transpose(1, 2, 0).ravel()
    want = [(w or (-1, 0))[0] for w in labelled(layer, TRUTH, info)]
    assert want.count(1) and want.count(0) and list(labels) == want


@definition("FrcnnProposalTarget")
def sampled(layer, regions, boxes):
    """Return which regions may have a class and which may be background."""
    every = [*regions[:, 1:], *boxes[:, :4]]
    most = [max(iou(region, box) for box in boxes) for region in every]
    front = [tuple(r) for r, m in zip(every, most, strict=True) if m >= 0.5]
    return front, [tuple(r) for r, m in zip(every, most, strict=True) if m < 0.5]


def test_background_fills_a_batch() -> None:
    boxes = truth([3, 4, 20, 25, 2])
    regions = REGIONS[:6]
    front, back = sampled(FrcnnProposalTarget(PARAM), regions, boxes)
    layer = only(FrcnnProposalTarget(PARAM), regions.shape, boxes.shape)
    rows, labels, *_ = forward(layer, [regions, boxes]).tops
    assert len(rows) == 12 and 0 < len(front) <= 3 and len(back) < 9
    found = [tuple(row) for row in rows[:, 1:]]
    count = int((labels > 0).sum())
    assert sorted(found[:count]) == sorted(front) and set(found[count:]) == set(back)
    assert found[count : count + len(back)] == found[count + len(back) :][: len(back)]


def test_any_region_may_be_background_where_there_is_none() -> None:
    layer = ProposalTarget(num_classes=3, batch_size=8, bg_thresh_lo=0.2, fill=True)
    boxes = truth([3, 4, 20, 25, 2])
    regions = np.array([[0, 3, 4, 20, 25], [0, 60, 60, 80, 80.0]])
    rows, labels, *_ = forward(layer, [regions, boxes]).tops
    count = int((labels > 0).sum())
    assert count == 2 and (rows[count:, 1:] == [60, 60, 80, 80]).all()


def test_anchors_by_their_corners() -> None:
    layer = Proposal(anchor=CORNERS)
    assert layer.n_anchors == 3 and layer.anchors[1] == (-4, -8, 3, 7)
    with pytest.raises(Refusal, match="given twice"):
        Proposal(anchor=CORNERS, scale=(2.0,)).check_anchors()
    with pytest.raises(Refusal, match="does not hold boxes"):
        Proposal(anchor=CORNERS[:5]).check_anchors()


NET = """
    layer { name: "in" type: "FrcnnRoiData" top: "data" top: "im_info" top: "gt_boxes"
      include { phase: TRAIN }
      window_data_param { source: "list" config: "voc.json" root_folder: "images/" } }
    layer { name: "score" type: "Convolution" bottom: "data" top: "score"
      convolution_param { num_output: 6 kernel_size: 8 stride: 8 } }
    layer { name: "target" type: "FrcnnAnchorTarget" bottom: "score" bottom: "gt_boxes"
      bottom: "im_info" top: "labels" top: "a" top: "b" top: "c" }
    """
CONFIG = {
    "scales": "96, 128", "max_size": "200", "n_classes": "4", "feat_stride": "8",
    "use_flipped": "0", "anchors": ", ".join(f"{c:g}" for c in CORNERS), "rpn_batchsize": "32",
    "rpn_allowed_border": "3", "eps": "0.1", "snapshot_infix": "", "data_jitter": "-1",
}  # fmt: skip


def write(folder: Path, config: dict[str, object] = CONFIG) -> Path:
    net = folder / "net.prototxt"
    net.write_text(NET)
    (folder / "voc.json").write_text(json.dumps(config).replace(", -4", ",\n-4"))
    return net


def test_the_settings_of_a_file_reach_the_layers(tmp_path: Path) -> None:
    net = write(tmp_path)
    source = read_net(net)
    assert source.upgraded == ("the settings of voc.json moved to frcnn_param of 'in', 'target'",)
    assert not source.message.layer[0].window_data_param.HasField("config")
    graph = load_graph(net, Phase.TRAIN, assume=True)
    assert isinstance(graph.nodes[0].layer, FrcnnRoiData)
    assert graph.nodes[0].layer.frcnn_param.scales == (96, 128)
    target = graph.nodes[-1].layer
    assert target == AnchorTarget(feat_stride=8, anchor=CORNERS, batch_size=32, allowed_border=3)
    assert graph.blobs["data"].shape == (1, 3, 128, 200)


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"use_haze_free": "1"}, "does not have 'use_haze_free'"),
        ({"data_jitter": "0"}, "does not have 'data_jitter'"),
        ({"max_size": "many"}, "'max_size' is no number"),
        (["600"], "is no object"),
    ],
)
def test_files_of_settings_that_are_refused(tmp_path: Path, config, what: str) -> None:
    with pytest.raises(NetcError, match=what):
        read_net(write(tmp_path, config))


def test_files_of_settings_that_are_missing(tmp_path: Path) -> None:
    net = write(tmp_path)
    (tmp_path / "voc.json").write_text("{")
    with pytest.raises(NetcError, match="cannot be read"):
        read_net(net)
    (tmp_path / "voc.json").unlink()
    with pytest.raises(NetcError, match=r"voc.json' does not exist"):
        read_net(net)
    net.write_text(NET + NET.replace("voc.json", "other.json"))
    with pytest.raises(NetcError, match="the settings of two files"):
        read_net(net)
