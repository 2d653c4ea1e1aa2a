from __future__ import annotations

from dataclasses import replace

import pytest

from netc.data.source import Item
from netc.graph.build import build, net_state
from netc.layers.annotated import (
    OBJECT,
    AnnotatedData,
    AnnotationType,
    BatchSampler,
    SampleConstraint,
    Sampler,
)
from netc.layers.data import Database
from netc.layers.transform import (
    DistortionParam,
    EmitConstraint,
    ExpansionParam,
    GeometryParam,
    ImageTransform,
    InterpMode,
    NoiseParam,
    RandomAspectRatioParam,
    ResizeMode,
    ResizeParam,
)
from netc.layers.types import BlobType, Phase, Refusal
from netc.schema import read_net

PUBLISHED = """
layer {
  name: "data" type: "AnnotatedData" top: "data" top: "label" include { phase: TRAIN }
  transform_param {
    mirror: true mean_value: 104 mean_value: 117 mean_value: 123
    resize_param { prob: 1 resize_mode: WARP height: 300 width: 300
                   interp_mode: LINEAR interp_mode: AREA }
    emit_constraint { emit_type: CENTER }
    distort_param { brightness_prob: 0.5 brightness_delta: 32 contrast_prob: 0.5
      contrast_lower: 0.5 contrast_upper: 1.5 hue_prob: 0.5 hue_delta: 18
      saturation_prob: 0.5 saturation_lower: 0.5 saturation_upper: 1.5 random_order_prob: 0 }
    expand_param { prob: 0.5 max_expand_ratio: 4 }
  }
  data_param { source: "trainval_lmdb" batch_size: 32 backend: LMDB }
  annotated_data_param {
    batch_sampler { max_sample: 1 max_trials: 1 }
    batch_sampler {
      sampler { min_scale: 0.3 max_scale: 1 min_aspect_ratio: 0.5 max_aspect_ratio: 2 }
      sample_constraint { min_jaccard_overlap: 0.1 } max_sample: 1 max_trials: 50 }
    label_map_file: "labelmap_voc.prototxt"
  }
}
"""

TRANSFORM = ImageTransform(
    mirror=True,
    mean_value=(104, 117, 123),
    resize_param=(
        ResizeParam(height=300, width=300, interp_mode=(InterpMode.LINEAR, InterpMode.AREA)),
    ),
    distort_param=DistortionParam(0.5, 32, 0.5, 0.5, 1.5, 0.5, 18, 0.5, 0.5, 1.5),
    expand_param=ExpansionParam(0.5, 4),
    emit_constraint=EmitConstraint(),
)
LAYER = AnnotatedData(
    source="trainval_lmdb",
    batch_size=32,
    backend=Database.LMDB,
    top=("data", "label"),
    transform_param=TRANSFORM,
    batch_sampler=(
        BatchSampler(max_sample=1, max_trials=1),
        BatchSampler(True, Sampler(0.3, 1, 0.5, 2), SampleConstraint(0.1), 1, 50),
    ),
    label_map_file="labelmap_voc.prototxt",
)


def test_what_a_published_net_says() -> None:
    source = read_net("net.prototxt", text=PUBLISHED)
    item = Item((BlobType((3, 375, 500)), BlobType((13, 8))))
    graph = build(source, net_state(source.message, Phase.TRAIN), probe=lambda *_: item)
    (node,) = graph.nodes
    assert node.layer == LAYER
    assert node.signature.tops == (BlobType((32, 3, 300, 300)), BlobType((1, 1, 32 * 13, 8)))


@pytest.mark.parametrize(("param", "image", "want"), [
    (ImageTransform(), (3, 20, 30), (3, 20, 30)),
    (ImageTransform(crop_size=8), (3, 20, 30), (3, 8, 8)),
    (ImageTransform(crop_h=8, crop_w=9), (3, 20, 30), (3, 8, 9)),
    (ImageTransform(crop_h=8), (3, 20, 30), (3, 8, 30)),
    (ImageTransform(resize_param=(ResizeParam(height=7, width=5),)), (1, 20, 30), (1, 7, 5)),
])  # fmt: skip
def test_shapes(param: ImageTransform, image: tuple[int, ...], want: tuple[int, ...]) -> None:
    assert param.infer(BlobType(image)).shape == want


@pytest.mark.parametrize(("image", "want"), [
    ((300, 600), (300, 600)),
    ((600, 300), (800, 400)),
    ((30, 60), (300, 600)),
    ((30, 41), (300, 410)),
])  # fmt: skip
def test_a_size_that_covers(image: tuple[int, int], want: tuple[int, int]) -> None:
    resize = ResizeParam(resize_mode=ResizeMode.FIT_SMALL_SIZE, height=300, width=400)
    assert resize.size(*image) == want
    assert resize.size(*want) == want


def test_labels_of_images_where_there_are_no_boxes() -> None:
    layer = replace(LAYER, top=("data", "label"), transform_param=ImageTransform())
    assert layer.infer(BlobType((3, 5, 6))).tops == (BlobType((32, 3, 5, 6)), BlobType((32,)))
    assert replace(layer, top=("data",)).infer(BlobType((3, 5, 6))).tops == (
        BlobType((32, 3, 5, 6)),
    )
    assert AnnotationType.BBOX.value == 0


def refusal(layer: AnnotatedData, image: tuple[int, ...] = (3, 20, 30)) -> Refusal:
    with pytest.raises(Refusal) as caught:
        layer.infer(BlobType(image))
    assert caught.value.expected
    assert caught.value.got
    return caught.value


@pytest.mark.parametrize(("settings", "setting"), [
    ({"resize_param": (ResizeParam(height=5),)}, "resize_param"),
    ({"resize_param": (ResizeParam(height=5, width=5, pad_value=(1, 2)),)}, "resize_param"),
    ({"resize_param": (ResizeParam(height=5, width=5, max_angle=5),)}, "resize_param"),
    ({"random_aspect_ratio_param": RandomAspectRatioParam(), "crop_size": 4},
     "random_aspect_ratio_param"),
    ({"expand_param": ExpansionParam()}, "expand_param"),
    ({"expand_param": ExpansionParam(1, 2), "mean_file": "mean"}, "mean_file"),
    ({"noise_param": (NoiseParam(convert_to_lab=True),)}, "noise_param"),
    ({"geometry_param": GeometryParam(0.1)}, "geometry_param"),
    ({"distort_param": DistortionParam(brightness_delta=-1)}, "distort_param"),
    ({"distort_param": DistortionParam(contrast_lower=2, contrast_upper=1)}, "distort_param"),
    ({"crop_size": 21}, "crop_size"),
    ({"crop_h": 21}, "crop_h"),
    ({"crop_w": 31}, "crop_w"),
    ({"mean_value": (1, 2)}, "mean_value"),
    ({"mean_value": (1,), "mean_file": "mean"}, "mean_value"),
])  # fmt: skip
def test_transformations_refused(settings: dict[str, object], setting: str) -> None:
    param = ImageTransform(**settings)  # type: ignore[arg-type]
    layer = AnnotatedData("lmdb", 2, ("data",), transform_param=param)
    assert refusal(layer).setting == setting


@pytest.mark.parametrize(("settings", "setting"), [
    ({"noise_param": (NoiseParam(decolorize=True),)}, "noise_param"),
    ({"noise_param": (NoiseParam(convert_to_hsv=True),)}, "noise_param"),
    ({"distort_param": DistortionParam(hue_prob=1, hue_delta=1)}, "distort_param"),
])  # fmt: skip
def test_colours_of_grey_images(settings: dict[str, object], setting: str) -> None:
    param = ImageTransform(**settings)  # type: ignore[arg-type]
    layer = AnnotatedData("lmdb", 2, ("data",), transform_param=param)
    assert refusal(layer, (1, 20, 30)).setting == setting
    layer.infer(BlobType((3, 20, 30)))


@pytest.mark.parametrize("sampler", [
    Sampler(0, 1),
    Sampler(0.5, 0.4),
    Sampler(0.5, 1.1),
    Sampler(1, 1, 0, 1),
    Sampler(1, 1, 2, 1),
])  # fmt: skip
def test_samplers_refused(sampler: Sampler) -> None:
    layer = AnnotatedData("lmdb", 2, ("data",), batch_sampler=(BatchSampler(sampler=sampler),))
    assert refusal(layer).setting == "batch_sampler"


def test_images_of_several_sizes_make_no_batch() -> None:
    resize = ResizeParam(resize_mode=ResizeMode.FIT_SMALL_SIZE, height=5, width=5)
    layer = AnnotatedData("lmdb", 2, ("data",), ImageTransform(resize_param=(resize,)))
    layer = replace(layer, transform_param=ImageTransform(resize_param=(resize,)), rand_skip=0)
    assert refusal(layer).setting == "batch_size"
    assert replace(layer, batch_size=1).infer(BlobType((3, 20, 30))).tops[0].shape == (1, 3, 5, 7)


def test_settings_of_yolo_refused() -> None:
    layer = AnnotatedData("lmdb", 2, ("data",))
    assert refusal(replace(layer, yolo_data_type=2)).setting == "yolo_data_type"
    assert refusal(replace(layer, yolo_data_jitter=1.0)).setting == "yolo_data_jitter"


def test_the_boxes_of_yolo_have_one_shape() -> None:
    layer = AnnotatedData("lmdb", 2, ("data", "label"), yolo_data_type=1)
    tops = layer.infer(BlobType((3, 4, 4)), BlobType((17, OBJECT))).tops
    assert tops[1] == BlobType((2, 1, 300, 5))
