from __future__ import annotations

from pathlib import Path

import pytest

from netc.assemble import executor, load_graph, load_net
from netc.backends import find_backend
from netc.errors import NetcError
from netc.layers.types import Phase

TEXT = """
layer { name: "in" type: "Input" top: "found" top: "label"
        input_param { shape { dim: [1, 1, 1, 7] } shape { dim: [1, 1, 1, 8] } } }
layer { name: "eval" type: "DetectionEvaluate" bottom: "found" bottom: "label" top: "eval"
        detection_evaluate_param { num_classes: 2 overlap_threshold: 0.3
                                   name_size_file: "sizes.txt" } }
"""


def test_sizes_of_a_file_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(TEXT)
    (tmp_path / "sizes.txt").write_text("000001 10 10\n\n000002 10 1000\n")
    text = load_net(tmp_path / "net.prototxt", Phase.TEST)
    net = executor(text, find_backend("reference"), train=False)
    # Columns 0..1 and 1..2 of 10 share one of three, of 1000 hardly any.
    net.data("found")[...] = [0, 1, 0.5, 0, 0, 0.1, 1]
    net.data("label")[...] = [0, 1, 0, 0.1, 0, 0.2, 1, 0]
    right = []
    for _ in range(4):
        net.forward()
        right.append(int(net.data("eval")[0, 0, 1, 3]))
    assert right == [1, 0, 1, 0]
    assert net.persistent()  # the line belongs to a snapshot
    for feed in net.feeds.values():
        feed.close()


@pytest.mark.parametrize(("content", "what"), [
    ("", "is empty"),
    ("a 1\n", "this line tells no size"),
    ("a 0 5\n", "this line tells no size"),
    ("a 5 x\n", "this line tells no size"),
])  # fmt: skip
def test_a_file_of_something_else(tmp_path: Path, content: str, what: str) -> None:
    (tmp_path / "net.prototxt").write_text(TEXT)
    (tmp_path / "sizes.txt").write_text(content)
    with pytest.raises(NetcError, match=what) as error:
        load_graph(tmp_path / "net.prototxt", Phase.TEST)
    (problem,) = error.value.problems
    assert problem.span is not None
    assert problem.span.file.endswith("sizes.txt")


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(TEXT)
    with pytest.raises(NetcError, match=r"file of image sizes 'sizes\.txt' does not exist"):
        load_graph(tmp_path / "net.prototxt", Phase.TEST)
