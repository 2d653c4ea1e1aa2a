"""Whatever a text says of a layer, netc builds and runs it, or says in words what is wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from netc.errors import NetcError
from netc.graph.types import Graph
from netc.layers import registry
from netc.layers.types import Phase
from netc.schema import netc_pb2
from tests.support.messages import messages
from tests.support.nets import executor_of, graph_of

TYPES = sorted(
    kind.name
    for kind in set(registry.layer_types().values())
    if kind.cls.__module__.startswith("netc.")
)

# Enough to meet the mistakes of a careless rule; ten times as many run with --nightly.
EXAMPLES = 8 if settings().max_examples < 1000 else 80

# What is run has no more numbers than this: a text can ask for more than there is memory.
MOST = 20_000

_SHAPES = st.lists(st.sampled_from([0, 1, 1, 2, 2, 3, 4, 6]), max_size=4)


@st.composite
def texts(draw: st.DrawFn, name: str) -> str:
    """Draw the text of a net with one layer of a type: inputs, and about as many tops as it has."""
    kind = registry.find(name)
    net = netc_pb2.NetParameter()
    layer = netc_pb2.LayerParameter(name="l", type=name)
    for i in range(draw(_about(kind.cls.bottoms.least, kind.cls.bottoms.most))):
        shape = netc_pb2.BlobShape(dim=draw(_SHAPES))
        net.layer.add(name=f"i{i}", type="Input", top=[f"b{i}"], input_param={"shape": [shape]})
        layer.bottom.append(f"b{i}")
    for i in range(draw(_about(kind.cls.tops.least, kind.cls.tops.most))):
        layer.top.append(f"t{i}")
    for param in kind.params:
        settings_of = getattr(layer, param)
        if draw(st.integers(0, 4)):
            settings_of.CopyFrom(draw(messages(type(settings_of))))
    net.layer.append(layer)
    return text_format.MessageToString(net)


def _about(least: int, most: int | None) -> st.SearchStrategy[int]:
    """Numbers that an arity allows, mostly; and a few that it does not."""
    top = least + 2 if most is None else most
    allowed = st.integers(least, top)
    return st.one_of(allowed, allowed, allowed, st.integers(0, top + 1))


def small(graph: Graph) -> bool:
    """Say whether a net can be run: few numbers, and no file to write."""
    if any(node.layer.reads_data or node.layer.writes_data for node in graph.nodes):
        return False
    shapes = [blob.shape for blob in graph.blobs.values()]
    shapes += [use.shape for use in graph.params]
    shapes += [kept.shape for node in graph.nodes for kept in node.kept]
    return sum(map(math.prod, shapes)) <= MOST


@pytest.mark.parametrize("name", TYPES)
def test_a_layer_of_any_text_is_built_and_run_or_refused(name: str) -> None:
    @settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
    @given(texts(name), st.sampled_from(Phase), st.integers(0, 9))
    def check(text: str, phase: Phase, seed: int) -> None:
        try:
            graph = graph_of(text, phase)
            if not small(graph):
                return
            run(graph, seed)
        except NetcError as error:
            assert str(error)
            event("refused")
        else:
            event("run")

    check()


def run(graph: Graph, seed: int) -> None:
    net = executor_of(graph, train=True)
    rng = np.random.default_rng(seed)
    for key in graph.inputs:
        net.data(key)[...] = rng.integers(-1, 3, net.data(key).shape)
    with np.errstate(all="ignore"):
        net.fill_params()
        net.forward()
        net.backward()


def net_of(name: str, shapes: list[tuple[int, ...]], rest: str = "") -> str:
    """Return the text of a net with one layer and inputs of these shapes."""
    inputs = [
        f'layer {{ name: "i{i}" type: "Input" top: "b{i}" input_param {{ shape {{ '
        + " ".join(f"dim: {size}" for size in shape)
        + " } } }"
        for i, shape in enumerate(shapes)
    ]
    bottoms = " ".join(f'bottom: "b{i}"' for i in range(len(shapes)))
    return "\n".join([*inputs, f'layer {{ name: "l" type: "{name}" {bottoms} top: "t" {rest} }}'])


@pytest.mark.parametrize(
    ("name", "shapes", "rest"),
    [
        ("BatchNorm", [(0,)], ""),
        ("BatchNorm", [(2, 0, 3)], ""),
        ("Bias", [(), ()], ""),
        ("Convolution", [(0, 2, 4, 4)], "convolution_param { num_output: 2 kernel_size: 3 }"),
        ("Deconvolution", [(0, 2, 4, 4)], "convolution_param { num_output: 2 kernel_size: 3 }"),
        ("Pooling", [(0, 2, 4, 4)], "pooling_param { global_pooling: true }"),
        ("Upsample", [(0, 2, 4, 4), (0, 2, 4, 4)], "upsample_param { scale: 2 }"),
        (
            "YoloDetectionOutput",
            [(0, 8, 2, 2)],
            "yolo_detection_output_param { num_box: 1 num_classes: 3 biases: 1 biases: 2 }",
        ),
        ("Scale", [(), ()], ""),
        ("Scale", [(2, 0, 3)], "scale_param { bias_term: true }"),
        ("MVN", [(0,)], ""),
        ("MVN", [(2, 3, 0)], "mvn_param { normalize_variance: false }"),
        ("Exp", [(2,)], "exp_param { base: 14 shift: 269 }"),
        ("Reduction", [(2, 0)], "reduction_param { operation: MEAN axis: 1 }"),
    ],
)
def test_nothing_at_all_and_too_much_are_no_errors(
    name: str, shapes: list[tuple[int, ...]], rest: str
) -> None:
    run(graph_of(net_of(name, shapes, rest)), seed=0)


@pytest.mark.parametrize(
    ("name", "shapes", "rest", "words"),
    [
        ("ChannelScale", [(2, 3), (2, 1)], 'top: "u"', "too many tops for these settings"),
        ("SmoothL1Loss", [(), ()], "", "different numbers of items"),
        ("ContrastiveLoss", [(1,), (1,), ()], "", "not one label for each pair"),
    ],
)
def test_what_no_layer_can_do_is_said(
    name: str, shapes: list[tuple[int, ...]], rest: str, words: str
) -> None:
    with pytest.raises(NetcError, match=words):
        graph_of(net_of(name, shapes, rest))
