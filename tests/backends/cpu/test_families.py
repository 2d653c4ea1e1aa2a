"""Each family by itself: chosen, and equal to the reference over its settings and sizes."""

from __future__ import annotations

import numpy as np
import pytest

from netc.backends import find_backend
from netc.backends.base import Job
from netc.backends.cpu import lrn, onednn
from netc.backends.cpu.kernel import Impossible, Kernel
from netc.graph.types import Graph
from netc.layers.types import Phase
from netc.plan import plan
from netc.plan.types import Step
from netc.runtime import Executor
from tests.backends.cpu.test_equality import agree
from tests.support.nets import executor_of, graph_of, require, set_inputs


@pytest.fixture(autouse=True)
def _works() -> None:
    require("cpu")


def net(
    kind: str,
    settings: str = "",
    shapes: tuple[tuple[int, ...], ...] = ((2, 20, 5, 6),),
    *,
    relu: bool = False,
) -> str:
    """Return a net that trains: the layer between params for its bottoms and a loss.

    With `relu`, there is one behind the layer.

    Bottoms come from a convolution of one axis, so that they lie in blocks where these exist.
    """
    lines, bottoms = [], []
    for i, shape in enumerate(shapes):
        dims = " ".join(f"dim: {n}" for n in shape)
        lines.append(
            f'layer {{ name: "in{i}" type: "Input" top: "in{i}" '
            f"input_param {{ shape {{ {dims} }} }} }}"
        )
        if len(shape) > 2:
            product = (
                f'type: "Convolution" convolution_param {{ num_output: {shape[1]} kernel_size: 1 '
                "weight_filler { type: 'xavier' } }"
            )
        else:
            product = 'type: "PReLU"'
        lines.append(f'layer {{ name: "p{i}" bottom: "in{i}" top: "x{i}" {product} }}')
        bottoms.append(f'bottom: "x{i}"')
    lines.append(f'layer {{ name: "l" type: "{kind}" {" ".join(bottoms)} top: "y" {settings} }}')
    if relu:
        lines.append('layer { name: "r" type: "ReLU" bottom: "y" top: "y" }')
    # The gradient of a product with other numbers is not the same everywhere.
    lines.append('layer { name: "w" type: "Power" bottom: "y" top: "w" power_param { power: 2 } }')
    lines.append('layer { name: "sum" type: "Reduction" bottom: "w" top: "loss" loss_weight: 1 }')
    return "\n".join(lines)


def check(text: str, phase: Phase = Phase.TRAIN) -> None:
    """Compare outputs, gradients and params, and see that layer "l" runs on oneDNN."""
    graph = graph_of(text, phase)
    train = phase is Phase.TRAIN
    nets = []
    for name in ("reference", "cpu"):
        backend = find_backend(name)
        one = Executor(plan(graph, backend, train=train), backend, seed=1)
        one._arena.view("float32")[...] = np.nan
        set_inputs(one)
        one.forward()
        if train:
            one.clear_param_diffs()
            one.backward()
        nets.append(one)
    reference, ours = nets
    assert_chosen(graph, ours)
    for key in graph.outputs:
        agree(ours.data(key), reference.data(key), key)
    for i in range(len(graph.params) if train else 0):
        found, wanted = ours.param_diff_array(i), reference.param_diff_array(i)
        assert (found is None) == (wanted is None)
        if wanted is not None:
            agree(found, wanted, f"gradient of param {i}")
        agree(ours.param_array(i), reference.param_array(i), f"param {i}")


def assert_chosen(graph: Graph, net: Executor) -> None:
    """See that layer "l" runs on oneDNN in both directions, as one with a ReLU "r" behind it."""
    names = [node.name for node in graph.nodes]
    together = {"l", "r"} & set(names)
    found = {
        (step.kernel, step.declined, together & {names[i] for i in step.nodes} == together)
        for step in (*net.plan.forward, *net.plan.backward)
        if isinstance(step, Step) and "l" in [names[i] for i in step.nodes]
    }
    assert found == {("cpu", (), True)}


ACTIVATIONS = {
    "ReLU": "",
    "ELU": "elu_param { alpha: 0.7 }",
    "Sigmoid": "",
    "TanH": "",
    "AbsVal": "",
    "BNLL": "",
    "Swish": "swish_param { beta: 1.5 }",
    "Exp": "",
    "Power": "power_param { scale: -0.5 shift: 2 }",
    "ReLU6": "relu6_param { threshold: 0.5 }",
    "HSigmoid": "",
    "HSwish": "",
    "Mish": "",
    "GELU": "",
}
SHAPES = [((2, 16, 5, 6),), ((2, 20, 5, 6),), ((3, 7),), ((2, 3, 4, 5, 3),)]


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations(kind: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    check(net(kind, ACTIVATIONS[kind], shapes))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("Power", "power_param { power: 2 }"),
        ("GELU", "gelu_param { approximate: TANH }"),
        ("ReLU", "relu_param { negative_slope: 0.1 }"),
        ("ReLU", "relu_param { negative_slope: -0.5 }"),
        ("ELU", "elu_param { alpha: -0.5 }"),
    ],
)
def test_other_forms_of_activations(kind: str, settings: str) -> None:
    check(net(kind, settings))


def test_clip_runs_for_inference() -> None:
    check(net("Clip", "clip_param { min: -0.3 max: 0.2 }"), Phase.TEST)


def test_a_linear_power_layer_needs_no_data_for_its_gradient() -> None:
    p = plan(graph_of(net("Power", "power_param { scale: 3 }")), find_backend("cpu"), train=True)
    (step,) = (s for s in p.backward if isinstance(s, Step) and p.graph.nodes[s.node].name == "l")
    assert step.kernel == "cpu"
    kernel = p.kernels[step.choice]
    assert kernel is not None and not kernel.terms.reads


@pytest.mark.parametrize("shapes", SHAPES)
def test_prelu(shapes: tuple[tuple[int, ...], ...]) -> None:
    settings = "prelu_param { filler { type: 'gaussian' std: 1 } }"
    check(net("PReLU", settings, shapes))
    check(net("PReLU", f"{settings} param {{ lr_mult: 0 }}", shapes))


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("Scale", "scale_param { filler { type: 'gaussian' std: 1 } }"),
        ("Scale", "scale_param { bias_term: true bias_filler { type: 'gaussian' std: 1 } }"),
        ("Bias", "bias_param { filler { type: 'gaussian' std: 1 } }"),
        ("Bias", "bias_param { filler { type: 'gaussian' std: 1 } } param { lr_mult: 0 }"),
    ],
)
def test_factors_and_shifts_of_channels(
    kind: str, settings: str, shapes: tuple[tuple[int, ...], ...]
) -> None:
    check(net(kind, settings, shapes))
    check(net(kind, settings, shapes, relu=True))


def no_lrn(job: Job) -> Kernel:
    raise Impossible("this library has none")


LRN_SETTINGS = [
    "",
    "local_size: 3 alpha: 0.5 beta: 0.5",
    "local_size: 21 alpha: 2 k: 2",
    "norm_region: WITHIN_CHANNEL local_size: 3 alpha: 0.7",
    "norm_region: WITHIN_CHANNEL local_size: 9",
]


@pytest.mark.parametrize("phase", [Phase.TRAIN, Phase.TEST])
@pytest.mark.parametrize("shape", [(2, 16, 5, 6), (4, 20, 5, 6), (3, 3, 7, 4), (4, 48, 9, 1)])
@pytest.mark.parametrize("settings", LRN_SETTINGS)
def test_lrn_from_sums(
    settings: str, shape: tuple[int, ...], phase: Phase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in pieces, one or two items each."""
    monkeypatch.setattr(lrn, "LrnKernel", no_lrn)
    for piece in (lrn.PIECE, 2000):
        monkeypatch.setattr(lrn, "PIECE", piece)
        check(net("LRN", f"lrn_param {{ {settings} }}", (shape,)), phase)


def test_lrn_of_channels_that_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they do behind grey images, without AVX-512."""
    monkeypatch.setattr(lrn, "LrnKernel", no_lrn)
    text = net("LRN", "lrn_param { alpha: 2 }", ((2, 32, 9, 8),))
    grey = text.replace("dim: 32", "dim: 1", 1)
    assert grey != text
    check(grey)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", [(2, 32, 9, 7), (2, 64, 14, 14), (1, 32, 31, 29)])
def test_convolutions_of_three_by_three_pixels(
    shape: tuple[int, ...], relu: bool, group: int
) -> None:
    """Without AVX-512 the passes work on copies in the layouts that suit them best."""
    settings = f"num_output: 160 kernel_size: 3 pad: 1 group: {group}"
    text = net("Convolution", f"convolution_param {{ {settings} }}", (shape,), relu=relu)
    check(text)
    copied = plan(graph_of(text), find_backend("cpu"), train=True).inner_reorders
    old = not onednn.has_avx512()
    assert ("l: blobs for forward" in copied) == (old and shape[2] <= 28)
    product = old and group == 1 and shape[2] * shape[3] >= 100
    assert ("l: blobs for the gradient of the weights" in copied) == product


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", [(2, 1, 9), (2, 1, 9, 8), (2, 1, 5, 6, 4)])
def test_convolutions_of_grey_images(shape: tuple[int, ...], relu: bool) -> None:
    settings = (
        "convolution_param { num_output: 20 kernel_size: 3 weight_filler { type: 'xavier' } }"
    )
    check(net("Convolution", settings, (shape,), relu=relu))


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("shape", [(2, 36, 14, 14), (2, 36, 5, 6, 7), (3, 36, 9)])
def test_groups_that_fill_no_block(shape: tuple[int, ...], group: int) -> None:
    settings = f"num_output: 136 kernel_size: 3 pad: 1 group: {group}"
    check(net("Convolution", f"convolution_param {{ {settings} }}", (shape,), relu=True))
    check(net("Deconvolution", f"convolution_param {{ {settings} }}", (shape,)))


@pytest.mark.parametrize("kind", ["Convolution", "Deconvolution"])
@pytest.mark.parametrize("shape", [(2, 20, 7), (2, 3, 9, 8), (2, 16, 5, 6), (2, 5, 4, 6, 5)])
def test_a_bias_that_is_trained_alone(kind: str, shape: tuple[int, ...]) -> None:
    settings = f"convolution_param {{ num_output: {shape[1]} kernel_size: 3 }}"
    check(net(kind, f"{settings} param {{ lr_mult: 0 }} param {{ lr_mult: 1 }}", (shape,)))


@pytest.mark.parametrize("phase", [Phase.TRAIN, Phase.TEST])
@pytest.mark.parametrize(("group", "layout"), [(1, "acdb"), (4, "acdb"), (20, "aBcd16b")])
def test_convolutions_behind_channels_that_fill_no_block(
    group: int, layout: str, phase: Phase
) -> None:
    """They are neighbours then, with AVX-512; depthwise ones train on blocks all the same."""
    settings = f"num_output: 20 kernel_size: 3 pad: 1 group: {group}"
    text = net("Convolution", f"convolution_param {{ {settings} }}", ((2, 20, 9, 7),), relu=True)
    text = text.replace("dim: 20", "dim: 3", 1)
    check(text, phase)
    p = plan(graph_of(text, phase), find_backend("cpu"), train=phase is Phase.TRAIN)
    steps = [step for step in p.forward if isinstance(step, Step) and step.kernel == "cpu"]
    if onednn.has_avx512() and phase is Phase.TRAIN:
        assert [str(p.buffers[step.tops[0]].layout) for step in steps[:2]] == ["acdb", layout]


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("phase", [Phase.TRAIN, Phase.TEST])
@pytest.mark.parametrize("shape", [(2, 16, 5, 7), (3, 20, 4, 4), (2, 8, 3, 2, 3)])
def test_factors_for_each_channel_of_each_item(
    shape: tuple[int, ...], phase: Phase, relu: bool
) -> None:
    n, c, *places = shape
    for gate in ((n, c), (n, c, *[1] * len(places))):
        check(net("Axpy", shapes=(gate, shape, shape), relu=relu), phase)
    check(net("Scale", "scale_param { axis: 0 }", (shape, (n, c)), relu=relu), phase)


@pytest.mark.parametrize("phase", [Phase.TRAIN, Phase.TEST])
@pytest.mark.parametrize("pool", ["MAX", "AVE"])
@pytest.mark.parametrize("shapes", [((2, 16, 5, 7),), ((2, 20, 6, 6),)])
def test_pooling_with_a_relu_behind_it(
    pool: str, phase: Phase, shapes: tuple[tuple[int, ...], ...]
) -> None:
    settings = f"pooling_param {{ pool: {pool} kernel_size: 3 stride: 2 }}"
    check(net("Pooling", settings, shapes, relu=True), phase)


@pytest.mark.parametrize("shape", [(2, 20, 5, 6), (2, 16, 3, 3), (3, 7)])
@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize(
    "settings",
    [
        "operation: PROD",
        "operation: PROD stable_prod_grad: false",
        "operation: SUM",
        "operation: MAX",
    ],
)
def test_eltwise(settings: str, n: int, shape: tuple[int, ...]) -> None:
    text = net("Eltwise", f"eltwise_param {{ {settings} }}", (shape,) * n)
    check(text, Phase.TEST if "MAX" in settings and n > 2 else Phase.TRAIN)


def test_the_gradient_of_equal_values_goes_to_the_second_maximum() -> None:
    """As in Caffe. The second is the first times 1, a slope that learns only if it wins."""
    text = net("Eltwise", 'bottom: "z" eltwise_param { operation: MAX }', ((2, 20, 3, 3),))
    same = (
        'layer { name: "same" type: "PReLU" bottom: "x0" top: "z" '
        "prelu_param { filler { value: 1 } } }\n"
    )
    check(text.replace('layer { name: "l"', same + 'layer { name: "l"'))


@pytest.mark.parametrize("activation", ["ReLU", "TanH"])
@pytest.mark.parametrize("operation", ["PROD", "MAX"])
def test_an_activation_behind_a_product_or_a_maximum(operation: str, activation: str) -> None:
    text = net("Eltwise", f"eltwise_param {{ operation: {operation} }}", ((2, 20, 5, 6),) * 2)
    behind = f'layer {{ name: "a" type: "{activation}" bottom: "y" top: "z" }}'
    text = text.replace('layer { name: "w"', behind + 'layer { name: "w"')
    check(text.replace('bottom: "y" top: "w"', 'bottom: "z" top: "w"'))


def recurrent(kind: str, steps: int, batch: int, d: int, inputs: int, extra: str) -> str:
    """Return a net with sequences that begin and end within the batch."""
    exposed = {"LSTM": 2, "RNN": 1}[kind] if "hidden" in extra else 0
    shapes = [f"dim: {steps} dim: {batch} dim: {inputs}"]
    shapes += [f"dim: {batch} dim: 3 dim: 2"] * ("static" in extra)
    shapes += [f"dim: 1 dim: {batch} dim: {d}"] * exposed
    lines = [
        f'layer {{ name: "in{i}" type: "Input" top: "in{i}" input_param {{ shape {{ {dims} }} }} }}'
        f'layer {{ name: "s{i}" type: "PReLU" bottom: "in{i}" top: "x{i}" }}'
        for i, dims in enumerate(shapes)
    ]
    lines.append(
        'layer { name: "c" type: "Input" top: "c" '
        f"input_param {{ shape {{ dim: {steps} dim: {batch} }} }} }}"
        'layer { name: "cont" type: "Threshold" bottom: "c" top: "cont" '
        "threshold_param { threshold: -0.5 } }"
    )
    first = len(shapes) - exposed
    bottoms = ["x0", "cont", *[f"x{i}" for i in range(1, first)]]
    bottoms += [f"in{i}" for i in range(first, len(shapes))]
    tops = ["y", *[f"state{i}" for i in range(exposed)]]
    ends = " ".join([f'bottom: "{b}"' for b in bottoms] + [f'top: "{t}"' for t in tops])
    fillers = "weight_filler { type: 'gaussian' std: 0.4 } bias_filler { type: 'gaussian' }"
    lines.append(
        f'layer {{ name: "l" type: "{kind}" {ends} recurrent_param {{ num_output: {d} {fillers} '
        f"{'expose_hidden: true' * bool(exposed)} }} }}"
        'layer { name: "w" type: "Power" bottom: "y" top: "w" power_param { power: 2 } }'
        'layer { name: "sum" type: "Reduction" bottom: "w" top: "loss" loss_weight: 1 }'
    )
    return "\n".join(lines)


@pytest.mark.parametrize("extra", ["", "static", "hidden", "static, hidden"])
@pytest.mark.parametrize("sizes", [(1, 1, 4, 3), (5, 3, 20, 7), (3, 16, 32, 16)])
@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_recurrent(kind: str, sizes: tuple[int, int, int, int], extra: str) -> None:
    for phase in Phase:
        check(recurrent(kind, *sizes, extra), phase)


@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_a_recurrent_state_goes_on_with_the_next_batch(kind: str) -> None:
    graph = graph_of(recurrent(kind, 4, 3, 20, 7, ""))
    nets = [executor_of(graph, backend_name=name) for name in ("reference", "cpu")]
    assert_chosen(graph, nets[1])
    for seed in range(3):
        for one in nets:
            set_inputs(one, seed)
            one.clear_param_diffs()
            one.forward()
            one.backward()
        agree(nets[1].data("loss"), nets[0].data("loss"), f"loss of batch {seed}")
        for i in range(len(graph.params)):
            agree(nets[1].param_diff_array(i), nets[0].param_diff_array(i), f"param {i}")
        carried = [one.persistent() for one in nets]
        assert carried[0].keys() == carried[1].keys() != set()
        for key, value in carried[0].items():
            agree(carried[1][key], value, key)


@pytest.mark.parametrize("shape", [(3, 10), (2, 21, 5, 6), (2, 16, 1, 1)])
def test_softmax_over_the_last_axis(shape: tuple[int, ...]) -> None:
    # oneDNN 3.2 has its gradient with AVX-512 only.
    phase = Phase.TRAIN if onednn.has_avx512() else Phase.TEST
    check(net("Softmax", "softmax_param { axis: -1 }", (shape,)), phase)


@pytest.mark.parametrize(
    ("shape", "order"), [((2, 20, 5, 6), (0, 2, 3, 1)), ((2, 16, 3, 3), (3, 1)), ((3, 7), (1, 0))]
)
def test_permute(shape: tuple[int, ...], order: tuple[int, ...]) -> None:
    axes = " ".join(f"order: {axis}" for axis in order)
    text = net("Permute", f"permute_param {{ {axes} }}", (shape,))
    check(text)
    check(text, Phase.TEST)


def test_permute_takes_a_blob_in_blocks_as_it_is() -> None:
    text = net("Permute", "permute_param { order: 0 order: 2 order: 3 order: 1 }")
    p = plan(graph_of(text, Phase.TEST), find_backend("cpu"))
    (step,) = (s for s in p.forward if isinstance(s, Step) and p.graph.nodes[s.node].name == "l")
    assert p.buffers[step.bottoms[0]].layout is not None


@pytest.mark.parametrize("turn_a", ["true", "false"])
@pytest.mark.parametrize("turn_b", ["true", "false"])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_matmul(batch: tuple[int, ...], turn_b: str, turn_a: str) -> None:
    a = (*batch, 5, 7) if turn_a == "false" else (*batch, 7, 5)
    b = (*batch, 7, 9) if turn_b == "false" else (*batch, 9, 7)
    settings = f"matmul_param {{ transpose_a: {turn_a} transpose_b: {turn_b} }}"
    check(net("MatMul", settings, (a, b)))
