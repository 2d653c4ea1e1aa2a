"""The numbers of the table, by hand."""

from __future__ import annotations

from functools import partial

import pytest

from netc.backends import find_backend
from netc.layers.types import Phase
from netc.plan import plan
from netc.report.summary import Summary, summarize
from tests.support.nets import graph_of

NET = """
name: "n"
layer { name: "x" type: "Input" top: "x" top: "t"
  input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } shape { dim: 2 } } }
layer { name: "a" type: "Convolution" bottom: "x" top: "a" param { name: "w" } param { name: "b" }
  convolution_param { num_output: 3 kernel_size: 3 pad: 1 } }
layer { name: "r" type: "ReLU" bottom: "a" top: "a" }
layer { name: "b" type: "Convolution" bottom: "a" top: "b" param { name: "w" } param { name: "b" }
  convolution_param { num_output: 3 kernel_size: 3 pad: 1 } }
layer { name: "f" type: "InnerProduct" bottom: "b" top: "f" param { lr_mult: 0 }
  inner_product_param { num_output: 4 } }
layer { name: "l" type: "SoftmaxWithLoss" bottom: "f" bottom: "t" top: "l" }
"""


def summary_of(text: str, phase: Phase = Phase.TRAIN) -> Summary:
    graph = graph_of(text, phase)
    return summarize(graph, partial(plan, graph, find_backend("reference")))


def test_the_numbers() -> None:
    found = summary_of(NET)
    rows = {row.name: row for row in found.rows}
    assert (rows["a"].params, rows["b"].params) == (84, 0), "a shared param counts once"
    assert rows["a"].macs == 2 * 3 * 64 * 3 * 9
    assert rows["a"].bytes == 4 * 2 * 3 * 64
    assert rows["r"].bytes == 0, "in place"
    assert rows["l"].tops == ((),)
    assert found.params == 84 + 4 * 192 + 4
    assert found.macs == sum(row.macs for row in found.rows)
    assert found.bytes == 4 * (384 + 2 + 384 + 384 + 8 + 1)


def test_the_memory() -> None:
    memory = summary_of(NET).memory
    assert memory.params == 4 * (84 + 768 + 4)
    # To run: the input, the labels and the loss stay; a and b are there together.
    assert memory.run >= memory.params + 4 * (384 + 2 + 1 + 2 * 384)
    # To train: diffs of what is learned (not of the frozen 768), and of the blobs.
    assert memory.train is not None
    assert memory.train >= memory.run + 4 * (84 + 4) + 4 * 384


@pytest.mark.parametrize(
    "text",
    [
        NET[: NET.index('layer { name: "l"')],
        NET.replace(
            'type: "ReLU" bottom: "a" top: "a"', 'type: "Threshold" bottom: "a" top: "c"'
        ).replace('bottom: "a" top: "b"', 'bottom: "c" top: "b"'),
    ],
    ids=["no loss", "no gradient"],
)
def test_a_net_that_cannot_be_trained(text: str) -> None:
    memory = summary_of(text).memory
    assert memory.train is None
    assert memory.run > memory.params
