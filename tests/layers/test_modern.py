from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.layers import registry
from netc.layers.modern import (
    GELU,
    SELU_ALPHA,
    SELU_SCALE,
    Approximation,
    HSigmoid,
    HSwish,
    Mish,
    ReLU6,
    SeLu,
    SeLuDropout,
)
from netc.layers.types import BlobType, Layer, Phase, Reads, Refusal
from tests.support.audit import definition, note
from tests.support.layer_harness import check_layer, distinct, forward, smooth
from tests.support.lowering import check_lowering
from tests.support.nets import executor_of, graph_of, set_inputs


def relu6(x: float, slope: float = 0.0, threshold: float = 6.0) -> float:
    return min(x if x > 0 else slope * x, threshold)


def gate6(x: float) -> float:
    return min(max(x + 3, 0), 6) / 6


def gelu_tanh(x: float) -> float:
    return x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


# layer, f(x) from the definition, where it bends
DEFINITIONS: dict[str, tuple[Layer, Callable[[float], float], tuple[float, ...]]] = {
    "relu6": (ReLU6(), relu6, (0, 6)),
    "relu6 leaky": (ReLU6(negative_slope=0.1), lambda x: relu6(x, 0.1), (0, 6)),
    "relu6 rising to the left": (
        ReLU6(1.5, -0.5),
        lambda x: relu6(x, -0.5, 1.5),
        (-3, 0, 1.5),
    ),
    "relu1": (ReLU6(threshold=1), lambda x: relu6(x, threshold=1), (0, 1)),
    "h-sigmoid": (HSigmoid(), gate6, (-3, 3)),
    "h-swish": (HSwish(), lambda x: x * gate6(x), (-3, 3)),
    "mish": (Mish(), lambda x: x * math.tanh(math.log1p(math.exp(x))), ()),
    "gelu": (GELU(), lambda x: x / 2 * (1 + math.erf(x / math.sqrt(2))), ()),
    "gelu tanh": (GELU(Approximation.TANH), gelu_tanh, ()),
    "selu": (
        SeLu(),
        lambda x: SELU_SCALE * (x if x > 0 else SELU_ALPHA * math.expm1(x)),
        (0,),
    ),
    "selu dropout, TEST": (SeLuDropout(phase=Phase.TEST), lambda x: x, ()),
}


def away_from(x: np.ndarray, *kinks: float) -> np.ndarray:
    """Move values that a difference step could carry across a kink."""
    for kink in kinks:
        x = np.where(np.abs(x - kink) < 1e-3, kink + 2e-3, x)
    return x


@pytest.mark.parametrize("case", DEFINITIONS)
def test_definition_and_gradient(case: str) -> None:
    layer, f, kinks = DEFINITIONS[case]
    x = away_from(8 * distinct(2, 3, 4, 2), *kinks)
    run = check_layer(layer, [x])
    np.testing.assert_allclose(run.tops[0], np.vectorize(f)(x), rtol=1e-12, atol=1e-12)
    note("definition", layer.type)


@settings(max_examples=30)
@given(
    case=st.sampled_from(sorted(DEFINITIONS)),
    shape=st.lists(st.integers(0, 3), max_size=5).map(tuple),
    seed=st.integers(0, 2**16),
)
def test_any_shape(case: str, shape: tuple[int, ...], seed: int) -> None:
    layer, f, kinks = DEFINITIONS[case]
    x = away_from(4 * smooth(*shape, seed=seed), *kinks)
    run = check_layer(layer, [x])
    want = np.vectorize(f, otypes=[float])(x)
    np.testing.assert_allclose(run.tops[0], want, rtol=1e-11, atol=1e-12)
    assert layer.cost((BlobType(shape),), run.signature) % max(x.size, 1) == 0


@pytest.mark.parametrize("case", DEFINITIONS)
def test_onnx(case: str) -> None:
    x = 8 * distinct(2, 3, 4)
    operators = check_lowering(DEFINITIONS[case][0], [x], other_batch=[8 * distinct(5, 3, 4)])
    # At the usual opset; the newest one has an operator for each.
    assert (
        operators
        == {
            "relu6": ["Clip"],
            "relu6 leaky": ["LeakyRelu", "Min"],
            "relu6 rising to the left": ["LeakyRelu", "Min"],
            "relu1": ["Clip"],
            "h-sigmoid": ["HardSigmoid"],
            "h-swish": ["HardSwish"],
            "mish": ["Softplus", "Tanh", "Mul"],
            "gelu": ["Mul", "Erf", "Mul", "Add", "Mul"],
            "gelu tanh": ["Mul", "Mul", "Mul", "Add", "Mul", "Tanh", "Mul", "Add", "Mul"],
            "selu": ["Selu"],
            "selu dropout, TEST": ["Identity"],
        }[case]
    )


@pytest.mark.parametrize(
    ("name", "layer"),
    [("ReLU6", ReLU6()), ("HardSwish", HSwish()), ("Mish", Mish()), ("Selu", SeLu())],
)
def test_opencv_gives_the_same(name: str, layer: Layer) -> None:
    dims = " ".join(f"dim: {n}" for n in (2, 3, 4, 5))
    text = f"""
        layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ {dims} }} }} }}
        layer {{ name: "y" type: "{name}" bottom: "x" top: "y" }}
    """
    net = cv2.dnn.readNetFromCaffe(np.frombuffer(text.encode(), np.uint8))
    x = (8 * distinct(2, 3, 4, 5)).astype(np.float32)
    net.setInput(x, "x")
    # OpenCV computes exponentials with fewer digits.
    np.testing.assert_allclose(forward(layer, [x]).tops[0], net.forward("y"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", [Mish(), GELU(), GELU(Approximation.TANH), HSwish(), SeLu()])
def test_far_out_is_the_identity_or_a_constant(layer: Layer) -> None:
    with np.errstate(over="raise", invalid="raise"):
        run = forward(layer, [np.array([-1e4, -100, 100, 1e4])])
        slope = run.backward([np.ones(4)]).bottoms[0]
    scale = SELU_SCALE if isinstance(layer, SeLu) else 1
    low = -SELU_SCALE * SELU_ALPHA if isinstance(layer, SeLu) else 0
    np.testing.assert_allclose(run.tops[0], [low, low, 100 * scale, 1e4 * scale], atol=1e-12)
    np.testing.assert_allclose(slope, [0, 0, scale, scale], atol=1e-12)


@pytest.mark.parametrize(
    ("layer", "x", "slope"),
    [
        (ReLU6(), 0, 0),
        (ReLU6(), 6, 0),
        (ReLU6(negative_slope=0.3), 0, 0.3),
        (ReLU6(negative_slope=-0.3), 0, -0.3),
        (HSigmoid(), -3, 0),
        (HSigmoid(), 3, 0),
        (HSwish(), -3, 0),
        (HSwish(), 3, 1),
        (SeLu(), 0, SELU_SCALE * SELU_ALPHA),
    ],
)
def test_slope_where_the_function_bends(layer: Layer, x: float, slope: float) -> None:
    run = forward(layer, [np.array([x], np.float64)])
    assert run.backward([np.ones(1)]).bottoms[0][0] == slope


@pytest.mark.parametrize("threshold", [0, -1, math.nan])
def test_relu6_wants_a_positive_threshold(threshold: float) -> None:
    with pytest.raises(Refusal, match="threshold is not positive") as caught:
        ReLU6(threshold).infer(BlobType((1,)))
    assert caught.value.setting == "threshold"


def test_training_in_place_needs_only_the_top() -> None:
    for layer in (ReLU6(), ReLU6(negative_slope=0.1), HSigmoid(), SeLu()):
        assert layer.backward_reads() is Reads.TOP
    assert ReLU6(negative_slope=-1).backward_reads() is Reads.BOTTOM


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        *((name, HSwish) for name in ("HSwish", "HardSwish", "Hswish", "hswish")),
        *((name, HSigmoid) for name in ("HSigmoid", "HardSigmoid", "Hsigmoid", "hsigmoid")),
        *((name, SeLu) for name in ("SeLu", "SELU", "Selu")),
        *((name, GELU) for name in ("GELU", "Gelu")),
    ],
)
def test_other_names(name: str, cls: type[Layer]) -> None:
    graph = graph_of(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 } } }'
        f'layer {{ name: "y" type: "{name}" bottom: "x" top: "x" }}'
    )
    assert isinstance(graph.nodes[1].layer, cls)
    assert registry.find(name).name == cls.type


# -- SeLuDropout in phase TRAIN --------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5])
def test_selu_dropout_keeps_mean_and_variance(ratio: float) -> None:
    x = smooth(1000, 1000)
    y = forward(SeLuDropout(ratio), [x]).tops[0]
    # The standard errors of both are about 0.002.
    assert abs(y.mean()) < 0.01
    assert abs(y.var() - 1) < 0.01


@definition("SeLuDropout")
def test_selu_dropout_drops_to_the_lowest_value() -> None:
    ratio, floor = 0.2, -SELU_SCALE * SELU_ALPHA
    x = 2 + distinct(50, 40)  # far from the floor
    run = check_layer(SeLuDropout(ratio), [x])
    scale = (1 - ratio + floor**2 * ratio * (1 - ratio)) ** -0.5
    back = run.tops[0] / scale + ratio * floor
    dropped = np.isclose(back, floor)
    np.testing.assert_allclose(back, np.where(dropped, floor, x))
    # Within 5 standard deviations of a binomial.
    assert abs(dropped.mean() - ratio) < 5 * math.sqrt(ratio * (1 - ratio) / x.size)


def test_selu_dropout_refuses_what_is_no_probability() -> None:
    with pytest.raises(Refusal, match="probability"):
        SeLuDropout(1.0).infer(BlobType((1,)))


def test_selu_net_runs_from_text() -> None:
    net = executor_of(
        graph_of(
            'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 9 dim: 9 } } }'
            'layer { name: "s" type: "SeLu" bottom: "x" top: "x" }'
            'layer { name: "d" type: "SeLuDropout" bottom: "x" top: "x" '
            "selu_dropout_param { dropout_ratio: 0.25 } }"
        )
    )
    set_inputs(net)
    net.forward()
    assert np.isclose(net.data("x#2"), net.data("x#2").min()).sum() > 1  # those dropped
