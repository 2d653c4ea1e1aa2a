"""Python layers: the well-known ones without their code, others only where it is allowed."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from netc.assemble import load_graph
from netc.data import DataAbsent, probe
from netc.errors import NetcError
from netc.graph.build import build, net_state
from netc.graph.types import Graph
from netc.layers.activation import Power
from netc.layers.input import BlobShape
from netc.layers.losses import EuclideanLoss
from netc.layers.masks import BestClassBoxes
from netc.layers.mtcnn import KnownEuclideanLoss, KnownRows
from netc.layers.ohem import HardRegions
from netc.layers.proposal import AnchorTarget, Proposal, ProposalTarget
from netc.layers.pyramid import PyramidAnchorTarget, PyramidProposal, PyramidRegions
from netc.layers.python import WELL_KNOWN, Python
from netc.layers.shape import Reshape
from netc.layers.spatialdropout import SpatialDropout
from netc.layers.textlines import TextProposal
from netc.layers.types import BlobType, Layer, Phase, Refusal
from netc.runtime.code import CodeHost
from netc.schema import read_net
from tests.support.layer_harness import check_layer, smooth
from tests.support.nets import executor_of, graph_of


def known(name: str, param_str: str = "", *, phase: Phase = Phase.TRAIN, top=()) -> Layer:
    module, _, cls = name.rpartition(".")
    return Python(module, cls, param_str, phase=phase, top=top).resolve(None)


# -- the well-known ones ---------------------------------------------------------------------------


def test_proposals_depend_on_the_phase_and_the_text() -> None:
    name = "rpn.proposal_layer.ProposalLayer"
    train = known(name, "'feat_stride': 16", top=("rois",))
    assert train == Proposal(
        ratio=(0.5, 1, 2), scale=(8, 16, 32), pre_nms_topn=12000, post_nms_topn=2000, top=("rois",)
    )
    text = "{'feat_stride': 8, 'ratios': [0.5, 1], 'scales': !!python/tuple [3]}"
    test = known(name, text, phase=Phase.TEST, top=("rois", "scores"))
    assert test == Proposal(
        feat_stride=8, ratio=(0.5, 1), scale=(3,), pre_nms_topn=6000, post_nms_topn=300,
        top=("rois", "scores"),
    )  # fmt: skip


def test_targets() -> None:
    found = known(
        "rpn.anchor_target_layer.AnchorTargetLayer", "{feat_stride: 4, allowed_border: 9}"
    )
    assert isinstance(found, AnchorTarget) and (found.feat_stride, found.allowed_border) == (4, 9)
    name = "rpn.proposal_target_layer.ProposalTargetLayer"
    assert known(name, "'num_classes': 21") == ProposalTarget(num_classes=21)
    assert known(name, "'num_classes': 2") == ProposalTarget(num_classes=2, agnostic=True)


def test_a_list_of_strides_makes_a_pyramid() -> None:
    strides = "'feat_stride': 4,8,16,32,64"
    found = known("rpn.proposal_layer.ProposalLayer", strides, phase=Phase.TEST)
    assert isinstance(found, PyramidProposal) and found.stride == (4, 8, 16, 32, 64)
    assert (found.scale, found.ratio, found.post_nms_topn) == ((16, 32), (), 1000)
    found = known("rpn.anchor_target_layer.AnchorTargetLayer", strides)
    assert isinstance(found, PyramidAnchorTarget) and found.stride == (4, 8, 16, 32, 64)
    assert (found.scale, found.allowed_border) == ((16, 32), 1000)


def test_targets_and_regions_of_a_pyramid() -> None:
    tops = tuple("abcdefgh")
    for module, name, rows in (
        ("rpn.proposal_target_layer", "ProposalTargetLayer", 256),
        ("rpn.proposal_target_layer_mrcnn", "ProposalMergeRcnnTargetLayer", 0),
    ):
        found = known(f"{module}.{name}", "'num_classes': 21", top=tops)
        target, regions = (
            part.layer for part in found.expand(*map(BlobType, [(9, 5), (2, 5), (1, 3, 8, 8)]))
        )
        assert target == ProposalTarget(num_classes=21, batch_size=256, bg_thresh_lo=0)
        assert regions == PyramidRegions(rows=rows, top=tuple(f"$t{i}" for i in range(8)))
    assert known("rpn.as_rois.As_roisLayer", top=tops[:5]) == PyramidRegions(
        rows=1000, top=tops[:5]
    )
    found = known("rpn.as_rois_mrcnn.As_rois_MergeRcnnLayer", top=tops[:5])
    assert found == PyramidRegions(top=tops[:5])


def test_layers_of_ssh() -> None:
    text = "{'feat_stride': 8,'scales': [1,2], 'ratios':[1,]}"
    shapes = {"feat_stride": 8, "ratio": (1,), "scale": (1, 2)}
    test = known("SSH.layers.proposal_layer.ProposalLayer", text, phase=Phase.TEST, top=("r", "s"))
    assert test == Proposal(
        **shapes, min_size=0, pre_nms_topn=1000, post_nms_topn=0, nms_thresh=1, top=("r", "s")
    )
    train = known("SSH.layers.proposal_layer.ProposalLayer", text, top=("r", "s"))
    assert train == Proposal(
        **shapes, min_size=4, pre_nms_topn=1000, post_nms_topn=300, nms_thresh=0.3, top=("r", "s")
    )
    text = text.replace("}", ", 'allowed_border': 512, 'positive_overlap': 0.6}")
    found = known("SSH.layers.anchor_target_layer.AnchorTargetLayer", text)
    assert found == AnchorTarget(
        **shapes, allowed_border=512, positive_overlap=0.6, fg_fraction=0.25, each_truth=False
    )


def test_layers_of_mnc_are_known_for_testing() -> None:
    for name, text, want in (
        (
            "proposal_layer.ProposalLayer", "{'feat_stride': 16, 'gradient_scale': 1}",
            Proposal(top=("rois",)),
        ),
        ("mask_layer.MaskLayer", "", Reshape(shape=BlobShape((0, 1, 21, 21)))),
        ("stage_bridge_layer.StageBridgeLayer", "", BestClassBoxes()),
    ):  # fmt: skip
        assert known(f"pylayer.{name}", text, phase=Phase.TEST, top=("rois",)) == want
        with pytest.raises(Refusal, match="is known for testing only"):
            known(f"pylayer.{name}", text)


def test_the_layer_of_ohem() -> None:
    found = known("roi_data_layer.layer.OHEMDataLayer", "'num_classes': 21")
    assert found == HardRegions(batch_size=64, nms_thresh=0.7)


def test_layers_of_mtcnn() -> None:
    assert known("pythonLayer.cls_Layer") == known("pythonLayer.cls_Layer_fc") == KnownRows()
    assert known("pythonLayer.regression_Layer") == KnownEuclideanLoss()


def test_data_whose_shapes_are_in_its_code() -> None:
    layer = known("pythonLayer.Data_Layer_train", top=("data", "label", "roi", "pts"))
    with pytest.raises(DataAbsent, match="read by Python code"):
        probe(layer, assume=True)
    with pytest.raises(Refusal, match="another number of tops"):
        probe(known("pythonLayer.Data_Layer_train", top=("data", "label")), assume=True)


def test_the_layer_of_ctpn() -> None:
    found = known("layers.text_proposal_layer.ProposalLayer", "'feat_stride': 16")
    assert found == TextProposal(feat_stride=16)


@pytest.mark.parametrize(
    ("name", "text", "tops", "shapes"),
    [
        (
            "roi_data_layer.layer.RoIDataLayer", "'num_classes': 21",
            ("data", "im_info", "gt_boxes"), [(1, 3, 608, 1024), (1, 3), (20, 5)],
        ),
        (
            "roi_data_layer.layer.RoIDataLayer", "'num_classes': 21",
            ("data", "rois", "labels"), [(2, 3, 608, 1024), (128, 5), (128, 1, 1, 1)],
        ),
        (
            "roi_data_layer.layer.RoIDataLayer", "'num_classes': 3",
            ("data", "rois", "labels", "t", "w"),
            [(2, 3, 608, 1024), (128, 5), (128, 1, 1, 1), *[(128, 12)] * 2],
        ),
        (
            "roi_data_layer.layer.RoIDataLayer", "'num_classes': 3",
            ("data", "rois", "labels", "t", "w", "v"),
            [(2, 3, 608, 1024), (128, 5), (128, 1, 1, 1), *[(128, 12)] * 3],
        ),
        (
            "pylayer.cfm_data_layer.CFMDataLayer", "{'num_classes': 21}", tuple("abcdefghij"),
            [
                (1, 3, 608, 1024), (64, 5), (64, 1, 14, 14), (64, 1), (64, 1), (64, 84),
                (64, 1, 21, 21), (64, 84), (64, 84), (64, 1, 21, 21),
            ],
        ),
        (
            "voc_layers.SBDDSegDataLayer",
            "{'sbdd_dir': 'x', 'seed': 1337, 'split': 'train', 'mean': (104.0, 116.6, 122.6)}",
            ("data", "label"), [(1, 3, 500, 500), (1, 1, 500, 500)],
        ),
        (
            "siftflow_layers.SIFTFlowSegDataLayer", "{'siftflow_dir': 'x', 'split': 'test'}",
            ("data", "sem", "geo"), [(1, 3, 256, 256), *[(1, 1, 256, 256)] * 2],
        ),
        (
            "nyud_layers.NYUDSegDataLayer",
            "{'tops': ['color', 'depth', 'label'], 'nyud_dir': 'x', 'split': 'test', 'seed': 1}",
            ("color", "depth", "label"), [(1, 3, 425, 560), *[(1, 1, 425, 560)] * 2],
        ),
        (
            "sequence_input_layer.videoReadTrain_RGB", "",
            ("data", "label", "clip_markers"), [(384, 3, 227, 227), (384,), (384,)],
        ),
        (
            "sequence_input_layer.videoReadTest_flow", "",
            ("data", "label", "clip_markers"), [(48, 3, 227, 227), (48,), (48,)],
        ),
        (
            "pascal_multilabel_datalayers.PascalMultilabelDataLayerSync",
            "{'batch_size': 128, 'split': 'train', 'im_shape': [227, 220], 'pascal_root': 'x'}",
            ("data", "label"), [(128, 3, 227, 220), (128, 20)],
        ),
    ],
)  # fmt: skip
def test_data_is_known_by_its_shapes(name, text, tops, shapes) -> None:
    layer = known(name, text, top=tops)
    item = probe(layer, assume=True)
    found = [top.shape for top in layer.infer(*item.types).tops]
    assert found == shapes and item.assumed
    with pytest.raises(DataAbsent, match="read by Python code"):
        probe(layer)
    with pytest.raises(Refusal, match="another number of tops"):
        probe(known(name, text, top=("data",)), assume=True)


def test_small_ones() -> None:
    assert known("pyloss.EuclideanLossLayer") == EuclideanLoss()
    name = "spatial_dropout.SpatialDropoutLayer"
    assert known(name, "{'phase': 'TRAIN', 'p': '0.2'}") == SpatialDropout(dropout_ratio=0.2)
    assert known(name, "{'phase': 'TEST', 'p': '0.2'}") == Power(scale=1.25)


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("rpn.proposal_layer.ProposalLayer", "", "lacks 'feat_stride'"),
        ("rpn.proposal_layer.ProposalLayer", "feat_stride: 1.5", "not a whole number"),
        ("rpn.proposal_layer.ProposalLayer2", "feat_stride: 1.5", "not a whole number"),
        ("rpn.proposal_layer.ProposalLayer", "feat_stride: 16\nscale: 3", "sets 'scale'"),
        ("rpn.proposal_target_layer.ProposalTargetLayer", "21", "no mapping"),
        ("spatial_dropout.SpatialDropoutLayer", "{'phase': 'X', 'p': '0.2'}", "is not that of"),
        ("spatial_dropout.SpatialDropoutLayer", "{'phase': 'TEST', 'p': 1}", "is not that of"),
        ("nyud_layers.NYUDSegDataLayer", "{'tops': ['colour']}", "no image 'colour'"),
        ("pyloss.EuclideanLossLayer", "a: 1", "sets 'a'"),
    ],
)
def test_settings_are_checked(name: str, text: str, what: str) -> None:
    with pytest.raises(Refusal, match=re.escape(what)) as error:
        known(name, text)
    assert error.value.setting == "param_str"


@pytest.mark.parametrize(("module", "name"), WELL_KNOWN)
def test_no_module_is_imported(module: str, name: str) -> None:
    before = set(sys.modules)
    try:
        known(f"{module}.{name}", "{'num_classes': 2, 'feat_stride': 16}")
    except Refusal as refusal:
        assert refusal.setting in ("param_str", "layer")
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    ("module", "name", "hint"),
    [
        ("rpn.proposal_layer", "ProposalLayr", "ProposalLayer"),
        ("rpn.proposal_layers", "ProposalLayer", "rpn.proposal_layer"),
        ("mine", "Mine", "-allow_python_layers"),
    ],
)
def test_others_are_refused(module: str, name: str, hint: str) -> None:
    with pytest.raises(Refusal, match="not allowed to run") as error:
        Python(module, name).resolve(None)
    assert hint in error.value.hint and "code that you trust" in error.value.hint
    for text, setting in (({"layer": "X"}, "module"), ({"module": "x"}, "layer")):
        with pytest.raises(Refusal, match=f"names no {setting}"):
            Python(**text).resolve(None)


RCNN = """
layer { name: "input" type: "Python" top: "data" top: "im_info" top: "gt_boxes"
  python_param { module: "roi_data_layer.layer" layer: "RoIDataLayer"
                 param_str: "'num_classes': 3" } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 32 stride: 32 weight_filler { type: "xavier" } } }
layer { name: "obj" type: "Convolution" bottom: "conv" top: "obj"
  convolution_param { num_output: 18 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "box" type: "Convolution" bottom: "conv" top: "box"
  convolution_param { num_output: 36 kernel_size: 1 } }
layer { name: "target" type: "Python" bottom: "obj" bottom: "gt_boxes" bottom: "im_info"
  bottom: "data" top: "labels" top: "t" top: "w_in" top: "w_out"
  python_param { module: "rpn.anchor_target_layer" layer: "AnchorTargetLayer"
                 param_str: "'feat_stride': 32" } }
layer { name: "both" type: "Python" bottom: "obj" bottom: "box" bottom: "im_info"
  bottom: "gt_boxes" top: "rois" top: "classes" top: "t2" top: "w_in2" top: "w_out2"
  python_param { module: "rpn.proposal_layer" layer: "ProposalLayer2"
                 param_str: "{'feat_stride': 32, 'num_classes': 3}" } }
"""


def graph(text: str, host: CodeHost | None = None, **shapes: tuple[int, ...]) -> Graph:
    source = read_net("net.prototxt", text=text)
    state = net_state(source.message, Phase.TRAIN)
    found = build(source, state, probe=partial(probe, assume=True), shapes=shapes, host=host)
    found.verify()
    return found


def test_a_net_of_well_known_layers_is_built() -> None:
    found = graph(RCNN)
    assert [n.name for n in found.nodes][-2:] == ["both/proposal", "both/target"]
    assert found.blobs["labels"].shape == (1, 1, 9 * 19, 32)
    assert found.blobs["rois"].shape == (128, 5) and found.blobs["t2"].shape == (128, 12)
    [note] = found.notes
    assert "assumed data (1, 3, 608, 1024), im_info (1, 3), gt_boxes (20, 5)" in note


def test_a_shape_can_be_given_for_data_of_a_class() -> None:
    found = graph(RCNN, data=(1, 3, 64, 96), gt_boxes=(7, 5))
    assert found.blobs["labels"].shape == (1, 1, 18, 3) and found.blobs["gt_boxes"].shape == (7, 5)
    # More images: what had one row for each image follows, the boxes do not.
    found = graph(RCNN[: RCNN.index('layer { name: "conv"')], data=(4, 3, 64, 96))
    assert [b.shape for b in found.blobs.values()] == [(4, 3, 64, 96), (4, 3), (20, 5)]


def test_a_net_without_its_data_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(RCNN)
    assert load_graph(tmp_path / "net.prototxt", Phase.TRAIN, assume=True).nodes
    with pytest.raises(NetcError, match="read by Python code, which is not run"):
        load_graph(tmp_path / "net.prototxt", Phase.TRAIN)


def test_a_loss_of_a_class_weighs_nothing_unless_the_text_says_so() -> None:
    text = """
    layer { name: "in" type: "Input" top: "a" top: "b" input_param { shape { dim: 2 dim: 3 } } }
    layer { name: "loss" type: "Python" bottom: "a" bottom: "b" top: "loss" %s
            python_param { module: "pyloss" layer: "EuclideanLossLayer" } }"""
    assert not graph_of(text % "").loss_blobs
    assert [blob.loss_weight for blob in graph_of(text % "loss_weight: 2").loss_blobs] == [2]


# -- code that is allowed --------------------------------------------------------------------------

CODE = '''
import numpy as np
import caffe

class Scale(caffe.Layer):
    """y = w x, with a param of the layer's own."""
    def setup(self, bottom, top):
        if len(bottom) != 1:
            raise Exception("one bottom is needed")
        self.power = eval(self.param_str)["power"]
        self.was_setup = getattr(self, "was_setup", 0) + 1
        self.blobs.add_blob(1)
        self.blobs[0].data[...] = 3
    def reshape(self, bottom, top):
        self.slope = np.zeros_like(bottom[0].data)
        top[0].reshape(*bottom[0].data.shape)
    def forward(self, bottom, top):
        assert self.was_setup == 1 and self.phase in (caffe_TRAIN, caffe_TEST)
        top[0].data[...] = self.blobs[0].data[0] * bottom[0].data ** self.power
        # Kept for backward, as pycaffe's own example of a loss does.
        self.slope[...] = self.power * bottom[0].data ** (self.power - 1)
    def backward(self, top, propagate_down, bottom):
        x, dy, w = bottom[0].data, top[0].diff, self.blobs[0].data[0]
        self.blobs[0].diff[0] = (dy * x ** self.power).sum()
        if propagate_down[0]:
            bottom[0].diff[...] = dy * w * self.slope

caffe_TRAIN, caffe_TEST = caffe.TRAIN, caffe.TEST

class Grows(caffe.Layer):
    def setup(self, bottom, top):
        self.n = 1
    def reshape(self, bottom, top):
        self.n += 1
        top[0].reshape(self.n)
    def forward(self, bottom, top):
        top[0].data[...] = self.n

class Fails(caffe.Layer):
    def setup(self, bottom, top): pass
    def reshape(self, bottom, top): top[0].reshape(bottom[0].num, bottom[0].channels)
    def forward(self, bottom, top): raise ValueError("no luck")
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = f"netc_test_layers_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(CODE))
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def host() -> CodeHost:
    import netc.pycaffe

    return CodeHost(netc.pycaffe)


def test_code_obeys_the_rules_of_layers(module: str) -> None:
    text = Python(module, "Scale", "{'power': 3}", top=("y",), phase=Phase.TEST)
    run = check_layer(text.resolve(host()), [smooth(2, 3)], [np.array([2.0])])
    np.testing.assert_allclose(run.tops[0], 2 * smooth(2, 3) ** 3)
    assert "caffe" not in sys.modules


def net_of(module: str, name: str, rest: str = "") -> str:
    return f"""
    layer {{ name: "in" type: "Input" top: "x" top: "t"
      input_param {{ shape {{ dim: 4 dim: 2 }} }} }}
    layer {{ name: "own" type: "Python" bottom: "x" top: "y" python_param {{
      module: "{module}" layer: "{name}" {rest} }} }}
    layer {{ name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "t" top: "l" }}"""


def test_code_in_a_net_learns(module: str) -> None:
    found = graph(net_of(module, "Scale", "param_str: \"{'power': 1}\""), host())
    net = executor_of(found, keep="all")
    net.fill_params()
    assert net.param_array(0).tolist() == [3]
    net.data("x")[...] = smooth(4, 2)
    net.data("t")[...] = 5 * net.data("x")
    for _ in range(60):
        net.forward()
        net.backward()
        net.set_param(0, net.param_array(0) - 0.2 * net.param_diffs[0])
        net.clear_param_diffs()
    assert net.param_array(0)[0] == pytest.approx(5, abs=1e-3)


def test_a_top_that_changes_its_shape_is_refused(module: str) -> None:
    text = net_of(module, "Grows").partition('layer { name: "loss"')[0]
    net = executor_of(graph(text, host()), train=False)
    with pytest.raises(NetcError, match="changed the shape of top 0"):
        net.forward()


def test_code_that_fails_says_where(module: str) -> None:
    net = executor_of(graph(net_of(module, "Fails"), host()))
    with pytest.raises(NetcError, match=r"code of Fails\.forward has failed") as error:
        net.forward()
    assert "ValueError: no luck" in str(error.value) and f"{module}.py:" in str(error.value)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("Scal", "has no class 'Scal'"),
        ("np", "has no class 'np'"),
    ],
)
def test_a_class_that_is_not_there(module: str, name: str, what: str) -> None:
    with pytest.raises(NetcError, match=what) as error:
        graph(net_of(module, name), host())
    assert "Scale" in str(error.value)


def test_a_module_that_is_not_there() -> None:
    with pytest.raises(NetcError, match="'nowhere' cannot be imported") as error:
        graph(net_of("nowhere", "X"), host())
    assert "PYTHONPATH" in str(error.value)


def test_setup_that_refuses(module: str) -> None:
    text = net_of(module, "Scale").replace('bottom: "x" top: "y"', 'top: "y"', 1)
    with pytest.raises(NetcError, match=r"code of Scale\.setup has failed") as error:
        graph(text, host())
    assert "one bottom is needed" in str(error.value)


def test_code_comes_before_a_well_known_class_if_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = Python("pyloss", "EuclideanLossLayer", top=("l",))
    assert text.resolve(host()) == EuclideanLoss()
    (tmp_path / "pyloss.py").write_text("class EuclideanLossLayer: pass")
    monkeypatch.syspath_prepend(tmp_path)
    assert text.resolve(None) == EuclideanLoss()
    assert text.resolve(host()) != EuclideanLoss()


def test_two_layers_of_one_class_are_two_objects(module: str) -> None:
    text = Python(module, "Scale", "{'power': 1}", top=("y",))
    first, second = text.resolve(host()), text.resolve(host())
    for layer in (first, second, first):
        assert layer.infer(BlobType((2, 2))).tops == (BlobType((2, 2)),)
