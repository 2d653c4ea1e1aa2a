"""The HDF5Data layer: rows of HDF5 files."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from netc.data import DataAbsent, probe
from netc.errors import NetcError, Span
from netc.layers.data import HDF5Data
from netc.layers.types import BlobType, Phase
from tests.data.samples import FILES, OpenLayer, batches


def layer(source: object, *tops: str, **settings: object) -> HDF5Data:
    fields: dict[str, object] = {"batch_size": 4, "top": tops or ("data",)}
    return HDF5Data(source=str(source), **(fields | settings))  # type: ignore[arg-type]


def write(folder: Path, *files: dict[str, object]) -> Path:
    """Write files "0.h5", "1.h5", ... of these data sets, and their list."""
    for i, sets in enumerate(files):
        with h5py.File(folder / f"{i}.h5", "w") as h5:
            for name, values in sets.items():
                h5[name] = values
    (folder / "list.txt").write_text("".join(f"{i}.h5\n" for i in range(len(files))))
    return folder / "list.txt"


def test_the_rows_of_a_file_of_caffes_tests(open_layer: OpenLayer) -> None:
    feed = open_layer(layer(FILES / "h5_list.txt", "label", "extra", batch_size=24))
    ((labels, extra),) = batches(feed, 1)
    expected: list[list[np.ndarray]] = [[], []]
    for name in ("part_a.h5", "part_b.h5"):
        with h5py.File(FILES / name) as h5:
            expected[0].append(h5["label"][...])
            expected[1].append(h5["extra"][...].astype(np.float32))
    np.testing.assert_array_equal(labels, np.tile(np.concatenate(expected[0]), 2))
    np.testing.assert_array_equal(extra, np.tile(np.concatenate(expected[1]), (2, 1)))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "u1", "i4", "i8"])
def test_numbers_become_float32(tmp_path: Path, open_layer: OpenLayer, dtype: str) -> None:
    values = np.array([0, 1, 100, 7]).astype(dtype)
    ((found,),) = batches(open_layer(layer(write(tmp_path, {"data": values}))), 1)
    np.testing.assert_array_equal(found, values.astype(np.float32))


def test_a_top_may_name_a_data_set_in_a_group(tmp_path: Path, open_layer: OpenLayer) -> None:
    source = write(tmp_path, {"group/set": np.arange(8).reshape(4, 2)})
    ((found,),) = batches(open_layer(layer(source, "group/set")), 1)
    np.testing.assert_array_equal(found, np.arange(8).reshape(4, 2))


def test_shuffled_passes(tmp_path: Path, open_layer: OpenLayer) -> None:
    rows = [range(0, 6), range(6, 9), range(9, 16)]
    source = write(
        tmp_path, *({"data": list(part), "twice": [2 * r for r in part]} for part in rows)
    )
    feed = open_layer(layer(source, "data", "twice", batch_size=5, shuffle=True), Phase.TRAIN)
    found = batches(feed, 16)
    values = np.concatenate([values for values, _ in found])
    np.testing.assert_array_equal(np.concatenate([twice for _, twice in found]), 2 * values)

    passes = [list(map(int, part)) for part in values.reshape(5, 16)]
    file_orders, row_orders = set(), set()
    for one in passes:
        assert sorted(one) == list(range(16))
        of_file = [next(i for i, part in enumerate(rows) if row in part) for row in one]
        # The rows of a file stay together.
        order = tuple(dict.fromkeys(of_file))
        assert of_file == [file for file in order for _ in rows[file]]
        file_orders.add(order)
        row_orders.add(tuple(row for row in one if row in rows[2]))
    assert len(file_orders) > 1
    assert len(row_orders) == 5

    again = batches(
        open_layer(layer(source, "data", "twice", batch_size=5, shuffle=True), Phase.TRAIN), 16
    )
    np.testing.assert_array_equal(np.concatenate([values for values, _ in again]), values)


def test_one_file_is_shuffled_anew_for_every_pass(tmp_path: Path, open_layer: OpenLayer) -> None:
    source = write(tmp_path, {"data": range(8)})
    found = batches(open_layer(layer(source, batch_size=8, shuffle=True)), 4)
    orders = {tuple(map(int, values)) for (values,) in found}
    assert len(orders) == 4
    assert all(sorted(order) == list(range(8)) for order in orders)


def test_several_paths_in_a_line(tmp_path: Path, open_layer: OpenLayer) -> None:
    write(tmp_path, {"data": [1, 2]}, {"data": [3, 4]})
    (tmp_path / "list.txt").write_text("\n  1.h5 \t 0.h5\n\n")
    ((found,),) = batches(open_layer(layer(tmp_path / "list.txt")), 1)
    assert found.tolist() == [3, 4, 1, 2]


@pytest.mark.parametrize("shuffle", [False, True])
def test_files_of_different_shapes(tmp_path: Path, open_layer: OpenLayer, shuffle: bool) -> None:
    rows = [np.arange(12).reshape(4, 3), np.arange(40).reshape(2, 4, 5), np.arange(6).reshape(2, 3)]
    source = write(tmp_path, *({"data": values, "n": range(len(values))} for values in rows))
    feed = open_layer(layer(source, "data", "n", batch_size=2, shuffle=shuffle), Phase.TRAIN)
    seen = []
    for _ in range(8):
        shapes = feed.next_shapes()
        batch = [np.empty(shape, np.float32) for shape in shapes]
        feed.fill(batch)
        file = next(i for i, values in enumerate(rows) if values.shape[1:] == shapes[0][1:])
        if file != 1:
            file = 0 if batch[0].max() > 5 or len(set(batch[1]) - {0, 1}) else 2
        np.testing.assert_array_equal(batch[0], rows[file][batch[1].astype(int)])
        seen.append(shapes[0])
    assert seen.count((2, 3)) == 6 and seen.count((2, 4, 5)) == 2


# -- mistakes --------------------------------------------------------------------------------------


def test_a_batch_cannot_reach_into_a_file_of_other_shapes(
    tmp_path: Path, open_layer: OpenLayer
) -> None:
    source = write(
        tmp_path,
        {"data": np.zeros((4, 3))},
        {"data": np.zeros((2, 5))},
        {"data": np.zeros((3, 5))},
    )
    with pytest.raises(NetcError, match="a batch would reach from this file") as told:
        open_layer(layer(source, batch_size=2))
    [problem] = told.value.problems
    assert problem.span == Span(str(source), 3, 1)
    assert "data (3,)" in problem.expected and "data (5,)" in problem.expected
    assert problem.got == "3 rows"
    assert open_layer(layer(source, batch_size=1)).next_shapes() == ((1, 3),)


def test_every_file_that_is_missing_is_told(tmp_path: Path) -> None:
    write(tmp_path, {"data": [1]})
    source = tmp_path / "list.txt"
    source.write_text("0.h5\n9.h5 0.h5\n 8.h5\n")
    with pytest.raises(NetcError) as told:
        probe(layer(source))
    assert [problem.span for problem in told.value.problems] == [
        Span(str(source), 2, 1),
        Span(str(source), 3, 2),
    ]
    assert told.value.problems[0].what == "HDF5 file '9.h5' does not exist"


def test_a_list_that_is_missing_empty_or_a_folder(tmp_path: Path) -> None:
    span = Span(str(tmp_path / "net.prototxt"), 2, 1)
    for assume in (False, True):  # no setting tells the shapes of data sets
        with pytest.raises(DataAbsent, match="list of HDF5 files 'absent' does not exist"):
            probe(layer("absent"), span, assume=assume)
    (tmp_path / "list").write_text(" \n")
    with pytest.raises(NetcError, match="the list is empty"):
        probe(layer("list"), span)
    with pytest.raises(NetcError, match="the list cannot be read"):
        probe(layer("."), span)


def test_a_list_that_is_itself_an_hdf5_file(tmp_path: Path) -> None:
    write(tmp_path, {"data": [1]})
    with pytest.raises(NetcError, match=r"HDF5 file .* does not exist"):
        probe(layer(tmp_path / "0.h5"))


def test_a_file_that_is_no_hdf5_file(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_text("text")
    (tmp_path / "list").write_text("a.h5")
    with pytest.raises(NetcError) as told:
        probe(layer(tmp_path / "list"))
    assert "this is not an HDF5 file, or it is damaged" in str(told.value)
    assert told.value.problems[0].span == Span(str(tmp_path / "list"), 1, 1)


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        ({"date": [1.0], "label": [1.0]}, ["no data set 'data'", "date, label", "mean 'date'?"]),
        ({"data/inner": [1.0]}, ["no data set 'data'", "with data/inner"]),
        ({}, ["no data set 'data'", "with none"]),
        ({"data": [b"text"]}, ["'data' does not hold numbers", "text in"]),
        ({"data": [True]}, ["'data' does not hold numbers", "bool"]),
        ({"data": 3.0}, ["'data' has no axis of rows", "a single value"]),
        ({"data": np.zeros((0, 4))}, ["the data sets of a file have no rows"]),
    ],
)
def test_data_sets_that_do_not_do(tmp_path: Path, sets: dict[str, object], told: list[str]) -> None:
    with pytest.raises(NetcError) as error:
        probe(layer(write(tmp_path, sets)))
    for part in told:
        assert part in str(error.value)


def test_tops_of_different_lengths(tmp_path: Path) -> None:
    with pytest.raises(NetcError) as told:
        probe(layer(write(tmp_path, {"data": [1, 2], "label": [1]}), "data", "label"))
    assert "expected  2 rows, as data set 'data'" in str(told.value)
    assert "got       'data' 2, 'label' 1" in str(told.value)


def test_all_files_are_looked_at_before_training(tmp_path: Path, open_layer: OpenLayer) -> None:
    good = {"data": np.zeros((2, 3))}
    source = write(tmp_path, good, {"data": 5.0}, good, {"other": [1]})
    assert probe(layer(source)).types == (BlobType((3,)),)
    with pytest.raises(NetcError) as told:
        open_layer(layer(source))
    assert [problem.span.line for problem in told.value.problems if problem.span] == [2, 4]
    assert "has no axis of rows" in str(told.value) and "no data set 'data'" in str(told.value)
