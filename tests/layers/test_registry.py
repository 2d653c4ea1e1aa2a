from __future__ import annotations

import pytest

from netc.layers import registry
from netc.layers.types import Layer
from netc.schema import bind_fields, netc_pb2


def test_an_alias_is_the_same_type() -> None:
    types = registry.layer_types()
    kind = registry.find("DepthwiseConvolution")
    assert kind.name == "ConvolutionDepthwise"
    assert kind == types["ConvolutionDepthwise"]
    assert kind.cls.type == "ConvolutionDepthwise"
    assert all(types[alias] == kind for kind in types.values() for alias in kind.aliases)


def test_a_name_is_given_once() -> None:
    registry.layer_types()
    for names in (("ReLU", ()), ("Fresh", ("ReLU",))):
        with pytest.raises(RuntimeError, match="'ReLU' is defined by"):
            registry.layer(names[0], aliases=names[1])(Layer)
    assert "Fresh" not in registry.layer_types()
    assert Layer.type == ""


@pytest.mark.parametrize("name", sorted(registry.layer_types()))
def test_every_type_can_be_read_from_text(name: str) -> None:
    """The fields of its dataclass are fields of its messages, with types that fit."""
    kind = registry.layer_types()[name]
    message = netc_pb2.LayerParameter(name="x", type=name)
    params = [getattr(message, param) for param in kind.params if param != "custom_param"]
    layer, unread = bind_fields(kind.cls, params, outer=message)
    assert isinstance(layer, kind.cls)
    assert {path[0] for path in unread} <= {"name", "type"}


# The layer types of published prototxt files, the most frequent first.
PUBLISHED = """
    Convolution ReLU Scale BatchNorm Eltwise Pooling Concat InnerProduct BN Dropout Reshape Flatten
    Softmax Permute SoftmaxWithLoss Python Accuracy Slice Sigmoid LRN Data PReLU PriorBox
    ConvolutionDepthwise Axpy Interp ROIPooling SmoothL1Loss PSROIPooling Deconvolution Upsample
    Input Crop DummyData Silence SmoothL1LossOHEM ShuffleChannel ImageData Normalize HDF5Data
    AnnotatedData DetectionOutput SoftmaxWithLossOHEM BoxAnnotatorOHEM SeLu SegAccuracy WindowData
    MultiBoxLoss Reorg DetectionEvaluate EvalDetection DenseImageData EuclideanLoss
    SigmoidCrossEntropyLoss ImageSegData ContrastiveLoss SeLuDropout ArgMax DetectNetTransformation
    RegionLoss Power L1Loss VideoData LSTM Split TRT DepthwiseConvolution Reduction ChannelScale
    InnerDistance Flip
"""


def test_the_types_of_published_nets_are_known() -> None:
    assert not set(PUBLISHED.split()) - registry.layer_types().keys()
