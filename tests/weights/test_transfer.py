"""Weights on their way into another net: renamed, reshaped, copied in part; and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netc.errors import NetcError
from netc.schema import netc_pb2
from netc.weights.match import Fate, LayerParams, Match, match
from netc.weights.transfer import PartialCopy, Rename, Transfer, read_renames, rows_in, said_rows
from netc.weights.types import SavedBlob, SavedLayer, Weights

Shape = tuple[int, ...]


def numbered(shape: Shape) -> SavedBlob:
    return SavedBlob(np.arange(np.prod(shape), dtype=np.float32).reshape(shape))


def saved(**layers: list[Shape]) -> Weights:
    return Weights(
        tuple(SavedLayer(name, tuple(map(numbered, shapes))) for name, shapes in layers.items()),
        file="a.caffemodel",
    )


def net(**layers: list[Shape]) -> list[LayerParams]:
    return [LayerParams(name, tuple(shapes), dense=True) for name, shapes in layers.items()]


def copied(found: Match, layers: list[LayerParams]) -> dict[str, np.ndarray]:
    return {f"{layers[i].name}/{k}": values for (i, k), values in found.values.items()}


def problem(weights: Weights, layers: list[LayerParams], transfer: Transfer) -> str:
    with pytest.raises(NetcError) as caught:
        match(weights, layers, transfer=transfer)
    return str(caught.value)


def test_renamed_layers_are_copied_and_said_so() -> None:
    layers = net(base_conv1=[(2, 3)], base_conv2=[(4, 3)], fc=[(5, 3)])
    transfer = Transfer((Rename("conv*", "base_conv*"), Rename("fc8", "fc")))
    found = match(saved(conv1=[(2, 3)], conv2=[(4, 3)], fc8=[(5, 3)]), layers, transfer=transfer)
    assert [row.fate for row in found.rows] == [Fate.COPIED] * 3
    assert "base_conv2  (4, 3)  from a.caffemodel: layer 'conv2'" in found.preview_lines()[1]
    assert copied(found, layers)["fc/0"].shape == (5, 3)


def test_one_layer_can_go_to_several() -> None:
    layers = net(left=[(2, 3)], right=[(2, 3)], conv=[(2, 3)])
    transfer = Transfer(tuple(Rename("conv", new) for new in ("left", "right", "conv")))
    assert len(match(saved(conv=[(2, 3)]), layers, transfer=transfer).values) == 3


@pytest.mark.parametrize(
    ("rename", "says"),
    [
        (Rename("cnov1", "x"), "did you mean 'conv1'"),
        (Rename("conv1", "bsae"), "did you mean 'base'?"),
        (Rename("conv1", "*"), "leaves a '*' open"),
        (Rename("conv*", "base"), "two layers of the weights would be 'base'"),
        (Rename("conv1", "conv2"), "'conv1' and 'conv2'"),
    ],
)
def test_renames_in_vain(rename: Rename, says: str) -> None:
    weights = saved(conv1=[(2, 3)], conv2=[(2, 3)])
    assert says in problem(weights, net(base=[(2, 3)], conv2=[(2, 3)]), Transfer((rename,)))


def test_a_file_of_renames(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("# old new\nconv1 base/conv1\n\n'a layer'  b # trailing\n", encoding="utf-8")
    assert [(r.old, r.new) for r in read_renames(path)] == [
        ("conv1", "base/conv1"),
        ("a layer", "b"),
    ]
    path.write_text("conv1\na layer b\n'open x\n", encoding="utf-8")
    with pytest.raises(NetcError) as caught:
        read_renames(path)
    text = str(caught.value)
    assert all(f"names.txt:{line}:1: this line is no rename" in text for line in (1, 2, 3))
    assert "in quotes" in text
    path.write_text("# nothing\n", encoding="utf-8")
    with pytest.raises(NetcError, match="says nothing"):
        read_renames(path)
    with pytest.raises(NetcError, match="cannot be read"):
        read_renames(tmp_path / "absent")


def test_a_fully_connected_layer_becomes_a_convolution_and_back() -> None:
    flat, spread = [(4, 18), (4,)], [(4, 2, 3, 3), (4,)]
    for source, target in ((flat, spread), (spread, flat)):
        layers = net(fc6=target)
        found = match(saved(fc6=source), layers)
        values = copied(found, layers)["fc6/0"]
        assert values.shape == target[0]
        np.testing.assert_array_equal(values.ravel(), np.arange(72))
        assert f"param 0 reshaped from {source[0]}" in found.preview_lines()[0]


def test_legacy_matrices_become_convolutions() -> None:
    blob = SavedBlob(numbered((1, 1, 4, 18)).data, legacy=True)
    layers = net(fc6=[(4, 2, 3, 3)])
    found = match(Weights((SavedLayer("fc6", (blob,)),)), layers)
    np.testing.assert_array_equal(copied(found, layers)["fc6/0"].ravel(), np.arange(72))


@pytest.mark.parametrize(
    "settings",
    [
        netc_pb2.LayerParameter(inner_product_param=netc_pb2.InnerProductParameter(transpose=True)),
        netc_pb2.LayerParameter(convolution_param=netc_pb2.ConvolutionParameter(group=2)),
    ],
)
def test_what_means_another_matrix_is_not_reshaped(settings: netc_pb2.LayerParameter) -> None:
    layer = SavedLayer("fc6", (numbered((4, 4)),), settings=settings.SerializeToString())
    text = problem(Weights((layer,)), net(fc6=[(4, 4, 1, 1)]), Transfer())
    assert "(4, 4, 1, 1)" in text and "(4, 4)" in text


def test_only_layers_that_sum_their_inputs_are_reshaped() -> None:
    layers = [LayerParams("x", ((4, 2, 3, 3),))]
    assert "another shape" in problem(saved(x=[(4, 18)]), layers, Transfer())
    # Nor between two spreads of the inputs, nor with another number of outputs.
    assert "another shape" in problem(saved(x=[(4, 9, 2, 1)]), net(x=[(4, 2, 3, 3)]), Transfer())
    assert "another shape" in problem(saved(x=[(8, 9)]), net(x=[(4, 2, 3, 3)]), Transfer())


@pytest.mark.parametrize(
    ("n_saved", "n_net", "rows", "taken", "says"),
    [
        (9, 4, (), [0, 1, 2, 3], "rows 0-3 of 9"),
        (2, 4, (), [0, 1], "rows 0-1 of 2, rows 2-3 freshly filled"),
        (9, 4, (8, 0, 1), [8, 0, 1], "rows 8,0-1 of 9, rows 3 freshly filled"),
        (4, 4, (3, 2, 1, 0), [3, 2, 1, 0], "rows 3,2,1,0 of 4"),
        (4, 4, (), [0, 1, 2, 3], ""),
    ],
)
def test_rows_are_copied_where_that_is_asked_for(
    n_saved: int, n_net: int, rows: tuple[int, ...], taken: list[int], says: str
) -> None:
    layers = net(fc8=[(n_net, 3), (n_net,)])
    weights = saved(fc8=[(n_saved, 3), (n_saved,)])
    found = match(weights, layers, transfer=Transfer(partial=(PartialCopy("fc*", rows),)))
    values = copied(found, layers)
    np.testing.assert_array_equal(values["fc8/0"], np.arange(n_saved * 3).reshape(-1, 3)[taken])
    np.testing.assert_array_equal(values["fc8/1"], taken)
    line = found.preview_lines()[0]
    assert says in line
    assert line.split()[0] == ("partly" if len(taken) < n_net else "copied")


def test_rows_of_a_matrix_can_go_to_a_convolution() -> None:
    layers = net(fc8=[(2, 3, 1, 1), (2,)])
    transfer = Transfer(partial=(PartialCopy("fc8", (4, 1)),))
    found = match(saved(fc8=[(5, 3), (5,)]), layers, transfer=transfer)
    np.testing.assert_array_equal(
        copied(found, layers)["fc8/0"].reshape(2, 3), np.arange(15).reshape(5, 3)[[4, 1]]
    )


def test_part_of_one_file_over_the_whole_of_another() -> None:
    layers = net(fc8=[(3, 2)])
    partial = Transfer(partial=(PartialCopy("fc8"),))
    found = match([saved(fc8=[(3, 2)]), saved(fc8=[(1, 2)])], layers, transfer=partial)
    np.testing.assert_array_equal(copied(found, layers)["fc8/0"], [[0, 1], [2, 3], [4, 5]])


@pytest.mark.parametrize(
    ("partial", "says"),
    [
        (PartialCopy("fc7"), "did you mean 'fc8'?"),
        (PartialCopy("fc8", (0, 9)), "at most 4 rows, of 0 to 8"),
        (PartialCopy("fc8", (0, 1, 2, 3, 4)), "5 rows: 0-4"),
    ],
)
def test_rows_that_cannot_be_had(partial: PartialCopy, says: str) -> None:
    transfer = Transfer(partial=(partial,))
    assert says in problem(saved(fc8=[(9, 3)]), net(fc8=[(4, 3)]), transfer)


def test_without_being_asked_for_nothing_is_copied_in_part() -> None:
    text = problem(saved(fc8=[(9, 3)]), net(fc8=[(4, 3)]), Transfer())
    assert "shape (4, 3) as in the net" in text
    assert "shape (9, 3) in a.caffemodel" in text
    assert "-partial_copy fc8" in text
    # Rows are no way out where the inputs differ.
    assert "-partial_copy" not in problem(saved(fc8=[(9, 3)]), net(fc8=[(9, 4)]), Transfer())


@given(st.lists(st.integers(0, 30), max_size=12))
def test_rows_are_read_as_they_are_written(rows: list[int]) -> None:
    assert rows_in(said_rows(rows)) == tuple(rows)


@pytest.mark.parametrize("text", ["a", "1-", "3-1", "-1", "1 2"])
def test_texts_that_list_no_rows(text: str) -> None:
    assert rows_in(text) is None
