from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netc.errors import NetcError
from netc.export import lower_layer
from netc.layers.dummydata import DummyData
from netc.layers.fillers import Filler
from netc.layers.input import BlobShape
from netc.layers.types import Refusal
from tests.support.layer_harness import check_layer, forward, vector_names
from tests.support.lowering import check_lowering
from tests.support.nets import executor_of, graph_of
from tests.support.vectors import check_bound_vector

UNIFORM, ONES = Filler("uniform"), Filler("constant", value=1)


def shape(*dim: int) -> BlobShape:
    return BlobShape(dim)


@pytest.mark.parametrize("name", vector_names("dummydata"))
def test_golden_vectors(name: str) -> None:
    check_bound_vector(name)


@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=4).map(tuple), min_size=1, max_size=3),
    fillers=st.lists(st.sampled_from([UNIFORM, ONES, Filler("gaussian")]), min_size=3, max_size=3),
)
def test_a_shape_and_a_filler_for_each_top(
    shapes: list[tuple[int, ...]], fillers: list[Filler]
) -> None:
    top = tuple("abc"[: len(shapes)])
    layer = DummyData(tuple(fillers[: len(top)]), tuple(map(BlobShape, shapes)), top=top)
    run = check_layer(layer, [], gradient=False)
    assert [t.shape for t in run.tops] == shapes
    for filler, values in zip(fillers, run.tops, strict=False):
        if filler == ONES:
            assert (values == 1).all()
        elif values.size > 1:
            assert np.unique(values).size == values.size


def test_one_shape_and_one_filler_for_all_tops() -> None:
    run = forward(DummyData((Filler(value=3),), (shape(2, 3),), top=("a", "b")), [])
    assert [t.tolist() for t in run.tops] == [[[3, 3, 3]] * 2] * 2
    # Tops of one filler are two draws.
    a, b = forward(DummyData((UNIFORM,), (shape(5),), top=("a", "b")), []).tops
    assert not np.array_equal(a, b)


def test_without_a_filler_the_tops_are_zero() -> None:
    assert not forward(DummyData(shape=(shape(2, 3),)), []).tops[0].any()


def test_the_old_four_dims() -> None:
    layer = DummyData(num=(2,), channels=(3, 1), height=(4, 1), width=(5, 1), top=("a", "b"))
    assert [t.shape for t in layer.infer().tops] == [(2, 3, 4, 5), (2, 1, 1, 1)]


def test_a_random_top_is_drawn_anew_in_each_pass_and_repeats_with_the_seed() -> None:
    text = """layer { name: "d" type: "DummyData" top: "a" top: "b"
        dummy_data_param { shape { dim: 8 } data_filler { type: "gaussian" } data_filler { } } }"""
    runs = []
    for seed in (1, 1, 2):
        net = executor_of(graph_of(text), seed=seed)
        passes = []
        for _ in range(3):
            net.forward()
            passes.append(net.data("a").copy())
            assert not net.data("b").any()
        runs.append(passes)
    one, same, other = runs
    assert not np.array_equal(one[0], one[1])
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one[0], other[0])


@pytest.mark.parametrize(
    ("layer", "what", "setting"),
    [
        (DummyData((ONES, ONES), (shape(1),)), "number of fillers", "data_filler"),
        (DummyData(top=("a",)), "number of shapes", "shape"),
        (DummyData(shape=(shape(1),) * 2, top=("a", "b", "c")), "number of shapes", "shape"),
        (DummyData(shape=(shape(1, -2),)), "negative size", "shape"),
        (DummyData(shape=(shape(1),), num=(1,)), "exclude each other", "shape"),
        (DummyData(num=(1,), channels=(1,), height=(1,)), "width must be given once", "width"),
        (
            DummyData(num=(1, 2), channels=(1,), height=(1,), width=(1,), top=("a", "b", "c")),
            "num must be given once",
            "num",
        ),
    ],
)
def test_refusals(layer: DummyData, what: str, setting: str) -> None:
    with pytest.raises(Refusal, match=what) as refusal:
        layer.infer()
    assert refusal.value.setting == setting


def test_fillers_that_cannot_be_drawn_are_told_with_the_net() -> None:
    text = """layer { name: "d" type: "DummyData" top: "a"
        dummy_data_param { shape { dim: 8 } data_filler { type: "gausian" } } }"""
    with pytest.raises(NetcError, match="did you mean 'gaussian'") as error:
        graph_of(text)
    assert "layer 'd' (DummyData)" in str(error.value)
    with pytest.raises(NetcError, match="bilinear"):
        DummyData((Filler("bilinear"),), (shape(2, 3),)).infer()


def test_lowering() -> None:
    fillers = (Filler(value=2.5), Filler("bilinear"))
    layer = DummyData(fillers, (shape(2, 3), shape(1, 1, 4, 4)), top=("a", "b"))
    check_lowering(layer, [])
    with pytest.raises(NetcError, match="drawn anew in each pass by a gaussian filler") as error:
        lower_layer(DummyData((Filler("gaussian"),), (shape(2),)), [])
    assert "Input layer" in str(error.value)


def test_a_transformation_is_read_and_has_no_effect() -> None:
    net = executor_of(
        graph_of(
            """
            layer { name: "data" type: "DummyData" top: "data" transform_param { scale: 0.5 }
                    dummy_data_param { shape { dim: 2 } data_filler { value: 4 } } }
            """
        ),
        train=False,
    )
    net.forward()
    assert net.data("data").tolist() == [4, 4]
