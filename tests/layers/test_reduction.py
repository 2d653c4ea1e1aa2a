from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.errors import NetcError
from netc.layers.reduction import Reduction, ReductionOp
from netc.layers.types import BlobType, Layer, Reads, Refusal
from tests.support.layer_harness import (
    check_layer,
    check_vector,
    distinct,
    forward,
    smooth,
    vector_names,
)
from tests.support.lowering import check_lowering

SUM, ASUM, SUMSQ, MEAN = ReductionOp

CONFORMANCE: dict[str, Layer] = {
    "reduction__asum_axis1_coeff": Reduction(ASUM, 1, -0.5),
    "reduction__asum_axis_neg1": Reduction(ASUM, -1, 2),
    "reduction__mean_axis1_coeff": Reduction(MEAN, 1, -0.5),
    "reduction__mean_axis_neg1": Reduction(MEAN, -1, 2),
    "reduction__sum_axis1_coeff": Reduction(SUM, 1, -0.5),
    "reduction__sum_axis_neg1": Reduction(SUM, -1, 2),
    "reduction__sumsq_all": Reduction(SUMSQ),
    "reduction__sumsq_axis1_coeff": Reduction(SUMSQ, 1, -0.5),
}


@pytest.mark.parametrize("name", vector_names("reduction"))
def test_golden_vectors(name: str) -> None:
    check_vector(name, reduction=CONFORMANCE[name])


@settings(max_examples=60)
@given(
    operation=st.sampled_from(ReductionOp),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple),
    coeff=st.sampled_from([1.0, 0.0, -0.5, 3.0]),
    data=st.data(),
)
def test_definition_and_gradient(
    operation: ReductionOp, shape: tuple[int, ...], coeff: float, data: st.DataObject
) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1), "axis")
    x = distinct(*shape)
    run = check_layer(Reduction(operation, axis, coeff), [x])
    kept = axis % len(shape)
    assert run.tops[0].shape == shape[:kept]
    for place in np.ndindex(shape[:kept]):
        values = [float(x[place + rest]) for rest in np.ndindex(shape[kept:])]
        want = {
            SUM: sum(values),
            ASUM: sum(map(abs, values)),
            SUMSQ: sum(v * v for v in values),
            MEAN: sum(values) / len(values),
        }[operation]
        assert run.tops[0][place] == pytest.approx(coeff * want, rel=1e-12, abs=1e-12)


def test_the_gradient_of_asum_at_zero_is_zero() -> None:
    run = forward(Reduction(ASUM), [np.array([-2.0, 0, 3])])
    assert run.backward([np.array(5.0)]).bottoms[0].tolist() == [-5, 0, 5]


def test_a_long_float32_sum_keeps_its_digits() -> None:
    # One after the other, the 4 million terms lose the last three digits.
    y = forward(Reduction(), [np.full((64, 256, 256), 0.1, np.float32)]).tops[0]
    assert y == pytest.approx(64 * 256 * 256 * float(np.float32(0.1)), rel=1e-6)


def test_the_sum_of_no_elements() -> None:
    assert forward(Reduction(axis=1), [np.ones((3, 0))]).tops[0].tolist() == [0, 0, 0]


def test_what_backward_reads() -> None:
    reads = {operation: Reduction(operation).backward_reads() for operation in ReductionOp}
    assert reads == {
        SUM: Reads.NOTHING,
        MEAN: Reads.NOTHING,
        ASUM: Reads.BOTTOM,
        SUMSQ: Reads.BOTTOM,
    }


@pytest.mark.parametrize(("axis", "shape"), [(2, (3, 4)), (-3, (3, 4)), (0, ())])
def test_axis_out_of_range(axis: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(Refusal, match="out of range") as caught:
        Reduction(axis=axis).infer(BlobType(shape))
    assert caught.value.setting == "axis"


NAMES = {SUM: "ReduceSum", ASUM: "ReduceL1", SUMSQ: "ReduceSumSquare", MEAN: "ReduceMean"}


@pytest.mark.parametrize("axis", [1, 2, -1])
@pytest.mark.parametrize("operation", ReductionOp)
def test_onnx(operation: ReductionOp, axis: int) -> None:
    x, other = smooth(2, 3, 4), smooth(5, 3, 4)
    got = check_lowering(Reduction(operation, axis), [x], other_batch=[other])
    assert got == [NAMES[operation]]
    got = check_lowering(Reduction(operation, axis, -0.5), [x], other_batch=[other])
    assert got == [NAMES[operation], "Mul"]


@pytest.mark.parametrize("operation", ReductionOp)
def test_onnx_over_everything(operation: ReductionOp) -> None:
    x = smooth(2, 3, 4)
    assert check_lowering(Reduction(operation), [x]) == [NAMES[operation]]
    with pytest.raises(NetcError, match="batch"):
        check_lowering(Reduction(operation), [x], other_batch=[x])
