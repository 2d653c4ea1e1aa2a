"""The names of pycaffe, and the order and defaults of its arguments: what scripts rely on."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import netc.pycaffe as caffe
from netc.pycaffe import net_spec

PREPROCESSING = "mean=None, input_scale=None, raw_scale=None, channel_swap=None"
FILES = "model_file, pretrained_file"

# As `help` shows them in BVLC Caffe 1.0; what takes any keywords besides ends in **kwargs.
SIGNATURES: list[tuple[Callable[..., Any], str]] = [
    (caffe.Net.forward, "blobs=None, start=None, end=None, **kwargs"),
    (caffe.Net.backward, "diffs=None, start=None, end=None, **kwargs"),
    (caffe.Net.forward_all, "blobs=None, **kwargs"),
    (caffe.Net.forward_backward_all, "blobs=None, diffs=None, **kwargs"),
    (caffe.Net.set_input_arrays, "data, labels"),
    (caffe.Classifier, f"{FILES}, image_dims=None, {PREPROCESSING}"),
    (caffe.Classifier.predict, "inputs, oversample=True"),
    (caffe.Detector, f"{FILES}, {PREPROCESSING}, context_pad=None"),
    (caffe.Detector.detect_windows, "images_windows"),
    (caffe.Detector.detect_selective_search, "image_fnames"),
    (caffe.Detector.crop, "im, window"),
    (caffe.Detector.configure_crop, "context_pad"),
    (caffe.io.blobproto_to_array, "blob, return_diff=False"),
    (caffe.io.array_to_blobproto, "arr, diff=None"),
    (caffe.io.arraylist_to_blobprotovector_str, "arraylist"),
    (caffe.io.array_to_datum, "arr, label=None"),
    (caffe.io.datum_to_array, "datum"),
    (caffe.io.load_image, "filename, color=True"),
    (caffe.io.resize_image, "im, new_dims, interp_order=1"),
    (caffe.io.oversample, "images, crop_dims"),
    (caffe.io.Transformer, "inputs"),
    (caffe.io.Transformer.preprocess, "in_, data"),
    (caffe.io.Transformer.deprocess, "in_, data"),
    (caffe.io.Transformer.set_transpose, "in_, order"),
    (caffe.io.Transformer.set_channel_swap, "in_, order"),
    (caffe.io.Transformer.set_raw_scale, "in_, scale"),
    (caffe.io.Transformer.set_mean, "in_, mean"),
    (caffe.io.Transformer.set_input_scale, "in_, scale"),
    (caffe.draw.get_edge_label, "layer"),
    (caffe.draw.get_layer_lr_mult, "layer"),
    (caffe.draw.get_layer_label, "layer, rankdir, display_lrm=False"),
    (caffe.draw.choose_color_by_layertype, "layertype"),
    (
        caffe.draw.get_pydot_graph,
        "caffe_net, rankdir, label_edges=True, phase=None, display_lrm=False",
    ),
    (caffe.draw.draw_net, "caffe_net, rankdir, ext='png', phase=None, display_lrm=False"),
    (
        caffe.draw.draw_net_to_file,
        "caffe_net, filename, rankdir='LR', phase=None, display_lrm=False",
    ),
    (caffe.coord_map.coord_map, "fn"),
    (caffe.coord_map.compose, "base_map, next_map"),
    (caffe.coord_map.inverse, "coord_map"),
    (caffe.coord_map.coord_map_from_to, "top_from, top_to"),
    (caffe.coord_map.crop, "top_from, top_to"),
    (net_spec.Top, "fn, n"),
    (net_spec.Function, "type_name, inputs, params"),
]
NAMES = {
    caffe: "Net SGDSolver NesterovSolver AdaGradSolver RMSPropSolver AdaDeltaSolver AdamSolver "
    "NCCL Timer init_log log set_mode_cpu set_mode_gpu set_device Layer get_solver "
    "layer_type_list set_random_seed solver_count set_solver_count solver_rank "
    "set_solver_rank set_multiprocess has_nccl __version__ TRAIN TEST Classifier Detector io "
    "layers params NetSpec to_proto proto",
    caffe.Net: "_forward _backward reshape clear_param_diffs copy_from share_with "
    "_blob_loss_weights _bottom_ids _top_ids _blobs layers _blob_names _layer_names _inputs "
    "_outputs save save_hdf5 load_hdf5 before_forward after_forward before_backward "
    "after_backward blobs blob_loss_weights layer_dict params inputs outputs top_names "
    "bottom_names _batch",
    caffe.Blob: "shape num channels height width count reshape data diff",
    caffe.Layer: "setup reshape",
    caffe.SGDSolver: "net test_nets iter add_callback solve step restore snapshot "
    "share_weights apply_update param lr",
    caffe.Timer: "start stop ms",
}


@pytest.mark.parametrize(("call", "expected"), SIGNATURES, ids=lambda x: getattr(x, "__name__", ""))
def test_arguments(call: Callable[..., Any], expected: str) -> None:
    parameters = inspect.signature(call).parameters.values()
    shown = [
        str(parameter.replace(annotation=parameter.empty))
        for parameter in parameters
        if parameter.name != "self"
    ]
    assert ", ".join(shown) == expected


@pytest.mark.parametrize("owner", NAMES, ids=lambda owner: owner.__name__)
def test_names(owner: Any) -> None:
    assert [name for name in NAMES[owner].split() if not hasattr(owner, name)] == []


def test_every_solver_is_one_of_sgd_with_the_rule_changed() -> None:
    for name in ("Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"):
        assert issubclass(getattr(caffe, f"{name}Solver"), caffe.SGDSolver)


def test_settings_of_a_solver_are_its_whole_message() -> None:
    names = caffe.proto.caffe_pb2.SolverParameter.DESCRIPTOR.fields_by_name
    assert {"max_iter", "display", "layer_wise_reduce", "base_lr"} <= set(names)
