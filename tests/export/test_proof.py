"""The proof: it must fail for a wrong model, and only then."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from netc.backends import find_backend
from netc.errors import NetcError
from netc.export import Draw, Forward, Regions, export, parity
from netc.export import proof as proof_module
from netc.export.proof import DRAWS
from netc.graph.types import Graph
from netc.layers.types import Phase
from tests.support.nets import graph_of

NET = """
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 2 dim: 6 } } }
layer { name: "fc1" type: "InnerProduct" bottom: "data" top: "fc1"
  inner_product_param { num_output: 5 } }
layer { name: "relu" type: "ReLU" bottom: "fc1" top: "fc1" }
layer { name: "fc2" type: "InnerProduct" bottom: "fc1" top: "a"
  inner_product_param { num_output: 4 } }
layer { name: "prob" type: "Softmax" bottom: "fc1" top: "b" }
"""


def net(text: str = NET, scale: float = 1.0) -> tuple[Graph, list[np.ndarray]]:
    graph = graph_of(text, Phase.TEST)
    rng = np.random.default_rng(0)
    params = [(rng.standard_normal(p.shape) * scale).astype(np.float32) for p in graph.params]
    return graph, params


def forward_of(graph: Graph, params: list[np.ndarray]) -> Forward:
    return Forward(graph, params, find_backend("reference"))


def change(model: onnx.ModelProto, name: str, index: int, value: float) -> None:
    """Set one element of a weight of the model."""
    (found,) = (c for c in model.graph.initializer if c.name == name)
    array = numpy_helper.to_array(found).copy()
    array.flat[index] = value
    found.CopyFrom(numpy_helper.from_array(array, name))


@pytest.mark.parametrize("batch", [None, 4, "dynamic"])
def test_a_right_model_is_proven(batch: int | str | None) -> None:
    graph, params = net()
    proof = parity(export(graph, params, batch=batch), forward_of(graph, params), threads=1)
    assert proof.ok
    assert [(o.name, o.ok) for o in proof.outputs] == [("a", True), ("b", True)]
    assert all(o.used < 0.2 for o in proof.outputs)


def test_an_open_batch_size_is_proven_at_two_sizes() -> None:
    graph, params = net()
    model = export(graph, params, batch="dynamic")
    proof = parity(model, forward_of(graph, params), threads=1)
    assert proof.cases == (
        "seed 0: data (1, 6) in -1..1",
        "seed 1: data (1, 6) in 0..1",
        "seed 2: data (1, 6) in -128..128",
        "seed 0: data (3, 6) in -1..1",
    )


def test_one_wrong_weight_is_found_and_only_in_the_output_it_reaches() -> None:
    graph, params = net()
    model = export(graph, params)
    change(model, "fc2.weight", 7, params[2].flat[7] + 0.01)
    proof = parity(model, forward_of(graph, params), threads=1)
    assert not proof.ok
    a, b = proof.outputs
    assert not a.ok
    assert b.ok
    assert a.max_abs > a.allowed
    assert "MISMATCH" in proof.table()


@pytest.mark.parametrize("size", [1e-3, 1e-2, 0.1])
def test_a_small_error_in_a_weight_is_found(size: float) -> None:
    graph, params = net()
    model = export(graph, params)
    change(model, "fc1.bias", 2, params[1][2] + size)
    assert not parity(model, forward_of(graph, params), threads=1).ok


def test_an_output_of_small_values_is_compared_as_strictly() -> None:
    graph, params = net()
    params[2:] = [p * np.float32(1e-6) for p in params[2:]]
    model = export(graph, params)
    assert parity(model, forward_of(graph, params), threads=1).ok
    change(model, "fc2.weight", 7, params[2].flat[7] * 1.01)
    assert not parity(model, forward_of(graph, params), threads=1).ok


def test_a_model_of_another_net_is_found_by_its_shape() -> None:
    graph, params = net()
    model = export(graph, params)
    other, its_params = net(NET.replace("num_output: 4", "num_output: 3"))
    proof = parity(model, forward_of(other, its_params), threads=1)
    assert not proof.ok
    assert "ONNX gives shape (2, 4), netc (2, 3)" in proof.table()


def test_rounding_that_a_net_amplifies_is_measured_and_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Two logits of some thousands that are nearly equal: which one wins is a matter of rounding.
    graph, (w, b) = net(
        """
        layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 1 dim: 6 } } }
        layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc"
          inner_product_param { num_output: 2 } }
        layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
        """,
        scale=100.0,
    )
    x = DRAWS[2](np.random.default_rng(2), (1, 6))
    b[1] = (x @ (w[0] - w[1])).item() + b[0]
    forward = forward_of(graph, [w, b])
    model = export(graph, [w, b])

    def rounded_otherwise(inputs):
        up = np.float32(np.inf)
        return forward({k: np.nextafter(np.nextafter(x, up), up) for k, x in inputs.items()})

    proof = parity(model, rounded_otherwise, seeds=(2,), threads=1)
    assert proof.ok
    assert "moving the input by one unit in the last place" in proof.table()
    with monkeypatch.context() as patch:
        patch.setattr(proof_module, "_NUDGES", 0)
        assert not parity(model, rounded_otherwise, seeds=(2,), threads=1).ok
    change(model, "fc.weight", 3, w[0, 3] * 1.01)
    assert not parity(model, rounded_otherwise, seeds=(2,), threads=1).ok


def test_nan_on_one_side_only_is_a_mismatch_and_on_both_sides_proves_nothing() -> None:
    graph, params = net()
    model = export(graph, params)
    forward = forward_of(graph, params)

    def spoilt(inputs):
        outputs = forward(inputs)
        outputs["a"][0, 0] = np.nan
        return outputs

    proof = parity(model, spoilt, threads=1)
    assert [o.ok for o in proof.outputs] == [False, True]
    assert "NaN or infinite in one of the two only" in proof.table()

    params[2][:] = np.nan
    proof = parity(export(graph, params), forward_of(graph, params), threads=1)
    assert [o.ok for o in proof.outputs] == [False, True]
    assert "nothing was compared" in proof.table()


def test_infinities_of_the_same_sign_agree() -> None:
    graph, params = net()
    params[3][0] = np.inf
    assert parity(export(graph, params), forward_of(graph, params), threads=1).ok
    model = export(graph, params)
    change(model, "fc2.bias", 0, -np.inf)
    assert not parity(model, forward_of(graph, params), threads=1).ok


def test_a_run_that_overflows_does_not_count_beside_others() -> None:
    graph, params = net()
    model = export(graph, params)
    honest = forward_of(graph, params)

    def overflowing(inputs, above: float):
        outputs = honest(inputs)
        if np.abs(inputs["data"]).max() > above:
            outputs["a"][0, 0] = np.inf
        return outputs

    proof = parity(model, lambda inputs: overflowing(inputs, 2), threads=1)
    assert proof.ok
    assert "a: 1 of 3 runs do not count: netc's own numbers are not finite there" in proof.table()
    # But nothing is said by such runs alone, nor does a mistake in another one go unseen.
    assert not parity(model, lambda inputs: overflowing(inputs, 0), threads=1).ok
    change(model, "fc2.bias", 0, 3.0)
    proof = parity(model, lambda inputs: overflowing(inputs, 2), threads=1)
    assert [o.ok for o in proof.outputs] == [False, True]


def test_of_whole_numbers_it_counts_how_many_differ() -> None:
    graph = graph_of(
        'layer { name: "in" type: "Input" top: "data" '
        "input_param { shape { dim: 1 dim: 3 dim: 100 dim: 200 } } }"
        'layer { name: "best" type: "ArgMax" bottom: "data" top: "best" argmax_param { axis: 1 } }',
        Phase.TEST,
    )
    model, honest = export(graph, []), forward_of(graph, [])

    def spoilt(inputs, count: int):
        outputs = honest(inputs)
        flat = outputs["best"].reshape(-1)
        flat[:count] = (flat[:count] + 1) % 3
        return outputs

    assert parity(model, lambda inputs: spoilt(inputs, 2), seeds=(0,), threads=1).ok
    # Nudges move no more than a few of so many.
    proof = parity(model, lambda inputs: spoilt(inputs, 200), seeds=(0,), threads=1)
    assert not proof.ok
    assert "best: 200 of 20000 whole numbers differ; moving the input by one unit" in proof.table()


def test_regions_are_in_their_image() -> None:
    rows = Regions(20, 50)(np.random.default_rng(0), (40, 5, 1, 1))
    assert rows.shape == (40, 5, 1, 1) and rows.dtype == np.float32
    image, x1, y1, x2, y2 = rows.reshape(40, 5).T
    assert (image == 0).all() and (x1 < x2).all() and (y1 < y2).all()
    assert x1.min() >= 0 and 40 < x2.max() <= 50 and 15 < y2.max() <= 20
    assert str(Regions(20, 50)) == "regions of 20 x 50 pixels"


def test_an_output_that_the_input_does_not_reach_is_remarked() -> None:
    graph, params = net()
    params = [np.zeros_like(p) for p in params]
    proof = parity(export(graph, params), forward_of(graph, params), threads=1)
    assert proof.ok
    assert "a: the same in every run: nothing of the input reaches it" in proof.table()


def test_indices_are_drawn_as_told() -> None:
    graph, params = net()
    seen = []

    def spy(inputs):
        seen.append(inputs["data"])
        return forward_of(graph, params)(inputs)

    draws = {"data": Draw(0, 10, whole=True)}
    proof = parity(export(graph, params), spy, seeds=(5,), draws=draws, threads=1)
    assert proof.cases == ("seed 5: data (2, 6) in 0..10",)
    (values,) = seen
    assert values.dtype == np.float32
    assert (values == np.floor(values)).all()
    assert values.min() >= 0
    assert values.max() <= 9


def test_the_same_seeds_give_the_same_proof() -> None:
    graph, params = net()
    model = export(graph, params)
    first, second = (parity(model, forward_of(graph, params), threads=1) for _ in range(2))
    assert first == second


def test_the_table_shows_each_output_with_its_tolerance_and_the_reason() -> None:
    graph, params = net()
    proof = parity(export(graph, params), forward_of(graph, params), threads=1)
    exact = [
        dataclasses.replace(o, max_abs=1.25e-7, max_rel=2e-7, allowed=1e-5) for o in proof.outputs
    ]
    lines = dataclasses.replace(proof, outputs=tuple(exact)).table().splitlines()
    assert lines[:3] == [
        "output  shape   max abs   max rel   allowed",
        "a       2x4    1.25e-07  2.00e-07  1.00e-05  ok",
        "b       2x5    1.25e-07  2.00e-07  1.00e-05  ok",
    ]
    assert "largest magnitude, as float32 sums\n         depend on their order" in "\n".join(lines)
    assert "  seed 1: data (2, 6) in 0..1" in lines


def test_the_proof_can_be_written_as_json() -> None:
    graph, params = net()
    fields = parity(export(graph, params), forward_of(graph, params), threads=1).as_dict()
    read = json.loads(json.dumps(fields))
    assert read["ok"] is True
    assert [o["name"] for o in read["outputs"]] == ["a", "b"]


def test_a_forward_that_lacks_an_output_is_a_bug_of_the_caller() -> None:
    graph, params = net()
    with pytest.raises(ValueError, match="not \\['a'\\]"):
        parity(export(graph, params), lambda inputs: {"b": inputs["data"]}, threads=1)


# -- netc's side -----------------------------------------------------------------------------------


def test_forward_takes_any_batch_size_and_gives_fresh_arrays() -> None:
    graph, params = net()
    forward = forward_of(graph, params)
    x = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)
    first = forward({"data": x})
    kept = first["a"].copy()
    assert {name: a.shape for name, a in first.items()} == {"a": (5, 4), "b": (5, 5)}
    np.testing.assert_allclose(forward({"data": x[:1]})["a"], kept[:1], rtol=1e-5, atol=1e-6)
    forward({"data": -x})
    assert np.array_equal(first["a"], kept)


def test_forward_refuses_inputs_of_other_shapes() -> None:
    graph, params = net()
    with pytest.raises(NetcError, match="more than the batch size"):
        forward_of(graph, params)({"data": np.zeros((2, 7), np.float32)})
