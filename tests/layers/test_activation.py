from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.errors import NetcError
from netc.layers.activation import (
    BNLL,
    ELU,
    AbsVal,
    Clip,
    Dropout,
    Exp,
    Log,
    Power,
    PReLU,
    ReLU,
    Sigmoid,
    SoftTruncation,
    Swish,
    TanH,
    Threshold,
    Truncation,
)
from netc.layers.fillers import Filler
from netc.layers.types import BlobType, KeptType, Layer, ParamType, Phase, Reads, Refusal
from tests.support.audit import definition
from tests.support.layer_harness import (
    Run,
    assert_close,
    check_layer,
    check_vector,
    distinct,
    forward,
    smooth,
    strided,
    vector_names,
)
from tests.support.lowering import check_lowering
from tests.support.nets import executor_of, graph_of, set_inputs

TEST_DROPOUT = Dropout(phase=Phase.TEST)

CONFORMANCE: dict[str, dict[str, Layer]] = {
    "absval__default": {"absval": AbsVal()},
    "bnll__large": {"bnll": BNLL()},
    "clip__default": {"clip": Clip(-0.5, 0.8)},
    "clip__relu6": {"clip": Clip(0, 6)},
    "dropout__inplace": {"power": Power(scale=2, shift=0.3), "act": TEST_DROPOUT},
    "dropout__test_ratio03": {"dropout": Dropout(0.3, phase=Phase.TEST)},
    "elu__alpha": {"elu": ELU(0.3)},
    "elu__exact_zeros": {"elu": ELU(2)},
    "elu__inplace": {"power": Power(scale=2, shift=0.3), "act": ELU(0.5)},
    "exp__base3_scale_shift": {"exp": Exp(3, 0.5, -0.2)},
    "exp__default": {"exp": Exp()},
    "exp__scale_shift_e": {"exp": Exp(scale=-1, shift=0.3)},
    "log__base2": {"log": Log(2)},
    "log__default": {"log": Log()},
    "log__scale": {"log": Log(scale=3)},
    "power__cube": {"power": Power(3)},
    "power__default_identity": {"power": Power()},
    "power__power0": {"power": Power(0, 3, 2)},
    "power__scale0": {"power": Power(2, 0, 3)},
    "power__scale_shift": {"power": Power(1, -2, 0.5)},
    "power__square": {"power": Power(2, 0.5, 1)},
    "prelu__2d": {"prelu": PReLU()},
    "prelu__default": {"prelu": PReLU()},
    "prelu__exact_zeros": {"prelu": PReLU()},
    "relu__default": {"relu": ReLU()},
    "relu__exact_zeros": {"relu": ReLU()},
    "relu__slope": {"relu": ReLU(0.1)},
    "relu__slope_exact_zeros": {"relu": ReLU(0.3)},
    "sigmoid__default": {"sigmoid": Sigmoid()},
    "sigmoid__saturated": {"sigmoid": Sigmoid()},
    "swish__beta": {"swish": Swish(1.7)},
    "tanh__default": {"tanh": TanH()},
    "tanh__inplace": {"power": Power(scale=2, shift=0.3), "act": TanH()},
    "threshold__default": {"threshold": Threshold()},
    "threshold__equal_is_zero": {"threshold": Threshold(1)},
}


TYPES = {name.partition("__")[0] for name in CONFORMANCE}


@pytest.mark.parametrize("name", vector_names(*TYPES))
def test_golden_vectors(name: str) -> None:
    check_vector(name, **CONFORMANCE[name])


# -- the definitions, one number at a time ---------------------------------------------------------


def clamp(x: float, least: float, most: float) -> float:
    return least if x < least else most if x > most else x


def away_from(x: np.ndarray, *kinks: float) -> np.ndarray:
    """Move values that a difference step could carry across a kink."""
    for kink in kinks:
        x = np.where(np.abs(x - kink) < 1e-3, kink + 2e-3, x)
    return x


# layer, f(x) from the definition, its slope, where it bends
DEFINITIONS: dict[str, tuple[Layer, Callable[[float], float], tuple[float, ...]]] = {
    "relu": (ReLU(), lambda x: max(x, 0.0), (0,)),
    "relu leaky": (ReLU(0.1), lambda x: x if x > 0 else 0.1 * x, (0,)),
    "relu negative slope": (ReLU(-0.5), lambda x: x if x > 0 else -0.5 * x, (0,)),
    "elu": (ELU(), lambda x: x if x > 0 else math.exp(x) - 1, ()),
    "elu 0": (ELU(0), lambda x: x if x > 0 else 0.0, (0,)),
    "elu 2": (ELU(2), lambda x: x if x > 0 else 2 * (math.exp(x) - 1), (0,)),
    "elu -1": (ELU(-1), lambda x: x if x > 0 else 1 - math.exp(x), (0,)),
    "sigmoid": (Sigmoid(), lambda x: 1 / (1 + math.exp(-x)), ()),
    "tanh": (TanH(), math.tanh, ()),
    "power identity": (Power(), lambda x: x, ()),
    "power linear": (Power(1, -2, 0.5), lambda x: 0.5 - 2 * x, ()),
    "power square": (Power(2, 0.5, 1), lambda x: (1 + 0.5 * x) ** 2, ()),
    "power cube": (Power(3, 2, -1), lambda x: (2 * x - 1) ** 3, ()),
    "power root": (Power(0.5, 0.3, 4), lambda x: math.sqrt(4 + 0.3 * x), ()),
    "power inverse": (Power(-1, 0.3, 4), lambda x: 1 / (4 + 0.3 * x), ()),
    "power 0": (Power(0, 3, 2), lambda x: 1.0, ()),
    "power scale 0": (Power(3, 0, 2), lambda x: 8.0, ()),
    "absval": (AbsVal(), abs, (0,)),
    "bnll": (BNLL(), lambda x: math.log(1 + math.exp(x)), ()),
    "exp": (Exp(), math.exp, ()),
    "exp base": (Exp(3, 0.5, -0.2), lambda x: 3 ** (0.5 * x - 0.2), ()),
    "exp base below 1": (Exp(0.5, 2, 1), lambda x: 0.5 ** (2 * x + 1), ()),
    "log": (Log(shift=5), lambda x: math.log(x + 5), ()),
    "log base": (Log(2, -0.5, 6), lambda x: math.log2(6 - 0.5 * x), ()),
    "clip": (Clip(-0.5, 0.8), lambda x: clamp(x, -0.5, 0.8), (-0.5, 0.8)),
    "clip reversed": (Clip(0.8, -0.5), lambda x: 0.8, ()),
    "swish": (Swish(), lambda x: x / (1 + math.exp(-x)), ()),
    "swish beta": (Swish(1.7), lambda x: x / (1 + math.exp(-1.7 * x)), ()),
    "dropout, TEST": (TEST_DROPOUT, lambda x: x, ()),
}


@pytest.mark.parametrize("case", DEFINITIONS)
def test_definition_and_gradient(case: str) -> None:
    layer, f, kinks = DEFINITIONS[case]
    x = away_from(2 * distinct(2, 3, 4, 2), *kinks)
    run = check_layer(layer, [x])
    np.testing.assert_allclose(run.tops[0], np.vectorize(f)(x), rtol=1e-12, atol=1e-12)


@settings(max_examples=30)
@given(
    case=st.sampled_from(sorted(DEFINITIONS)),
    shape=st.lists(st.integers(0, 3), max_size=5).map(tuple),
    seed=st.integers(0, 2**16),
)
def test_any_shape(case: str, shape: tuple[int, ...], seed: int) -> None:
    layer, f, kinks = DEFINITIONS[case]
    x = away_from(smooth(*shape, seed=seed), *kinks)
    run = check_layer(layer, [x])
    want = np.vectorize(f, otypes=[float])(x)
    np.testing.assert_allclose(run.tops[0], want, rtol=1e-11, atol=1e-12)


def run_on(layer: Layer, *values: float) -> Run:
    return forward(layer, [np.array(values, np.float64)])


def slope_at(layer: Layer, *values: float) -> np.ndarray:
    return run_on(layer, *values).backward([np.ones(len(values))]).bottoms[0]


@pytest.mark.parametrize(
    ("layer", "x", "slope"),
    [
        (ReLU(), 0, 0),
        (ReLU(0.3), 0, 0.3),
        (ReLU(-0.3), 0, -0.3),
        (ELU(2), 0, 2),
        (ELU(-2), 0, -2),
        (AbsVal(), 0, 0),
        (Clip(-1, 2), -1, 1),
        (Clip(-1, 2), 2, 1),
        (Clip(-1, 2), -1.5, 0),
        (Clip(-1, 2), 2.5, 0),
        (Clip(2, -1), 0.5, 0),
        (Power(3), 0, 0),
        (Power(2, 2, -4), 2, 0),
        (Power(3, 2, -4), 2, 0),
        (Power(1.5), 0, 0),
    ],
)
def test_slope_where_the_function_bends_or_caffe_divides_by_zero(
    layer: Layer, x: float, slope: float
) -> None:
    assert slope_at(layer, x)[0] == slope


@pytest.mark.parametrize(
    "layer", [Power(2), Power(3, 2, 1), Clip(-0.5, 0.8), Log(shift=5), AbsVal(), Swish(), PReLU()]
)
def test_types_that_need_their_bottom_say_so(layer: Layer) -> None:
    # From this the plan knows that the top must not overwrite the bottom while training.
    assert layer.backward_reads() is Reads.BOTTOM


def test_types_that_may_train_in_place() -> None:
    for layer in (ReLU(), ReLU(0.1), ELU(), Sigmoid(), TanH(), BNLL(), Exp()):
        assert layer.backward_reads() is Reads.TOP
    for layer in (Power(), Power(1, 2, 3), Power(0), Power(2, 0, 1), Dropout(), TEST_DROPOUT):
        assert layer.backward_reads() is Reads.NOTHING


def test_no_overflow_far_from_zero() -> None:
    big = np.array([-1e4, -100, 100, 1e4], np.float32)
    for layer, want in (
        (Sigmoid(), [0, 0, 1, 1]),
        (BNLL(), [0, 0, 100, 1e4]),
        (Swish(), [0, 0, 100, 1e4]),
        (ELU(), [-1, -1, 100, 1e4]),
    ):
        run = forward(layer, [big])
        assert_close(run.tops[0], np.array(want, np.float32), layer.type)
        assert np.isfinite(run.backward([np.ones(4, np.float32)]).bottoms[0]).all(), layer.type


def test_numbers_that_have_no_answer() -> None:
    with np.errstate(all="ignore"):
        assert np.isnan(run_on(Power(0.5), -1).tops[0][0])
        assert np.isinf(run_on(Power(-1, 0, 0), 3).tops[0][0])
        assert np.isinf(slope_at(Power(0.5), 0)[0])
        assert run_on(Log(), 0).tops[0][0] == -np.inf
        assert np.isnan(run_on(Log(), -1).tops[0][0])
    assert np.isnan(run_on(Clip(0, 1), np.nan).tops[0][0])


# -- PReLU -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 4), (2, 3, 4, 2), (2, 1, 2, 2, 3), (0, 3, 2)])
@pytest.mark.parametrize("shared", [False, True])
def test_prelu(shape: tuple[int, ...], shared: bool) -> None:
    layer = PReLU(channel_shared=shared)
    x = distinct(*shape)
    slope = smooth(*(() if shared else (shape[1],)), seed=3)
    run = check_layer(layer, [x], [slope])
    for place in np.ndindex(shape):
        a = slope if shared else slope[place[1]]
        assert run.tops[0][place] == (x[place] if x[place] > 0 else a * x[place])
    dslope = run.backward([np.ones(shape)]).params[0]
    want = np.zeros_like(slope)
    for place in np.ndindex(shape):
        want[() if shared else place[1]] += min(x[place], 0)
    np.testing.assert_allclose(dslope, want, rtol=1e-12, atol=1e-12)


def test_prelu_at_zero_takes_the_slope() -> None:
    run = forward(PReLU(), [np.zeros((1, 2))], [np.array([0.3, -2])])
    assert run.backward([np.ones((1, 2))]).bottoms[0].tolist() == [[0.3, -2]]


def test_prelu_params() -> None:
    x = BlobType((2, 3, 4, 4))
    assert PReLU().infer(x).params == (ParamType((3,), Filler(value=0.25)),)
    assert PReLU(channel_shared=True).infer(x).params[0].shape == ()
    filler = Filler("gaussian", std=0.1)
    assert PReLU(filler).infer(x).params[0].filler is filler


@pytest.mark.parametrize("shape", [(), (4,)])
def test_prelu_refuses_a_bottom_without_channels(shape: tuple[int, ...]) -> None:
    with pytest.raises(Refusal, match="no channel axis") as caught:
        PReLU().infer(BlobType(shape))
    assert str(BlobType(shape)) in caught.value.got


# -- Dropout ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0, 0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean(ratio: float) -> None:
    x = np.ones((100, 200), np.float32)
    run = forward(Dropout(ratio), [x])
    y = run.tops[0]
    scale = np.float32(1 / (1 - ratio))
    assert set(np.unique(y)) <= {np.float32(0), scale}
    # 20,000 draws: the share of zeros lies within 5 standard deviations.
    assert abs((y == 0).mean() - ratio) <= 5 * math.sqrt(ratio * (1 - ratio) / y.size)
    # The gradient goes where the values went.
    dx = run.backward([np.full_like(x, 3)]).bottoms[0]
    np.testing.assert_array_equal(dx, 3 * y)


def test_dropout_can_sample_in_the_test_phase() -> None:
    assert Dropout(sample_weights_test=True).expand() is None
    assert Dropout(phase=Phase.TEST).expand() is None
    [part] = Dropout(0.3, sample_weights_test=True, phase=Phase.TEST).expand() or ()
    assert part.layer == Dropout(0.3, sample_weights_test=True, phase=Phase.TRAIN)
    x = smooth(3, 40)
    y = forward(part.layer, [x]).tops[0]
    np.testing.assert_allclose(np.unique(np.round(y / x, 6)), [0, 1 / 0.7], rtol=1e-5)
    with pytest.raises(NetcError, match="random"):
        check_lowering(part.layer, [x])


def test_dropout_draws_from_the_generator_it_is_given() -> None:
    x = smooth(5, 7)
    first, same, other = (forward(Dropout(), [x], seed=s).tops[0] for s in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


def test_dropout_keeps_its_mask_for_backward() -> None:
    run = check_layer(Dropout(0.3), [smooth(3, 4, 5)])
    assert run.signature.kept == (KeptType("mask", (3, 4, 5), "bool"),)
    assert TEST_DROPOUT.infer(BlobType((3,))).kept == ()


@pytest.mark.parametrize("ratio", [-0.1, 1, 1.5, math.nan])
def test_dropout_ratio_out_of_range(ratio: float) -> None:
    for phase in Phase:
        with pytest.raises(Refusal, match="not a probability") as caught:
            Dropout(ratio, phase=phase).infer(BlobType((2, 3)))
        assert caught.value.setting == "dropout_ratio"


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [Exp, Log])
@pytest.mark.parametrize("base", [0, -2, math.inf, math.nan])
def test_base_must_be_positive(cls: Any, base: float) -> None:
    with pytest.raises(Refusal, match="positive") as caught:
        cls(base).infer(BlobType((2,)))
    assert caught.value.setting == "base"


def test_base_1() -> None:
    with pytest.raises(Refusal, match="base 1"):
        Log(1).infer(BlobType((2,)))
    assert run_on(Exp(1), -3, 4).tops[0].tolist() == [1, 1]


@pytest.mark.parametrize(("layer", "missing"), [(Clip(min=1), "max"), (Clip(max=1), "min")])
def test_clip_without_a_bound(layer: Layer, missing: str) -> None:
    with pytest.raises(Refusal, match=f"{missing} is missing"):
        layer.infer(BlobType((2,)))


# -- Threshold -------------------------------------------------------------------------------------


def test_threshold_stops_gradients() -> None:
    x = np.array([-1, 0, 0.5, 1, 2], np.float32)
    run = check_layer(Threshold(0.5), [x], gradient=False)
    assert run.tops[0].tolist() == [0, 0, 0, 1, 1]
    assert Threshold().gradient_bottoms(1) == (False,)
    assert forward(Threshold(0.5), [strided(x)]).tops[0].dtype == np.float32


# -- ONNX ------------------------------------------------------------------------------------------

OPERATORS = {
    "relu": ["Relu"],
    "relu leaky": ["LeakyRelu"],
    "relu negative slope": ["LeakyRelu"],
    "elu": ["Elu"],
    "elu 0": ["Elu"],
    "elu 2": ["Elu"],
    "elu -1": ["Elu"],
    "sigmoid": ["Sigmoid"],
    "tanh": ["Tanh"],
    "power identity": ["Identity"],
    "power linear": ["Mul", "Add"],
    "power square": ["Mul", "Add", "Pow"],
    "power cube": ["Mul", "Add", "Pow"],
    "power root": ["Mul", "Add", "Pow"],
    "power inverse": ["Mul", "Add", "Pow"],
    "power 0": ["Shape", "Expand"],
    "power scale 0": ["Shape", "Expand"],
    "absval": ["Abs"],
    "bnll": ["Softplus"],
    "exp": ["Exp"],
    "exp base": ["Mul", "Exp", "Mul"],
    "exp base below 1": ["Mul", "Exp", "Mul"],
    "log": ["Add", "Log"],
    "log base": ["Mul", "Add", "Log", "Mul"],
    "clip": ["Clip"],
    "clip reversed": ["Min", "Max"],
    "swish": ["Sigmoid", "Mul"],
    "swish beta": ["Mul", "Sigmoid", "Mul"],
    # The only layer of the net: its top must have its own name.
    "dropout, TEST": ["Identity"],
}


@pytest.mark.parametrize("case", DEFINITIONS)
def test_onnx(case: str) -> None:
    layer, _, _ = DEFINITIONS[case]
    x = 2 * distinct(2, 3, 4)
    x[0, 0, :2] = 0, -0.5
    got = check_lowering(layer, [x], other_batch=[smooth(5, 3, 4)])
    assert got == OPERATORS[case]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 2, 5)])
def test_onnx_prelu(shape: tuple[int, ...], shared: bool) -> None:
    x, other = smooth(*shape), smooth(7, *shape[1:])
    assert check_lowering(PReLU(channel_shared=shared), [x], other_batch=[other]) == ["PRelu"]


def test_onnx_threshold() -> None:
    x = np.array([[-1, 0.5, 2]])
    assert check_lowering(Threshold(0.5), [x], other_batch=[x.repeat(3, 0)]) == ["Greater", "Cast"]


# -- in place, in a net ----------------------------------------------------------------------------

IN_PLACE = [
    'type: "ReLU"',
    'type: "ReLU" relu_param { negative_slope: -0.5 }',
    'type: "PReLU" prelu_param { filler { value: -0.5 } }',
    'type: "ELU" elu_param { alpha: -1 }',
    'type: "Sigmoid"',
    'type: "TanH"',
    'type: "Power" power_param { power: 2 scale: 0.5 shift: 1 }',
    'type: "Power" power_param { power: 3 }',
    'type: "BNLL"',
    'type: "Exp" exp_param { base: 2 scale: 0.5 }',
    'type: "Log" log_param { shift: 9 }',
    'type: "Clip" clip_param { min: -0.5 max: 0.5 }',
    'type: "Swish"',
    'type: "Dropout"',
]


def gradients(activation: str, a: str, b: str, c: str, *, keep: str) -> list[np.ndarray]:
    """Return the loss and all gradients of a small net with blobs of these names."""
    net = executor_of(
        graph_of(f"""
        layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: 4 dim: 5 }} }} }}
        layer {{ name: "t" type: "Input" top: "t" input_param {{ shape {{ dim: 4 dim: 3 }} }} }}
        layer {{ name: "in" type: "InnerProduct" bottom: "x" top: "{a}"
            inner_product_param {{ num_output: 6 weight_filler {{ type: "gaussian" }} }} }}
        layer {{ name: "first" {activation} bottom: "{a}" top: "{b}" }}
        layer {{ name: "second" {activation} bottom: "{b}" top: "{c}" }}
        layer {{ name: "out" type: "InnerProduct" bottom: "{c}" top: "y"
            inner_product_param {{ num_output: 3 weight_filler {{ type: "xavier" }} }} }}
        layer {{ name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "t" top: "loss" }}
        """),
        keep=keep,
    )
    set_inputs(net)
    net.forward()
    net.backward()
    return [np.array(net.loss()), *(np.copy(diff) for diff in net.param_diffs)]


@pytest.mark.parametrize("activation", IN_PLACE)
def test_in_place_layers_have_the_same_gradients(activation: str) -> None:
    # "all" gives every blob a memory of its own; "" lets the plan share what it may.
    apart = gradients(activation, "a", "b", "c", keep="all")
    in_place = gradients(activation, "a", "a", "a", keep="")
    assert np.abs(apart[1]).max() > 0
    for one, other in zip(apart, in_place, strict=True):
        np.testing.assert_array_equal(one, other)


def test_dropout_may_scale_in_phase_test_instead() -> None:
    x = smooth(4, 50)
    layer = Dropout(dropout_ratio=0.25, scale_train=False, phase=Phase.TEST)
    np.testing.assert_allclose(check_layer(layer, [x]).tops[0], 0.75 * x)
    check_lowering(layer, [x.astype("float32")])
    train = Dropout(dropout_ratio=0.25, scale_train=False)
    (y,) = forward(train, [x]).tops
    assert set(np.unique(y[y != 0] / x[y != 0]).round(12)) == {1.0}
    assert 0 < (y == 0).sum() < y.size


# -- truncations of distances


@definition("Truncation", "SoftTruncation")
def test_truncations() -> None:
    x = 4 * distinct(3, 5)
    run = check_layer(Truncation(-1.0, 2.0), [x])
    soft = check_layer(SoftTruncation(1.5), [x])
    for place in np.ndindex(*x.shape):
        assert run.tops[0][place] == min(max(x[place], -1.0), 2.0)
        assert math.isclose(soft.tops[0][place], 1 - math.exp(-x[place] / 1.5))
    assert check_lowering(Truncation(-1.0, 2.0), [x]) == ["Max", "Min"]
    assert check_lowering(SoftTruncation(1.5), [x]) == ["Mul", "Exp", "Sub"]


def test_the_bounds_of_a_truncation_pass_no_gradient() -> None:
    run = forward(Truncation(), [np.array([-1.0, 0, 2, 5, 6])])
    assert run.backward([np.ones(5)]).bottoms[0].tolist() == [0, 0, 1, 0, 0]
    assert forward(Truncation(3.0, 1.0), [np.array([0.0, 2, 4])]).tops[0].tolist() == [1, 1, 1]
    with pytest.raises(Refusal):
        SoftTruncation(0.0).infer(BlobType((2,)))
