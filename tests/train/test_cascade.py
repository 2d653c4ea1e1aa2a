"""A Cascade R-CNN of a few layers, from its list of images to its objects: trained and tested."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from netc.assemble import load_graph
from netc.backends import find_backend
from netc.export.deliver import deliver
from netc.layers.types import Phase
from netc.schema import read_solver
from netc.train import tuning
from netc.train.finetuning import Asked
from netc.train.solver import Solver
from netc.train.testing import test_all as run_tests

N_IMAGES = 8


def conv(name: str, bottom: str, outputs: int, kernel: int, stride: int = 1) -> str:
    return f"""
    layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}"
      convolution_param {{ num_output: {outputs} kernel_size: {kernel} stride: {stride}
        pad: {kernel // 2} weight_filler {{ type: "msra" }} }} }}"""


def relu(name: str) -> str:
    return f'layer {{ name: "relu_{name}" type: "ReLU" bottom: "{name}" top: "{name}" }}'


def ip(name: str, bottom: str, outputs: int, std: float = 0.05) -> str:
    return f"""
    layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}"
      inner_product_param {{ num_output: {outputs}
        weight_filler {{ type: "gaussian" std: {std} }} }} }}"""


def reshape(bottom: str, dim: int) -> str:
    return f"""
    layer {{ name: "{bottom}_each" type: "Reshape" bottom: "{bottom}" top: "{bottom}_each"
      reshape_param {{ shape {{ dim: -1 dim: {dim} dim: 0 dim: 0 }} }} }}"""


FIELDS = "field_w: 24 field_w: 40 field_h: 24 field_h: 40 stride: 8"
LIMITS = "field_whr: 8 field_xyr: 1"
REG = """bbox_reg_param { cls_aware: false bbox_mean: 0 bbox_mean: 0 bbox_mean: 0 bbox_mean: 0
         bbox_std: 0.1 bbox_std: 0.1 bbox_std: 0.2 bbox_std: 0.2 }"""
TARGET = "cls_num: 3 fg_fraction: 0.5 num_img_per_batch: 1 img_width: 64 img_height: 64"

DATA = """
layer { name: "data" type: "DetectionData" top: "data" top: "small" top: "large" top: "boxes"
  include { phase: TRAIN } transform_param { mirror: true mean_value: 100 scale: 0.01 }
  detection_data_param { source: "list.txt" batch_size: 1 short_size: 64 long_size: 96
    stride: 8 stride: 8 field_w: 24 field_w: 40 field_h: 24 field_h: 40
    fg_threshold: 0.5 shuffle: "random_aspect" output_gt_boxes: true } }
layer { name: "data" type: "EvalData" top: "data" top: "boxes" top: "sizes"
  include { phase: TEST } transform_param { mean_value: 100 scale: 0.01 }
  eval_data_param { source: "list.txt" batch_size: 1 short_size: 64 long_size: 96 } }
"""
PROPOSALS = f"""
{conv("conv1", "data", 8, 5, 2)} {relu("conv1")}
{conv("conv2", "conv1", 16, 3, 2)} {relu("conv2")}
{conv("conv3", "conv2", 16, 3, 2)} {relu("conv3")}
{conv("rpn_cls", "conv3", 4, 3)} {reshape("rpn_cls", 2)}
{conv("rpn_box", "conv3", 8, 3)} {reshape("rpn_box", 4)}
layer {{ name: "labels" type: "Concat" bottom: "small" bottom: "large" top: "labels"
  include {{ phase: TRAIN }} }}
layer {{ name: "labels_each" type: "Reshape" bottom: "labels" top: "labels_each"
  include {{ phase: TRAIN }} reshape_param {{ shape {{ dim: -1 dim: 6 dim: 0 dim: 0 }} }} }}
layer {{ name: "rpn_loss" type: "DetectionGroupLoss" bottom: "rpn_cls_each" bottom: "rpn_box_each"
  bottom: "labels_each" top: "rpn_loss" include {{ phase: TRAIN }}
  detection_group_loss_param {{ batch_size: 32 cls_num: 2 {FIELDS} {LIMITS} bg_threshold: 0.3
    bg_multiple: 1 objectness: true }} }}
layer {{ name: "rpn_prob" type: "Softmax" bottom: "rpn_cls_each" top: "rpn_prob" }}
layer {{ name: "proposals" type: "BoxGroupOutput" bottom: "rpn_prob" bottom: "rpn_box_each"
  top: "proposals" propagate_down: 0 propagate_down: 0
  box_group_output_param {{ fg_thr: 0.0 iou_thr: 0.7 box_group_param {{ {FIELDS} }} {LIMITS}
    max_nms_num: 60 max_post_nms_num: 20 min_size: 5 }} }}
"""


def stage(number: int, regions: str, batch: int, threshold: float) -> str:
    """A stage of the cascade: in phase TRAIN on targets, in phase TEST on all regions."""
    n = str(number)
    return f"""
    layer {{ name: "target{n}" type: "ProposalTarget" bottom: "{regions}" bottom: "boxes"
      top: "rois{n}" top: "label{n}" top: "goal{n}" top: "inside{n}" top: "outside{n}"
      top: "match{n}" include {{ phase: TRAIN }} {REG}
      proposal_target_param {{ {TARGET} batch_size: {batch} fg_thr: {threshold}
        bg_thr_hg: {threshold} bg_thr_lw: 0 }} }}
    layer {{ name: "route{n}" type: "ScaleRoute" bottom: "{regions}" top: "rois{n}"
      include {{ phase: TEST }} scale_route_param {{ low_scale: 4 }} }}
    layer {{ name: "grid{n}" type: "ROIAlign" bottom: "conv3" bottom: "rois{n}" top: "grid{n}"
      propagate_down: 1 propagate_down: 0
      roi_pooling_param {{ pooled_w: 3 pooled_h: 3 spatial_scale: 0.125 }} }}
    layer {{ name: "pool{n}" type: "Pooling" bottom: "grid{n}" top: "pool{n}"
      pooling_param {{ pool: AVE kernel_size: 2 stride: 1 }} }}
    {ip(f"fc{n}", f"pool{n}", 32)} {relu(f"fc{n}")}
    {ip(f"cls{n}", f"fc{n}", 3)} {ip(f"box{n}", f"fc{n}", 8, 0.01)}
    layer {{ name: "loss_cls{n}" type: "SoftmaxWithLoss" bottom: "cls{n}" bottom: "label{n}"
      top: "loss_cls{n}" include {{ phase: TRAIN }} }}
    layer {{ name: "loss_box{n}" type: "SmoothL1Loss" bottom: "box{n}" bottom: "goal{n}"
      bottom: "inside{n}" bottom: "outside{n}" top: "loss_box{n}" include {{ phase: TRAIN }} }}
    """


NET = f"""
name: "tiny cascade"
{DATA} {PROPOSALS} {stage(1, "proposals", 24, 0.4)}
layer {{ name: "decoded" type: "DecodeBBox" bottom: "box1" bottom: "rois1" bottom: "match1"
  top: "decoded" include {{ phase: TRAIN }} {REG} }}
layer {{ name: "decoded" type: "DecodeBBox" bottom: "box1" bottom: "rois1" top: "decoded"
  include {{ phase: TEST }} {REG} }}
{stage(2, "decoded", -1, 0.5)}
layer {{ name: "quiet" type: "Silence" bottom: "cls1" include {{ phase: TEST }} }}
layer {{ name: "prob" type: "Softmax" bottom: "cls2" top: "prob" include {{ phase: TEST }} }}
layer {{ name: "found" type: "FrcnnOutput" bottom: "prob" bottom: "box2" bottom: "rois2"
  bottom: "sizes" top: "found" include {{ phase: TEST }} {REG}
  frcnn_output_param {{ conf_thr: 0.05 iou_thr: 0.4 max_det_num: 10 }} }}
layer {{ name: "map" type: "DetectionEvaluate" bottom: "found" bottom: "boxes" bottom: "sizes"
  top: "map" include {{ phase: TEST }} detection_evaluate_param {{ num_classes: 3
    overlap_threshold: 0.5 evaluate_difficult_gt: false name_size_file: "sizes.txt" }} }}
"""
SOLVER = f"""
net: "net.prototxt" base_lr: 0.02 momentum: 0.9 weight_decay: 0.0001 lr_policy: "fixed"
random_seed: 3 test_iter: {N_IMAGES} test_interval: 1000 test_initialization: false
eval_type: "detection" ap_version: "101point" snapshot_prefix: "snap" clip_gradients: 10
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images of bright and dark squares, which are the classes 1 and 2."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    lines, sizes = [], []
    for i in range(N_IMAGES):
        height, width = [(48, 72), (72, 48), (64, 80)][i % 3]
        image = rng.integers(95, 106, (height, width, 3), np.uint8)
        side = int(rng.integers(18, 30))
        x, y = (int(rng.integers(0, s - side)) for s in (width, height))
        image[y : y + side, x : x + side] = 250 if i % 2 else 0
        assert cv2.imwrite(f"{i}.png", image)
        lines += [f"# {i}", f"{i}.png", "3", str(height), str(width), "1"]
        lines += [f"{2 - i % 2} 0 0 {x} {y} {x + side - 1} {y + side - 1}", "0"]
        sizes.append(f"{i} {height} {width}")
    Path("list.txt").write_text("\n".join(lines) + "\n")
    Path("sizes.txt").write_text("\n".join(sizes) + "\n")
    Path("net.prototxt").write_text(NET)
    Path("solver.prototxt").write_text(SOLVER)
    return tmp_path


def solver_of() -> Solver:
    return Solver(read_solver("solver.prototxt"), find_backend("reference"))


def average_precision(solver: Solver) -> float:
    solver.scores = []
    run_tests(solver)
    ((_, (value,), _),) = solver.scores[0].outputs
    return value


def test_a_cascade_learns_where_objects_are(folder: Path) -> None:
    solver = solver_of()
    before = average_precision(solver)
    solver.step(90)
    # It comes to 0.63; where nothing is learnt it stays near 0.
    assert before < 0.05 and average_precision(solver) > 0.3


def test_a_resumed_run_is_the_whole_run(folder: Path) -> None:
    whole = solver_of()
    whole.step(7)
    part = solver_of()
    part.step(3)
    _, state = part.snapshot()
    resumed = solver_of()
    tuning.start(resumed, Asked(), str(state))
    resumed.step(4)
    for ours, theirs in zip(resumed.net.params, whole.net.params, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_cascade_is_exported(folder: Path) -> None:
    solver = solver_of()
    solver.step(2)
    weights, _ = solver.snapshot()
    graph = load_graph("net.prototxt", Phase.TEST)
    proof = deliver(graph, [str(weights)], Path("net.onnx"), find_backend("reference"), batch=1)
    assert proof.ok, proof.table()
