"""The fields of Caffe's forks are in the schema, under the forks' names."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import DecodeError

from netc.errors import NetcError
from netc.schema import chooses_implementation, netc_pb2, print_prototxt, read_net, read_solver
from netc.schema.forks import IMPLEMENTATION_FIELDS
from tests.schema.test_netc_pb2 import LABELS, default_text, type_name

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent


def rows_of(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((HERE / name).read_text("utf-8").splitlines()))


ROWS = rows_of("fork_wire_schema.csv")
FIELDS = [row for row in ROWS if row["label"] != "enum"]
ENUM_VALUES = [row for row in ROWS if row["label"] == "enum"]
CAFFE = {(row["message_or_enum"], row["name"]) for row in rows_of("caffe_wire_schema.csv")}
CAFFE_MESSAGES = {row["message_or_enum"].split(".")[0] for row in rows_of("caffe_wire_schema.csv")}
OWN_BLOCK = range(20000, 21000)
NETC_BLOCK = range(10000, 11000)

# Fork, field, its number there, its number here: the tables of docs/forks.md.
_CLASH = re.compile(r"^\| (\w+) \| `([\w.]+)\.(\w+)` \| (\d+) \| (\d+) \|$", re.M)
CLASHES = {
    (fork, message, name): (int(there), int(here))
    for fork, message, name, there, here in _CLASH.findall((ROOT / "docs/forks.md").read_text())
}
# One default had to be chosen: 0 means what the absence of the field meant in CaffeWindows.
OTHER_DEFAULTS = {
    ("CaffeWindows", "ResizeParameter", "height"): "0",
    ("CaffeWindows", "ResizeParameter", "width"): "0",
}
# Other forks take several, of which each image or batch gets one; on the wire that is the same.
REPEATED_HERE = {
    ("TransformationParameter", "resize_param"),
    ("TransformationParameter", "noise_param"),
}
# What records of other forks hold, and nets do not say: the numbers are those of the records.
IN_RECORDS = {
    ("Annotation", "lanes"),
    ("AnnotatedDatum.AnnotationType", "BBOXandSeg"),
    ("AnnotatedDatum.AnnotationType", "LANE"),
}


def key_of(row: dict[str, str]) -> tuple[str, str, str]:
    return row["fork"], row["message_or_enum"], row["name"]


def label_of(row: dict[str, str]) -> str:
    return ".".join(key_of(row))


def message_of(name: str) -> Descriptor:
    outer, *inner = name.split(".")
    found = netc_pb2.DESCRIPTOR.message_types_by_name[outer]
    for step in inner:
        found = found.nested_types_by_name[step]
    return found


def enum_of(name: str) -> EnumDescriptor:
    *outer, last = name.split(".")
    if not outer:
        return netc_pb2.DESCRIPTOR.enum_types_by_name[last]
    return message_of(".".join(outer)).enum_types_by_name[last]


def every_message(message: Descriptor) -> list[Descriptor]:
    inner = [m for nested in message.nested_types for m in every_message(nested)]
    return [message, *inner]


MESSAGES = [
    m for top in netc_pb2.DESCRIPTOR.message_types_by_name.values() for m in every_message(top)
]


def test_number_is_the_forks_or_a_documented_clash() -> None:
    clashes = {}
    for row in ROWS:
        if row["label"] == "enum":
            here = enum_of(row["message_or_enum"]).values_by_name[row["name"]].number
        else:
            here = message_of(row["message_or_enum"]).fields_by_name[row["name"]].number
        if here != int(row["number"]):
            clashes[key_of(row)] = (int(row["number"]), here)
    assert clashes == CLASHES


@pytest.mark.parametrize("row", FIELDS, ids=label_of)
def test_field_is_the_forks(row: dict[str, str]) -> None:
    field = message_of(row["message_or_enum"]).fields_by_name[row["name"]]
    label = "repeated" if key_of(row)[1:] in REPEATED_HERE else row["label"]
    assert (field.is_required, field.is_repeated) == LABELS[label]
    assert type_name(field) == row["type"]
    given = row["default"].strip('"')
    if row["type"] == "float" and given:
        assert field.default_value == pytest.approx(float(given), rel=1e-6)  # as float32
    else:
        assert default_text(field) == OTHER_DEFAULTS.get(key_of(row), given)


@pytest.mark.parametrize("row", ENUM_VALUES, ids=label_of)
def test_enum_value_is_the_forks(row: dict[str, str]) -> None:
    assert row["name"] in enum_of(row["message_or_enum"]).values_by_name


def test_clashes_have_numbers_of_a_block_or_of_a_fork() -> None:
    numbers = {}
    for row in ROWS:
        numbers.setdefault((row["message_or_enum"], row["name"]), set()).add(int(row["number"]))
    for (_, message, name), (_, here) in CLASHES.items():
        known = numbers[message, name]
        assert here in known or here in OWN_BLOCK or (message, name) in CAFFE


def test_every_other_field_is_numbered_from_10000() -> None:
    known = CAFFE | IN_RECORDS | {(row["message_or_enum"], row["name"]) for row in ROWS}
    forks = {row["message_or_enum"] for row in ROWS}

    def numbered(field: FieldDescriptor) -> bool:
        return field.number in NETC_BLOCK

    for message in MESSAGES:
        name = message.full_name.removeprefix("netc.")
        if name in CAFFE_MESSAGES or name in forks:
            others = [f for f in message.fields if (name, f.name) not in known]
            assert all(map(numbered, others)), [f.full_name for f in others]
        for enum in message.enum_types:
            full = f"{name}.{enum.name}"
            if full in forks or name in CAFFE_MESSAGES:
                more = [v for v in enum.values if (full, v.name) not in known]
                assert all(v.number in NETC_BLOCK for v in more), (full, more)
    for enum in netc_pb2.DESCRIPTOR.enum_types_by_name.values():
        assert {(enum.name, value.name) for value in enum.values} <= known


# -- fields of no effect ---------------------------------------------------------------------------


def test_fields_of_no_effect_are_documented() -> None:
    table = re.findall(r"^\| `(\w+)` \| (`.*`) \|$", (ROOT / "docs/forks.md").read_text(), re.M)
    named = {f"{message}.{name}" for message, names in table for name in re.findall(r"\w+", names)}
    assert named == IMPLEMENTATION_FIELDS


@pytest.mark.parametrize("full", sorted(IMPLEMENTATION_FIELDS))
def test_fields_of_no_effect_are_the_forks(full: str) -> None:
    message, name = full.split(".")
    field = message_of(message).fields_by_name[name]
    assert (message, name) not in CAFFE
    other = f"`{full}`" in (ROOT / "docs/forks.md").read_text().partition("## Other forks")[2]
    assert field.number < min(NETC_BLOCK) or field.number in OWN_BLOCK or other


def test_a_path_leads_to_a_field_of_no_effect() -> None:
    layer = netc_pb2.LayerParameter()
    assert chooses_implementation(layer, ["engine"])
    assert chooses_implementation(layer, ["convolution_param", "conv_algorithm"])
    assert chooses_implementation(layer, ["data_param", "cache"])
    assert not chooses_implementation(layer, ["image_data_param", "shuffle"])
    assert not chooses_implementation(layer, ["convolution_param", "relu"])


# -- as forks write them ---------------------------------------------------------------------------

SSD = """
layer {
  name: "data" type: "AnnotatedData" top: "data" top: "label" include { phase: TRAIN }
  transform_param {
    mirror: true mean_value: 104 mean_value: 117 mean_value: 123
    resize_param {
      prob: 1 resize_mode: WARP height: 300 width: 300
      interp_mode: LINEAR interp_mode: AREA interp_mode: NEAREST
    }
    emit_constraint { emit_type: CENTER }
    distort_param { brightness_prob: 0.5 brightness_delta: 32 random_order_prob: 0.0 }
    expand_param { prob: 0.5 max_expand_ratio: 4.0 }
  }
  data_param { source: "trainval_lmdb" batch_size: 32 backend: LMDB }
  annotated_data_param {
    batch_sampler { max_sample: 1 max_trials: 1 }
    batch_sampler {
      sampler { min_scale: 0.3 max_scale: 1.0 min_aspect_ratio: 0.5 max_aspect_ratio: 2.0 }
      sample_constraint { min_jaccard_overlap: 0.1 }
    }
    label_map_file: "labelmap_voc.prototxt"
  }
}
layer {
  name: "norm" type: "Normalize" bottom: "conv4_3" top: "norm"
  norm_param { across_spatial: false scale_filler { value: 20 } channel_shared: false }
}
layer { name: "perm" type: "Permute" bottom: "x" top: "y" permute_param { order: [0, 2, 3, 1] } }
layer {
  name: "prior" type: "PriorBox" bottom: "norm" bottom: "data" top: "prior"
  prior_box_param { min_size: 30.0 max_size: 60.0 aspect_ratio: 2 flip: true variance: 0.1 step: 8 }
}
layer {
  name: "loss" type: "MultiBoxLoss" bottom: "loc" top: "loss"
  propagate_down: true propagate_down: false
  loss_param { normalization: VALID }
  multibox_loss_param {
    loc_loss_type: SMOOTH_L1 conf_loss_type: SOFTMAX num_classes: 21 match_type: PER_PREDICTION
    code_type: CENTER_SIZE mining_type: MAX_NEGATIVE neg_pos_ratio: 3.0 neg_overlap: 0.5
  }
}
layer {
  name: "out" type: "DetectionOutput" bottom: "loc" top: "out" include { phase: TEST }
  detection_output_param {
    num_classes: 21 nms_param { nms_threshold: 0.45 top_k: 400 } code_type: CENTER_SIZE
    save_output_param { output_directory: "results" output_format: "VOC" resize_param { prob: 1 } }
    keep_top_k: 200 confidence_threshold: 0.01
  }
}
"""


def test_ssd() -> None:
    net = read_net("ssd.prototxt", SSD).message
    data, norm, perm, prior, loss, out = net.layer
    (resize,) = data.transform_param.resize_param
    assert [type(resize).Interp_mode.Name(m) for m in resize.interp_mode] == [
        *("LINEAR", "AREA", "NEAREST")
    ]
    assert len(data.annotated_data_param.batch_sampler) == 2
    assert not norm.norm_param.across_spatial
    assert list(perm.permute_param.order) == [0, 2, 3, 1]
    assert prior.prior_box_param.offset == 0.5
    assert loss.multibox_loss_param.code_type == netc_pb2.PriorBoxParameter.CENTER_SIZE
    assert out.detection_output_param.nms_param.top_k == 400
    assert read_net("again.prototxt", print_prototxt(net)).message == net


OTHERS = """
layer {  # NVCaffe
  name: "a" type: "BatchNorm" bottom: "x" top: "a" forward_type: FLOAT16 backward_math: FLOAT
  batch_norm_param {
    scale_bias: true scale_filler { value: 1 } bias_filler { value: 0 } engine: CUDNN
  }
}
layer {  # IntelCaffe
  name: "b" type: "Convolution" bottom: "a" top: "b" engine: "MKLDNN:DLA"
  convolution_param {
    num_output: 1 kernel_size: 3 engine: MKL2017 relu: true fusion_type: SUM_FUSION
  }
  quantization_param { bw_layer_in: 8 scale_in: 1.5 scale_params: [1, 2] }
}
layer {
  name: "c" type: "SoftmaxWithLoss" bottom: "b" top: "c"
  loss_param { normalization: PRE_FIXED pre_fixed_normalizer: 256 label_smoothing: 0.1 }
}
layer {  # R-FCN
  name: "d" type: "BoxAnnotatorOHEM" bottom: "c" top: "d"
  box_annotator_ohem_param { roi_per_img: 128 ignore_label: -1 }
}
layer {
  name: "e" type: "PSROIPooling" bottom: "d" top: "e"
  psroi_pooling_param { spatial_scale: 0.0625 output_dim: 21 group_size: 7 }
}
layer {  # SegNet and PSPNet
  name: "f" type: "BN" bottom: "e" top: "f"
  bn_param { bn_mode: INFERENCE scale_filler { value: 1 } shift_filler { value: 0.001 } }
}
layer {
  name: "g" type: "BN" bottom: "f" top: "g"
  bn_param { slope_filler { value: 1 } bias_filler { value: 0 } frozen: true momentum: 0.95 }
}
layer {
  name: "h" type: "Upsample" bottom: "g" bottom: "m" top: "h"
  upsample_param { scale: 2 pad_out_h: true }
}
layer { name: "i" type: "Interp" bottom: "h" top: "i" interp_param { zoom_factor: 8 pad_beg: -1 } }
layer {
  name: "j" type: "ImageSegData" top: "j"
  image_data_param { label_type: PIXEL ignore_label: 255 }
}
layer {  # CaffeWindows
  name: "k" type: "Normalize" bottom: "i" top: "k"
  normalize_param { normalize_type: "L2" bp_norm: true }
}
layer {
  name: "l" type: "Eltwise" bottom: "k" bottom: "i" top: "l" eltwise_param { operation: SORT }
}
layer {  # others
  name: "m" type: "Pooling" bottom: "l" top: "m2" pooling_param { kernel_size: 2 ceil_mode: false }
}
"""


def test_constructs_of_forks() -> None:
    net = read_net("forks.prototxt", OTHERS).message
    assert len(net.layer) == 13
    norm, conv, loss = net.layer[:3]
    assert norm.forward_type == netc_pb2.FLOAT16
    assert norm.batch_norm_param.scale_bias
    assert conv.convolution_param.engine == netc_pb2.ConvolutionParameter.MKL2017
    assert loss.loss_param.normalization == netc_pb2.LossParameter.PRE_FIXED
    assert net.layer[9].image_data_param.label_type == netc_pb2.ImageDataParameter.PIXEL
    assert read_net("again.prototxt", print_prototxt(net)).message == net


@pytest.mark.parametrize(
    ("v1", "current"),
    [
        ("type: LOCAL local_param { num_output: 4 kernel_size: 3 }", "Local"),
        ("type: BN bn_param { momentum: 0.9 }", "BN"),
        ("type: ROIPOOLING roi_pooling_param { pooled_h: 7 pooled_w: 7 }", "ROIPooling"),
        ("type: TRIPLET_LOSS triplet_loss_param { margin: 0.2 }", "TripletLoss"),
        ("type: UNPOOLING unpooling_param { unpool: MAX unpool_size: 14 }", "Unpooling"),
        ("type: CROP", "Crop"),
        ("type: ELTWISE_ACCURACY eltwise_accuracy_param { top_k: 2 }", "EltwiseAccuracy"),
        ("type: WINDOW_SEG_DATA image_data_param { source: 'list' }", "WindowSegData"),
        ("type: MCWINDOW_DATA mcwindow_data_param { mask_crop_size: 3 }", "MCWindowData"),
        ("type: INTERP interp_param { zoom_factor: 8 }", "Interp"),
        ("type: DENSE_CRF dense_crf_param { max_iter: 3 }", "DenseCRF"),
    ],
)
def test_layers_of_2014(v1: str, current: str) -> None:
    source = read_net("v1.prototxt", f'layers {{ name: "x" bottom: "a" top: "b" {v1} }}')
    (layer,) = source.message.layer
    assert layer.type == current
    for setting in re.findall(r"\w+_param", v1):
        assert layer.HasField(setting)


def test_windows_of_2014_say_how_they_are_transformed() -> None:
    text = "crop_size: 9 mirror: true scale: 2 mean_file: 'm' shuffle: false mask_crop_size: 4"
    source = read_net(
        "v1.prototxt",
        "layers { name: 'x' top: 'a' top: 'b' top: 'c' type: MCWINDOW_DATA "
        f"mcwindow_data_param {{ source: 's' {text} }} }}",
    )
    (layer,) = source.message.layer
    param = layer.transform_param
    assert (param.crop_size, param.mirror, param.scale, param.mean_file) == (9, True, 2, "m")
    left = {field.name for field, _ in layer.mcwindow_data_param.ListFields()}
    assert left == {"source", "shuffle", "mask_crop_size"}


@pytest.mark.parametrize(
    ("settings", "dilation"),
    [("hole: 12", [12]), ("hole_h: 2 hole_w: 3", [2, 3]), ("hole_w: 3", [1, 3])],
)
@pytest.mark.parametrize("old", [True, False])
def test_holes_are_dilation(settings: str, dilation: list[int], old: bool) -> None:
    ends = "bottom: 'a' top: 'b'"
    v1 = f"layers {{ name: 'x' {ends} type: CONVOLUTION strict_dim: false "
    now = f"layer {{ name: 'x' {ends} type: 'Convolution' "
    text = (v1 if old else now) + f"convolution_param {{ kernel_size: 3 {settings} }} }}"
    source = read_net("deeplab.prototxt", text)
    param = source.message.layer[0].convolution_param
    assert list(param.dilation) == dilation
    assert not any(param.HasField(name) for name in ("hole", "hole_h", "hole_w"))
    place = source.places.find("layer", 0, "convolution_param", "dilation")
    assert re.search(r"hole\w*: $", text[: place.span.column - 1])
    assert any("hole of 'x' is now dilation" in change for change in source.upgraded)


@pytest.mark.parametrize("settings", ["hole: 2 dilation: 2", "hole: 2 hole_h: 2"])
def test_dilation_is_given_once(settings: str) -> None:
    text = (
        "layer { name: 'x' bottom: 'a' top: 'b' type: 'Convolution' "
        f"convolution_param {{ kernel_size: 3 {settings} }} }}"
    )
    with pytest.raises(NetcError, match="given twice"):
        read_net("deeplab.prototxt", text)


def test_solvers_of_forks() -> None:
    solver = read_solver(
        "solver.prototxt",
        """
        net: "n" base_lr: 0.1 max_iter: 10 eval_type: "detection" ap_version: "11point"
        rampup_interval: 500 rampup_lr: 0.01 min_lr: 1e-5 larc: true larc_policy: "clip"
        solver_data_type: FLOAT16 store_blobs_in_old_format: true plateau_winsize: [10, 10]
        warmup_iter: 100 warmup_start_lr: 0.001 local_lr_auto: true clip_weights: 1
        """,
    ).message
    assert (solver.rampup_interval, solver.warmup_iter) == (500, 100)
    assert list(solver.plateau_winsize) == [10, 10]
    assert solver.larc


@pytest.mark.parametrize(
    "setting",
    [
        "convolution_param { num_output: 1 kernel_size: 3 group: 1 group: 1 }",
        "pooling_param { kernel_size: 3 pad: 1 pad: 1 }",
        "roi_pooling_param { pooled_h: 7 pooled_h: 7 }",
    ],
)
def test_a_field_given_twice_stays_an_error(setting: str) -> None:
    with pytest.raises(NetcError, match="is given twice"):
        read_net("x.prototxt", f'layer {{ name: "x" type: "X" {setting} }}')


def test_weights_of_a_fork_load_whatever_its_numbers_mean_here() -> None:
    # bn_param is 200 in CaffeWindows, where SSD has annotated_data_param: what lies in it is no
    # message of that type, and is nothing that weights need.
    from netc.weights.binaryproto import read_net as read_weights

    blob = netc_pb2.BlobProto(data=[1, 2])
    blob.shape.dim.append(2)
    layer = netc_pb2.LayerParameter(name="bn", type="BN", blobs=[blob]).SerializeToString()
    layer += bytes([0xC2, 0x0C, 3]) + b"\x0a\x09\xff"  # field 200: three bytes, no message at all
    raw = bytes([0xA2, 0x06, len(layer)]) + layer
    with pytest.raises(DecodeError):
        netc_pb2.NetParameter.FromString(raw)
    ((name, (values,)),) = read_weights(io.BytesIO(raw), "bn.caffemodel")
    assert (name, list(values)) == ("bn", [1, 2])
