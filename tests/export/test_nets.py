"""Whole nets: Caffe's own results, trained nets, and random ones, all through ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from netc.assemble import load_graph
from netc.backends import find_backend
from netc.errors import NetcError
from netc.export import (
    DEFAULT_OPSET,
    OLDEST_OPSET,
    Forward,
    Session,
    export,
    latest_opset,
    parity,
    provenance,
)
from netc.graph.deploy import deploy
from netc.graph.types import Graph
from netc.layers.types import Phase
from netc.weights import read_weights
from tests.support.layer_harness import VECTORS, assert_close, load_vector
from tests.support.nets import graph_of, net_texts

MTCNN = Path(__file__).resolve().parents[3] / "shared" / "data" / "mtcnn"

# Golden vectors whose net in phase TEST is another one, so that they say nothing about an export.
OTHER_IN_TEST = {
    "batchnorm__then_scale_bias_inplace",
    "batchnorm__train_2d",
    "batchnorm__train_batch1",
    "batchnorm__train_default",
    "batchnorm__train_fresh_stats",
    "batchnorm__train_maf_0",
    "batchnorm__train_single_value",
    "inplace__conv_bn_scale_relu",
    "netstate__train",
}
# Types with a memory from one pass to the next: an ONNX graph has none.
CARRIES_STATE = {
    "lstm__basic",
    "lstm__cont_all_ones",
    "lstm__input_4d",
    "lstm__single_step",
    "lstm__state_carries_over",
    "lstm__static_input",
    "rnn__basic",
    "rnn__input_4d",
    "rnn__single_step",
    "rnn__static_input",
}
# The batch size cannot be left open: a layer sums the batch up, cuts it, or stacks it; or the
# inputs have different first axes. Families, and single vectors of others.
FIXED_FAMILIES = (
    "accuracy",
    "batchreindex",  # the vectors end in a sum over all axes, as do those of embed and parameter
    "contrastiveloss",
    "embed",
    "euclideanloss",
    "filter",
    "hingeloss",
    "infogainloss",
    "multinomiallogisticloss",
    "parameter",
    "sigmoidcrossentropyloss",
    "softmaxwithloss",
)
FIXED = {
    "argmax__axis0",
    "bias__two_axis1",
    "bias__two_axis_neg1",
    "bias__two_axis_neg2",
    "concat__axis0",
    "convolution__axis2",
    "crop__axis0",
    "crop__axis1",
    "crop__axis_neg1",
    "dummydata__constant",
    "edge__accuracy_and_loss_share_label",
    "edge__label_truncated",
    "edge__lr_mult_zero",
    "edge__propagate_down_false",
    "innerproduct__axis0",
    "loss_weight__negative",
    "loss_weight__zero",
    "reduction__sumsq_all",
    "reshape__axis0_num2_minus1",
    "reshape__minus1_only",
    "reshape__to_scalar_axis",
    "rnn__expose_hidden",
    "rnn__expose_hidden_cont",
    "scale__axis0_num1",
    "scale__axis0_num_all",
    "scale__two_axis1",
    "scale__two_axis_neg1",
    "scale__two_axis_neg2",
    "scale__two_bottoms_bias_term",
    "shared_params__only_weight",
    "slice__axis0",
    "tile__axis0",
}

NAMES = sorted(path.stem for path in VECTORS.glob("*.npz"))


def vector_graph(vector: dict[str, np.ndarray]) -> tuple[Graph, list[np.ndarray]]:
    """The net of a golden vector in phase TEST, and its params."""
    graph = graph_of(str(vector["prototxt"]), Phase.TEST)
    return graph, [vector[f"param:{graph.nodes[p.owner].name}:{p.index}"] for p in graph.params]


def inputs_of(graph: Graph, vector: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inputs; those that a vector does not give start at zero, as in Caffe."""
    blobs = (graph.blobs[key] for key in graph.inputs)
    return {b.name: vector.get(f"input:{b.name}", np.zeros(b.shape, np.float32)) for b in blobs}


def test_the_exceptions_name_vectors_that_exist() -> None:
    assert set(NAMES) >= OTHER_IN_TEST | CARRIES_STATE | FIXED


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OTHER_IN_TEST])
def test_onnx_runtime_gives_what_caffe_computed(name: str) -> None:
    vector = load_vector(name)
    graph, params = vector_graph(vector)
    if name in CARRIES_STATE:
        with pytest.raises(NetcError, match="keeps nothing between two runs"):
            export(graph, params)
        return
    fixed = name in FIXED or name.split("__")[0] in FIXED_FAMILIES
    opsets = (OLDEST_OPSET, DEFAULT_OPSET, latest_opset())
    models = [export(graph, params, opset=opset) for opset in opsets]
    if fixed:
        with pytest.raises(NetcError, match="batch"):
            export(graph, params, batch="dynamic")
    else:
        models.append(export(graph, params, batch="dynamic"))
    # "a_power_0_split_0" is a copy that only Caffe makes.
    wanted = {
        key.removeprefix("output:"): value
        for key, value in vector.items()
        if key.startswith("output:") and "_split_" not in key
    }
    assert wanted
    for model in models:
        got = Session(model, threads=1).run(inputs_of(graph, vector))
        for blob, value in wanted.items():
            assert_close(got[blob], value, blob)


# -- trained nets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["det1", "det2"])
def test_the_mtcnn_nets_are_proven_with_their_weights(name: str) -> None:
    if not MTCNN.exists():
        pytest.skip("the MTCNN nets lie in shared/data beside the repository, which is not here")
    text, weights = MTCNN / f"{name}.prototxt", MTCNN / f"{name}.caffemodel"
    graph = deploy(load_graph(text, Phase.TEST))
    saved = {layer.name: layer.blobs for layer in read_weights(weights).layers}
    params = [saved[graph.nodes[p.owner].name][p.index].data.reshape(p.shape) for p in graph.params]
    for batch in (None, 4, "dynamic"):
        model = export(graph, params, batch=batch, metadata=provenance(text, [weights]))
        proof = parity(model, Forward(graph, params, find_backend("reference")), threads=1)
        assert proof.ok, proof.table()
        assert len(proof.outputs) == 2
        assert not any("same in every run" in output.reason for output in proof.outputs)
        kinds = {node.op_type for node in model.graph.node}
        assert kinds <= {"Conv", "PRelu", "MaxPool", "Softmax", "Flatten", "Gemm"}
        assert len(model.metadata_props) == 6


def test_a_wrong_weight_in_a_trained_net_is_found() -> None:
    if not MTCNN.exists():
        pytest.skip("the MTCNN nets lie in shared/data beside the repository, which is not here")
    graph = deploy(load_graph(MTCNN / "det1.prototxt", Phase.TEST))
    saved = {layer.name: layer.blobs for layer in read_weights(MTCNN / "det1.caffemodel").layers}
    params = [saved[graph.nodes[p.owner].name][p.index].data.reshape(p.shape) for p in graph.params]
    model = export(graph, params)
    params[0] = params[0].copy()
    params[0][3, 1, 2, 0] *= 1.02
    assert not parity(model, Forward(graph, params, find_backend("reference")), threads=1).ok


# -- random nets -----------------------------------------------------------------------------------


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(net_texts())
def test_any_net_is_proven_with_a_fixed_and_an_open_batch_size(text: str) -> None:
    graph = deploy(graph_of(text, Phase.TEST))
    graph.verify()
    rng = np.random.default_rng(0)
    params = [rng.standard_normal(p.shape).astype(np.float32) for p in graph.params]
    for index, param in enumerate(graph.params):
        if graph.nodes[param.owner].type == "BatchNorm":
            params[index] = np.abs(params[index]) + np.float32(0.5)  # a variance is positive
    forward = Forward(graph, params, find_backend("reference"))
    for batch in (None, "dynamic"):
        proof = parity(export(graph, params, batch=batch), forward, seeds=(0, 2), threads=1)
        assert proof.ok, f"{proof.table()}\n{text}"


SIZES = st.integers(1, 4)


@settings(max_examples=150)
@given(
    st.sampled_from(["MAX", "AVE"]),
    st.sampled_from(["CEIL", "FLOOR"]),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(SIZES, SIZES),
    st.tuples(SIZES, SIZES),
    st.tuples(st.integers(0, 3), st.integers(0, 3)),
    st.sampled_from([OLDEST_OPSET, DEFAULT_OPSET, latest_opset()]),
)
def test_pooling_has_caffes_sizes_in_every_opset(
    pool: str,
    rounding: str,
    image: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pad: tuple[int, int],
    opset: int,
) -> None:
    """ONNX rounds up by another rule than Caffe, and by a third one before opset 19."""
    # Mostly what Caffe accepts: some pixels for a window, and padding below its size.
    image = (image[0] + kernel[0] - 1, image[1] + kernel[1] - 1)
    pad = (min(pad[0], kernel[0] - 1), min(pad[1], kernel[1] - 1))
    text = f"""
    layer {{ name: "in" type: "Input" top: "x"
      input_param {{ shape {{ dim: 1 dim: 2 dim: {image[0]} dim: {image[1]} }} }} }}
    layer {{ name: "pool" type: "Pooling" bottom: "x" top: "y" pooling_param {{
      pool: {pool} round_mode: {rounding} kernel_h: {kernel[0]} kernel_w: {kernel[1]}
      stride_h: {stride[0]} stride_w: {stride[1]} pad_h: {pad[0]} pad_w: {pad[1]} }} }}
    """
    try:
        graph = graph_of(text, Phase.TEST)
    except NetcError:
        event("refused")  # as Caffe does, or it would read past the image
        return
    model = export(graph, [], opset=opset, batch="dynamic")
    proof = parity(model, Forward(graph, [], find_backend("reference")), seeds=(0,), threads=1)
    assert proof.ok, proof.table()
