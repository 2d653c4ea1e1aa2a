"""That oneDNN's kernels are chosen where they exist, that layouts hold, and what is declined."""

from __future__ import annotations

from pathlib import Path

import pytest

from netc.assemble import load_graph
from netc.backends import find_backend
from netc.graph.deploy import deploy
from netc.layers.types import Phase
from netc.plan import Plan, plan
from netc.plan.types import Step
from tests.support.nets import graph_of, require

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _works() -> None:
    require("cpu")


def planned(net: str) -> Plan:
    path = ROOT / "zoo" / net / f"{net}_train_test.prototxt"
    size = 227 if net == "alexnet" else 224
    shapes = {"data": (2, 3, size, size), "label": (2,)}
    graph = load_graph(path, Phase.TRAIN, shapes=shapes, assume=True)
    return plan(graph, find_backend("cpu"), train=True)


def kernels(p: Plan) -> dict[str, set[str]]:
    """Return the backends that run each layer type, by the types of whole chains."""
    found: dict[str, set[str]] = {}
    for step in (*p.forward, *p.backward):
        if isinstance(step, Step):
            kind = "+".join(p.graph.nodes[i].type for i in step.nodes)
            found.setdefault(kind, set()).add(step.kernel)
    return found


FAMILIES = {
    "alexnet": ["Convolution+ReLU", "LRN", "Pooling", "InnerProduct+ReLU", "InnerProduct"],
    "googlenet": ["Convolution+ReLU", "LRN", "Pooling", "Concat", "InnerProduct"],
    "resnet50": [
        "Convolution",
        "BatchNorm+Scale",
        "BatchNorm+Scale+ReLU",
        "Eltwise+ReLU",
        "Pooling",
        "InnerProduct",
    ],
}


@pytest.mark.parametrize("net", FAMILIES)
def test_every_family_runs_on_onednn(net: str) -> None:
    found = kernels(planned(net))
    for family in FAMILIES[net]:
        assert found[family] == {"cpu"}, family


def test_a_residual_net_for_inference_is_made_of_convolutions() -> None:
    """Every BatchNorm, Scale, sum and ReLU of ResNet-50 runs inside one."""
    path = ROOT / "zoo" / "resnet50" / "resnet50_train_test.prototxt"
    shapes = {"data": (2, 3, 224, 224), "label": (2,)}
    graph = deploy(load_graph(path, Phase.TEST, shapes=shapes, assume=True))
    found = kernels(plan(graph, find_backend("cpu")))
    norm = "Convolution+BatchNorm+Scale"
    assert set(found) == {
        norm,
        f"{norm}+ReLU",
        f"{norm}+Eltwise+ReLU",
        "Pooling",
        "InnerProduct",
        "Softmax",
    }
    assert all(backends == {"cpu"} for backends in found.values())


@pytest.mark.parametrize("net", FAMILIES)
def test_blobs_keep_their_layout_from_end_to_end(net: str) -> None:
    """Only where the images end, before an inner product, is a blob copied to another order."""
    p = planned(net)
    for reorder in p.reorders:
        source, target = p.buffers[reorder.source], p.buffers[reorder.target]
        if source.layout != target.layout:
            assert source.shape[2:] in ((6, 6), (4, 4), (1, 1)), source.name


def test_weights_lie_as_the_forward_pass_wants_them() -> None:
    p = planned("resnet50")
    for node in p.graph.nodes:
        if node.type == "Convolution" and p.graph.blobs[node.bottoms[0]].shape[1] % 16 == 0:
            assert p.param_layouts[node.params[0].param] is not None, node.name


DECLINED = {
    "STOCHASTIC pooling": 'type: "Pooling" pooling_param { pool: STOCHASTIC kernel_size: 2 }',
    "divisor": 'type: "Pooling" pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }',
    "beta is 0.6": 'type: "LRN" lrn_param { norm_region: WITHIN_CHANNEL beta: 0.6 }',
    "one slope for all channels": 'type: "PReLU" prelu_param { channel_shared: true }',
    "not one for each channel": 'type: "Scale" scale_param { axis: 0 num_axes: -1 }',
}


@pytest.mark.parametrize("reason", DECLINED)
def test_what_cannot_be_said_is_declined_with_the_reason(reason: str) -> None:
    graph = graph_of(
        'layer { name: "in" type: "Input" top: "x"\n'
        "        input_param { shape { dim: 1 dim: 4 dim: 6 dim: 6 } } }\n"
        f'layer {{ name: "l" bottom: "x" top: "y" {DECLINED[reason]} }}',
        Phase.TEST,
    )
    p = plan(graph, find_backend("cpu"))
    step = p.forward[0]
    assert isinstance(step, Step)
    assert step.kernel == "reference"
    assert reason in step.declined[0]
    assert reason in p.render()


def test_a_padded_mean_is_taken_where_no_window_leaves_the_padding() -> None:
    graph = graph_of(
        'layer { name: "in" type: "Input" top: "x"\n'
        "        input_param { shape { dim: 1 dim: 4 dim: 5 dim: 5 } } }\n"
        'layer { name: "l" type: "Pooling" bottom: "x" top: "y"\n'
        "        pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 } }",
    )
    step = plan(graph, find_backend("cpu")).forward[0]
    assert isinstance(step, Step)
    assert step.kernel == "cpu"


def test_the_printed_plan_counts_reorders() -> None:
    p = planned("alexnet")
    text = p.render()
    assert "'conv1' (Convolution) + 'relu1' (ReLU)  [cpu]" in text
    # Of pool5 and its diff.
    assert len(p.reorders) == 2
    assert f"reorders: {len(p.reorders)} of blobs and diffs" in text
    assert "conv2: weights for backward" in text


def test_a_kept_plan_runs_every_layer_by_itself_in_c_order() -> None:
    graph = graph_of(
        'layer { name: "in" type: "Input" top: "x"\n'
        "        input_param { shape { dim: 1 dim: 4 dim: 6 dim: 6 } } }\n"
        'layer { name: "c" type: "Convolution" bottom: "x" top: "y"\n'
        "        convolution_param { num_output: 4 kernel_size: 1 } }\n"
        'layer { name: "r" type: "ReLU" bottom: "y" top: "y" }'
    )
    p = plan(graph, find_backend("cpu"), keep="all")
    assert set(p.data) == {"x", "y", "y#1"}
    assert all(p.buffers[i].layout is None for i in p.data.values())
    assert p.param_layouts == (None, None)


#: Layers that have to run on oneDNN, besides those of the three nets.
TAKEN = {
    "deconvolution": 'type: "Deconvolution" convolution_param { num_output: 8 kernel_size: 2 }',
    "grouped deconvolution": 'type: "Deconvolution" convolution_param '
    "{ num_output: 4 group: 4 kernel_size: 3 stride: 2 bias_term: false }",
    "depthwise": 'type: "Convolution" convolution_param { num_output: 4 group: 4 kernel_size: 3 }',
    "dilated": 'type: "Convolution" convolution_param { num_output: 8 kernel_size: 3 dilation: 2 }',
    "slice": 'type: "Slice" top: "z" slice_param { axis: 1 }',
    "softmax": 'type: "Softmax" softmax_param { axis: -1 }',
    "elu": 'type: "ELU"',
    "scale": 'type: "Scale" scale_param { bias_term: true }',
    "dropout": 'type: "Dropout"',
}


@pytest.mark.parametrize("what", TAKEN)
def test_more_families(what: str) -> None:
    graph = graph_of(
        'layer { name: "in" type: "Input" top: "x"\n'
        "        input_param { shape { dim: 2 dim: 4 dim: 7 dim: 7 } } }\n"
        f'layer {{ name: "l" bottom: "x" top: "y" {TAKEN[what]} }}',
    )
    steps = plan(graph, find_backend("cpu")).forward
    step = next(step for step in steps if isinstance(step, Step))
    assert (step.kernel, step.declined) == ("cpu", ())


@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_convolutions_of_one_to_three_axes(spatial: int) -> None:
    dims = " ".join(["dim: 6"] * spatial)
    graph = graph_of(
        'layer { name: "in" type: "Input" top: "x"\n'
        f"        input_param {{ shape {{ dim: 2 dim: 4 {dims} }} }} }}\n"
        'layer { name: "l" type: "Convolution" bottom: "x" top: "y"\n'
        "        convolution_param { num_output: 8 kernel_size: 3 } }"
    )
    assert kernels(plan(graph, find_backend("cpu"))) == {"Convolution": {"cpu"}}
