"""The builder: shapes as operators are added, constants folded, an open batch axis kept open."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netc.export.builder import BATCH, Builder, InvalidLowering, Tensor, ir_version
from netc.layers.types import Refusal


def tensor(*shape: int, opened: bool = False) -> Tensor:
    """A computed tensor; with `opened` its first axis is the open batch."""
    dims = (BATCH, *shape[1:]) if opened else shape
    return Tensor(shape, dims, np.dtype(np.float32), depends=opened)


@pytest.fixture
def g() -> Builder:
    return Builder(17)


# -- operators -------------------------------------------------------------------------------------


def test_an_operator_has_the_shape_that_onnx_infers(g: Builder) -> None:
    x, w = tensor(2, 3, 8, 8), tensor(5, 3, 3, 3)
    y = g.op("Conv", x, w, strides=[2, 2])
    assert (y.shape, y.dtype, y.dims) == ((2, 5, 3, 3), np.float32, (2, 5, 3, 3))


def test_an_open_batch_axis_is_carried_along(g: Builder) -> None:
    y = g.op("Conv", tensor(2, 3, 8, 8, opened=True), tensor(5, 3, 3, 3))
    assert (y.shape, y.dims, y.depends) == ((2, 5, 6, 6), ("N", 5, 6, 6), True)
    assert g.op("Transpose", y, perm=[1, 0, 2, 3]).dims == (5, "N", 6, 6)


def test_several_outputs_come_as_a_tuple(g: Builder) -> None:
    a, b = g.op("Split", tensor(2, 4), outputs=2, axis=1)
    assert (a.shape, b.shape) == ((2, 2), (2, 2))


def test_inputs_that_are_none_are_left_out(g: Builder) -> None:
    x = tensor(2, 4)
    g.op("Clip", x, None, g.constant(6.0))
    g.op("Clip", x, g.constant(0.0), None)
    first, second = (operator.inputs for operator in g.operators)
    assert [i is None for i in first] == [False, True, False]
    assert len(second) == 2


def test_attributes_take_the_type_of_the_schema(g: Builder) -> None:
    g.op("LeakyRelu", tensor(2), alpha=1)
    g.op("Gemm", tensor(2, 2), tensor(2, 2), transB=True, alpha=np.float64(2))
    g.op("MaxPool", tensor(1, 1, 4, 4), kernel_shape=np.array([2, 2]), pads=None)
    found = {
        a.name: (a.type, list(a.ints) or a.i or a.f) for o in g.operators for a in o.attributes
    }
    # ONNX's numbers for the types: FLOAT 1, INT 2, INTS 7.
    assert found == {"alpha": (1, 2.0), "transB": (2, 1), "kernel_shape": (7, [2, 2])}
    assert g.operators[0].attributes[0].type == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: g.op("Relux", tensor(2)), "no operator Relux"),
        (lambda g: g.op("Relu", tensor(2), slope=1), "Relu has no attribute slope"),
        (lambda g: g.op("Relu"), "does not take 0 inputs"),
        (lambda g: g.op("Relu", tensor(2), tensor(2)), "does not take 2 inputs"),
        (lambda g: g.op("MatMul", tensor(2, 3), tensor(2, 3)), r"MatMul of \(2, 3\), \(2, 3\)"),
        (lambda g: g.op("Relu", "x"), "not a tensor"),
        (lambda g: g.reshape(tensor(2, 3), (5,)), r"cannot reshape \(2, 3\) to \(5,\)"),
        (lambda g: g.reshape(tensor(2, 3), (-1,)), r"cannot reshape"),
    ],
)
def test_a_wrong_call_is_a_bug_that_is_told(g: Builder, call, message: str) -> None:
    with pytest.raises(InvalidLowering, match=message):
        call(g)


def test_an_operator_of_a_later_opset_is_refused_with_the_opset() -> None:
    with pytest.raises(Refusal, match="LayerNormalization appears") as told:
        Builder(13).op("LayerNormalization", tensor(2, 3), tensor(3))
    assert told.value.hint == "export with -opset 17"
    assert Builder(17).op("LayerNormalization", tensor(2, 3), tensor(3)).shape == (2, 3)


def test_an_attribute_of_a_later_opset_is_refused_with_the_opset() -> None:
    pool = {"kernel_shape": [2, 2], "dilations": [2, 2]}
    with pytest.raises(Refusal, match="needs ONNX opset 19"):
        Builder(18).op("AveragePool", tensor(1, 1, 5, 5), **pool)
    assert Builder(19).op("AveragePool", tensor(1, 1, 5, 5), **pool).shape == (1, 1, 3, 3)


def test_an_unknown_shape_is_told_only_when_it_is_asked_for(g: Builder) -> None:
    y = g.op("NonZero", tensor(2, 3))
    assert y.known is None
    with pytest.raises(InvalidLowering, match="not known"):
        _ = y.shape


def test_refuse_gives_what_a_rule_raises(g: Builder) -> None:
    refusal = g.refuse("ties go to the last", hint="use another type")
    assert (refusal.what, refusal.hint) == ("ties go to the last", "use another type")
    assert "opset 17" in refusal.expected


def test_the_file_format_is_the_oldest_that_has_the_opset() -> None:
    assert [ir_version(opset) for opset in (13, 15, 17, 19, 21)] == [7, 8, 8, 9, 10]


# -- constants -------------------------------------------------------------------------------------


def test_a_constant_is_a_copy_of_what_it_was_made_from(g: Builder) -> None:
    values = np.ones(3, np.float32)
    constant = g.constant(values)
    values[:] = 5
    array = g.array(constant)
    assert array is not None
    assert array.tolist() == [1, 1, 1]
    assert g.array(g.op("Relu", tensor(2))) is None
    assert g.constant(3, "int64").shape == ()


def test_moving_the_elements_of_a_constant_adds_no_node(g: Builder) -> None:
    w = g.constant(np.arange(6).reshape(2, 3))
    assert np.array_equal(g.op("Transpose", w, perm=[1, 0]).data, np.arange(6).reshape(2, 3).T)
    assert np.array_equal(g.op("Transpose", w).data, np.arange(6).reshape(2, 3).T)
    assert g.reshape(w, (3, 2)).data.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert g.cast(w, "int64").dtype == np.int64
    axes = g.constant([0, 3], "int64")
    up = g.op("Unsqueeze", w, axes)
    assert up.shape == (1, 2, 3, 1)
    assert g.op("Squeeze", up, axes).shape == (2, 3)
    assert g.op("Identity", w) is w
    assert not g.operators
    # Arithmetic is the rules' own affair.
    g.op("Neg", w)
    assert len(g.operators) == 1


def test_two_layers_that_move_a_shared_param_alike_share_the_result(g: Builder) -> None:
    w = g.param(np.ones((2, 3), np.float32), "conv1.weight")
    assert g.op("Transpose", w, perm=[1, 0]) is g.op("Transpose", w, perm=[1, 0])
    assert g.reshape(w, (6,)) is g.reshape(w, (6,))
    assert g.reshape(w, (6,)) is not g.reshape(w, (3, 2))


def test_a_cast_to_the_same_dtype_and_a_reshape_to_the_same_shape_add_nothing(g: Builder) -> None:
    x = tensor(2, 3)
    assert g.cast(x, "float32") is x
    assert g.reshape(x, (2, 3)) is x
    assert g.cast(x, "int64").dtype == np.int64
    assert [o.type for o in g.operators] == ["Cast"]


# -- reshape ---------------------------------------------------------------------------------------


def asked(g: Builder) -> list[int]:
    """The shape that the last Reshape asks for."""
    constant = g.operators[-1].inputs[1]
    assert constant is not None
    assert constant.data is not None
    return constant.data.tolist()


def test_reshape_writes_the_sizes_of_a_fixed_shape(g: Builder) -> None:
    y = g.reshape(tensor(2, 3, 4), (6, 4))
    assert (y.dims, asked(g)) == ((6, 4), [6, 4])


def test_reshape_copies_the_open_axis_in_place_and_computes_a_moved_one(g: Builder) -> None:
    x = tensor(2, 3, 4, opened=True)
    y = g.reshape(x, (2, 12))
    assert (y.dims, asked(g)) == (("N", 12), [0, 12])
    moved = g.op("Transpose", x, perm=[1, 0, 2])
    y = g.reshape(moved, (3, 2, 2, 2))
    assert (y.dims, asked(g)) == ((3, "N", 2, 2), [3, 0, 2, 2])
    y = g.reshape(moved, (1, 3, 2, 4))
    assert (y.dims, asked(g)) == ((1, 3, "N", 4), [1, 3, -1, 4])


def test_reshape_keeps_a_batch_of_one_in_front(g: Builder) -> None:
    y = g.reshape(tensor(1, 6, opened=True), (1, 1, 2, 3))
    assert (y.dims, asked(g)) == (("N", 1, 2, 3), [0, 1, 2, 3])


def test_reshape_refuses_to_mix_the_open_axis(g: Builder) -> None:
    x = tensor(2, 3, 4, opened=True)
    for shape in [(6, 4), (24,), (4, 6), (3, 2, 4)]:
        with pytest.raises(Refusal, match="batch axis is mixed"):
            g.reshape(x, shape)
    assert not g.operators


@st.composite
def shapes(draw: st.DrawFn, count: int) -> tuple[int, ...]:
    """Draw a shape of `count` elements."""
    sizes = []
    for _ in range(draw(st.integers(0, 3))):
        sizes.append(draw(st.sampled_from([d for d in range(1, count + 1) if count % d == 0])))
        count //= sizes[-1]
    return (*sizes, count)


@given(st.sampled_from([1, 2, 3]), st.sampled_from([4, 6, 12]).flatmap(shapes), st.data())
def test_an_open_reshape_means_the_same_for_every_batch_size(
    n: int, rest: tuple[int, ...], data: st.DataObject
) -> None:
    target = data.draw(shapes(n * math.prod(rest)))
    g = Builder(17)
    try:
        y = g.reshape(tensor(n, *rest, opened=True), target)
    except Refusal:
        assert target[0] != n
        return
    assert y.shape == target
    if y.dims is not None and target != (n, *rest):
        place = y.dims.index("N")
        x = np.arange(7 * math.prod(rest)).reshape(7, *rest)
        shape = [x.shape[i] if size == 0 else size for i, size in enumerate(asked(g))]
        sizes = [*target[:place], 7, *target[place + 1 :]]
        assert np.array_equal(x.reshape(shape), x.reshape(sizes))
