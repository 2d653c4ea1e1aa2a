"""Which blob goes where, and what the user is told about it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netc.errors import NetcError, Span
from netc.weights.caffemodel import read_weights
from netc.weights.match import Fate, LayerParams, Match, match, preview
from netc.weights.types import SavedBlob, SavedLayer, Weights, frozen
from tests.weights.samples import CAFFE_FILES, reference_params, same_values

Shape = tuple[int, ...]


def net(*layers: tuple[str, list[Shape]]) -> list[LayerParams]:
    return [
        LayerParams(name, tuple(shapes), Span("net.prototxt", 10 + i, 3), "InnerProduct")
        for i, (name, shapes) in enumerate(layers)
    ]


def saved(
    *layers: tuple[str, list[Shape | None]],
    value: float = 1,
    file: str = "dir/a.caffemodel",
    legacy: bool = False,
) -> Weights:
    entries = [
        SavedLayer(
            name,
            tuple(
                None if s is None else SavedBlob(frozen(np.full(s, value + i)), legacy)
                for s in shapes
            ),
        )
        for i, (name, shapes) in enumerate(layers)
    ]
    return Weights(tuple(entries), file=file, format="HDF5" if file.endswith("h5") else "")


def fates(found: Match) -> dict[str, str]:
    return {row.name: row.fate.value for row in found.rows}


@pytest.mark.parametrize(
    ("name", "only"),
    [
        ("model_iter_4.caffemodel", None),
        ("weights.h5", None),
        ("v1_legacy_dims.caffemodel", {"conv1", "ip"}),
    ],
)
def test_caffes_files_into_caffes_net(name: str, only: set[str] | None) -> None:
    expected = reference_params()
    names = list(dict.fromkeys(layer for layer, _ in expected))
    layers = [
        LayerParams(n, tuple(v.shape for (layer, _), v in expected.items() if layer == n))
        for n in names
    ]
    found = match(read_weights(CAFFE_FILES / name), layers)
    copied = {(names[layer], index): values for (layer, index), values in found.values.items()}
    wanted = {key: v for key, v in expected.items() if only is None or key[0] in only}
    assert copied.keys() == wanted.keys()
    for key, values in wanted.items():
        assert same_values(copied[key], values), key
    assert {row.name for row in found.of(Fate.FRESH)} == set(names) - {n for n, _ in wanted}


def test_fine_tuning() -> None:
    layers = net(("data", []), ("conv1", [(4, 3), (4,)]), ("relu1", []), ("fc8_cats", [(2, 4)]))
    file = saved(("conv1", [(4, 3), (4,)]), ("fc8", [(9, 4)]), ("relu1", []), ("prob", []))
    found = match(file, layers)
    assert fates(found) == {"conv1": "copied", "fc8_cats": "fresh", "fc8": "unused"}
    assert [*found.values] == [(1, 0), (1, 1)]
    assert found.preview_lines() == [
        "copied  conv1     (4, 3) (4,)  from a.caffemodel",
        "fresh   fc8_cats  (2, 4)       filled by its filler",
        "unused  fc8       (9, 4)       in a.caffemodel, no layer of the net has this name",
        "1 layer copied, 1 freshly filled, 1 in the weights but unused",
    ]
    with pytest.raises(NetcError, match="the weights do not have this layer") as error:
        match(file, layers, complete=True)
    assert "'fc8_cats'" in str(error.value)
    assert "'fc8'" not in str(error.value)


def test_every_clash_is_told_with_its_cure() -> None:
    layers = net(("conv1", [(4, 3)]), ("fc7", [(5, 4), (5,)]), ("fc8", [(2, 4), (2,)]))
    file = saved(("conv1", [(4, 3)]), ("fc7", [(5, 4)]), ("fc8", [(9, 4), (9,)]))
    with pytest.raises(NetcError) as error:
        match(file, layers)
    assert str(error.value) == (
        "net.prototxt:11:3: layer 'fc7' (InnerProduct): "
        "the weights have another number of params for layer 'fc7'\n"
        "  expected  2: (5, 4) (5,)\n"
        "  got       1: (5, 4) in dir/a.caffemodel\n"
        "  hint      the weights have no bias: set bias_term: false, or rename layer 'fc7'\n"
        "net.prototxt:12:3: layer 'fc8' (InnerProduct): "
        "the weights have another shape for param 0 and 1 of layer 'fc8'\n"
        "  expected  shape (2, 4), (2,) as in the net\n"
        "  got       shape (9, 4), (9,) in dir/a.caffemodel\n"
        '  hint      rename the layer to learn it afresh, e.g. name: "fc8_new"\n'
        "            or copy the rows that both have: -partial_copy fc8"
    )
    found = preview(file, layers)
    assert fates(found) == {"conv1": "copied", "fc7": "CLASH", "fc8": "CLASH"}
    assert not found.values
    lines = found.preview_lines()
    assert lines[2].startswith("CLASH   fc8    (2, 4) (2,)  shape (9, 4), (9,) in dir/a.caffemodel")
    assert 'name: "fc8_new"' in lines[2]
    assert "2 with a clash" in lines[-1]


@pytest.mark.parametrize(
    ("in_file", "in_net", "hint"),
    [
        ([(5, 4), (5,)], [(5, 4)], "bias_term: true"),
        ([(5, 4)], [(5, 4), (5,)], "bias_term: false"),
        ([(5, 4), (5,)], [], "rename the layer"),
        ([], [(5, 4)], "rename the layer"),
        ([(5, 5), (5,)], [(5, 4)], "rename the layer"),
    ],
)
def test_another_number_of_params(in_file: list[Shape], in_net: list[Shape], hint: str) -> None:
    layers = net(("ip", in_net), ("other", [(1,)]))
    with pytest.raises(NetcError, match="another number of params") as error:
        match(saved(("ip", [*in_file]), ("other", [(1,)])), layers)
    assert hint in str(error.value)


def test_legacy_shapes() -> None:
    layers = net(("ip", [(3, 64)]))
    assert match(saved(("ip", [(1, 1, 3, 64)]), legacy=True), layers).values[0, 0].shape == (3, 64)
    with pytest.raises(NetcError, match="another shape"):
        match(saved(("ip", [(1, 1, 3, 64)])), layers)


def test_a_later_file_wins() -> None:
    layers = net(("a", [(1,)]), ("b", [(1,)]), ("c", [(1,)]))
    first = saved(("a", [(1,)]), ("b", [(1,)]), value=10, file="one.caffemodel")
    second = saved(("b", [(1,)]), ("c", [(1,)]), value=20, file="two.caffemodel")
    found = match([first, second], layers)
    assert {key: float(v[0]) for key, v in found.values.items()} == {
        (0, 0): 10,
        (1, 0): 20,
        (2, 0): 21,
    }
    assert "from two.caffemodel, over one.caffemodel" in found.preview_lines()[1]


def test_weights_of_another_net() -> None:
    layers = net(("conv1", [(1,)]), ("data", []))
    with pytest.raises(NetcError, match="weights are of another net") as error:
        match(saved(("block1_conv1", [(1,)]), ("data", [])), layers)
    assert "'conv1'" in str(error.value)
    assert "'block1_conv1'" in str(error.value)
    # Nothing to load into, or nothing to load, is no mistake.
    assert not match(saved(("block1_conv1", [(1,)])), net(("data", []))).values
    assert not match(saved(("pool", [])), layers).values
    # One stray file among several is one.
    with pytest.raises(NetcError, match="another net"):
        match([saved(("conv1", [(1,)])), saved(("x", [(1,)]))], layers)


def test_a_renamed_layer_is_pointed_at() -> None:
    layers = net(("conv1", [(2, 3)]), ("fc_8", [(4, 4)]))
    found = match(saved(("conv1", [(2, 3)]), ("fc8", [(4, 4)]), ("fc9", [(5, 4)])), layers)
    assert "(not 'fc8' of the same shapes, which is unused)" in found.preview_lines()[1]


def test_layers_of_one_name() -> None:
    layers = net(("ip", [(1,)]), ("ip", [(1,)]))
    both = match(saved(("ip", [(1,)]), ("ip", [(1,)]), value=10), layers)
    assert [float(v[0]) for v in both.values.values()] == [10, 11]
    # Saved once or three times, Caffe's rule holds: into the first, the last one wins.
    thrice = saved(("ip", [(1,)]), ("ip", [(1,)]), ("ip", [(1,)]), value=10)
    assert {k: float(v[0]) for k, v in match(thrice, layers).values.items()} == {(0, 0): 12}
    # A layer without params may have the name of one with.
    mixed = net(("conv1", [(1,)]), ("conv1", []))
    assert [*match(saved(("conv1", [(1,)]), ("conv1", [])), mixed).values] == [(0, 0)]


def shared_net() -> list[LayerParams]:
    owner = LayerParams("a", ((2,), (1,)))
    user = LayerParams("b", ((2,), (1,)), shared=(True, False))
    return [owner, user, LayerParams("c", ((2,),), shared=(True,))]


def test_shared_params() -> None:
    # A binary file has them under each name, an HDF5 file only with their owner.
    binary = saved(("a", [(2,), (1,)]), ("b", [(2,), (1,)]), ("c", [(2,)]))
    assert [*match(binary, shared_net(), complete=True).values] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
        (2, 0),
    ]
    hdf5 = saved(("a", [(2,), (1,)]), ("b", [None, (1,)]), ("c", []), file="a.h5")
    assert [*match(hdf5, shared_net(), complete=True).values] == [(0, 0), (0, 1), (1, 1)]
    with pytest.raises(NetcError, match="another number of params"):
        match(saved(("a", [(2,), (1,)]), ("b", [None, None]), file="a.h5"), shared_net())
    # A user that no file has follows its owner, and is not filled afresh.
    found = match(saved(("a", [(2,), (1,)]), ("b", [(2,), (1,)])), shared_net(), complete=True)
    assert "c" not in fates(found)


def test_the_order_of_values_is_that_of_copying() -> None:
    first = saved(("a", [(1,)]), ("b", [(1,)]), value=10, file="one")
    second = saved(("a", [(1,)]), value=20, file="two")
    layers = [LayerParams("a", ((1,),)), LayerParams("b", ((1,),), shared=(True,))]
    assert [*match([first, second], layers).values] == [(1, 0), (0, 0)]


names = st.sampled_from("abcd")
shape_lists = st.lists(st.sampled_from([(1,), (2,), (1, 2)]), max_size=2)
layer_lists = st.lists(st.tuples(names, shape_lists), max_size=4, unique_by=lambda item: item[0])


@given(layer_lists, layer_lists)
def test_by_caffes_rule(
    in_net: list[tuple[str, list[Shape]]], in_file: list[tuple[str, list[Shape]]]
) -> None:
    """Against the rule itself, for layers whose names are all different."""
    ours, theirs = dict(in_net), dict(in_file)
    common = [name for name in theirs if name in ours]
    clash = any(ours[name] != theirs[name] for name in common)
    strange = (
        any(theirs.values()) and any(ours.values()) and not any(theirs[name] for name in common)
    ) and any(theirs[name] for name in theirs.keys() - ours.keys())
    found = preview(saved(*[(n, [*s]) for n, s in in_file]), net(*in_net))
    assert bool(found.clashes) == (clash or strange)
    if not found.clashes:
        index = {name: i for i, (name, _) in enumerate(in_net)}
        expected = {(index[name], j) for name in common for j in range(len(ours[name]))}
        assert set(found.values) == expected
        assert {row.name for row in found.of(Fate.UNUSED)} == {
            name for name, shapes in in_file if shapes and name not in ours
        }
        assert {row.name for row in found.of(Fate.FRESH)} == {
            name for name, shapes in in_net if shapes and name not in theirs
        }
    assert len(found.preview_lines()) == len(found.rows) + 1
