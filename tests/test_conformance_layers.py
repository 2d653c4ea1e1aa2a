"""Every layer vector of BVLC Caffe through text, graph, plan and runtime.

On each backend that works here: once with shared memory, as training runs, and once with every
blob kept, as pycaffe runs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from netc.graph.types import Graph
from netc.layers.types import Phase
from netc.runtime import Executor
from tests.support.nets import executor_of, net_of, require

VECTORS = sorted((Path(__file__).parent / "conformance" / "layers").glob("*.npz"))

# float32 in another summation order than Caffe's; atol scales with the largest magnitude, as the
# README beside the vectors says.
RTOL, ATOL = 1e-4, 1e-5
# Indices and counts must be the same numbers.
EXACT = ("argmax__", "accuracy__")


def agree(ours: np.ndarray, caffes: np.ndarray, what: str, exact: bool = False) -> None:
    assert ours.shape == caffes.shape, what
    if not caffes.size:
        return
    atol = 0.0 if exact else ATOL * max(1.0, float(np.abs(caffes).max()))
    np.testing.assert_allclose(ours, caffes, rtol=0 if exact else RTOL, atol=atol, err_msg=what)


class Case:
    """One vector and the net built from it."""

    def __init__(self, path: Path, keep: str, backend: str = "reference") -> None:
        self.z = dict(np.load(path))
        self.exact = path.stem.startswith(EXACT)
        net = net_of(str(self.z["prototxt"]), Phase[str(self.z["phase"])])
        self.graph: Graph = net.graph
        backward = any(key.startswith("top_diff:") for key in self.z)
        self.net: Executor = executor_of(net, train=backward, keep=keep, backend_name=backend)
        self.places = {
            (node.name, i): use for node in self.graph.nodes for i, use in enumerate(node.params)
        }
        for key, value in self.items("param"):
            layer, i = key.rsplit(":", 1)
            use = self.places[layer, int(i)]
            self.net.set_param(use.param, value)

    def items(self, kind: str) -> list[tuple[str, np.ndarray]]:
        return [(k.split(":", 1)[1], v) for k, v in self.z.items() if k.split(":", 1)[0] == kind]

    def key(self, name: str) -> str:
        """Caffe names the copies of a blob with several readers `a_power_0_split_0`.

        There are none here.
        """
        return self.graph.last[name.split("_power_0_split_")[0]]

    def forward(self, kind: str = "input") -> None:
        for name, value in self.items(kind):
            self.net.data(self.key(name))[...] = value
        self.net.forward()

    def check_forward(self, keep: str) -> None:
        for name, value in self.items("output") + (self.items("blob") if keep else []):
            agree(self.net.data(self.key(name)), value, name, self.exact)
        for key, value in self.items("param_after"):
            layer, i = key.rsplit(":", 1)
            agree(self.net.param_array(self.places[layer, int(i)].param), value, key)
        if "total_loss" in self.z:
            agree(np.float32(self.net.loss()), self.z["total_loss"], "total loss")

    def check_backward(self) -> None:
        for name, value in self.items("top_diff"):
            if "_split_" not in name and self.key(name) in self.net.plan.diff:
                self.net.diff(self.key(name))[...] = value
        self.net.backward()
        for name, value in self.items("grad_input"):
            agree(self.net.diff(name), value, f"gradient of {name}")
        for key, value in self.items("grad_param"):
            layer, i = key.rsplit(":", 1)
            use = self.places[layer, int(i)]
            diff = self.net.param_diff_array(use.param)
            # A frozen param has no gradient; Caffe shows the zeros that its diff began with.
            ours = np.zeros_like(value) if diff is None else diff.reshape(use.shape)
            agree(ours, value, f"gradient of {key}")


def test_the_vectors_are_here() -> None:
    assert len(VECTORS) == 274


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("keep", ["", "all"], ids=["shared", "kept"])
@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_vector(path: Path, keep: str, backend: str) -> None:
    require(backend)
    case = Case(path, keep, backend)
    case.forward()
    case.check_forward(keep)
    if case.net.plan.train:
        case.check_backward()
    if case.items("input2"):
        case.forward("input2")
        for name, value in case.items("output2"):
            agree(case.net.data(case.key(name)), value, f"second pass: {name}")
