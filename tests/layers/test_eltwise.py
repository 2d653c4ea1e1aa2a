from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.layers.eltwise import Eltwise, EltwiseOp
from netc.layers.types import BlobType, KeptType, Layer, Reads, Refusal
from tests.support.layer_harness import check_layer, check_vector, distinct, forward, vector_names
from tests.support.lowering import check_lowering

SUM, PROD, MAX = EltwiseOp.SUM, EltwiseOp.PROD, EltwiseOp.MAX

CONFORMANCE: dict[str, Layer] = {
    "eltwise__max_3": Eltwise(MAX),
    "eltwise__max_3_ties": Eltwise(MAX),
    "eltwise__prod_2": Eltwise(PROD),
    "eltwise__prod_3": Eltwise(PROD),
    "eltwise__prod_3_unstable": Eltwise(PROD, stable_prod_grad=False),
    "eltwise__same_blob_twice": Eltwise(PROD),
    "eltwise__sum_default": Eltwise(),
}


@pytest.mark.parametrize("name", vector_names("eltwise"))
def test_golden_vectors(name: str) -> None:
    check_vector(name, eltwise=CONFORMANCE[name])


def spread(n: int, shape: tuple[int, ...], seed: int) -> list[np.ndarray]:
    """Return n bottoms in which no two values are alike, and none is near 0."""
    values = distinct(n, *shape, seed=seed)
    return [values[i] for i in range(n)]


layers = st.one_of(
    st.builds(Eltwise, st.sampled_from(EltwiseOp), stable_prod_grad=st.booleans()),
    st.lists(st.sampled_from([1.0, -1.0, 0.0, 0.5, -2.5]), min_size=2, max_size=4).map(
        lambda coeff: Eltwise(SUM, tuple(coeff))
    ),
)


@settings(max_examples=60)
@given(
    layer=layers,
    n=st.integers(2, 4),
    shape=st.lists(st.integers(1, 3), max_size=4).map(tuple),
    seed=st.integers(0, 2**16),
)
def test_definition_and_gradient(layer: Eltwise, n: int, shape: tuple[int, ...], seed: int) -> None:
    xs = spread(len(layer.coeff) or n, shape, seed)
    run = check_layer(layer, xs)
    for place in np.ndindex(shape):
        values = [float(x[place]) for x in xs]
        want = {
            SUM: sum(c * v for c, v in zip(layer.coeff or [1] * len(values), values, strict=True)),
            PROD: math.prod(values),
            MAX: max(values),
        }[layer.operation]
        assert run.tops[0][place] == pytest.approx(want, rel=1e-12, abs=1e-12)


def winners(*values: float) -> list[float]:
    """Return the gradient that each of the bottoms gets, one number each."""
    run = forward(Eltwise(MAX), [np.array([float(v)]) for v in values])
    assert run.tops[0][0] == max(values)
    return [float(dx[0]) for dx in run.backward([np.ones(1)]).bottoms]


def test_ties_of_max() -> None:
    # Of the first two the second, and from then on only what is larger.
    assert winners(1, 1) == [0, 1]
    assert winners(1, 1, 1) == [0, 1, 0]
    assert winners(2, 1, 2) == [1, 0, 0]
    assert winners(1, 2, 2) == [0, 1, 0]
    assert winners(1, 1, 2, 2) == [0, 0, 1, 0]


def test_max_keeps_the_winner() -> None:
    found = Eltwise(MAX).infer(*[BlobType((2, 3))] * 2)
    assert found.kept == (KeptType("winner", (2, 3), "int32"),)
    assert Eltwise(SUM).infer(*[BlobType((2, 3))] * 2).kept == ()


def test_the_product_of_zeros() -> None:
    xs = [np.array([0.0, 0.0]), np.array([3.0, 0.0]), np.array([5.0, 7.0])]
    dxs = forward(Eltwise(PROD), xs).backward([np.ones(2)]).bottoms
    assert [dx.tolist() for dx in dxs] == [[15, 0], [0, 0], [0, 0]]
    with np.errstate(invalid="ignore"):
        divided = forward(Eltwise(PROD, stable_prod_grad=False), xs).backward([np.ones(2)]).bottoms
    assert np.isnan(divided[0]).tolist() == [True, True]


def test_one_blob_as_two_bottoms() -> None:
    x = distinct(2, 3)
    for layer, slope in ((Eltwise(SUM), 2), (Eltwise(PROD), 2 * x), (Eltwise(MAX), 1)):
        dxs = forward(layer, [x, x]).backward([np.ones((2, 3))]).bottoms
        np.testing.assert_array_equal(dxs[0] + dxs[1], np.broadcast_to(slope, (2, 3)))


def test_what_backward_reads() -> None:
    assert Eltwise(SUM, (2, 3)).backward_reads() is Reads.NOTHING
    assert Eltwise(MAX).backward_reads() is Reads.NOTHING
    assert Eltwise(PROD).backward_reads() is Reads.BOTTOM
    assert Eltwise(PROD, stable_prod_grad=False).backward_reads() == Reads.BOTTOM | Reads.TOP


@pytest.mark.parametrize(
    ("layer", "shapes", "what"),
    [
        (Eltwise(), [(2, 3), (2, 4)], "differ in shape"),
        (Eltwise(), [(2, 3), (2, 3), (2, 3, 1)], "differ in shape"),
        (Eltwise(PROD, (1, 2)), [(2, 3), (2, 3)], "operation SUM"),
        (Eltwise(SUM, (1,)), [(2, 3), (2, 3)], "number of coeff"),
        (Eltwise(MAX, (1, 2, 3)), [(2, 3), (2, 3)], "number of coeff"),
    ],
)
def test_refusals(layer: Layer, shapes: list[tuple[int, ...]], what: str) -> None:
    with pytest.raises(Refusal, match=what) as caught:
        layer.infer(*map(BlobType, shapes))
    assert caught.value.expected and caught.value.got


def test_takes_two_bottoms_or_more() -> None:
    assert not Eltwise.bottoms.allows(1)
    assert Eltwise.bottoms.allows(2) and Eltwise.bottoms.allows(9)


def test_cost() -> None:
    bottoms = (BlobType((2, 3)),) * 3
    assert Eltwise(SUM).cost(bottoms, Eltwise(SUM).infer(*bottoms)) == 12
    assert Eltwise(MAX).cost(bottoms, Eltwise(MAX).infer(*bottoms)) == 0


@pytest.mark.parametrize(
    ("layer", "n", "operators"),
    [
        (Eltwise(SUM), 2, ["Add"]),
        (Eltwise(SUM), 3, ["Sum"]),
        (Eltwise(SUM, (1, -1)), 2, ["Sub"]),
        (Eltwise(SUM, (1, -2)), 2, ["Mul", "Add"]),
        (Eltwise(SUM, (0.5, 1, -2)), 3, ["Mul", "Mul", "Sum"]),
        (Eltwise(PROD), 2, ["Mul"]),
        (Eltwise(PROD), 4, ["Mul", "Mul", "Mul"]),
        (Eltwise(MAX), 2, ["Max"]),
        (Eltwise(MAX), 3, ["Max"]),
    ],
)
def test_onnx(layer: Layer, n: int, operators: list[str]) -> None:
    other = spread(n, (5, 3, 4), 1)
    assert check_lowering(layer, spread(n, (2, 3, 4), 0), other_batch=other) == operators
