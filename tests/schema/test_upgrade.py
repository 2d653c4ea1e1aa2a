"""Old formats become what BVLC Caffe 1.0 makes of them, and keep their places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format

from netc.errors import NetcError
from netc.schema import (
    netc_pb2,
    print_prototxt,
    read_net,
    read_net_binary,
    read_solver,
    upgrade_net,
    weights_pb2,
)
from netc.schema.upgrade import V1_TYPE_NAMES

FILES = Path(__file__).parents[1] / "conformance" / "files"
MTCNN = Path(__file__).parents[2].parent / "shared" / "data" / "mtcnn"


def as_protobuf_reads(path: Path, message: Any) -> Any:
    return text_format.Parse(path.read_text(encoding="utf-8"), message)


def upgraded(text: str) -> netc_pb2.NetParameter:
    return read_net("net.prototxt", text).message


def layer_of(text: str) -> netc_pb2.LayerParameter:
    (layer,) = upgraded(text).layer
    return layer


def problems(text: str) -> list[str]:
    with pytest.raises(NetcError) as caught:
        upgraded(text)
    return [problem.headline() for problem in caught.value.problems]


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_nets_become_what_caffe_makes_of_them(version: str) -> None:
    source = read_net(FILES / f"{version}.prototxt")
    expected = as_protobuf_reads(FILES / f"{version}_upgraded.prototxt", netc_pb2.NetParameter())
    assert source.message == expected
    assert source.upgraded


def test_solvers_become_what_caffe_makes_of_them() -> None:
    source = read_solver(FILES / "solver_old.prototxt")
    expected = as_protobuf_reads(FILES / "solver_old_upgraded.prototxt", netc_pb2.SolverParameter())
    assert source.message == expected
    assert source.upgraded == ('solver_type: NESTEROV is now type: "Nesterov"',)
    assert (source.span("type").line, source.span("type").column) == (5, 14)


@pytest.mark.parametrize("name", ["net", "v0_upgraded", "v1_upgraded"])
def test_current_nets_stay_as_they_are(name: str) -> None:
    path = FILES / f"{name}.prototxt"
    source = read_net(path)
    assert source.message == as_protobuf_reads(path, netc_pb2.NetParameter())
    assert source.upgraded == ()


@pytest.mark.parametrize("message_class", [netc_pb2.NetParameter, weights_pb2.NetParameter])
@pytest.mark.parametrize("version", ["v0", "v1"])
def test_binary_nets_are_upgraded_the_same(version: str, message_class: Any) -> None:
    old = as_protobuf_reads(FILES / f"{version}.prototxt", netc_pb2.NetParameter())
    net = message_class.FromString(old.SerializeToString())
    before = net.SerializeToString()
    new, changes = upgrade_net(net)
    expected = as_protobuf_reads(FILES / f"{version}_upgraded.prototxt", netc_pb2.NetParameter())
    assert netc_pb2.NetParameter.FromString(new.SerializeToString()) == expected
    assert changes
    assert net.SerializeToString() == before, "the argument is left as it is"


def test_an_upgraded_net_needs_no_upgrade() -> None:
    net = read_net(FILES / "v0.prototxt").message
    assert upgrade_net(net) == (net, [])
    assert upgrade_net(net)[0] is net


# Places


def test_places_of_v0_go_along() -> None:
    source = read_net(FILES / "v0.prototxt")
    lines = (FILES / "v0.prototxt").read_text().splitlines()

    def text_at(*path: str | int) -> str:
        span = source.span("layer", *path)
        return lines[span.line - 1][span.column - 1 :].split()[0]

    assert [source.span("layer", i).line for i in range(8)] == [2, 4, 5, 6, 7, 8, 9, 10]
    assert text_at(0) == "layers"
    assert text_at(0, "name") == '"data"'
    assert text_at(0, "transform_param", "crop_size") == "32"
    assert text_at(0, "data_param", "batch_size") == "64"
    assert text_at(1, "type") == '"conv"'
    assert text_at(1, "convolution_param", "kernel_size", 0) == "5"
    assert text_at(1, "convolution_param", "weight_filler", "std") == "0.01"
    assert text_at(1, "param", 1, "lr_mult") == "2."
    assert text_at(1, "param", 1, "decay_mult") == "0."
    assert source.span("layer", 1, "convolution_param", "pad", 0).line == 3, "of the padding layer"


def test_places_of_v1_go_along() -> None:
    source = read_net(FILES / "v1.prototxt")
    lines = (FILES / "v1.prototxt").read_text().splitlines()

    def text_at(*path: str | int) -> str:
        span = source.span("layer", *path)
        return lines[span.line - 1][span.column - 1 :].split()[0]

    assert text_at(0, "transform_param", "mean_file") == '"mean.binaryproto"'
    assert text_at(1, "transform_param", "crop_size") == "24"
    assert text_at(2, "param", 1, "decay_mult") == "0"
    assert text_at(6, "param", 0, "share_mode") == "PERMISSIVE"
    assert text_at(6, "param", 1, "name") == '"b"'
    assert text_at(8, "eltwise_param", "coeff", 1) == "-1"


def test_places_of_inputs_go_along() -> None:
    text = 'input: "a"\ninput: "b"\ninput_shape { dim: 1 }\ninput_shape { dim: 2\n dim: 3 }\n'
    source = read_net("net.prototxt", text + 'layer { name: "x" }\n')
    assert source.span("layer", 0).line == 1
    assert source.span("layer", 0, "top", 1).line == 2
    assert source.span("layer", 0, "input_param", "shape", 0).line == 3
    assert source.span("layer", 0, "input_param", "shape", 1, "dim", 1).line == 5
    assert source.span("layer", 1).line == 6


# Inputs


def test_input_dim_becomes_a_layer() -> None:
    net = upgraded(
        'input: "a" input: "b" input_dim: [1, 2, 3, 4, 5, 6, 7, 8] layer { name: "x" bottom: "a" }'
    )
    assert [layer.name for layer in net.layer] == ["input", "x"]
    assert (net.layer[0].type, list(net.layer[0].top)) == ("Input", ["a", "b"])
    shapes = [list(shape.dim) for shape in net.layer[0].input_param.shape]
    assert shapes == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert not net.input and not net.input_dim


def test_input_shape_and_equal_input_dim_are_one() -> None:
    net = upgraded('input: "a" input_shape { dim: [1, 2, 3, 4] } input_dim: [1, 2, 3, 4]')
    assert [list(shape.dim) for shape in net.layer[0].input_param.shape] == [[1, 2, 3, 4]]


def test_inputs_without_shapes_that_a_layer_gives_are_dropped() -> None:
    text = 'layer { type: "Input" top: "x" input_param { shape { dim: 2 } } } '
    source = read_net("net.prototxt", 'input: "x" ' + text)
    assert source.message == upgraded(text)
    assert source.upgraded == ("the inputs, which layers give, left out",)
    (problem,) = problems('input: "x" input: "y" ' + text)
    assert problem == "net.prototxt:1:8: no shape is given for input 'x', 'y'"


def test_weights_need_no_shapes_of_inputs() -> None:
    net = netc_pb2.NetParameter(input=["data"])
    net.layer.add(name="conv1", type="Convolution")
    new, _ = upgrade_net(net, for_weights=True)
    assert [layer.name for layer in new.layer] == ["conv1"] and not new.input
    with pytest.raises(NetcError):
        upgrade_net(net)


# Layers


def test_every_v1_type_has_a_current_name() -> None:
    enum = netc_pb2.V1LayerParameter.DESCRIPTOR.enum_types_by_name["LayerType"]
    assert set(V1_TYPE_NAMES) == set(enum.values_by_name)
    for name, current in V1_TYPE_NAMES.items():
        assert layer_of(f"layers {{ type: {name} }}").type == current


def test_every_v1_field_is_carried_over() -> None:
    special = {"type", "layer", "param", "blob_share_mode", "blobs_lr", "weight_decay"}
    current = netc_pb2.LayerParameter.DESCRIPTOR.fields_by_name
    for field in netc_pb2.V1LayerParameter.DESCRIPTOR.fields:
        if field.name not in special:
            assert field.name in current and field.is_repeated == current[field.name].is_repeated
            assert field.message_type == current[field.name].message_type


def test_every_v0_field_is_carried_over_or_refused() -> None:
    """Each field, in a layer of each type that may have it."""
    carried = set()
    for field in netc_pb2.V0LayerParameter.DESCRIPTOR.fields:
        for v0_type in (
            *("conv", "innerproduct", "pool", "lrn", "dropout", "data", "hdf5_data", "images"),
            *("window_data", "infogain_loss", "concat", "hdf5_output"),
        ):
            net = netc_pb2.NetParameter()
            v0 = net.layers.add().layer
            v0.type = v0_type
            if field.message_type is not None and field.is_repeated:
                getattr(v0, field.name).add()
            elif field.message_type is not None:
                getattr(v0, field.name).SetInParent()
            elif field.is_repeated:
                getattr(v0, field.name).append(1)
            elif field.name != "type":
                setattr(v0, field.name, "x" if isinstance(field.default_value, str) else 1)
            try:
                upgrade_net(net)
                carried.add(field.name)
            except NetcError as error:
                assert f"does not know '{field.name}'" in str(error)
    every = set(netc_pb2.V0LayerParameter.DESCRIPTOR.fields_by_name)
    # Caffe drops these four without a word; no net was ever published with them.
    assert every - carried == {"new_num", "new_channels"}


@pytest.mark.parametrize("v0_type", ["data", "images"])
def test_settings_of_windows_are_left_out_of_whole_images(v0_type: str) -> None:
    windows = "det_context_pad: 16 det_crop_mode: 'warp' det_fg_fraction: 0.25"
    source = read_net(
        "v0.prototxt",
        f"layers {{ layer {{ name: 'd' type: '{v0_type}' source: 's' {windows} }} top: 'a' }}",
    )
    (layer,) = source.message.layer
    assert not layer.HasField("window_data_param")
    [note] = [change for change in source.upgraded if "left out" in change]
    assert note.startswith("layer 'd': det_fg_fraction, det_context_pad, det_crop_mode left out")


def test_learned_arrays_are_carried_over() -> None:
    for text in (
        "layers { type: RELU blobs { num: 1 data: [1, 2] } }",
        'layers { layer { type: "conv" blobs { num: 1 data: [1, 2] } } }',
    ):
        (blob,) = layer_of(text).blobs
        assert (blob.num, list(blob.data)) == (1, [1, 2])


def test_padding_folds_into_every_reader() -> None:
    net = upgraded(
        'input: "x" input_dim: [1, 1, 9, 9]'
        'layers { layer { name: "p" type: "padding" pad: 2 } bottom: "x" top: "px" }'
        'layers { layer { name: "a" type: "conv" pad: 1 kernelsize: 3 } bottom: "px" top: "a" }'
        'layers { layer { name: "b" type: "pool" kernelsize: 3 } bottom: "px" top: "b" }'
    )
    _, a, b = net.layer
    assert (list(a.bottom), list(a.convolution_param.pad)) == (["x"], [2])
    assert (list(b.bottom), b.pooling_param.pad) == (["x"], 2)


def test_v0_layers_keep_what_stands_outside() -> None:
    layer = layer_of(
        'layers { layer { name: "a" type: "relu" } include { phase: TEST } loss_weight: 2 }'
    )
    assert layer.include[0].phase == netc_pb2.TEST and list(layer.loss_weight) == [2]


def test_transformation_moves_from_image_and_window_data() -> None:
    for kind in ("image", "window"):
        layer = layer_of(
            f"layers {{ type: {kind.upper()}_DATA {kind}_data_param {{ scale: 2 mirror: true }} "
            "transform_param { crop_size: 3 scale: 1 } }"
        )
        transform = layer.transform_param
        assert (transform.scale, transform.mirror, transform.crop_size) == (2, True, 3)
        assert not getattr(layer, f"{kind}_data_param").HasField("scale")


def test_transformation_stays_in_current_layers() -> None:
    """Caffe ignores it there; that the layer does not read it is told by the graph."""
    layer = layer_of('layer { type: "Data" data_param { scale: 2 } }')
    assert layer.data_param.scale == 2 and not layer.HasField("transform_param")


def test_formats_do_not_mix() -> None:
    assert problems('layer { name: "a" }\nlayers { name: "b" }') == [
        "net.prototxt:2:1: the net has both 'layer' and 'layers'"
    ]


# BatchNorm


def test_three_params_of_batch_norm_are_frozen() -> None:
    source = read_net(
        "net.prototxt",
        'layer { name: "bn" type: "BatchNorm" param { lr_mult: 1 name: "m" } param { } param { } }',
    )
    (layer,) = source.message.layer
    assert [(p.lr_mult, p.decay_mult) for p in layer.param] == [(0, 0)] * 3
    assert layer.param[0].name == "m"
    assert "BatchNorm 'bn'" in source.upgraded[0]


@pytest.mark.parametrize(
    "text",
    [
        'layer { type: "BatchNorm" param { lr_mult: 1 } }',
        'layer { type: "Scale" param { lr_mult: 1 } param { } param { } }',
    ],
)
def test_other_params_stay(text: str) -> None:
    assert layer_of(text).param[0].lr_mult == 1


NORM_AND_SCALE = """
layer { name: "bn" type: "BatchNorm" bottom: "x" top: "y"
  batch_norm_param { filler { value: 0.5 } bias_filler { value: 2 } } }
layer { name: "s" type: "Scale" bottom: "y" top: "y" scale_param { bias_term: true } }
"""


def test_intels_filler_of_batch_norm_is_that_of_the_scale_behind() -> None:
    source = read_net("n", NORM_AND_SCALE)
    norm, scale = source.message.layer
    assert not norm.batch_norm_param.ListFields()
    assert scale.scale_param.filler.value == 0.5 and scale.scale_param.bias_filler.value == 2
    assert source.upgraded == ("filler of BatchNorm 'bn' moved to the Scale behind",)
    assert source.span("layer", 1, "scale_param", "filler", "value").line == 3


@pytest.mark.parametrize(
    "scale",
    [
        'type: "ReLU" bottom: "y"',
        'type: "Scale" bottom: "y" bottom: "factors"',
        'type: "Scale" bottom: "z"',
        'type: "Scale" bottom: "y" scale_param { filler { value: 3 } }',
    ],
)
def test_a_filler_of_batch_norm_stays_where_it_is_unclear_whose_it_is(scale: str) -> None:
    norm = NORM_AND_SCALE.partition('\nlayer { name: "s"')[0]
    source = read_net("n", f'{norm}\nlayer {{ name: "s" {scale} top: "t" }}')
    assert source.message.layer[0].batch_norm_param.filler.value == 0.5
    assert source.upgraded == ()


def test_one_scale_behind_the_batch_norms_of_both_phases() -> None:
    norm, _, scale = NORM_AND_SCALE.partition('layer { name: "s"')
    source = read_net("n", f'{norm}{norm}layer {{ name: "s"{scale}')
    assert [layer.batch_norm_param.HasField("filler") for layer in source.message.layer[:2]] == [
        False,
        False,
    ]
    assert source.message.layer[2].scale_param.filler.value == 0.5


def test_intels_batch_size_of_statistics_goes_to_every_batch_norm() -> None:
    source = read_net(
        "n",
        "bn_stats_batch_size: 32\n"
        'layer { type: "BatchNorm" } layer { type: "ReLU" }\n'
        'layer { type: "BatchNorm" batch_norm_param { stats_batch_size: 4 } }',
    )
    net = source.message
    sizes = [layer.batch_norm_param.stats_batch_size for layer in net.layer]
    assert sizes == [32, 0, 32] and not net.HasField("bn_stats_batch_size")
    assert source.upgraded == ("bn_stats_batch_size moved from the net to its BatchNorm layers",)
    assert source.span("layer", 2, "batch_norm_param", "stats_batch_size").line == 1


def test_frozen_batch_norm_is_no_news() -> None:
    frozen = "param { lr_mult: 0 decay_mult: 0 } " * 3
    assert read_net("n", f'layer {{ type: "BatchNorm" {frozen} }}').upgraded == ()


# Solvers


@pytest.mark.parametrize("name", netc_pb2.SolverParameter.SolverType.keys())
def test_every_old_solver_type_has_a_name(name: str) -> None:
    solver = read_solver("s", f"base_lr: 1 solver_type: {name}").message
    assert solver.type.upper() == name and not solver.HasField("solver_type")


def test_two_solver_types_are_refused() -> None:
    with pytest.raises(NetcError, match="solver_type and type are both set"):
        read_solver("s", 'base_lr: 1 solver_type: ADAM type: "Adam"')


def test_inline_nets_are_upgraded() -> None:
    text = """
base_lr: 1
net_param { layers { name: "a" type: RELU } }
test_net_param { layer { name: "b" type: "ReLU" } }
test_net_param {
  layers { name: "c" type: TANH blobs_lr: 3 }
}
"""
    source = read_solver("s.prototxt", text)
    assert [net.layer[0].type for net in source.message.test_net_param] == ["ReLU", "TanH"]
    assert [change.split(":")[0] for change in source.upgraded] == [
        "net_param",
        "test_net_param[1]",
    ]
    net = source.sub("test_net_param", 1)
    assert net.message.layer[0].name == "c" and net.file == "s.prototxt"
    assert net.span("layer", 0, "param", 0, "lr_mult").line == 6
    assert source.sub("net_param").span("layer", 0, "type").line == 3


def test_mistakes_in_inline_nets_are_told_together() -> None:
    with pytest.raises(NetcError) as caught:
        read_solver(
            "s",
            'base_lr: 1\nnet_param { input: "a" }\ntest_net_param { input: "b" }',
        )
    assert [p.span.line for p in caught.value.problems if p.span] == [2, 3]


# Files of the wild


@pytest.mark.skipif(not MTCNN.is_dir(), reason="shared/data/mtcnn is not beside the repository")
@pytest.mark.parametrize(("name", "size"), [("det1", 12), ("det2", 24)])
def test_mtcnn(name: str, size: int) -> None:
    source = read_net(MTCNN / f"{name}.prototxt")
    assert list(source.message.layer[0].input_param.shape[0].dim) == [1, 3, size, size]
    assert read_net("again", print_prototxt(source.message)).message == source.message
    weights = read_net_binary(MTCNN / f"{name}.caffemodel")
    with_arrays = {layer.name for layer in weights.message.layer if layer.blobs}
    # det2's weights have one layer more than its text, of which netc is told when it loads them.
    assert len(with_arrays & {layer.name for layer in source.message.layer}) > 5


def test_conformance_weights_of_v1() -> None:
    source = read_net_binary(FILES / "v1_legacy_dims.caffemodel")
    assert not source.message.layers and source.message.layer[0].blobs[0].HasField("num")


# -- layers of C3D, whose settings have moved ------------------------------------------------------


def test_the_settings_of_c3d_move_to_their_own_messages() -> None:
    source = read_net(
        "net.prototxt",
        """
layers { name: "c" type: CONVOLUTION3D bottom: "x" top: "c" blobs_lr: 1 blobs_lr: 2
         convolution_param { num_output: 4 kernel_size: 3 kernel_depth: 2 temporal_pad: 1
                             weight_filler { type: "xavier" } } }
layers { name: "p" type: POOLING3D bottom: "c" top: "p"
         pooling_param { pool: AVE kernel_size: 2 kernel_depth: 1 temporal_stride: 3 } }
layers { name: "s" type: VOXEL_SOFTMAX bottom: "p" top: "s" }
""",
    )
    conv, pool, softmax = source.message.layer
    assert (conv.type, pool.type, softmax.type) == ("Convolution3D", "Pooling3D", "Softmax")
    assert not conv.HasField("convolution_param") and not pool.HasField("pooling_param")
    settings = conv.convolution3d_param
    assert (settings.num_output, settings.kernel_size, settings.kernel_depth) == (4, 3, 2)
    assert (settings.temporal_pad, settings.weight_filler.type) == (1, "xavier")
    assert (pool.pooling3d_param.pool, pool.pooling3d_param.temporal_stride) == (1, 3)
    assert "layer 'c': convolution_param is now convolution3d_param" in source.upgraded
    place = source.span("layer", 0, "convolution3d_param", "temporal_pad")
    assert (place.line, place.column) == (3, 89)


def test_settings_that_c3d_does_not_know() -> None:
    told = problems(
        """
layers { name: "c" type: CONVOLUTION3D bottom: "x" top: "c"
         convolution_param { kernel_size: 3 kernel_size: 2 dilation: 2 } }
"""
    )
    label = "layer 'c' (CONVOLUTION3D)"
    assert told == [
        f"net.prototxt:3:43: {label}: kernel_size of a layer of type CONVOLUTION3D takes one value",
        f"net.prototxt:3:70: {label}: a layer of type CONVOLUTION3D does not know 'dilation'",
    ]


def test_readers_of_c3d() -> None:
    source = read_net(
        "net.prototxt",
        """
layers { name: "d" type: VIDEO_DATA top: "data" top: "label"
         image_data_param { source: "a" mean_file: "m" batch_size: 3 crop_size: 112 mirror: true
                            new_length: 16 new_height: 128 new_width: 171 show_data: 0
                            shuffle: true } }
layers { name: "t" type: VIDEO_WITH_VOXEL_TRUTH_DATA top: "d2" top: "t"
         image_data_param { source: "a" mean_value: 128 crop_size: 112 is_flow: true } }
""",
    )
    clips, voxels = source.message.layer
    assert (clips.type, voxels.type) == ("VideoData", "VideoWithVoxelTruthData")
    assert not clips.HasField("image_data_param")
    settings = clips.video_data_param
    # Which says whose VideoData it is.
    assert settings.HasField("use_image") and not settings.use_image
    assert (settings.source, settings.batch_size, settings.new_length) == ("a", 3, 16)
    assert settings.shuffle and settings.HasField("show_data") and not settings.show_data
    changes = clips.transform_param
    assert (changes.mean_file, changes.crop_size, changes.mirror) == ("m", 112, True)
    assert list(voxels.transform_param.mean_value) == [128]
    assert voxels.image_data_param.is_flow and not voxels.image_data_param.HasField("mean_value")


def test_a_solver_that_never_tests_need_not_say_for_how_long() -> None:
    text = 'train_net: "a" test_iter: 0 test_interval: 0'
    source = read_solver("solver.prototxt", text)
    assert not source.message.test_iter
    (change,) = source.upgraded
    assert change.startswith("test_iter left out")
    for kept in (
        'net: "a" test_iter: 1 test_interval: 0',
        'train_net: "a" test_net: "b" test_iter: 1 test_interval: 0',
        'train_net: "a" test_iter: 1',
        'train_net: "a" test_iter: 1 test_interval: 5',
    ):
        assert list(read_solver("solver.prototxt", kept).message.test_iter) == [1]
