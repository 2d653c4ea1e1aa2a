"""From a graph and weights to a proven file; the rest is tested with `netc export`."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from netc.assemble import load_graph
from netc.backends import find_backend
from netc.errors import NetcError
from netc.export.deliver import deliver
from netc.layers.types import Phase

BACKEND = find_backend("reference")


def delivered(text: str, folder: Path, **settings: object) -> onnx.ModelProto:
    (folder / "net.prototxt").write_text(text)
    graph = load_graph(folder / "net.prototxt", Phase.TEST)
    output = folder / "net.onnx"
    proof = deliver(graph, [], output, BACKEND, fill=True, **settings)  # type: ignore[arg-type]
    assert proof.ok, proof.table()
    return onnx.load(str(output))


def test_indices_and_flags_are_proven_with_whole_numbers(tmp_path: Path) -> None:
    # With 0.37 for an index or a flag, the two sides would rightly differ or refuse.
    model = delivered(
        """
        layer { name: "i" type: "Input" top: "words" top: "cont" top: "h0"
                input_param { shape { dim: 4 dim: 2 } shape { dim: 4 dim: 2 }
                              shape { dim: 1 dim: 2 dim: 3 } } }
        layer { name: "e" type: "Embed" bottom: "words" top: "e"
                embed_param { input_dim: 5 num_output: 3 weight_filler { type: "gaussian" } } }
        layer { name: "r" type: "RNN" bottom: "e" bottom: "cont" bottom: "h0" top: "r" top: "hT"
                recurrent_param { num_output: 3 expose_hidden: true
                                  weight_filler { type: "uniform" min: -1 } } }
        """,
        tmp_path,
    )
    assert [value.name for value in model.graph.input] == ["words", "cont", "h0"]


def test_the_batch_of_a_text_with_inputs_stays(tmp_path: Path) -> None:
    text = """
    layer { name: "i" type: "Input" top: "x" input_param { shape { dim: 7 dim: 2 } } }
    layer { name: "f" type: "InnerProduct" bottom: "x" top: "f"
            inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
    """

    def batch(model: onnx.ModelProto) -> object:
        dim = model.graph.input[0].type.tensor_type.shape.dim[0]
        return dim.dim_param or dim.dim_value

    assert batch(delivered(text, tmp_path)) == 7
    assert batch(delivered(text, tmp_path, batch=3)) == 3
    assert batch(delivered(text, tmp_path, batch="dynamic")) == "N"


def test_lines_say_what_is_written(tmp_path: Path) -> None:
    lines: list[str] = []
    text = """
    layer { name: "i" type: "Input" top: "x" input_param { shape { dim: 7 dim: 2 } } }
    layer { name: "f" type: "InnerProduct" bottom: "x" top: "f"
            inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
    """
    delivered(text, tmp_path, tell=lines.append)
    assert lines == [
        "weights: 0 layers copied, 1 freshly filled, 0 in the weights but unused",
        "  layer 'f' is filled by its filler",
        "opset 17, inputs x (7, 2)",
    ]


def test_what_the_net_is_made_from_is_not_replaced(tmp_path: Path) -> None:
    text = 'layer { name: "i" type: "Input" top: "x" input_param { shape { dim: 7 } } }'
    (tmp_path / "net.prototxt").write_text(text)
    (tmp_path / "link").symlink_to(tmp_path / "net.prototxt")
    graph = load_graph(tmp_path / "net.prototxt", Phase.TEST)
    with pytest.raises(NetcError, match="the output would replace what it is made from"):
        deliver(graph, [], tmp_path / "link", BACKEND, fill=True)
    assert (tmp_path / "net.prototxt").read_text() == text


def test_regions_are_proven_with_regions(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text("""
        layer { name: "x" type: "Input" top: "x"
                input_param { shape { dim: 1 dim: 6 dim: 8 dim: 9 } } }
        layer { name: "r" type: "Input" top: "r" input_param { shape { dim: 3 dim: 5 } } }
        layer { name: "p" type: "ROIPooling" bottom: "x" bottom: "r" top: "p"
                roi_pooling_param { pooled_h: 2 pooled_w: 2 spatial_scale: 0.25 } }
    """)
    graph = load_graph(path, Phase.TEST)
    proof = deliver(graph, [], tmp_path / "net.onnx", find_backend("reference"))
    assert proof.ok
    assert "r (3, 5) in regions of 32 x 36 pixels" in proof.cases[0]
