"""Nets that BVLC Caffe refuses to set up are refused, naming the layer, before anything runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from netc.errors import NetcError
from netc.layers.types import Phase
from tests.support.nets import graph_of

REFUSED = json.loads((Path(__file__).parent / "conformance" / "refused_nets.json").read_text())

# What the message must say of the cause: a setting, a blob or a number from the text.
CAUSES = {
    "conv_channels_not_divisible_by_group": "group",
    "conv_num_output_not_divisible_by_group": "group",
    "conv_no_kernel": "kernel_size",
    "conv_kernel_larger_than_input": "kernel",
    "conv_stride_zero": "stride",
    "conv_num_output_missing": "num_output",
    "conv_too_many_kernel_dims": "kernel_size",
    "pool_pad_not_less_than_kernel": "pad",
    "pool_kernel_size_and_kernel_h": "kernel_h",
    "pool_global_with_kernel": "global_pooling",
    "pool_global_with_stride": "global_pooling",
    "pool_not_4d": "4 axes",
    "lrn_even_local_size": "local_size",
    "lrn_not_4d": "4 axes",
    "eltwise_shapes_differ": r"\(2, 3\).*\(2, 4\)|\(2, 4\).*\(2, 3\)",
    "eltwise_one_bottom": "bottom",
    "eltwise_coeff_with_prod": "coeff",
    "concat_axis_and_concat_dim": "concat_dim",
    "concat_axis_out_of_range": "axis",
    "slice_uneven": "5",
    "slice_points_not_increasing": "slice_point",
    "reshape_minus1_not_divisible": "-1",
    "reshape_zero_past_end": "0",
    "reshape_inplace": "in place",
    "flatten_inplace": "in place",
    "ip_num_output_missing_bottom": "'nope'",
    "softmaxloss_label_count": r"\(4, 5\).*\(3,\)",
    "softmaxloss_two_tops_no_loss_weight": "loss_weight",
    "softmaxloss_one_bottom": "bottom",
    "euclidean_shapes": "5.*6|6.*5",
    "accuracy_top_k_too_big": "top_k",
    "crop_offset_count": "offset",
    "tile_zero": "tiles",
    "tile_missing": "tiles",
    "bias_too_many_axes": "num_axes",
    "batchnorm_params_with_lr": "lr_mult",
    "sigmoid_ce_count": "6.*8|8.*6|count|shape",
    "axis_out_of_range": "axis",
    "axis_too_negative": "axis",
    "unknown_layer_type": "NoSuchLayer",
    "unknown_bottom": "'missing'",
    "duplicate_top": "'y'",
    "shared_param_lr_mult_differs": "lr_mult",
    "too_many_param_specs": "param",
    "propagate_down_count": "propagate_down",
    "include_and_exclude": "include",
    "filter_bottoms_tops": "top",
    "lstm_cont_shape": r"\(3|\(2|cont",
    "lstm_num_output_missing": "num_output",
    "exp_base_zero": "base",
    "prelu_1d": "axes",
    "bad_enum": "MEDIAN",
}
# The layer that Caffe's message is about, where it is not the last one of the text.
CULPRITS = {"conv_kernel_larger_than_input": "convolution"}


def test_every_refusal_has_its_cause_here() -> None:
    assert {case["name"] for case in REFUSED} == set(CAUSES)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: str(case["name"]))
def test_refused(case: dict[str, str]) -> None:
    with pytest.raises(NetcError) as caught:
        graph_of(case["prototxt"], Phase[case["phase"]])
    message = str(caught.value)
    last = re.findall(r'^  name: "([^"]+)"', case["prototxt"], re.MULTILINE)[-1]
    layer = CULPRITS.get(case["name"], last)
    assert f"'{layer}'" in message, message
    assert re.search(CAUSES[case["name"]], message, re.DOTALL), message
    assert re.match(r"net\.prototxt:\d+:\d+: layer ", message), message
    assert len(caught.value.problems) == 1, message
