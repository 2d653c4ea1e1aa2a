from __future__ import annotations

import numpy as np
import pytest

from netc.layers.fillers import Filler
from netc.layers.scale import Bias, EltwiseAffine, Scale
from netc.layers.types import BlobType, Reads, Refusal
from tests.support.audit import definition
from tests.support.layer_harness import (
    assert_close,
    check_layer,
    check_refused,
    check_vector,
    forward,
    smooth,
    vector_names,
)
from tests.support.lowering import check_lowering


@pytest.mark.parametrize("name", vector_names("scale", "bias"))
def test_golden_vector(name):
    check_vector(name)


# Settings, and the shape of the operand with as many 1s as it takes to broadcast as NumPy does.
PARAMS = {
    "default": ({}, (3, 1, 1)),
    "axis 0": ({"axis": 0}, (2, 1, 1, 1)),
    "last axis": ({"axis": -1}, (5,)),
    "two axes": ({"axis": 1, "num_axes": 2}, (3, 4, 1)),
    "all axes": ({"axis": 0, "num_axes": -1}, (2, 3, 4, 5)),
    "to the end": ({"axis": -2, "num_axes": -1}, (4, 5)),
    "one number": ({"num_axes": 0}, ()),
}


@pytest.mark.parametrize("case", PARAMS)
def test_a_param_repeats_along_the_other_axes(case):
    options, spread = PARAMS[case]
    x = smooth(2, 3, 4, 5)
    run = check_layer(Scale(bias_term=True, **options), [x])
    scale, bias = run.params
    assert scale.shape == bias.shape
    want = x * scale.reshape(spread) + bias.reshape(spread)
    assert_close(run.tops[0], want, rtol=1e-12, atol=1e-12)
    run = check_layer(Bias(**options), [x])
    assert_close(run.tops[0], x + run.params[0].reshape(spread), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", PARAMS)
def test_onnx_with_a_param(case):
    options, _ = PARAMS[case]
    x = smooth(2, 3, 4, 5)
    other = None if "axis" in options and options["axis"] == 0 else [smooth(4, 3, 4, 5)]
    assert check_lowering(Scale(**options), [x], other_batch=other) == ["Mul"]
    both = check_lowering(Scale(bias_term=True, **options), [x], other_batch=other)
    assert both == ["Mul", "Add"]
    assert check_lowering(Bias(**options), [x], other_batch=other) == ["Add"]


BOTTOMS = {
    "axis 1": (1, (3, 4), (3, 4, 1)),
    "axis 0": (0, (2, 3), (2, 3, 1, 1)),
    "last axis": (-1, (5,), (5,)),
    "everything": (0, (2, 3, 4, 5), (2, 3, 4, 5)),
    "one number": (7, (), ()),
}


@pytest.mark.parametrize("case", BOTTOMS)
def test_a_second_bottom_in_place_of_the_param(case):
    axis, shape, spread = BOTTOMS[case]
    xs = [smooth(2, 3, 4, 5), smooth(*shape, seed=1)]
    run = check_layer(Scale(axis=axis), xs)
    assert run.params == ()
    assert_close(run.tops[0], xs[0] * xs[1].reshape(spread), rtol=1e-12, atol=1e-12)
    run = check_layer(Bias(axis=axis), xs)
    assert_close(run.tops[0], xs[0] + xs[1].reshape(spread), rtol=1e-12, atol=1e-12)
    assert check_lowering(Scale(axis=axis), xs)[-1] == "Mul"
    assert check_lowering(Bias(axis=axis), xs)[-1] == "Add"


def test_the_bias_of_a_two_bottom_scale_is_its_only_param():
    xs = [smooth(2, 3, 4), smooth(3, seed=1)]
    run = check_layer(Scale(bias_term=True), xs)
    [bias] = run.params
    want = xs[0] * xs[1][:, None] + bias[:, None]
    assert_close(run.tops[0], want, rtol=1e-12, atol=1e-12)
    check_lowering(Scale(bias_term=True), xs)


def test_onnx_with_a_factor_per_item_and_an_open_batch_size():
    xs, others = ([smooth(n, 3, 4), smooth(n, 3, seed=1)] for n in (2, 5))
    assert check_lowering(Scale(axis=0), xs, other_batch=others) == ["Reshape", "Mul"]


def test_a_new_scale_is_1_and_a_new_bias_0():
    def first_values(layer):
        rng = np.random.default_rng(0)
        params = layer.infer(BlobType((2, 3))).params
        return [p.filler.draw(np, rng, p.shape).tolist() for p in params]

    assert first_values(Scale(bias_term=True)) == [[1, 1, 1], [0, 0, 0]]
    assert first_values(Bias()) == [[0, 0, 0]]
    # A filler that says nothing else is Caffe's default filler: the constant 0.
    assert first_values(Scale(filler=Filler())) == [[0, 0, 0]]


def test_bias_needs_to_remember_nothing():
    assert Bias().backward_reads() is Reads.NOTHING


def test_what_caffe_refuses():
    check_refused("bias_too_many_axes", "num_axes")


@pytest.mark.parametrize("kind", [Scale, Bias])
@pytest.mark.parametrize(
    ("options", "shapes", "setting"),
    [
        ({"num_axes": -2}, [(2, 3)], "num_axes"),
        ({"num_axes": 2}, [(2, 3)], "num_axes"),
        ({"axis": 2}, [(2, 3)], "axis"),
        ({}, [(2, 3), (2,)], "axis"),
        ({}, [(2, 3), (3, 4)], "axis"),
        ({"axis": -1}, [(2, 3), (2, 3)], "axis"),
        ({"axis": 0}, [(2, 3), (3,)], "axis"),
    ],
)
def test_operands_that_do_not_fit(kind, options, shapes, setting):
    with pytest.raises(Refusal) as caught:
        kind(**options).infer(*map(BlobType, shapes))
    assert caught.value.setting == setting


def test_cost():
    x = BlobType((2, 3, 4))
    assert Scale().cost((x,), Scale().infer(x)) == 24


def test_one_gradient_does_not_cost_the_other():
    run = forward(Scale(), [smooth(2, 3)], [smooth(3)])
    found = run.backward([smooth(2, 3)], [True], [False])
    assert found.params == (None,)
    found = run.backward([smooth(2, 3)], [False], [True])
    assert found.bottoms == (None,)


# -- EltwiseAffine


@definition("EltwiseAffine")
@pytest.mark.parametrize("shared", [False, True])
def test_eltwise_affine_is_a_scale_layer(shared):
    [part] = EltwiseAffine(channel_shared=shared).expand(BlobType((2, 3, 4)))
    assert part.name == "" and isinstance(part.layer, Scale)
    shape = () if shared else (3,)
    slope, bias = part.layer.infer(BlobType((2, 3, 4))).params
    assert (slope.shape, slope.filler.value) == (shape, 1.0001)
    assert (bias.shape, bias.filler.value) == (shape, 0.0001)
    x, a, b = smooth(2, 3, 4), smooth(*shape, seed=1), smooth(*shape, seed=2)
    run = check_layer(part.layer, [x], [a, b])
    for n, c, i in np.ndindex(2, 3, 4):
        k = () if shared else (c,)
        assert abs(run.tops[0][n, c, i] - (a[k] * x[n, c, i] + b[k])) < 1e-12


def test_eltwise_affine_takes_the_fillers_of_the_text():
    layer = EltwiseAffine(slope_filler=Filler(value=2.0), bias_filler=Filler(value=3.0))
    [part] = layer.expand(BlobType((2, 3)))
    assert [p.filler.value for p in part.layer.infer(BlobType((2, 3))).params] == [2.0, 3.0]
    with pytest.raises(Refusal, match="channel axis"):
        layer.expand(BlobType((3,)))
