"""TRT: its shapes, what it refuses, and that it is not run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from netc.errors import NetcError
from netc.export import lower_layer
from netc.layers.trt import TRT, TRTMode
from netc.layers.types import BlobType, Refusal
from tests.support.layer_harness import forward
from tests.support.nets import graph_of

ENGINE = TRT("deploy.prototxt", "x.caffemodel", calibrator="x.cal", deploy_outputs=("prob",))
IMAGES, LABELS = BlobType((4, 3, 8, 8)), BlobType((4,))


def test_the_text_of_the_fork_is_read() -> None:
    graph = graph_of(
        """
        input: "data" input_shape { dim: 4 dim: 3 dim: 8 dim: 8 }
        input: "label" input_shape { dim: 4 }
        layer { name: "trt" type: "TRT" bottom: "data" bottom: "label" top: "trt"
          trt_param { trt_mode: FP16 top_k: 5 deploy: "a" model: "b" deploy_outputs: "prob" } }
        """
    )
    assert graph.blobs["trt"].shape == (4, 1)
    assert graph.nodes[-1].layer == TRT("a", "b", TRTMode.FP16, 5, ("prob",))


@pytest.mark.parametrize(
    ("layer", "bottoms", "setting"),
    [
        (replace(ENGINE, deploy=""), (IMAGES, LABELS), "deploy"),
        (replace(ENGINE, model=""), (IMAGES, LABELS), "model"),
        (replace(ENGINE, deploy_outputs=("a", "b")), (IMAGES, LABELS), "deploy_outputs"),
        (replace(ENGINE, calibrator=""), (IMAGES, LABELS), "calibrator"),
        (replace(ENGINE, top_k=0), (IMAGES, LABELS), "top_k"),
        (ENGINE, (IMAGES, BlobType((4, 2))), "bottom"),
        (ENGINE, (IMAGES, BlobType((3,))), "bottom"),
    ],
)
def test_what_does_not_fit_is_refused(layer: TRT, bottoms, setting: str) -> None:
    with pytest.raises(Refusal) as caught:
        layer.infer(*bottoms)
    assert caught.value.setting == setting


def test_it_says_what_to_run_in_its_place() -> None:
    with pytest.raises(Refusal) as caught:
        forward(ENGINE, [np.zeros((4, 3, 8, 8)), np.zeros(4)])
    assert "-model deploy.prototxt -weights x.caffemodel" in caught.value.hint
    with pytest.raises(NetcError, match="no ONNX form"):
        lower_layer(ENGINE, [IMAGES, LABELS], [])
