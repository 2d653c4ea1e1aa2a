"""The catalogue says of each type what its dataclass says."""

from __future__ import annotations

import dataclasses
import enum
import json
import re
from dataclasses import dataclass
from typing import ClassVar

import pytest

from netc.errors import NetcError
from netc.export import lower_layer
from netc.layers import registry
from netc.layers.types import (
    BlobType,
    Layer,
    OnnxBuilder,
    Phase,
    Value,
)
from netc.report.layers import Setting, catalogue, describe, document, render_entry, render_list
from netc.report.onnx_forms import onnx_operators
from tests.support.layer_harness import VECTORS, load_vector, smooth, vector_names
from tests.support.nets import graph_of

ENTRIES = catalogue({}, own=True)
FAMILIES = sorted({path.name.partition("__")[0] for path in VECTORS.glob("*.npz")})


def entry(name: str):
    return describe(name, {})


# -- what is read ----------------------------------------------------------------------------------


def test_every_type_is_listed_once() -> None:
    names = [e.name for e in ENTRIES]
    own = {
        kind.name
        for kind in registry.layer_types().values()
        if kind.cls.__module__.startswith("netc.")
    }
    assert sorted(names) == sorted(own)
    assert names == sorted(names, key=str.lower)


@pytest.mark.parametrize("name", [e.name for e in ENTRIES])
def test_every_type_tells_its_formula_family_and_settings(name: str) -> None:
    found = entry(name)
    assert found.formula and found.family and found.shapes and found.source
    kind = registry.find(name)
    settings = {s.name.rpartition(".")[2] for s in found.settings}
    wiring = {"name", "type", "bottom", "top", "phase", "propagate_down"}
    fields = {f.name for f in dataclasses.fields(kind.cls) if f.init} - wiring
    assert {field.removesuffix("_") for field in fields} == settings
    for text in (found.formula, *found.notes):
        assert not re.search(r"\b(Shapes|Source): ", text)


def test_a_docstring_is_taken_apart() -> None:
    found = entry("PReLU")
    assert found.formula.startswith("y = x where x > 0, otherwise slope * x")
    assert found.shapes.startswith("bottom (N, C, ...) -> top (same); param slope (C,)")
    assert found.source == "He et al., ICCV 2015."
    # "Source:" may stand within a line.
    assert entry("ELU").source == "Clevert et al., ICLR 2016."
    assert entry("ELU").notes == ("At x = 0 the gradient is alpha.",)


def test_settings_have_the_defaults_of_the_schema() -> None:
    settings = {s.name: s for s in entry("Pooling").settings}
    assert settings["pooling_param.pool"] == Setting(
        "pooling_param.pool", "one of MAX, AVE, STOCHASTIC", "MAX"
    )
    assert settings["pooling_param.kernel_size"].default == "not set"
    assert settings["pooling_param.global_pooling"].default == "false"
    settings = {s.name: s for s in entry("BatchNorm").settings}
    assert settings["batch_norm_param.moving_average_fraction"].default == "0.999"
    settings = {s.name: s for s in entry("Clip").settings}
    assert settings["clip_param.min"].default == "needed"
    settings = {s.name: s for s in entry("Convolution").settings}
    assert settings["convolution_param.kernel_size"] == Setting(
        "convolution_param.kernel_size", "list: integer", "empty"
    )
    assert settings["convolution_param.weight_filler"].takes == "Filler"
    assert {s.name for s in entry("Data").settings} >= {"transform_param", "data_param.source"}


def test_facts() -> None:
    assert "may work in place" in entry("ReLU").facts
    assert "no gradient passes" in entry("ArgMax").facts
    assert any(fact.startswith("a loss") for fact in entry("SoftmaxWithLoss").facts)
    assert "reads data" in entry("Data").facts
    assert "a small net of other types" in entry("SPP").facts
    assert (entry("Concat").bottoms, entry("Concat").tops) == ("at least 1", "1")
    assert entry("Convolution").tops == "one for each bottom"


# -- ONNX ------------------------------------------------------------------------------------------


def test_the_operators_of_types_known_by_heart() -> None:
    assert entry("ReLU").onnx == "Relu, LeakyRelu"
    assert entry("Convolution").onnx == "Reshape, Conv"
    assert entry("Deconvolution").onnx == "Reshape, ConvTranspose"
    assert entry("Split").onnx == "none needed: the bottom is handed on"
    assert entry("Silence").onnx == "none needed"
    assert entry("Data").onnx == ""
    assert "NonMaxSuppression" in entry("DetectionOutput").onnx.split(", ")
    assert entry("SPP").onnx == "as the types it is made of"
    assert "LSTM" in entry("LSTM").onnx.split(", ")
    assert "RNN" not in entry("LSTM").onnx.split(", ")
    assert "Conv" in entry("Im2col").onnx.split(", ")


@pytest.mark.parametrize("name", [e.name for e in ENTRIES])
def test_a_type_has_an_onnx_form_or_says_why_not(name: str) -> None:
    found = entry(name)
    assert bool(found.onnx) != bool(found.no_onnx)
    if not found.onnx:
        assert f"ONNX:      none, {found.no_onnx.split()[0]}" in render_entry(found)


# Vectors of which no layer has an ONNX form: theirs carry states from batch to batch.
NOT_LOWERED = {"lstm"}


@pytest.mark.parametrize("name", FAMILIES)
def test_no_operator_of_a_lowered_layer_is_missed(name: str) -> None:
    lowered = 0
    for vector in vector_names(name):
        graph = graph_of(str(load_vector(vector)["prototxt"]), Phase.TEST)
        for node in graph.nodes:
            operators = onnx_operators(type(node.layer))
            if operators is None:
                continue
            types = [BlobType(graph.blobs[key].shape) for key in node.bottoms]
            params = [smooth(*use.shape, seed=i) for i, use in enumerate(node.params)]
            try:
                model = lower_layer(node.layer, types, params)
            except NetcError:
                continue
            # An Identity gives a top that is a bottom or a constant its name.
            added = {n.op_type for n in model.graph.node} - {"Identity"}
            assert added <= set(operators), vector
            lowered += 1
    assert (lowered == 0) == (name in NOT_LOWERED)


class Kind(enum.Enum):
    SUM = 1
    MAX = 2


def _shared(g: OnnxBuilder, x: Value) -> Value:
    return g.op("Abs", x)


@dataclass(frozen=True)
class Based(Layer):
    upside: ClassVar[bool] = False
    word: ClassVar[str] = "Sin"

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        return (g.op(self.word, self._inner(g, bottoms[0])),)

    def _inner(self, g: OnnxBuilder, x: Value) -> Value:
        return x


@dataclass(frozen=True)
class Odd(Based):
    kind: Kind = Kind.SUM
    upside: ClassVar[bool] = True
    word: ClassVar[str] = "Cos"

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        operators = {Kind.SUM: "ReduceSum", Kind.MAX: "ReduceMax"}
        y = g.op(operators[self.kind], bottoms[0])
        y = g.op("Ceil" if self.upside else "Floor", g.cast(y, "float32"))
        return super().lower(g, (_shared(g, y),), params)

    def _inner(self, g: OnnxBuilder, x: Value) -> Value:
        return g.reshape(x, (1,))


@dataclass(frozen=True)
class Refusing(Layer):
    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        raise g.refuse("never")


@dataclass(frozen=True)
class Borrowing(Layer):
    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        other = Odd()
        return other.lower(g, bottoms, params)


def test_operators_are_found_where_they_hide() -> None:
    found = {"ReduceSum", "ReduceMax", "Ceil", "Cast", "Abs", "Cos", "Reshape"}
    assert set(onnx_operators(Odd) or ()) == found
    assert set(onnx_operators(Borrowing) or ()) == found
    assert onnx_operators(Based) == ("Sin",)
    assert onnx_operators(Refusing) is None
    assert onnx_operators(Layer) is None


# -- how it is shown -------------------------------------------------------------------------------


def test_a_type_as_text() -> None:
    text = render_entry(entry("Threshold"))
    assert text.splitlines()[0] == "Threshold"
    assert "y = 1 where x > threshold, otherwise 0." in text
    assert re.search(r"^threshold_param.threshold +number +0$", text, re.M)
    assert max(map(len, text.splitlines())) <= 100


def test_forms() -> None:
    found = json.loads(render_entry(entry("Pooling"), "json"))
    assert found["name"] == "Pooling" and found["settings"][0]["takes"].startswith("one of MAX")
    assert len(json.loads(render_list(ENTRIES, "json"))) == len(ENTRIES)
    assert render_entry(entry("Pooling"), "markdown").startswith("### Pooling\n")
    assert render_list(ENTRIES).splitlines()[-1] == f"{len(ENTRIES)} types"


def test_an_unknown_type() -> None:
    with pytest.raises(
        NetcError, match=r"unknown layer type 'Poolin'(.|\n)*did you mean 'Pooling'"
    ):
        entry("Poolin")


def test_kernels_of_backends() -> None:
    relu = registry.find("ReLU").cls
    assert describe("ReLU", {"fast": {relu}}).backends == ("reference", "fast")
    assert describe("TanH", {"fast": {relu}}).backends == ("reference",)


def test_the_document_has_a_section_for_each_type_that_its_table_links_to() -> None:
    text = document(ENTRIES)
    sections = re.findall(r"^### (\w+)$", text, re.M)
    links = re.findall(r"^\| \[(\w+)\]\(#([\w-]+)\)", text, re.M)
    assert [name for name, _ in links] == [e.name for e in ENTRIES]
    assert {name for name, _ in links} <= set(sections)
    # A heading's anchor is its text in lower case, numbered from the second of its kind on.
    places: dict[str, str] = {}
    for heading in re.findall(r"^#+ (.*)$", text, re.M):
        anchor = re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        count = sum(re.fullmatch(f"{anchor}(-\\d+)?", known) is not None for known in places)
        places[f"{anchor}-{count}" if count else anchor] = heading
    assert all(places[anchor] == name for name, anchor in links)
    assert {"Filler", "TransformParam"} <= set(sections)
    assert "<" not in re.sub(r"`[^`]*`|->|<=|< ", "", text)
