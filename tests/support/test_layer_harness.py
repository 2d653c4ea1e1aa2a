"""The layer check must fail on a layer that breaks any of its rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from netc.layers.activation import ReLU
from netc.layers.fillers import Filler
from netc.layers.types import (
    BackwardCall,
    BlobType,
    ForwardCall,
    Gradients,
    KeptType,
    Layer,
    ParamType,
    Part,
    Reads,
    Signature,
)
from tests.support.layer_harness import (
    Step,
    check_layer,
    check_vector,
    distinct,
    expanded,
    run_steps,
    smooth,
    strided,
    vector_names,
)


@dataclass(frozen=True)
class Product(Layer):
    """y = x * w + b, done right; the classes below each do one thing wrong."""

    def infer(self, *bottoms):
        params = (ParamType(bottoms[0].shape, Filler()), ParamType((), Filler()))
        return Signature((bottoms[0],), params, (KeptType("twice", bottoms[0].shape),))

    def forward(self, call: ForwardCall):
        x, (w, b) = call.bottoms[0], call.params
        call.kept[0][...] = 2 * x
        return (x * w + b,)

    def backward_reads(self):
        return Reads.BOTTOM

    def backward(self, call: BackwardCall):
        x, (w, _), dy = call.bottoms[0], call.params, call.top_diffs[0]
        return Gradients((dy * w,), (dy * x, dy.sum()))


class WrongShape(Product):
    def forward(self, call):
        return (super().forward(call)[0][:1],)


class WritesBottom(Product):
    def forward(self, call):
        tops = super().forward(call)
        call.bottoms[0][...] = 0
        return tops


class WritesParam(Product):
    def forward(self, call):
        tops = super().forward(call)
        call.params[0][...] *= 2
        return tops


class WritesTopDiff(Product):
    def backward(self, call):
        found = super().backward(call)
        call.top_diffs[0][...] *= 2
        return found


class WrongGradient(Product):
    def backward(self, call):
        found = super().backward(call)
        return Gradients((found.bottoms[0] * 1.001,), found.params)


class OneWrongElement(Product):
    def backward(self, call):
        found = super().backward(call)
        found.params[0].flat[-1] += 0.01
        return found


class MissingGradient(Product):
    def backward(self, call):
        return Gradients(super().backward(call).bottoms)


class NoneForWanted(Product):
    def backward(self, call):
        found = super().backward(call)
        return Gradients(found.bottoms, (found.params[0], None))


class MisshapenGradient(Product):
    def backward(self, call):
        found = super().backward(call)
        return Gradients(found.bottoms, (found.params[0].ravel(), found.params[1]))


class ReadsInSecret(Product):
    def backward_reads(self):
        return Reads.TOP


class MindsWhatIsWanted(Product):
    def backward(self, call):
        found = super().backward(call)
        both = all(call.wants_bottoms) and all(call.wants_params)
        return found if both else Gradients((2 * found.bottoms[0],), found.params)


class WantsContiguous(Product):
    def forward(self, call):
        (y,) = super().forward(call)
        return (y if call.bottoms[0].flags.c_contiguous else 2 * y,)


class Promotes(Product):
    def forward(self, call):
        return (super().forward(call)[0] * np.float64(1),)


class Rounds(Product):
    def forward(self, call):
        (y,) = super().forward(call)
        return (y.round(3) if y.dtype == np.float32 else y,)


class NotInPlace(Product):
    in_place: ClassVar[bool] = True

    def forward(self, call):
        call.out[0][...] = 0
        return super().forward(call)


class NotRepeatable(Product):
    def forward(self, call):
        return (super().forward(call)[0] + np.random.default_rng().random(),)


@dataclass(frozen=True)
class Kink(Product):
    def forward(self, call):
        return (abs(call.bottoms[0]) * call.params[0] + call.params[1],)

    def backward(self, call):
        found = super().backward(call)
        sign = np.sign(call.bottoms[0])
        return Gradients((found.bottoms[0] * sign,), (found.params[0] * sign, found.params[1]))


def test_a_right_layer_passes():
    run = check_layer(Product(), [smooth(2, 3)])
    np.testing.assert_array_equal(run.kept[0], 2 * run.bottoms[0])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (WrongShape, "computed shape"),
        (WritesBottom, "forward modified"),
        (WritesParam, "forward modified"),
        (WritesTopDiff, "backward modified"),
        (WrongGradient, "gradient of bottom 0"),
        (OneWrongElement, "gradient of param 0"),
        (MissingGradient, "0 param gradients, not 2"),
        (NoneForWanted, "is wanted, but None"),
        (MisshapenGradient, "computed shape"),
        (ReadsInSecret, "gradient"),
        (MindsWhatIsWanted, "wanted:"),
        (WantsContiguous, "not contiguous"),
        (Promotes, "float64 out"),
        (Rounds, "in float32"),
        (NotInPlace, "in place"),
        (NotRepeatable, "second forward pass"),
    ],
)
def test_a_wrong_layer_fails(layer, message):
    with pytest.raises(AssertionError, match=message):
        check_layer(layer(), [smooth(2, 3)])


def test_an_input_on_a_kink_is_reported_as_such():
    check_layer(Kink(), [distinct(2, 3)])
    with pytest.raises(AssertionError, match="lies on a kink"):
        check_layer(Kink(), [np.zeros((2, 3))])


def test_distinct_values_keep_their_distance():
    values = np.sort(np.append(distinct(4, 5).ravel(), 0.0))
    assert np.diff(values).min() > 1e-3


def test_strided_is_contiguous_nowhere():
    array = smooth(3, 4)
    np.testing.assert_array_equal(strided(array), array)
    assert strided(array).strides == (128, 16)


def test_a_wrong_setting_fails_a_golden_vector():
    check_vector("relu__slope")
    with pytest.raises(AssertionError):
        check_vector("relu__slope", relu=ReLU(negative_slope=0.5))


def test_vectors_that_do_not_exist_are_an_error():
    with pytest.raises(AssertionError, match="no golden vectors"):
        vector_names("nosuchtype")


@dataclass(frozen=True)
class Twice(Layer):
    """Two products, one behind the other."""

    def expand(self, *bottoms):
        return (
            Part("first", Product(), ("$b0",), (".between",)),
            Part("second", Product(), (".between",), ("$t0",)),
        )


def test_a_type_that_expands_is_run_by_its_parts():
    x, w, v = (smooth(2, 3, seed=seed) for seed in range(3))
    b, c = np.array(0.5), np.array(-2.0)
    steps = expanded(Step("twice", Twice(), ("x",), ("y",), (w, b, v, c)), {"x": BlobType((2, 3))})
    blobs, gradients = run_steps(steps, {"x": x}, {"y": np.ones((2, 3))})
    np.testing.assert_allclose(blobs["y"], (x * w + b) * v + c)
    np.testing.assert_allclose(gradients["x"], w * v)
    np.testing.assert_allclose(gradients["twice/first:0"], x * v)


def test_a_blob_read_twice_gets_both_gradients_and_a_name_may_be_reused():
    x, w = smooth(2, seed=1), smooth(2, seed=2)
    zero = np.array(0.0)
    steps = [
        Step("a", Product(), ("x",), ("x",), (w, zero)),
        Step("b", Product(), ("x",), ("y",), (w, zero)),
        Step("c", Product(), ("x",), ("z",), (w, zero)),
    ]
    ones = np.ones(2)
    blobs, gradients = run_steps(steps, {"x": x}, {"y": ones, "z": ones})
    np.testing.assert_allclose(blobs["y"], x * w * w)
    np.testing.assert_allclose(gradients["x"], 2 * w * w)
