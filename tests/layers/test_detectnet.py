"""DetectNetTransformation: its shapes, and that it is not run."""

from __future__ import annotations

import numpy as np
import pytest

from netc.layers.detectnet import ClassMapping, DetectNetTransformation, GroundTruth
from netc.layers.types import Refusal
from tests.support.layer_harness import forward, infer
from tests.support.nets import graph_of

IMAGES, BOXES = np.zeros((2, 3, 384, 1248)), np.zeros((2, 1, 4, 16))


@pytest.mark.parametrize(
    ("truth", "shapes"),
    [
        (GroundTruth(), [(2, 3, 384, 1248), (2, 9, 96, 312)]),
        (GroundTruth(stride=16), [(2, 3, 384, 1248), (2, 9, 24, 78)]),
        (
            GroundTruth(
                stride=16, image_size_x=250, image_size_y=80,
                object_class=(ClassMapping(1, 0), ClassMapping(5, 2)),
            ),
            [(2, 3, 80, 250), (2, 11, 5, 15)],
        ),
    ],
)  # fmt: skip
def test_the_grid_has_a_cell_for_each_stride(
    truth: GroundTruth, shapes: list[tuple[int, ...]]
) -> None:
    layer = DetectNetTransformation(detectnet_groundtruth_param=truth)
    assert [top.shape for top in infer(layer, [IMAGES, BOXES]).tops] == shapes


def test_the_text_of_kitti_is_read() -> None:
    graph = graph_of(
        """
        layer { name: "in" type: "Input" top: "data" top: "label"
                input_param { shape { dim: 2 dim: 3 dim: 384 dim: 1248 }
                              shape { dim: 2 dim: 1 dim: 9 dim: 16 } } }
        layer { name: "t" type: "DetectNetTransformation" bottom: "data" bottom: "label"
                top: "images" top: "grid"
                detectnet_groundtruth_param { stride: 16 scale_cvg: 0.4 gridbox_type: GRIDBOX_MIN
                    coverage_type: RECTANGULAR min_cvg_len: 20 obj_norm: true image_size_x: 1248
                    image_size_y: 384 crop_bboxes: true object_class { src: 1 dst: 0 } }
                detectnet_augmentation_param { crop_prob: 1 shift_x: 32 flip_prob: 0.5 }
                transform_param { mean_value: 127 } }"""
    )
    assert graph.blobs["grid"].shape == (2, 9, 24, 78)


def test_it_is_not_run() -> None:
    with pytest.raises(Refusal, match="does not run") as caught:
        forward(DetectNetTransformation(), [IMAGES[:1, :, :8, :8], BOXES[:1]])
    assert "HDF5Data" in caught.value.hint


@pytest.mark.parametrize(
    ("truth", "setting", "bottoms"),
    [
        (GroundTruth(), "bottom", [IMAGES[:, :1], BOXES]),
        (GroundTruth(), "bottom", [IMAGES, BOXES[:1]]),
        (GroundTruth(stride=0), "detectnet_groundtruth_param", [IMAGES, BOXES]),
    ],
)
def test_what_does_not_fit_is_refused(
    truth: GroundTruth, setting: str, bottoms: list[np.ndarray]
) -> None:
    with pytest.raises(Refusal) as caught:
        infer(DetectNetTransformation(detectnet_groundtruth_param=truth), bottoms)
    assert caught.value.setting == setting
