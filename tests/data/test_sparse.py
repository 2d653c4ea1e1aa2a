"""SparseData: records against rows that are written out, and what is no row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from netc.data import DataAbsent, probe
from netc.data.feed import Cursor
from netc.errors import NetcError
from netc.layers.data import Database, SparseData
from netc.layers.types import BlobType, Refusal
from netc.schema import netc_pb2
from tests.data.samples import MakeDatabase, OpenLayer, batches
from tests.support.nets import graph_of

ROWS = np.array([[0, 2, 0, -1.5, 0], [0, 0, 0, 0, 0], [1, 0, 0, 0, 7]], np.float32)
LABELS = [1, 0, 2]


def record(row: Sequence[float], label: float, **changes: int) -> bytes:
    places = np.nonzero(row)[0].tolist()
    datum = netc_pb2.SparseDatum(size=len(row), nnz=len(places), label=label)
    datum.indices.extend(places)
    datum.data.extend(float(row[place]) for place in places)
    for name, value in changes.items():
        setattr(datum, name, value)
    return datum.SerializeToString()


@pytest.fixture
def database(make_database: MakeDatabase) -> str:
    return make_database(record(*pair) for pair in zip(ROWS, LABELS, strict=True))


def layer_of(source: str, batch_size: int = 2, **settings: object) -> SparseData:
    settings = {"backend": Database.LMDB, "top": ("data", "label"), **settings}
    return SparseData(source=source, batch_size=batch_size, **settings)  # type: ignore[arg-type]


def test_rows_and_labels(database: str, open_layer: OpenLayer) -> None:
    feed = open_layer(layer_of(database))
    (data, labels), (more, next_labels) = batches(feed, 2)
    np.testing.assert_array_equal(data, ROWS[:2])
    np.testing.assert_array_equal(more, ROWS[[2, 0]])
    assert [*labels, *next_labels] == [1, 0, 2, 1]
    assert feed.state() == Cursor(4, 3)
    feed.restore(Cursor(2, 3))
    np.testing.assert_array_equal(batches(feed, 1)[0][0], ROWS[[2, 0]])


def test_rows_alone(database: str, open_layer: OpenLayer) -> None:
    ((data,),) = batches(open_layer(layer_of(database, 3, top=("data",))), 1)
    np.testing.assert_array_equal(data, ROWS)


def test_a_place_twice_has_the_sum(make_database: MakeDatabase, open_layer: OpenLayer) -> None:
    datum = netc_pb2.SparseDatum(size=3, nnz=2, indices=[1, 1, 0], data=[2, 3, 9], label=0)
    source = make_database([datum.SerializeToString()])
    ((data, _),) = batches(open_layer(layer_of(source, 1)), 1)
    assert data.tolist() == [[0, 5, 0]]  # what is behind nnz does not count


@pytest.mark.parametrize("changes", [{"size": 4}, {"nnz": 3}, {"size": 6}, {"nnz": -1}], ids=str)
def test_records_that_do_not_fit(
    changes: dict[str, int], make_database: MakeDatabase, open_layer: OpenLayer
) -> None:
    wrong = record(ROWS[2], 1, **changes)
    feed = open_layer(layer_of(make_database([record(ROWS[0], 0), wrong]), 2))
    with pytest.raises(NetcError, match="does not fit its size"):
        batches(feed, 1)


def test_what_is_no_row(make_database: MakeDatabase, tmp_path: Path) -> None:
    with pytest.raises(NetcError, match="is no SparseDatum"):
        probe(layer_of(make_database([b"\x0b"])))
    with pytest.raises(NetcError, match="has no size"):
        probe(layer_of(make_database([b""], "empty")))
    with pytest.raises(DataAbsent, match="LevelDB"):
        probe(layer_of(str(tmp_path), backend=Database.LEVELDB))
    with pytest.raises(DataAbsent):
        probe(layer_of(str(tmp_path / "absent")), assume=True)
    with pytest.raises(Refusal):
        layer_of("db", 0).infer(BlobType((5,)))
    with pytest.raises(Refusal, match="read ahead"):
        layer_of("db", prefetch=0).infer(BlobType((5,)))


def test_sparse_products_are_products() -> None:
    graph = graph_of(
        'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 5 } } }'
        'layer { name: "ip" type: "SparseInnerProduct" bottom: "x" top: "y" '
        "inner_product_param { num_output: 4 } }"
    )
    assert graph.nodes[1].signature.tops == (BlobType((2, 4)),)
