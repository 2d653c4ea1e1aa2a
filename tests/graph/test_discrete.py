"""Which blobs are read as whole numbers."""

from __future__ import annotations

import pytest

from netc.graph.discrete import discrete_blobs, region_blobs
from tests.support.nets import graph_of

INPUT = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 dim: 6 } } }
layer { name: "t" type: "Input" top: "t" input_param { shape { dim: 4 dim: 2 } } }
layer { name: "u" type: "Input" top: "u" input_param { shape { dim: 4 } } }
"""


@pytest.mark.parametrize(
    ("layers", "discrete"),
    [
        ('layer { name: "l" type: "SoftmaxWithLoss" bottom: "x" bottom: "u" top: "l" }', {"u"}),
        (
            'layer { name: "s" type: "Slice" bottom: "t" top: "a" top: "b" '
            "slice_param { axis: 1 } }"
            'layer { name: "f" type: "Flatten" bottom: "a" top: "fa" '
            "flatten_param { end_axis: 0 } }"
            'layer { name: "l" type: "SoftmaxWithLoss" bottom: "x" bottom: "fa" top: "l" }'
            'layer { name: "m" type: "SoftmaxWithLoss" bottom: "x" bottom: "b" top: "m" }',
            {"t", "a", "b", "fa"},
        ),
        (
            'layer { name: "e" type: "Embed" bottom: "u" top: "e" '
            "embed_param { input_dim: 9 num_output: 3 } }",
            {"u"},
        ),
        (
            'layer { name: "f" type: "InnerProduct" bottom: "t" top: "f" '
            "inner_product_param { num_output: 1 } }"
            'layer { name: "l" type: "SoftmaxWithLoss" bottom: "x" bottom: "f" top: "l" }',
            {"f"},
        ),
        ('layer { name: "a" type: "ArgMax" bottom: "x" top: "a" }', set()),
        ('layer { name: "a" type: "Accuracy" bottom: "x" bottom: "u" top: "a" }', {"u"}),
        ('layer { name: "l" type: "EuclideanLoss" bottom: "x" bottom: "x" top: "l" }', set()),
        ('layer { name: "b" type: "BatchReindex" bottom: "x" bottom: "u" top: "b" }', {"u"}),
    ],
)
def test_labels_indices_and_flags(layers: str, discrete: set[str]) -> None:
    assert discrete_blobs(graph_of(INPUT + layers)) == discrete


def test_regions_and_the_size_of_their_images() -> None:
    graph = graph_of("""
        layer { name: "x" type: "Input" top: "x"
                input_param { shape { dim: 1 dim: 6 dim: 4 dim: 5 } } }
        layer { name: "r" type: "Input" top: "r"
                input_param { shape { dim: 2 dim: 5 dim: 1 dim: 1 } } }
        layer { name: "s" type: "Reshape" bottom: "r" top: "s"
                reshape_param { shape { dim: 0 dim: 5 } } }
        layer { name: "p" type: "ROIPooling" bottom: "x" bottom: "s" top: "p"
                roi_pooling_param { pooled_h: 2 pooled_w: 2 spatial_scale: 0.125 } }
    """)
    assert region_blobs(graph) == {"s": (32, 40), "r": (32, 40)}
