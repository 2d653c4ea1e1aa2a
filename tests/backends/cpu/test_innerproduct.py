"""Large gradients of an InnerProduct, which come in pieces where nobody needs them whole."""

from __future__ import annotations

import numpy as np
import pytest

from netc.backends.cpu import innerproduct
from netc.plan import Updates
from netc.plan.types import Update
from tests.support.nets import executor_of, graph_of, require, set_inputs

# Half of the rows are whole blocks of 8 to 64, whatever the library chooses; the odd number of
# columns of the first layer leaves padding.
NET = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 3 dim: 31 } } }
layer { name: "first" type: "InnerProduct" bottom: "x" top: "h"
        inner_product_param { num_output: 128 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "h" top: "h" }
layer { name: "second" type: "InnerProduct" bottom: "h" top: "y"
        inner_product_param { num_output: 384 %s weight_filler { type: "xavier" } } }
layer { name: "sum" type: "Reduction" bottom: "y" top: "sum" loss_weight: 1
        reduction_param { operation: SUMSQ } }
"""


@pytest.fixture(autouse=True)
def _works() -> None:
    require("cpu")


@pytest.mark.parametrize("bias", ["", "bias_term: false"])
@pytest.mark.parametrize("nbytes", [1 << 12, 1 << 14, 80_000])
def test_the_pieces_make_up_the_gradient(
    monkeypatch: pytest.MonkeyPatch, bias: str, nbytes: int
) -> None:
    """Whoever takes a piece may spoil the weights: the gradient of the bottom is there before."""
    monkeypatch.setattr(innerproduct, "PIECE_BYTES", nbytes)
    graph = graph_of(NET % bias)
    whole = executor_of(graph, backend_name="cpu")
    pieces = executor_of(graph, backend_name="cpu", updates=Updates.PIECES)
    assert pieces.plan.param_layouts == whole.plan.param_layouts
    # The weights of the second layer are param 2.
    assert 2 not in pieces.plan.param_diff
    found = [np.full(param.size, np.nan, np.float32) for param in pieces.params]
    calls = [0] * len(found)

    def take(index: int, start: int, gradient: np.ndarray) -> None:
        found[index][start : start + gradient.size] = gradient.reshape(-1)
        calls[index] += 1
        pieces.params[index].reshape(-1)[start : start + gradient.size] = np.nan
        gradient[...] = np.nan

    pieces.on_gradient = take
    for net in (whole, pieces):
        set_inputs(net)
        net.clear_param_diffs()
        net.forward()
        net.backward()
    for index, expected in enumerate(whole.param_diffs):
        assert expected is not None
        # In C order, a product of another size may be summed up in another order.
        np.testing.assert_allclose(found[index], expected.reshape(-1), rtol=1e-6, atol=1e-6)
    assert calls[2] > 1
    assert pieces.plan.updated == set(range(len(found)))
    at_once = {step.param for step in pieces.plan.backward if isinstance(step, Update)}
    assert at_once == set(pieces.plan.param_diff)


def test_a_gradient_that_is_needed_whole_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(innerproduct, "PIECE_BYTES", 1 << 12)
    net = executor_of(graph_of(NET % ""), backend_name="cpu", updates=Updates.WHOLE)
    assert set(net.plan.param_diff) == net.plan.updated
