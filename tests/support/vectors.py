"""Golden vectors with the layers that their own text says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from netc.errors import NetcError
from netc.layers.types import Layer, Phase
from tests.support.layer_harness import check_vector, load_vector
from tests.support.nets import graph_of

REFUSED = {
    case["name"]: case
    for case in json.loads(
        (Path(__file__).parents[1] / "conformance" / "refused_nets.json").read_text("utf-8")
    )
}


def check_bound_vector(name: str) -> None:
    """Compare a vector with the rules of the layers bound from its text, run one by one."""
    check_vector(name, **bound_layers(name))


def bound_layers(name: str) -> dict[str, Layer]:
    """Return the layers of a vector's text by name, without those that the caller sets."""
    vector = load_vector(name)
    graph = graph_of(str(vector["prototxt"]), Phase[str(vector["phase"])])
    return {node.name: node.layer for node in graph.nodes if not node.layer.fed}


def refusal_of(name: str) -> str:
    """Return the message for a net that Caffe refuses."""
    case = REFUSED[name]
    with pytest.raises(NetcError) as error:
        graph_of(case["prototxt"], Phase[case["phase"]])
    return str(error.value)
