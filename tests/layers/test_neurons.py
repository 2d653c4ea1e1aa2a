"""Which weights come into which neuron: those that change the same outputs, found by trying."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.nets import executor_of, graph_of

# Type and settings, the bottom's shape, the axes of the top that count neurons.
CASES = [
    ("InnerProduct", "inner_product_param { num_output: 3 }", (2, 4), (1,)),
    ("InnerProduct", "inner_product_param { num_output: 3 transpose: true }", (2, 4), (1,)),
    ("Embed", "embed_param { num_output: 3 input_dim: 2 }", (2,), (1,)),
    ("Convolution", "convolution_param { num_output: 4 kernel_size: 2 }", (1, 2, 3, 3), (1,)),
    (
        "Convolution",
        "convolution_param { num_output: 4 kernel_size: 2 group: 2 }",
        (1, 4, 3, 3),
        (1,),
    ),
    ("Deconvolution", "convolution_param { num_output: 4 kernel_size: 2 }", (1, 2, 2, 2), (1,)),
    (
        "Deconvolution",
        "convolution_param { num_output: 4 kernel_size: 2 group: 2 }",
        (1, 4, 2, 2),
        (1,),
    ),
    ("LocallyConnected", "local_param { num_output: 2 kernel_size: 2 }", (1, 2, 3, 3), (1, 2, 3)),
]


@pytest.mark.parametrize(("kind", "settings", "shape", "axes"), CASES)
def test_weights_of_one_neuron_change_the_same_outputs(
    kind: str, settings: str, shape: tuple[int, ...], axes: tuple[int, ...]
) -> None:
    dims = " ".join(f"dim: {n}" for n in shape)
    graph = graph_of(f"""
        layer {{ name: "in" type: "Input" top: "x" input_param {{ shape {{ {dims} }} }} }}
        layer {{ name: "w" type: "{kind}" bottom: "x" top: "y" {settings} }}
    """)
    net = executor_of(graph, train=False)
    rng = np.random.default_rng(0)
    net.data("x")[...] = rng.uniform(1, 2, shape) if kind != "Embed" else np.arange(shape[0])
    weights = net.params[0]
    weights[...] = rng.uniform(1, 2, weights.shape)
    neurons = graph.params[0].neurons
    assert neurons is not None
    assert all(param.neurons is None for param in graph.params[1:])

    def outputs() -> np.ndarray:
        net.forward_pass = 0
        net.forward()
        return np.array(net.data("y"))

    before = outputs()
    others = [axis for axis in range(len(neurons.view)) if axis not in neurons.axes]
    changed: dict[tuple[int, ...], set[frozenset[tuple[int, ...]]]] = {}
    for place in np.ndindex(*neurons.view):
        flat = weights.reshape(neurons.view)
        flat[place], old = flat[place] + 1, flat[place]
        where = np.argwhere(outputs() != before)
        flat[place] = old
        units = frozenset(tuple(int(row[axis]) for axis in axes) for row in where)
        changed.setdefault(tuple(place[axis] for axis in others), set()).add(units)
    assert all(len(units) == 1 for units in changed.values()), "one neuron, one set of outputs"
    found = [next(iter(units)) for units in changed.values()]
    assert len(set(found)) == len(found), "two neurons have outputs of their own"
    assert all(len(units) == 1 for units in found)
