from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from netc.assemble import executor, load_graph, load_net
from netc.backends import find_backend
from netc.data.blob import read_blob
from netc.errors import NetcError
from netc.layers.types import Phase
from netc.schema import netc_pb2
from tests.weights.samples import number_field, packed

SCORES = np.array([[0.2, -1, 2], [1, 0, 0.5]], np.float32)
LABELS = np.array([2, 0], np.float32)
MATRIX = np.array([[1, 0.5, 0], [0, 1, 0.25], [-1, 0, 2]], np.float32)

TEXT = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: [2, 3] } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 2 } } }
layer { name: "loss" type: "InfogainLoss" bottom: "data" bottom: "label" top: "loss" top: "prob"
        loss_weight: 1 loss_weight: 0 infogain_loss_param { source: "h.binaryproto" } }
"""


def write_blob(path: Path, values: np.ndarray, *dim: int, legacy: bool = False) -> None:
    blob = netc_pb2.BlobProto(data=values.ravel().tolist())
    if legacy:
        blob.num, blob.channels, blob.height, blob.width = dim
    else:
        blob.shape.dim.extend(dim)
    path.write_bytes(blob.SerializeToString())


@pytest.mark.parametrize("legacy", [False, True])
def test_a_blob_keeps_its_shape(tmp_path: Path, legacy: bool) -> None:
    write_blob(tmp_path / "blob", MATRIX, 1, 1, 3, 3, legacy=legacy)
    np.testing.assert_array_equal(read_blob(tmp_path / "blob", "blob file"), MATRIX[None, None])


def test_a_blob_of_five_axes_as_c3d_numbers_them(tmp_path: Path) -> None:
    raw = b"".join(number_field(n, size) for n, size in enumerate((1, 3, 2, 1, 4), start=1))
    (tmp_path / "mean").write_bytes(raw + packed(6, range(24)))
    blob = read_blob(tmp_path / "mean", "mean file")
    np.testing.assert_array_equal(blob, np.arange(24).reshape(1, 3, 2, 1, 4))


@pytest.mark.parametrize("dim", [(1, 1, 3, 3), (3, 3)])
def test_the_infogain_matrix_from_a_file(tmp_path: Path, dim: tuple[int, ...]) -> None:
    write_blob(tmp_path / "h.binaryproto", MATRIX, *dim)
    (tmp_path / "net.prototxt").write_text(TEXT)
    # The path starts from the folder of the text.
    text = load_net(tmp_path / "net.prototxt", Phase.TRAIN)
    text.graph.verify()
    net = executor(text, find_backend("reference"), train=False)
    net.data("data")[...], net.data("label")[...] = SCORES, LABELS
    logs = SCORES - np.log(np.exp(SCORES).sum(axis=1, keepdims=True))
    want = -(MATRIX[LABELS.astype(int)] * logs).sum() / 2
    for _ in range(3):
        net.forward()
        assert net.loss() == pytest.approx(want, rel=1e-5)
    for feed in net.feeds.values():
        feed.close()


def test_a_matrix_that_is_missing_or_does_not_suit(tmp_path: Path) -> None:
    net = tmp_path / "net.prototxt"
    net.write_text(TEXT)
    with pytest.raises(NetcError, match=r"blob file 'h\.binaryproto' does not exist") as error:
        load_graph(net, Phase.TRAIN)
    (problem,) = error.value.problems
    assert problem.span is not None
    assert problem.span.line == 5
    assert problem.layer == "'loss' (InfogainLoss)"
    write_blob(tmp_path / "h.binaryproto", MATRIX[:2], 2, 3)
    with pytest.raises(NetcError, match="one row and one column for each class"):
        load_graph(net, Phase.TRAIN)
    (tmp_path / "h.binaryproto").write_bytes(b"not a message")
    with pytest.raises(NetcError, match="this is not a blob file"):
        load_graph(net, Phase.TRAIN)
