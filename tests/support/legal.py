"""For every layer type, bottoms and settings that suit it, to draw others from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from netc.layers.detectnet import GroundTruth
from netc.layers.dummydata import BlobShape
from netc.layers.fillers import Filler
from netc.layers.mscnn import BoxGroupParam
from netc.layers.pooling import PoolMethod
from netc.layers.ssd import CodeType
from tests.support.detection import priors, random_objects

# A value of a bottom: from its shape and a generator.
Values = Callable[[tuple[int, ...], np.random.Generator], np.ndarray]


def normal(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal(shape)


def positive(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(0.1, 1, shape)


def below(count: int) -> Values:
    """Whole numbers of 0..count-1: labels, indices, flags."""
    return lambda shape, rng: rng.integers(0, count, shape).astype(float)


def regions(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Rows (image 0, x1, y1, x2, y2) in pixels."""
    low = rng.uniform(0, 8, (shape[0], 2))
    high = low + rng.uniform(4, 16, (shape[0], 2))
    return np.concatenate([np.zeros((shape[0], 1)), low, high], axis=1).reshape(shape)


def truths(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Rows (x1, y1, x2, y2, class 1) in pixels."""
    low = rng.uniform(0, 8, (shape[0], 2))
    high = low + rng.uniform(4, 16, (shape[0], 2))
    return np.concatenate([low, high, np.ones((shape[0], 1))], axis=1).reshape(shape)


def true_boxes(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Rows (image 0, x1, y1, x2, y2, class 1, ignored or not) in pixels."""
    flags = rng.integers(0, 2, (shape[0], 1))
    return np.concatenate([regions((shape[0], 5), rng), np.ones_like(flags), flags], axis=1) * 1.0


def matches(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Rows (class 0 or 1, x1, y1, x2, y2, overlap)."""
    rows = regions((shape[0], 5), rng)
    rows[:, 0] = rng.integers(0, 2, shape[0])
    return np.concatenate([rows, rng.random((shape[0], 1))], axis=1)


def image_size(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return np.array([[32.0, 32.0, 1.0]])


def objects(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Rows of objects in one image, of class 1 or 2; as many of them as there are, the rest -1."""
    found = random_objects(1, shape[2], 3, seed=int(rng.integers(99)))[0, 0, : shape[2]]
    rows = np.full(shape, -1.0)
    rows[0, 0, : len(found)] = found
    return rows


def kitti_boxes(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """DetectNet's lists: the number of boxes and of their values, and a row for each of them."""
    found = rng.uniform(0, 6, shape)
    found[..., 5] = rng.integers(0, 3, shape[:-1])
    found[..., 0, :2] = shape[-2] - 1, 16
    return found


def detections(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    low = rng.uniform(0, 0.5, (shape[2], 2))
    columns = [
        np.zeros((shape[2], 1)),
        rng.integers(1, 3, (shape[2], 1)),
        rng.random((shape[2], 1)),
    ]
    return np.concatenate([*columns, low, low + 0.3], axis=1).reshape(shape)


def found_regions(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Rows (image 0, x1, y1, x2, y2, class 1 or 2, score)."""
    rows = regions((shape[0], 5), rng)
    scores = rng.random((shape[0], 1))
    return np.concatenate([rows, rng.integers(1, 3, (shape[0], 1)), scores], axis=1)


def found_objects(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Rows (image 0, x1, y1, x2, y2, class 1, ignored or not, difficult or not)."""
    return np.concatenate([true_boxes(shape, rng), rng.integers(0, 2, (shape[0], 1))], axis=1)


def prior_boxes(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return priors(shape[2] // 4, seed=int(rng.integers(99)))


def boxes(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    low = rng.uniform(0, 20, (*shape[:-1], 2))
    return np.concatenate([low, low + rng.uniform(2, 20, low.shape)], axis=-1)


def whole_map(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Heights and widths that are all of the maps of 4 x 5."""
    return np.broadcast_to(np.array([4.0, 5.0]), shape).copy()


def identity(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Affine maps near the identity."""
    return np.array([1.0, 0, 0, 0, 1, 0]) + rng.uniform(-0.2, 0.2, shape)


def fields(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Labels (N, 6, H, W) of MS-CNN: class 0..2, centre, width and height in pixels, overlap."""
    n, _, h, w = shape
    classes = rng.integers(0, 3, (n, 1, h, w))
    centres, sizes = rng.uniform(0, 24, (n, 2, h, w)), rng.uniform(1, 30, (n, 2, h, w))
    return np.concatenate([classes, centres, sizes, rng.random((n, 1, h, w))], axis=1)


def grid_labels(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Labels (N, 7 * 9) of YOLO's first version, of class 0..3."""
    rows = rng.integers(0, 2, (shape[0], 7, 9)).astype(float)
    rows[:, 2] = rng.integers(0, 4, (shape[0], 9))
    rows[:, 3:] = rng.uniform(0.1, 0.9, (shape[0], 4, 9))
    return rows.reshape(shape)


@dataclass(frozen=True)
class Suits:
    """Bottoms that suit settings: "N C 3 4" is a shape whose letters are drawn, the same for all.

    `values` by the number of the bottom; those that hold whole numbers have 0 and 1 by default.
    `fixed` are settings that bottoms depend on: they are not drawn.
    """

    bottoms: tuple[str, ...] = ("N C H W",)
    settings: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[int, Values] = field(default_factory=dict)
    fixed: tuple[str, ...] = ()
    tops: tuple[int, ...] = (1,)


def _two(shape: str = "N C") -> Suits:
    return Suits((shape, shape))


def _scores(**settings: Any) -> Suits:
    return Suits(
        ("N 3 H", "N 1 H"), settings, {1: below(3)}, tops=(1, 2), fixed=("class_weighting",)
    )


_KERNEL: dict[str, Any] = {"kernel_size": (2,)}
_VIDEO: dict[str, Any] = {"num_output": 2, "kernel_size": 2, "kernel_depth": 2}
_YOLO: dict[str, Any] = {"biases": (1.0, 1.5, 2.0, 0.7)}
_RECURRENT = (
    Suits(("T N C", "T N"), {"num_output": 2}, {1: below(2)}, fixed=("expose_hidden",)),
    Suits(
        ("T N C", "T N", "1 N 2", "1 N 2"),
        {"num_output": 2, "expose_hidden": True},
        {1: below(2)},
        ("num_output", "expose_hidden"),
        (3,),
    ),
)

_GROUPS: tuple[tuple[str, ...], dict[str, Any]] = (
    ("4 3 2 3", "4 4 2 3", "4 6 2 3"),
    {"cls_num": 3, "field_h": (12, 20), "field_w": (8, 16), "stride": 8},
)
_GROUPED = ("cls_num", "field_h", "field_w")

_GRID = {"image_size_x": 32, "image_size_y": 24, "stride": 8, "num_classes": 2}

# Types that take one bottom of any shape, with the defaults of their settings, need no line.
LEGAL: dict[str, tuple[Suits, ...]] = {
    "Accuracy": (Suits(("N 3 H", "N 1 H"), {}, {1: below(3)}, tops=(1, 2)),),
    "AnchorTarget": (
        Suits(
            ("1 24 4 4", "G 5", "1 3"), {"scale": (1.0, 2.0)}, {1: truths, 2: image_size},
            ("ratio", "scale"), (4,),
        ),
    ),
    "AssistedExcitation": (
        Suits(("N C 4 5", "N 1 3 5", "N 4 5"), values={1: positive, 2: normal}),
    ),
    "Axpy": (Suits(("N C", "N C H W", "N C H W")),),
    "BN": (Suits(tops=(1, 3)), Suits(settings={"slope_filler": Filler("constant", 1.0)})),
    "BatchReindex": (Suits(("2 C H", "N"), values={1: below(2)}),),
    "Bias": (Suits(), Suits(("N C H", "C"))),
    "BoxAnnotatorOHEM": (
        Suits(("R 5", "R 1", "R 1", "R 8"), {"roi_per_img": 2}, {0: regions}, tops=(2,)),
    ),
    "CTCGreedyAccuracy": (
        Suits(("4 N 3", "N 2"), {}, {1: below(3)}, ("blank_index",)),
    ),
    "CTCGreedyDecoder": (
        Suits(("4 N 3",), fixed=("blank_index",)),
        Suits(("4 N 3", "4 N"), {}, {1: below(2)}, ("blank_index",)),
    ),
    "CTCLoss": (
        Suits(
            ("4 N 3", "2 N"), {}, {1: lambda shape, rng: np.ones(shape)},
            ("alphabet_size", "time_step", "blank_index"),
        ),
    ),
    "CenterLoss": (Suits(("N C", "N"), {"num_output": 3}, {1: below(3)}, ("num_output",)),),
    "BboxAccuracy": (
        Suits(("R 8", "R 5", "R 6"), values={1: regions, 2: matches}, tops=(1, 2)),
    ),
    "BoxGroupOutput": (
        Suits(
            ("4 3 2 3", "4 4 2 3"),
            {
                "box_group_param": (BoxGroupParam((24, 40), (20, 32), 16),), "fg_thr": -1.0,
                "max_post_nms_num": 5,
            },
            fixed=("nms_type", "box_group_param"), tops=(1, 2),
        ),
    ),
    "BoxOutput": (
        Suits(
            ("2 7 2 3", "2 7 1 2"),
            {
                "field_h": (24, 40), "field_w": (20, 32), "downsample_rate": (16, 32),
                "fg_thr": -1.0, "max_post_nms_num": 5,
            },
            fixed=("nms_type",), tops=(1, 2),
        ),
    ),
    "ChannelScale": (
        Suits(("N C H", "N 1 H"), fixed=("global_scale",)),
        Suits(("N C H", "N 1 H"), {"global_scale": True}, fixed=("global_scale",), tops=(1, 2)),
    ),
    "Clip": (Suits(settings={"min": -0.5, "max": 0.5}),),
    "Concat": (Suits(("N C H", "N C H")),),
    "ContinuationIndicator": (Suits(settings={"time_step": 3}, fixed=("time_step",)),),
    "ContrastiveLoss": (Suits(("N C", "N C", "N"), values={2: below(2)}),),
    "Convolution3D": (Suits(("N C 3 4 5",), _VIDEO),),
    "Convolution": (
        Suits(("N 2 4 5",), {"num_output": 2, **_KERNEL}),
        Suits(("N 4 3", "N 4 3"), {"num_output": 4, "group": 2, **_KERNEL}, tops=(2,)),
    ),
    "ConvolutionDepthwise": (Suits(("N 2 4 5",), {"num_output": 2, **_KERNEL}),),
    "Crop": (Suits(("N C 4 5", "N C 3 2"), {"offset": (1,)}),),
    "CropAndResize": (
        Suits(("1 C 8 8", "R 5"), {"crop_h": 3, "crop_w": 2}, {1: regions}),
    ),
    "Deconvolution": (Suits(("N 2 3 4",), {"num_output": 2, **_KERNEL}),),
    "Deconvolution3D": (Suits(("N C 2 3 3",), _VIDEO),),
    "DecodeBBox": (Suits(("R 8", "R 5"), values={1: regions}),),
    "DenseBlock": (
        Suits(settings={"numTransition": 2, "growthRate": 2}, fixed=("numTransition",)),
    ),
    "DenseCRF": (
        Suits(
            ("N 2 4 5", "N 1 1 2", "N 3 4 5"),
            {"bi_xy_std": (3.0,), "bi_rgb_std": (1.0,), "bi_w": (2.0,), "max_iter": 2},
            {1: whole_map},
        ),
    ),
    "DetectNetTransformation": (
        Suits(
            ("N 3 5 8", "N 1 4 16"),
            {"detectnet_groundtruth_param": GroundTruth(2, image_size_x=9, image_size_y=6)},
            {0: positive, 1: kitti_boxes}, ("detectnet_groundtruth_param",), (2,),
        ),
    ),
    "DetectionAccuracy": (
        Suits(
            ("N 7 2 3", "N 6 2 3"),
            {"cls_num": 3, "field_h": 12, "field_w": 8, "downsample_rate": 8},
            {1: fields}, ("cls_num", "coord_num"), (1, 2),
        ),
    ),
    "DetectionEvaluate": (
        Suits(
            ("1 1 R 7", "1 1 G 8"), {"num_classes": 3}, {0: detections, 1: objects},
            ("num_classes", "background_label_id", "name_size_file"),
        ),
    ),
    "DetectionGroupAccuracy": (Suits(*_GROUPS, {2: fields}, _GROUPED, (1, 2)),),
    "DetectionGroupLoss": (
        Suits(
            *_GROUPS, {2: fields},
            (*_GROUPED, "neg_mining_type", "neg_ranking_type", "bbox_loss_type"),
        ),
    ),
    "DetectionLoss": (
        Suits(
            ("N 7 2 3", "N 6 2 3"),
            {"cls_num": 3, "field_h": 12, "field_w": 8, "downsample_rate": 8},
            {1: fields}, ("cls_num", "coord_num", "sample_mode"),
        ),
    ),
    "DetectionOutput": (
        Suits(
            ("N 24", "N 18", "1 2 24"),
            {"num_classes": 3, "keep_top_k": 4, "code_type": CodeType.CENTER_SIZE},
            {1: positive, 2: prior_boxes},
            ("num_classes", "share_location", "use_polygon"),
        ),
    ),
    "DropConnect": (Suits(settings={"num_output": 2}),),
    "DummyData": (Suits((), {"shape": (BlobShape((2, 3)),)}, tops=(1, 2)),),
    "EltwiseAccuracy": (Suits(("N 3 H W", "N 1 H W"), {}, {1: below(3)}),),
    "Eltwise": (_two("N C H"), Suits(("N C", "N C", "N C"))),
    "Embed": (
        Suits(("N T",), {"num_output": 2, "input_dim": 3}, {0: below(3)}, ("input_dim",)),
    ),
    "EuclideanLossHeatmap": (Suits(("N C H W", "N C H W", "N 3 H W")),),
    "EuclideanLoss": (_two(),),
    "EvalDetection": (
        Suits(
            ("1 16 3 3", "1 1 G 8"), {"side": 3, "num_class": 3, "num_object": 2, **_YOLO},
            {1: objects}, ("side", "num_class", "num_object"),
        ),
    ),
    "ChannelFilter": (
        Suits(("N 3 H W",), {"num_output": 3}, fixed=("num_output", "axis")),
    ),
    "Filter": (Suits(("N C", "N"), values={1: below(2)}, fixed=("num_output", "axis")),),
    "FocalLoss": (_scores(),),
    "FrcnnOutput": (
        Suits(
            ("R 3", "R 12", "R 5", "1 2"), {"conf_thr": 0.3},
            {0: positive, 2: regions, 3: lambda shape, rng: np.full(shape, 20.0)},
            ("nms_type", "bbox_reg_param"),
        ),
    ),
    "GeneralContrastiveLoss": (
        Suits(("N 3", "N"), {}, {1: below(3)}, tops=(1, 2)),
        Suits(("N 3", "N", "N 3"), {}, {1: below(3), 2: positive}),
    ),
    "GridClusters": (
        Suits(
            ("N 2 3 4", "N 4 3 4"), {**_GRID, "gridbox_rect_thresh": 1, "gridbox_rect_eps": 0.5},
            {0: positive}, ("num_classes", *_GRID), (2,),
        ),
    ),
    "GridTruth": (
        Suits(("N 2 3 4", "N 4 3 4"), _GRID, {0: below(2)}, ("num_classes", *_GRID), (2,)),
    ),
    "NCALoss": (
        Suits(("N 3", "N"), {}, {1: below(3)}, tops=(1, 2)),
        Suits(("N 3", "N", "N"), {}, {1: below(3), 2: positive}),
    ),
    "GeneralTripletLoss": (
        Suits(("N 3", "N"), {}, {1: below(3)}, tops=(1, 2)),
        Suits(("N 3", "N", "N"), {}, {1: below(3), 2: positive}),
    ),
    "GroupNorm": (Suits(("N 4 H W",), {"group_num": 2}),),
    "HardMining": (Suits(("R", "R 5", "R C"), {}, {1: regions}, tops=(2,)),),
    "HingeLoss": (Suits(("N 3", "N"), values={1: below(3)}),),
    "Im2col": (Suits(("N C 3 4",), _KERNEL),),
    "InfogainLoss": (
        Suits(("N 3 H", "N 1 H", "1 1 3 3"), {}, {1: below(3), 2: normal}, tops=(1, 2)),
    ),
    "InnerDistance": (Suits(("N C",), {"num_output": 3}), Suits(("N C", "M C"))),
    "InnerProduct": (Suits(settings={"num_output": 2}),),
    "Interp": (
        Suits(("N C 3 4",), {"height": 5, "width": 2}), Suits(("N C 4 5",), {"zoom_factor": 2}),
    ),
    "LabelsequenceAccuracy": (Suits(("N 4 3", "N 2"), values={1: below(3)}),),
    "L1Loss": (_two(),),
    "LSTM": _RECURRENT,
    "LSTMUnit": (Suits(("1 N 2", "1 N 8", "1 N"), values={2: below(2)}, tops=(2,)),),
    "LabelSpecificRescale": (Suits(("N 3", "N"), {}, {1: below(3)}, tops=(1, 2)),),
    "LabelSpecificAdd": (Suits(("N 3", "N"), {}, {1: below(3)}, tops=(1, 2)),),
    "LargeMarginInnerProduct": (
        Suits(("N C", "N"), {"num_output": 3}, {1: below(2)}, ("num_output",), (1, 2)),
    ),
    "LocallyConnected": (Suits(("N C 3 4",), {"num_output": 2, "kernel_size": 2}),),
    "Log": (Suits(values={0: positive}),),
    "Lstm": (
        Suits(("T N C",), {"num_output": 2}),
        Suits(("T N C", "T N"), {"num_output": 2}, {1: below(2)}),
    ),
    "MarginInnerProduct": (
        Suits(("N C", "N"), {"num_output": 3}, {1: below(2)}, ("num_output",), (1, 2)),
    ),
    "MatMul": (Suits(("N 3 3", "N 3 3")),),
    "Maxout": (Suits(("N 4 H",), {"pieces": 2}),),
    "MeanSquaredError": (_two(),),
    "HardRegions": (
        Suits(
            ("R 3", "R 12", "R 5", "R", "R 12", "R 12", "R 12"), {"batch_size": 2},
            {0: positive, 2: regions, 3: below(3), 5: below(2), 6: below(2)}, tops=(5,),
        ),
    ),
    "BestClassBoxes": (
        Suits(("R 5", "R 8", "R 2", "1 3"), values={0: regions, 3: image_size}),
    ),
    "MaskPooling": (Suits(("N C H W", "N 1 H W")),),
    "MaskResize": (Suits(("N C H W",), {"output_height": 3, "output_width": 4}),),
    "ROIWarping": (
        Suits(
            ("1 C 6 6", "R 5"), {"spatial_scale": 0.25, "pooled_h": 2, "pooled_w": 3}, {1: regions}
        ),
    ),
    "KnownEuclideanLoss": (Suits(("N C", "N C"), values={1: positive}),),
    "JudgedPrecision": (Suits(("N 4 5",), values={0: below(4)}, tops=(3,)),),
    "KnownRows": (Suits(("N C", "N"), values={1: below(2)}, tops=(2,)),),
    "MultiBoxFocalLoss": (
        Suits(
            ("1 24", "1 18", "1 2 24", "1 1 G 8"),
            {"num_classes": 3, "code_type": CodeType.CENTER_SIZE},
            {2: prior_boxes, 3: objects},
            ("num_classes", "share_location", "background_label_id", "propagate_down"),
        ),
    ),
    "MultiBoxLoss": (
        Suits(
            ("1 24", "1 18", "1 2 24", "1 1 G 8"),
            {"num_classes": 3, "code_type": CodeType.CENTER_SIZE},
            {2: prior_boxes, 3: objects},
            ("num_classes", "share_location", "background_label_id", "propagate_down"),
        ),
    ),
    "MultiStageMeanfield": (
        Suits(
            ("N 2 4 5", "N 2 4 5", "N 3 4 5"),
            {
                "num_iterations": 2, "theta_alpha": 3.0, "theta_beta": 1.0, "theta_gamma": 1.0,
                "spatial_filter_weight": 1.0, "bilateral_filter_weight": 1.0,
            },
        ),
    ),
    "MultinomialLogisticLoss": (Suits(("N 3", "N"), values={0: positive, 1: below(3)}),),
    "NdConvolution": (
        Suits(
            ("N C 3 4 5",), {"num_output": 2, "kernel_shape": BlobShape((2, 1, 2))},
            fixed=("kernel_shape", "stride_shape", "pad_shape"),
        ),
    ),
    "NdPooling": (
        Suits(
            ("N C 3 4 5",), {"kernel_shape": BlobShape((2, 1, 2))},
            fixed=("kernel_shape", "stride_shape", "pad_shape"),
        ),
    ),
    "NonMaximumSuppression": (Suits(("N R 4", "N C R"), values={0: boxes, 1: positive}),),
    "Normalize": (Suits(), Suits(tops=(2,))),
    "PSROIPooling": (
        Suits(
            ("1 8 6 6", "R 5"), {"spatial_scale": 0.25, "output_dim": 2, "group_size": 2},
            {1: regions},
        ),
    ),
    "Parameter": (Suits((), {"shape": BlobShape((2, 3))}),),
    "Pooling3D": (
        Suits(("N C 3 4 5",), {"kernel_size": 2, "kernel_depth": 2}),
    ),
    "Pooling": (
        Suits(("N C 4 5",), {"kernel_size": 2}, tops=(1, 2)),
        Suits(("N C 3 3",), {"global_pooling": True, "pool": PoolMethod.AVE}),
    ),
    "PriorBox": (
        Suits(("N C 2 3", "N 3 16 24"), {"min_size": (4.0,)}, fixed=("img_size", "img_h", "img_w")),
    ),
    "ImageProposalTarget": (
        Suits(
            ("R 5", "G 7"),
            {"cls_num": 2, "batch_size": 4, "img_width": 64, "img_height": 64},
            {0: regions, 1: true_boxes}, ("cls_num",), (6,),
        ),
    ),
    "FrcnnAnchorTarget": (
        Suits(
            ("1 18 3 3", "G 5", "1 3"), {}, {1: truths, 2: image_size}, tops=(4,),
        ),
    ),
    "FrcnnProposal": (
        Suits(
            ("1 18 3 3", "1 36 3 3", "1 3"), {}, {0: positive, 2: image_size}, tops=(1, 2),
        ),
    ),
    "FrcnnProposalTarget": (
        Suits(("R 5", "G 5"), {}, {0: regions, 1: truths}, tops=(5,)),
    ),
    "Proposal": (
        Suits(
            ("1 4 3 3", "1 8 3 3", "1 3"),
            {"ratio": (1.0,), "scale": (1.0, 2.0), "post_nms_topn": 5},
            {0: positive, 2: image_size},
            ("ratio", "scale"),
            (1, 2),
        ),
    ),
    "ProposalTarget": (
        Suits(
            ("R 5", "G 5"), {"num_classes": 3, "batch_size": 6}, {0: regions, 1: truths},
            ("num_classes", "agnostic"), (5,),
        ),
    ),
    "PyramidAnchorTarget": (
        Suits(
            ("1 8 4 4", "1 8 2 2", "G 5", "1 3"),
            {"ratio": (1.0,), "scale": (1.0, 2.0), "stride": (8, 16)},
            {2: truths, 3: image_size}, ("ratio", "scale", "stride"), (4,),
        ),
    ),
    "PyramidProposal": (
        Suits(
            ("1 3", "1 8 4 4", "1 8 2 2", "1 4 4 4", "1 4 2 2"),
            {"ratio": (1.0,), "scale": (1.0, 2.0), "stride": (8, 16), "post_nms_topn": 5},
            {0: image_size, 3: positive, 4: positive}, ("ratio", "scale", "stride"),
        ),
    ),
    "PyramidRegions": (
        Suits(("R 5", "R", "R 3"), {"size": 12}, {0: regions}, ("rows",), (6, 7)),
    ),
    "RNN": (_RECURRENT[0],),
    "ROIAlign": (
        Suits(
            ("1 C 6 6", "R 5"), {"spatial_scale": 0.25, "pooled_h": 2, "pooled_w": 3}, {1: regions}
        ),
    ),
    "ROIGridAlign": (
        Suits(
            ("1 C 6 6", "R 5"), {"spatial_scale": 0.25, "pooled_h": 2, "pooled_w": 3}, {1: regions}
        ),
    ),
    "ROIPooling": (
        Suits(
            ("1 C 6 6", "R 5"), {"spatial_scale": 0.25, "pooled_h": 2, "pooled_w": 3}, {1: regions}
        ),
    ),
    "RegionEvaluate": (
        Suits(
            ("R 7", "G 8", "1 2", "L 2"), {"num_classes": 3},
            {0: found_regions, 1: found_objects, 2: positive, 3: positive},
            ("num_classes", "name_size_file"),
        ),
    ),
    "RegionLoss": (
        Suits(
            ("1 16 3 4", "1 1 G 8"), {"num_class": 3, "num": 2, **_YOLO}, {1: objects},
            ("num_class", "num", "coords", "softmax"),
        ),
    ),
    "Reorg": (Suits(("N 4 4 2",), {"stride": 2}),),
    "Reshape": (Suits(("N 4 3",), {"shape": BlobShape((0, 2, -1))}),),
    "SPP": (Suits(("N C 4 4",), {"pyramid_height": 2}),),
    **dict.fromkeys(
        ("TreepoolKernel1L", "TreepoolMaxAve", "GatedMaxAve"),
        (Suits(("N C 4 5",), {"kernel_size": (2,), "stride": (2,)}),),
    ),
    "Sampling": (Suits(("N C", "N C"), values={1: positive}),),
    "Scale": (Suits(), Suits(("N C H", "C"))),
    "ScaleRoute": (Suits(("R 5", "R C"), {"high_scale": 12.0}, {0: regions}, tops=(2,)),),
    "ScoreDetections": (Suits(("N 3 5", "N 4 5"), values={0: positive, 1: positive}),),
    "SegAccuracy": (Suits(("N 3 H W", "N 1 H W"), values={1: below(3)}),),
    "ShuffleChannel": (Suits(("N 4 H W",), {"group": 2}),),
    "SigmoidCrossEntropyLoss": (Suits(("N C", "N C"), values={1: below(2)}),),
    "Silence": (Suits(tops=(0,)),),
    "SegmentationEvaluate": (
        Suits(("N C 3 4", "N C 3 4"), {"num_classes": 2}, {0: positive, 1: below(2)}),
        Suits(("N C 3 4", "N C 5 6"), {"num_classes": 2}, {0: positive, 1: below(2)}),
    ),
    "Slice": (Suits(("N 4 H",), tops=(2,)),),
    "SmoothL1Loss": (_two("N C"), Suits(("N C",) * 4)),
    "SmoothL1LossOHEM": (Suits(("N C", "N C"), tops=(1, 2)), Suits(("N C",) * 3)),
    "SoftmaxWithLoss": (_scores(),),
    "SoftmaxWithLossOHEM": (_scores(),),
    "SpatialTransformer": (Suits(("N C 4 5", "N 6"), values={1: identity}),),
    "Split": (Suits(tops=(1, 2)),),
    "TextProposal": (
        Suits(
            ("1 4 3 4", "1 4 3 4", "1 3"), {"height": (11, 23)}, {2: image_size}, ("height",), (2,)
        ),
    ),
    "Tile": (Suits(settings={"tiles": 2}),),
    "Transpose": (Suits(("N C H",), {"dim": (2, 0, 1)}),),
    "TripletLoss": (Suits(("N C",) * 3),),
    "Unpooling": (Suits(("N C 2 3",), {"kernel_size": 2, "stride": 2}),),
    "Upsample": (
        Suits(("N C 2 3", "N C 2 3"), {"scale": 2}, {1: below(6)}),
        Suits(("N C 2 3",), {"scale": 2}),
    ),
    "Yolov3": (
        Suits(
            ("1 16 3 4", "1 1 G 8"),
            {
                "num_class": 3, "num": 2, "mask": (0, 1), "anchors_scale": 8,
                "biases": (10.0, 14.0, 30.0, 20.0),
            },
            {1: objects},
            ("num_class", "num", "use_focal_loss", "iou_loss"),
        ),
    ),
    "YoloSeg": (Suits(("N C 3 4", "N C 3 4", "N C"), {}, {1: below(2), 2: positive}),),
    "VoxelSoftmaxWithLoss": (Suits(("N 3 2 2 H", "N 1 2 2 H"), values={1: below(4)}),),
    "YoloGridEvaluate": (
        Suits(
            ("2 126", "2 63"), {"side": 3, "num_class": 4}, {1: grid_labels},
            ("side", "num_class", "num_object"),
        ),
    ),
    "YoloGridLoss": (
        Suits(
            ("2 126", "2 63"), {"side": 3, "num_class": 4}, {1: grid_labels},
            ("side", "num_class", "num_object"),
        ),
    ),
    "YoloDetectionOutput": (
        Suits(
            ("N 16 2 3",),
            {"num_classes": 3, "num_box": 2, **_YOLO},
            fixed=("num_classes", "num_box"),
        ),
    ),
    "Yolov3DetectionOutput": (
        Suits(
            ("N 16 2 3",),
            {
                "num_classes": 3, "num_box": 2, "mask_group_num": 1, "mask": (0, 1),
                "anchors_scale": (8,), "biases": (10.0, 14.0, 30.0, 20.0),
            },
            fixed=("num_classes", "num_box"),
        ),
    ),
}  # fmt: skip
