from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.layers.innerproduct import InnerProduct
from netc.layers.products import DropConnect, InnerDistance, MatMul, Maxout
from netc.layers.types import BlobType, Layer, Phase, Refusal
from tests.support.audit import definition
from tests.support.layer_harness import assert_close, check_layer, distinct, forward, smooth
from tests.support.lowering import check_lowering
from tests.support.nets import executor_of, graph_of, set_inputs

# -- MatMul ----------------------------------------------------------------------------------------

sizes = st.integers(0, 3)


@settings(max_examples=20)
@given(
    batch=st.lists(st.integers(0, 2), max_size=2),
    m=sizes,
    k=sizes,
    n=sizes,
    turn_a=st.booleans(),
    turn_b=st.booleans(),
)
@definition("MatMul")
def test_matmul(batch: list[int], m: int, k: int, n: int, turn_a: bool, turn_b: bool) -> None:
    a = smooth(*batch, *((k, m) if turn_a else (m, k)), seed=1)
    b = smooth(*batch, *((n, k) if turn_b else (k, n)), seed=2)
    layer = MatMul(turn_a, turn_b)
    run = check_layer(layer, [a, b])
    for index in np.ndindex(*run.tops[0].shape):
        *outer, i, j = index
        row = [a[(*outer, r, i) if turn_a else (*outer, i, r)] for r in range(k)]
        column = [b[(*outer, j, r) if turn_b else (*outer, r, j)] for r in range(k)]
        want = math.fsum(x * y for x, y in zip(row, column, strict=True))
        assert math.isclose(run.tops[0][index], want, rel_tol=1e-12, abs_tol=1e-12)
    bottoms = (BlobType(a.shape), BlobType(b.shape))
    assert layer.cost(bottoms, run.signature) == math.prod(batch) * m * k * n


@pytest.mark.parametrize(
    ("a", "b", "match"),
    [
        ((2, 3), (2, 3), "cannot be multiplied"),
        ((2, 3, 4), (5, 4, 3), "batches"),
        ((2, 3, 4), (4, 3), "batches"),
        ((3,), (3,), "batches"),
    ],
)
def test_matmul_refuses(a: tuple[int, ...], b: tuple[int, ...], match: str) -> None:
    with pytest.raises(Refusal, match=match):
        MatMul().infer(BlobType(a), BlobType(b))


def test_matmul_onnx() -> None:
    a, b = smooth(2, 3, 4), smooth(2, 5, 4)
    more = [smooth(7, 3, 4), smooth(7, 5, 4)]
    assert check_lowering(MatMul(transpose_b=True), [a, b], other_batch=more) == [
        "Transpose",
        "MatMul",
    ]
    assert check_lowering(MatMul(), [a, smooth(2, 4, 1)]) == ["MatMul"]


# -- Maxout ----------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(
    shape=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    axis=st.integers(0, 3),
    pieces=st.integers(1, 3),
)
@definition("Maxout")
def test_maxout(shape: list[int], axis: int, pieces: int) -> None:
    axis %= len(shape)
    shape[axis] *= pieces
    x = distinct(*shape)
    run = check_layer(Maxout(pieces, axis - len(shape)), [x])
    for index in np.ndindex(*run.tops[0].shape):
        first = index[axis] * pieces
        seen = x[(*index[:axis], slice(first, first + pieces), *index[axis + 1 :])]
        assert run.tops[0][index] == max(seen)


def test_maxout_of_equal_values_gives_the_first_the_gradient() -> None:
    run = forward(Maxout(3), [np.array([[2.0, 2, 1, 5, 7, 7]])])
    np.testing.assert_array_equal(run.backward([np.ones((1, 2))]).bottoms[0], [[1, 0, 0, 0, 1, 0]])


def test_maxout_onnx_and_refusals() -> None:
    x, more = distinct(2, 6, 3), distinct(3, 6, 3)
    assert check_lowering(Maxout(3), [x], other_batch=[more]) == ["Reshape", "ReduceMax"]
    for layer, shape in ((Maxout(0), (2, 4)), (Maxout(3), (2, 4)), (Maxout(1, 0), ())):
        with pytest.raises(Refusal):
            layer.infer(BlobType(shape))


# -- DropConnect -----------------------------------------------------------------------------------


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("bias_term", [False, True])
@definition("DropConnect")
def test_dropconnect_in_training(transpose: bool, bias_term: bool) -> None:
    layer = DropConnect(
        num_output=4, transpose=transpose, bias_term=bias_term, dropconnect_ratio=0.3
    )
    x = smooth(3, 2, 5)
    run = check_layer(layer, [x])
    weight, *bias = run.params
    for n in range(3):
        matrix = (run.kept[0][n] * weight).T if transpose else run.kept[0][n] * weight
        y = matrix @ x[n].reshape(-1) / 0.7
        np.testing.assert_allclose(run.tops[0][n], y + (bias[0] if bias else 0), rtol=1e-12)


def test_dropconnect_drops_each_weight_of_each_item_by_itself() -> None:
    layer = DropConnect(num_output=20, dropconnect_ratio=0.2)
    [mask] = forward(layer, [smooth(30, 40)], [smooth(20, 40), smooth(20)]).kept
    deviation = math.sqrt(0.2 * 0.8)
    for axes in (None, 0, 1, 2):
        rate = 1 - mask.mean(axis=axes)
        size = mask.size / rate.size
        assert abs(rate - 0.2).max() < 5.5 * deviation / math.sqrt(size)


def test_dropconnect_has_the_mean_of_its_samples_in_tests() -> None:
    x, params = smooth(1, 10), [smooth(3, 10), smooth(3)]
    tested = forward(DropConnect(num_output=3, phase=Phase.TEST), [x], params)
    plain = forward(InnerProduct(num_output=3), [x], params)
    np.testing.assert_array_equal(tested.tops[0], plain.tops[0])
    assert tested.kept == ()
    samples = forward(DropConnect(num_output=3), [np.repeat(x, 20000, axis=0)], params).tops[0]
    error = samples.std(axis=0) / math.sqrt(len(samples))
    assert (abs(samples.mean(axis=0) - plain.tops[0][0]) < 5 * error).all()


def test_dropconnect_onnx_and_refusals() -> None:
    layer = DropConnect(num_output=3, phase=Phase.TEST)
    check_layer(layer, [smooth(2, 4)])
    assert check_lowering(layer, [smooth(2, 4)], other_batch=[smooth(5, 4)]) == ["Gemm"]
    with pytest.raises(Refusal, match="probability"):
        DropConnect(num_output=3, dropconnect_ratio=1).infer(BlobType((2, 4)))
    with pytest.raises(Refusal, match="num_output is missing"):
        DropConnect().infer(BlobType((2, 4)))


# -- InnerDistance ---------------------------------------------------------------------------------


@definition("InnerDistance")
def slow_distances(x: np.ndarray, points: np.ndarray, kind: str) -> np.ndarray:
    power = {"L1": 1, "L2": 2}[kind]
    return np.array(
        [
            [math.fsum(abs(a - b) ** power for a, b in zip(v, p, strict=True)) for p in points]
            for v in x
        ]
    )


@pytest.mark.parametrize("kind", ["L1", "L2"])
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_inner_distance_to_learned_points(kind: str, transpose: bool, normalize: bool) -> None:
    layer = InnerDistance(
        num_output=5, distance_type=kind, transpose=transpose, normalize=normalize
    )
    x = smooth(4, 2, 3)
    run = check_layer(layer, [x])
    points = run.params[0].T if transpose else run.params[0]
    if normalize:
        points = points / np.sqrt((points**2).sum(axis=1, keepdims=True) + 1e-6)
    want = slow_distances(x.reshape(4, 6), points, kind)
    np.testing.assert_allclose(run.tops[0], want, rtol=1e-11)


@settings(max_examples=15)
@given(
    n=st.integers(1, 3),
    points=st.integers(1, 3),
    size=st.integers(1, 3),
    kind=st.sampled_from(["L1", "L2"]),
)
def test_inner_distance_to_given_points(n: int, points: int, size: int, kind: str) -> None:
    x, p = smooth(n, size), smooth(points, size, 1, seed=1)
    run = check_layer(InnerDistance(distance_type=kind), [x, p])
    want = slow_distances(x, p[:, :, 0], kind)
    np.testing.assert_allclose(run.tops[0], want, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", ["L1", "L2"])
@pytest.mark.parametrize("given_points", [False, True])
def test_only_items_of_a_label_move_its_point(kind: str, given_points: bool) -> None:
    labels = np.array([2.0, 0, 2, 1])
    x, p, dy = smooth(4, 3), smooth(5, 3, seed=1), smooth(4, 5, seed=2)
    plain = InnerDistance(num_output=5, distance_type=kind)
    layer = InnerDistance(num_output=5, distance_type=kind, update_center_only=True)
    more, params = ([p], []) if given_points else ([], [p])
    found = forward(layer, [x, *more, labels], params).backward([dy])
    want_dx = forward(plain, [x, *more], params).backward([dy]).bottoms[0]
    masked = dy * (labels[:, None] == np.arange(5))
    other = forward(plain, [x, *more], params).backward([masked])
    np.testing.assert_allclose(found.bottoms[0], want_dx)
    if given_points:
        np.testing.assert_allclose(found.bottoms[1], other.bottoms[1])
    else:
        np.testing.assert_allclose(found.params[0], other.params[0])


def test_inner_distance_goes_through_many_items_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netc.layers.products.BLOCK_NUMBERS", 10)
    for kind in ("L1", "L2"):
        run = check_layer(InnerDistance(num_output=2, distance_type=kind), [smooth(7, 3)])
        assert_close(run.tops[0], slow_distances(smooth(7, 3), run.params[0], kind))
    check_layer(DropConnect(num_output=2), [smooth(7, 3)])


def test_inner_distance_onnx() -> None:
    x, more = smooth(2, 3, 2), smooth(5, 3, 2)
    assert check_lowering(InnerDistance(num_output=4), [x], other_batch=[more]) == [
        "Reshape",
        "Sub",
        "Mul",
        "ReduceSum",
    ]
    layer = InnerDistance(num_output=4, distance_type="L1", transpose=True, normalize=True)
    check_lowering(layer, [x], other_batch=[more])
    check_lowering(InnerDistance(), [x, smooth(3, 6)])


@pytest.mark.parametrize(
    ("layer", "bottoms", "setting"),
    [
        (InnerDistance(), [(2, 3)], "num_output"),
        (InnerDistance(num_output=2, distance_type="L3"), [(2, 3)], "distance_type"),
        (InnerDistance(num_output=2, update_center_only=True), [(2, 3)], "update_center_only"),
        (InnerDistance(), [(2, 3), (4, 3), (2,)], "update_center_only"),
        (InnerDistance(), [(2, 3), (4, 2)], "bottom"),
        (InnerDistance(num_output=2, update_center_only=True), [(2, 3), (3,)], "bottom"),
    ],
)
def test_inner_distance_refuses(layer: Layer, bottoms: list[tuple[int, ...]], setting: str) -> None:
    with pytest.raises(Refusal) as caught:
        layer.infer(*map(BlobType, bottoms))
    assert caught.value.setting == setting


def test_all_from_text() -> None:
    net = executor_of(
        graph_of(
            """
            layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 6 } } }
            layer { name: "drop" type: "DropConnect" bottom: "x" top: "drop"
              dropconnect_param { num_output: 6 weight_filler { type: "xavier" } } }
            layer { name: "max" type: "Maxout" bottom: "drop" top: "max"
              maxout_param { pieces: 3 } }
            layer { name: "mul" type: "MatMul" bottom: "max" bottom: "max" top: "mul"
              matmul_param { transpose_b: true } }
            layer { name: "far" type: "InnerDistance" bottom: "mul" top: "far"
              inner_distance_param { num_output: 3 weight_filler { type: "xavier" } } }
            layer { name: "y" type: "Input" top: "y" input_param { shape { dim: 2 dim: 3 } } }
            layer { name: "loss" type: "EuclideanLoss" bottom: "far" bottom: "y" top: "loss" }
            """
        )
    )
    set_inputs(net)
    net.forward()
    net.backward()
    assert all(np.isfinite(d).all() and d.any() for d in net.param_diffs)
