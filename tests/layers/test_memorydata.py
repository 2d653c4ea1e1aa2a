"""MemoryData: what the caller sets."""

from __future__ import annotations

import numpy as np
import pytest

from netc.layers.memorydata import MemoryData
from netc.layers.types import Refusal
from tests.support.nets import executor_of, graph_of

SIZES = {"batch_size": 4, "channels": 3, "height": 5, "width": 6}


def test_the_tops_have_the_sizes_of_the_text() -> None:
    tops = MemoryData(**SIZES, top=("data", "label")).infer().tops
    assert [top.shape for top in tops] == [(4, 3, 5, 6), (4,)]
    assert len(MemoryData(**SIZES, top=("data",)).infer().tops) == 1
    tops = MemoryData(**SIZES, top=("data", "label", "data_dim")).infer().tops
    assert tops[2].shape == (4, 1, 1, 2)


@pytest.mark.parametrize("missing", list(SIZES))
def test_every_size_is_needed(missing: str) -> None:
    with pytest.raises(Refusal, match=f"{missing} is missing") as caught:
        MemoryData(**(SIZES | {missing: 0}), top=("data", "label")).infer()
    assert caught.value.setting == missing
    assert "batch_size 4" in caught.value.got or missing == "batch_size"


def test_the_caller_sets_them() -> None:
    graph = graph_of(
        """
        layer { name: "data" type: "MemoryData" top: "data" top: "label"
                memory_data_param { batch_size: 2 channels: 3 height: 1 width: 1
                                    source: "images" share_in_parallel: false }
                transform_param { scale: 2 } }
        layer { name: "loss" type: "SoftmaxWithLoss" bottom: "data" bottom: "label" top: "loss" }
        """
    )
    assert graph.inputs == ("data", "label")
    net = executor_of(graph)
    net.data("data")[:, :, 0, 0] = [[0, 0, 0], [0, 100, 0]]
    net.data("label")[...] = [2, 1]
    net.forward()
    assert net.loss() == pytest.approx(np.log(3) / 2)
