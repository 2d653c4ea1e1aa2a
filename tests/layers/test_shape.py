from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.errors import NetcError
from netc.layers.activation import Power
from netc.layers.input import BlobShape
from netc.layers.shape import (
    BatchReindex,
    Concat,
    Crop,
    Flatten,
    Gather,
    Reshape,
    Scatter,
    Silence,
    Slice,
    Split,
    Tile,
)
from netc.layers.types import BlobType, Layer, Reads, Refusal
from tests.support.audit import definition
from tests.support.layer_harness import (
    assert_close,
    check_layer,
    check_vector,
    forward,
    load_vector,
    smooth,
    vector_names,
)
from tests.support.lowering import check_lowering
from tests.support.nets import executor_of, graph_of, net_of

Shape = tuple[int, ...]


def reshape(*dims: int, axis: int = 0, num_axes: int = -1) -> Reshape:
    return Reshape(BlobShape(dims), axis, num_axes)


CONFORMANCE: dict[str, dict[str, Layer]] = {
    "concat__axis0": {"concat": Concat(0)},
    "concat__axis_neg1": {"concat": Concat(-1)},
    "concat__axis_neg2": {"concat": Concat(-2)},
    "concat__concat_dim": {"concat": Concat(concat_dim=1)},
    "concat__single_bottom": {"concat": Concat()},
    "crop__axis0": {"crop": Crop(0)},
    "crop__axis1": {"crop": Crop(1, (1, 2, 0))},
    "crop__axis_neg1": {"crop": Crop(-1, (2,))},
    "crop__offset": {"crop": Crop(offset=(1,))},
    "crop__offsets": {"crop": Crop(offset=(2, 0))},
    "flatten__axis2": {"flatten": Flatten(2)},
    "flatten__default": {"flatten": Flatten()},
    "flatten__end_axis": {"flatten": Flatten(1, 2)},
    "flatten__neg": {"flatten": Flatten(-3, -2)},
    "reshape__axis0_num2_minus1": {"reshape": reshape(-1, num_axes=2)},
    "reshape__axis1": {"reshape": reshape(2, -1, axis=1)},
    "reshape__axis1_num1": {"reshape": reshape(2, 3, axis=1, num_axes=1)},
    "reshape__axis1_zero_copies": {"reshape": reshape(0, -1, 2, axis=1)},
    "reshape__minus1_only": {"reshape": reshape(-1)},
    "reshape__num_axes0_insert": {"reshape": reshape(1, axis=1, num_axes=0)},
    "reshape__to_scalar_axis": {"reshape": reshape()},
    "reshape__zero_and_minus1": {"reshape": reshape(0, -1)},
    "reshape__zeros": {"reshape": reshape(0, 0, 2, 2)},
    "silence__one_of_two": {
        "slice": Slice(top=("a", "b")),
        "silence": Silence(),
        "power": Power(scale=3),
    },
    "slice__axis0": {"slice": Slice(0, top=("a", "b"))},
    "slice__axis_neg1": {"slice": Slice(-1, slice_point=(2,), top=("a", "b"))},
    "slice__one_top": {"slice": Slice(top=("a",))},
    "slice__points": {"slice": Slice(slice_point=(1, 4), top=("a", "b", "c"))},
    "slice__slice_dim": {"slice": Slice(slice_dim=1, slice_point=(1,), top=("a", "b"))},
    "split__explicit_layer": {"split": Split(("a", "b", "c"))},
    "tile__axis0": {"tile": Tile(0, 2)},
    "tile__axis2": {"tile": Tile(2, 2)},
    "tile__axis_neg1": {"tile": Tile(-1, 4)},
}

# These are about a blob with several readers, which needs no Split layer here.
ABOUT_THE_GRAPH = {"split__middle_blob", "split__used_and_loss_weighted"}


TYPES = {name.partition("__")[0] for name in CONFORMANCE}


@pytest.mark.parametrize("name", sorted({*vector_names(*TYPES)} - ABOUT_THE_GRAPH))
def test_golden_vectors(name: str) -> None:
    check_vector(name, **CONFORMANCE[name])


@pytest.mark.parametrize("name", vector_names("batchreindex"))
def test_golden_vectors_of_batchreindex(name: str) -> None:
    # The items go through half the sum of their squares, whose gradient is y.
    vector = load_vector(name)
    run = forward(BatchReindex(), [vector["param:parameter:0"], vector["input:i"]])
    assert_close(run.tops[0], vector["blob:y"])
    assert_close(run.backward(run.tops).bottoms[0], vector["grad_param:parameter:0"])


def sizes(least: int = 1, most: int = 4, **options: int) -> st.SearchStrategy[Shape]:
    return st.lists(st.integers(least, most), **options).map(tuple)


def axes_of(shape: Shape) -> st.SearchStrategy[int]:
    return st.integers(-len(shape), len(shape) - 1)


def tops_of(layer: Layer, *shapes: Shape) -> list[Shape]:
    return [t.shape for t in layer.infer(*map(BlobType, shapes)).tops]


def refusal(layer: Layer, *shapes: Shape) -> Refusal:
    with pytest.raises(Refusal) as caught:
        layer.infer(*map(BlobType, shapes))
    assert caught.value.expected and caught.value.got
    return caught.value


# -- Concat and Slice ------------------------------------------------------------------------------


def with_size(shape: Shape, axis: int, size: int) -> Shape:
    axis %= len(shape)
    return (*shape[:axis], size, *shape[axis + 1 :])


def place_on(place: Shape, axis: int) -> int:
    return place[axis % len(place)]


@settings(max_examples=40)
@given(
    shape=sizes(min_size=1, max_size=4), parts=sizes(0, 3, min_size=1, max_size=4), data=st.data()
)
def test_concat(shape: Shape, parts: Sequence[int], data: st.DataObject) -> None:
    axis = data.draw(axes_of(shape), "axis")
    xs = [smooth(*with_size(shape, axis, n), seed=i) for i, n in enumerate(parts)]
    run = check_layer(Concat(axis), xs)
    (y,) = run.tops
    assert y.shape == with_size(shape, axis, sum(parts))
    starts = list(itertools.accumulate(parts, initial=0))
    for place in np.ndindex(y.shape):
        i = place_on(place, axis)
        part = max(k for k, start in enumerate(starts[:-1]) if start <= i and parts[k])
        assert y[place] == xs[part][with_size(place, axis, i - starts[part])]


def test_concat_of_predictions() -> None:
    xs = [smooth(2, 3, 2, 4), smooth(2, 1, 3, 1, seed=1)]
    shapes = "".join(
        f"""layer {{ name: "x{i}" type: "Input" top: "x{i}"
            input_param {{ shape {{ dim: {list(x.shape)} }} }} }}\n"""
        for i, x in enumerate(xs)
    )
    net = executor_of(
        graph_of(
            shapes
            + """layer { name: "y" type: "Concat" bottom: "x0" bottom: "x1" top: "y"
                 concat_param { per_fla_fuse: true } }"""
        )
    )
    for i, x in enumerate(xs):
        net.data(f"x{i}")[...] = x
    net.forward()
    y = net.data("y")
    assert y.shape == (2, 27, 1, 1)
    for n in range(2):
        wanted = [
            x[n, c, row, column]
            for x in xs
            for row in range(x.shape[2])
            for column in range(x.shape[3])
            for c in range(x.shape[1])
        ]
        assert_close(y[n, :, 0, 0], np.array(wanted, np.float32), rtol=0, atol=0)


def test_concat_of_predictions_takes_images() -> None:
    layer = Concat(per_fla_fuse=True)
    with pytest.raises(Refusal, match="per_fla_fuse takes images"):
        layer.expand(BlobType((2, 3, 1, 1)), BlobType((2, 3)))
    assert Concat(0, per_fla_fuse=True).expand(BlobType((2, 3))) is None


@settings(max_examples=40)
@given(
    shape=sizes(min_size=1, max_size=4), parts=sizes(1, 3, min_size=1, max_size=4), data=st.data()
)
def test_slice(shape: Shape, parts: Sequence[int], data: st.DataObject) -> None:
    axis = data.draw(axes_of(shape), "axis")
    equal = len(set(parts)) == 1 and data.draw(st.booleans(), "equal parts")
    starts = list(itertools.accumulate(parts, initial=0))
    points = () if equal else tuple(starts[1:-1])
    x = smooth(*with_size(shape, axis, sum(parts)))
    layer = Slice(axis, slice_point=points, top=tuple(map(str, parts)))
    run = check_layer(layer, [x])
    for y, start, n in zip(run.tops, starts, parts, strict=False):
        assert y.shape == with_size(shape, axis, n)
        for place in np.ndindex(y.shape):
            there = with_size(place, axis, place_on(place, axis) + start)
            assert y[place] == x[there]


def test_the_older_names_of_axis() -> None:
    assert tops_of(Concat(concat_dim=2), (1, 2, 3), (1, 2, 4)) == [(1, 2, 7)]
    assert tops_of(Slice(slice_dim=0, top=("a", "b")), (4, 3)) == [(2, 3)] * 2
    for layer, shapes in (
        (Concat(1, 1), [(2, 3), (2, 3)]),
        (Slice(1, 1, top=("a",)), [(2, 3)]),
    ):
        found = refusal(layer, *shapes)
        assert "both set" in found.what
    for layer, setting in (
        (Concat(concat_dim=2), "concat_dim"),
        (Slice(slice_dim=-1, top=("a",)), "slice_dim"),
        (Concat(2), "axis"),
        (Slice(-3, top=("a",)), "axis"),
    ):
        assert refusal(layer, (2, 3)).setting == setting


def test_axis_1_is_the_default() -> None:
    assert tops_of(Concat(), (2, 3), (2, 4)) == [(2, 7)]
    assert tops_of(Slice(top=("a", "b")), (2, 4)) == [(2, 2)] * 2
    assert "out of range" in refusal(Concat(), (2,)).what


@pytest.mark.parametrize("other", [(2, 3), (2, 3, 5, 1), (3, 3, 4), (2, 3, 5)])
def test_concat_of_shapes_that_do_not_fit(other: Shape) -> None:
    found = refusal(Concat(), (2, 3, 4), other)
    assert "elsewhere than on axis 1" in found.what
    assert str(BlobType(other)) in found.got


@pytest.mark.parametrize(
    ("layer", "shape", "what"),
    [
        (Slice(top=("a", "b")), (2, 5), "2 equal parts"),
        (Slice(slice_point=(3, 2), top=("a", "b", "c")), (2, 5), "leaves nothing"),
        (Slice(slice_point=(2, 2), top=("a", "b", "c")), (2, 5), "leaves nothing"),
        (Slice(slice_point=(0,), top=("a", "b")), (2, 5), "leaves nothing"),
        (Slice(slice_point=(5,), top=("a", "b")), (2, 5), "leaves nothing"),
        (Slice(slice_point=(7,), top=("a", "b")), (2, 5), "leaves nothing"),
        (Slice(slice_point=(1,), top=("a", "b", "c")), (2, 5), "number of tops"),
        (Slice(slice_point=(1,), top=("a",)), (2, 5), "number of tops"),
    ],
)
def test_slices_that_do_not_fit(layer: Layer, shape: Shape, what: str) -> None:
    assert what in refusal(layer, shape).what


def test_slices_of_nothing() -> None:
    assert tops_of(Slice(top=("a", "b")), (2, 0, 3)) == [(2, 0, 3)] * 2


# -- Gather, Scatter -------------------------------------------------------------------------------


@definition("Gather", "Scatter")
def in_one_process(x: np.ndarray) -> np.ndarray:
    return x.copy()


@pytest.mark.parametrize("cls", [Gather, Scatter])
def test_what_processes_exchange_stays_in_one(cls):
    net = net_of(
        'input: "a" input_shape { dim: 3 dim: 2 } input: "b" input_shape { dim: 3 }\n'
        f'layer {{ name: "x" type: "{cls.type}" bottom: "a" bottom: "b" top: "c" top: "d" }}\n'
        f'layer {{ name: "y" type: "{cls.type}" bottom: "c" top: "e" }}\n'
        'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "e" bottom: "d" top: "loss" }'
    )
    run = executor_of(net.graph, keep="all")
    x, labels = smooth(3, 2), np.array([0.0, 1.0, 1.0])
    run.data("a")[...], run.data("b")[...] = x, labels
    run.forward()
    np.testing.assert_array_equal(run.data("e"), in_one_process(x.astype(np.float32)))
    np.testing.assert_array_equal(run.data("d"), in_one_process(labels))


# -- Split, Silence --------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 4])
def test_split(n: int) -> None:
    x = smooth(2, 3)
    run = check_layer(Split(tuple(map(str, range(n)))), [x])
    assert len(run.tops) == n
    for y in run.tops:
        np.testing.assert_array_equal(y, x)
    dys = [smooth(2, 3, seed=i) for i in range(n)]
    np.testing.assert_allclose(run.backward(dys).bottoms[0], sum(dys))


def test_silence() -> None:
    assert Silence().infer(BlobType((2, 3)), BlobType(())).tops == ()
    assert forward(Silence(), [smooth(2, 3)]).tops == ()
    assert Silence().gradient_bottoms(3) == (False,) * 3
    assert not Silence.tops.allows(1) and not Silence.bottoms.allows(0)


# -- Flatten and Reshape ---------------------------------------------------------------------------


@given(shape=sizes(min_size=1, max_size=5), data=st.data())
def test_flatten(shape: Shape, data: st.DataObject) -> None:
    n = len(shape)
    first = data.draw(st.integers(0, n - 1), "axis")
    last = data.draw(st.integers(first, n - 1), "end_axis")
    as_text = [data.draw(st.sampled_from([i, i - n])) for i in (first, last)]
    x = smooth(*shape)
    run = check_layer(Flatten(*as_text), [x])
    joined = math.prod(shape[first : last + 1])
    assert run.tops[0].shape == (*shape[:first], joined, *shape[last + 1 :])
    assert run.tops[0].ravel().tolist() == x.ravel().tolist()


def test_flatten_between_two_axes_puts_one_there() -> None:
    assert tops_of(Flatten(2, 1), (2, 3, 4)) == [(2, 3, 1, 4)]
    assert tops_of(Flatten(1, 0), (2, 3)) == [(2, 1, 3)]


def test_flatten_refusals() -> None:
    assert "before axis" in refusal(Flatten(2, 0), (2, 3, 4)).what
    assert refusal(Flatten(3), (2, 3, 4)).setting == "axis"
    assert refusal(Flatten(1, 3), (2, 3, 4)).setting == "end_axis"
    assert refusal(Flatten(), (2,)).setting == "axis"


@st.composite
def reshapes(draw: Any) -> tuple[Reshape, Shape, Shape]:
    """Draw a Reshape with the bottom that it fits, starting from the shape of the top."""
    head, tail = draw(sizes(max_size=2)), draw(sizes(max_size=2))
    middle = draw(sizes(max_size=3))
    # New dims of the same count: the old ones in another order, some of them multiplied.
    dims = list(draw(st.permutations(middle)))
    while len(dims) > 1 and draw(st.booleans()):
        dims.append(dims.pop() * dims.pop(0))
    if not dims and draw(st.booleans()):
        dims.append(1)
    bottom = (*head, *middle, *tail)
    new = list(dims)
    for i, dim in enumerate(dims):
        place = len(head) + i
        if place < len(bottom) and bottom[place] == dim and draw(st.booleans()):
            new[i] = 0
    if new and draw(st.booleans()):
        new[draw(st.integers(0, len(new) - 1))] = -1
    axis = draw(st.sampled_from([len(head), len(head) - len(bottom) - 1]))
    num_axes = len(middle) if tail else draw(st.sampled_from([len(middle), -1]))
    return Reshape(BlobShape(tuple(new)), axis, num_axes), bottom, (*head, *dims, *tail)


@pytest.mark.parametrize(
    ("layer", "bottom", "top"),
    [
        (reshape(0, -1), (0, 3), (0, 3)),
        (reshape(0, -1, 2), (0, 3, 4), (0, 6, 2)),
        (reshape(-1, 2), (0, 4), (0, 2)),
        (reshape(0, 2, -1, 0), (0, 6, 4, 5), (0, 2, 12, 5)),
    ],
)
def test_no_items_have_the_shape_that_items_would_have(
    layer: Layer, bottom: Shape, top: Shape
) -> None:
    assert tops_of(layer, bottom) == [top]


@settings(max_examples=200)
@given(case=reshapes())
def test_reshape(case: tuple[Reshape, Shape, Shape]) -> None:
    layer, bottom, top = case
    assert tops_of(layer, bottom) == [top]
    x = smooth(*bottom)
    run = check_layer(layer, [x])
    assert run.tops[0].ravel().tolist() == x.ravel().tolist()


def test_a_negative_axis_of_reshape_counts_insertion_points() -> None:
    assert tops_of(reshape(1, axis=-1, num_axes=0), (2, 3)) == [(2, 3, 1)]
    assert tops_of(reshape(1, axis=-2, num_axes=0), (2, 3)) == [(2, 1, 3)]
    assert tops_of(reshape(1, axis=-3, num_axes=0), (2, 3)) == [(1, 2, 3)]
    assert tops_of(reshape(1, axis=2), (2, 3)) == [(2, 3, 1)]


@pytest.mark.parametrize(
    ("layer", "shape", "setting", "what"),
    [
        (reshape(4, -1), (2, 3), "shape", "do not divide"),
        (reshape(0, 0, 0), (2, 3), "shape", "no axis there"),
        (reshape(0, axis=2), (2, 3), "shape", "no axis there"),
        (reshape(-1, -1), (2, 3), "shape", "means nothing"),
        (reshape(-2, 3), (2, 3), "shape", "means nothing"),
        (reshape(5), (2, 3), "shape", "another number"),
        (reshape(), (2, 3), "shape", "another number"),
        (reshape(0, -1, 2), (0, 3), "shape", "do not divide"),
        (reshape(1, axis=3), (2, 3), "axis", "out of range"),
        (reshape(1, axis=-4), (2, 3), "axis", "out of range"),
        (reshape(6, axis=1, num_axes=2), (2, 3), "num_axes", "out of range"),
        (reshape(6, num_axes=-2), (2, 3), "num_axes", "out of range"),
    ],
)
def test_reshape_refusals(layer: Layer, shape: Shape, setting: str, what: str) -> None:
    found = refusal(layer, shape)
    assert what in found.what
    assert found.setting == setting


def test_what_is_a_view_and_what_must_not_be_in_place() -> None:
    for cls in (Split, Flatten, Reshape):
        assert cls.view and cls.refuses_in_place
    assert not any(cls.view or cls.in_place for cls in (Concat, Slice, Tile, Crop, BatchReindex))


def test_nothing_is_read_on_the_way_back() -> None:
    for layer in (
        Concat(), Slice(), Split(), Flatten(), Reshape(), Tile(), Crop(), BatchReindex(), Silence()
    ):  # fmt: skip
        assert layer.backward_reads() is Reads.NOTHING


# -- Tile ------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(shape=sizes(min_size=1, max_size=4), tiles=st.integers(1, 4), data=st.data())
def test_tile(shape: Shape, tiles: int, data: st.DataObject) -> None:
    axis = data.draw(axes_of(shape), "axis")
    x = smooth(*shape)
    (y,) = check_layer(Tile(axis, tiles), [x]).tops
    size = shape[axis]
    assert y.shape == with_size(shape, axis, size * tiles)
    for place in np.ndindex(y.shape):
        assert y[place] == x[with_size(place, axis, place_on(place, axis) % size)]


def test_tile_refusals() -> None:
    missing = refusal(Tile(), (2, 3))
    assert "missing" in missing.what and "tile_param" in missing.hint
    assert "not positive" in refusal(Tile(tiles=0), (2, 3)).what
    assert "not positive" in refusal(Tile(tiles=-1), (2, 3)).what
    assert refusal(Tile(2, 2), (2, 3)).setting == "axis"


# -- Crop ------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(shape=sizes(1, 5, min_size=1, max_size=4), data=st.data())
def test_crop(shape: Shape, data: st.DataObject) -> None:
    axis = data.draw(axes_of(shape), "axis")
    first = axis % len(shape)
    cropped = shape[first:]
    offsets = tuple(data.draw(st.integers(0, n - 1)) for n in cropped)
    if data.draw(st.booleans(), "one offset"):
        offsets = (min(offsets),) * len(cropped)
    sizes_left = tuple(
        data.draw(st.integers(1, n - o)) for n, o in zip(cropped, offsets, strict=True)
    )
    given_offsets = offsets
    if len(set(offsets)) == 1:
        given_offsets = data.draw(
            st.sampled_from([offsets, offsets[:1]] + ([()] if offsets[0] == 0 else []))
        )
    # The reference's other axes do not count.
    reference = (*(9 for _ in shape[:first]), *sizes_left)
    x = smooth(*shape)
    (y,) = check_layer(Crop(axis, given_offsets), [x, np.zeros(reference)]).tops
    assert y.shape == (*shape[:first], *sizes_left)
    whole = (0,) * first + offsets
    for place in np.ndindex(y.shape):
        assert y[place] == x[tuple(p + o for p, o in zip(place, whole, strict=True))]


def test_crop_without_offset_keeps_the_corner() -> None:
    x = smooth(1, 1, 4, 4)
    (y,) = forward(Crop(), [x, np.zeros((1, 1, 2, 3))]).tops
    np.testing.assert_array_equal(y, x[:, :, :2, :3])


@pytest.mark.parametrize(
    ("layer", "shapes", "what"),
    [
        (Crop(offset=(0, 0, 0)), [(1, 1, 4, 4), (1, 1, 3, 3)], "number of offsets"),
        (Crop(offset=(1, 2)), [(1, 1, 4, 4), (1, 1, 3, 3)], "does not lie inside"),
        (Crop(offset=(2,)), [(1, 1, 4, 4), (1, 1, 2, 3)], "on axis 3"),
        (Crop(), [(1, 1, 4, 4), (1, 1, 5, 3)], "on axis 2"),
        (Crop(), [(1, 1, 4, 4), (1, 1, 3)], "fewer axes"),
        (Crop(), [(4, 4), (3, 3)], "out of range"),
    ],
)
def test_crop_refusals(layer: Layer, shapes: list[Shape], what: str) -> None:
    assert what in refusal(layer, *shapes).what


# -- BatchReindex ----------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    shape=sizes(min_size=1, max_size=4),
    index=st.lists(st.integers(0, 3), min_size=1, max_size=5),
    fraction=st.sampled_from([0.0, 0.9]),
)
def test_batch_reindex(shape: Shape, index: list[int], fraction: float) -> None:
    index = [i % shape[0] for i in index]
    x = smooth(*shape)
    run = check_layer(BatchReindex(), [x, np.array(index) + fraction])
    want = np.zeros(shape)
    dy = smooth(len(index), *shape[1:], seed=1)
    for place, i in enumerate(index):
        np.testing.assert_array_equal(run.tops[0][place], x[i])
        want[i] += dy[place]
    np.testing.assert_allclose(run.backward([dy]).bottoms[0], want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("wrong", [-1, 3, 1e9, np.nan, np.inf])
def test_an_index_of_no_item(wrong: float) -> None:
    with pytest.raises(Refusal, match="no item") as caught:
        forward(BatchReindex(), [smooth(3, 2), np.array([0, wrong, 2])])
    assert caught.value.got == f"{wrong:g}"
    assert caught.value.expected == "indices from 0 to 2"


@pytest.mark.parametrize("shapes", [[(), (2,)], [(3, 2), ()], [(3, 2), (2, 1)]])
def test_batch_reindex_refusals(shapes: list[Shape]) -> None:
    assert "indices" in refusal(BatchReindex(), *shapes).what


# -- ONNX ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shapes", "operators"),
    [
        (Concat(), [(2, 3, 4), (2, 1, 4)], ["Concat"]),
        (Concat(-1), [(2, 3, 4), (2, 3, 1), (2, 3, 2)], ["Concat"]),
        (Concat(), [(2, 3)], ["Identity"]),
        (Slice(top=("a", "b")), [(2, 4, 3)], ["Split"]),
        (Slice(-1, slice_point=(1, 2), top=("a", "b", "c")), [(2, 4, 5)], ["Split"]),
        (Slice(top=("a",)), [(2, 4)], ["Identity"]),
        (Split(("a", "b")), [(2, 4)], ["Identity", "Identity"]),
        (Flatten(), [(2, 3, 4)], ["Flatten"]),
        (Flatten(), [(2, 3)], ["Flatten"]),
        (Flatten(2), [(2, 3, 4, 5)], ["Reshape"]),
        (Flatten(1, 2), [(2, 3, 4, 5)], ["Reshape"]),
        (reshape(0, 6, -1), [(2, 3, 4)], ["Reshape"]),
        (reshape(2, -1, axis=1), [(2, 6, 2)], ["Reshape"]),
        (reshape(1, axis=1, num_axes=0), [(2, 3)], ["Reshape"]),
        (reshape(0, 0), [(2, 3)], ["Identity"]),
        (Tile(1, 3), [(2, 3, 4)], ["Tile"]),
        (Tile(-1, 2), [(2, 3, 4)], ["Tile"]),
        (Crop(2, (1, 0)), [(2, 3, 6, 5), (2, 3, 4, 5)], ["Slice"]),
        (Crop(1, (1,)), [(2, 3, 6, 5), (2, 2, 4, 3)], ["Slice"]),
        (Crop(0, (0, 1, 0)), [(2, 3, 4), (2, 2, 4)], ["Slice"]),
        (Crop(), [(2, 3, 6, 5), (2, 3, 6, 5)], ["Identity"]),
    ],
)
def test_onnx(layer: Layer, shapes: list[Shape], operators: list[str]) -> None:
    bottoms = [smooth(*s, seed=i) for i, s in enumerate(shapes)]
    other = [smooth(5, *s[1:], seed=i) for i, s in enumerate(shapes)]
    assert check_lowering(layer, bottoms, other_batch=other) == operators


@pytest.mark.parametrize(
    ("layer", "shapes", "operators"),
    [
        (Concat(0), [(2, 3), (1, 3)], ["Concat"]),
        (Slice(0, top=("a", "b")), [(4, 3)], ["Split"]),
        (Slice(0, slice_point=(1,), top=("a", "b")), [(4, 3)], ["Split"]),
        (Flatten(0), [(2, 3)], ["Reshape"]),
        (Flatten(2, 1), [(2, 3, 4)], ["Reshape"]),
        (reshape(-1), [(2, 3)], ["Reshape"]),
        (reshape(), [(1, 1)], ["Reshape"]),
        (reshape(1, axis=0, num_axes=0), [(2, 3)], ["Reshape"]),
        (Tile(0, 2), [(2, 3)], ["Tile"]),
        (Crop(0, (1, 0)), [(4, 3), (2, 2)], ["Slice"]),
    ],
)
def test_onnx_with_a_fixed_batch(layer: Layer, shapes: list[Shape], operators: list[str]) -> None:
    bottoms = [smooth(*s, seed=i) for i, s in enumerate(shapes)]
    assert check_lowering(layer, bottoms) == operators


def test_onnx_batch_reindex() -> None:
    x, index = smooth(3, 2, 2), np.array([2.7, 0, 2])
    got = check_lowering(BatchReindex(), [x, index], other_batch=[x[:2], np.array([1, 1])])
    assert got == ["Cast", "Gather"]


@pytest.mark.parametrize("layer", [Tile(0, 2), Flatten(0), Slice(0, top=("a", "b"))])
def test_onnx_does_not_leave_a_batch_open_that_it_would_mix(layer: Layer) -> None:
    x = smooth(2, 3)
    with pytest.raises(NetcError, match="batch"):
        check_lowering(layer, [x], other_batch=[x])
