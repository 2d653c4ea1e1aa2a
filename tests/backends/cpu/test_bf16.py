"""bfloat16 on the CPU backend: which layers run in it, and how far the numbers are from float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from netc.assemble import load_graph
from netc.backends import find_backend
from netc.backends.base import Precision
from netc.backends.cpu import CpuBackend, onednn
from netc.backends.cpu.convolution import ConvolutionKernel
from netc.graph.types import Graph
from netc.layers.types import Phase
from netc.plan import plan
from netc.plan.types import Plan, Reorder, Step
from netc.runtime import Executor
from netc.schema import read_solver
from netc.train.settings import read_settings
from netc.train.solver import Solver
from tests.backends.cpu.test_training import NET as LENET
from tests.support.nets import graph_of, net_texts, require, set_inputs

# bfloat16 keeps 8 bits: an element is off by up to 2^-9 of its size, and so is every one of the up
# to ten layers' results; as vectors they differ by about that, where nothing cancels.
DISTANCE = 0.05

# Of random nets: a value near the kink of a ReLU or a maximum may round to its other side, where
# its whole gradient is another; in a net of a few hundred values one is some percent of all.
DISTANCE_WITH_KINKS = 0.2


@pytest.fixture(autouse=True)
def _works() -> None:
    require("cpu")
    if not onednn.has_bf16():
        pytest.skip("this processor does not multiply bfloat16")


def bf16_plan(graph: Graph, train: bool = True) -> Plan:
    return plan(graph, CpuBackend(Precision.BF16), train=train)


def run(graph: Graph, precision: Precision) -> Executor:
    backend = CpuBackend(precision)
    net = Executor(plan(graph, backend, train=True), backend, seed=1)
    net._arena[...] = 255  # NaN in every format
    set_inputs(net)
    net.forward()
    net.clear_param_diffs()
    net.backward()
    return net


def distance(ours: np.ndarray, expected: np.ndarray) -> float:
    """Return the distance of two arrays as a fraction of the longer one's length."""
    longer = max(np.linalg.norm(ours), np.linalg.norm(expected), 1e-3)
    return float(np.linalg.norm(ours - expected) / longer)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=net_texts())
def test_random_nets_are_near_float32(text: str) -> None:
    graph = graph_of(text)
    exact, ours = run(graph, Precision.FP32), run(graph, Precision.BF16)
    for key in graph.outputs:
        assert distance(ours.data(key), exact.data(key)) < DISTANCE, key
    # All at once: a gradient may be zero but for rounding, as that of a bias before a BatchNorm.
    assert distance(gradient(ours), gradient(exact)) < DISTANCE_WITH_KINKS


def gradient(net: Executor) -> np.ndarray:
    """Return the gradients of all params as one vector."""
    found = [net.param_diff_array(i) for i in range(len(net.params))]
    return np.concatenate([diff.reshape(-1) for diff in found if diff is not None])


def kinds(p: Plan) -> dict[str, str]:
    """Return how the top of each step lies, by the types that the step runs."""
    return {
        "+".join(p.graph.nodes[n].type for n in step.nodes): str(p.buffers[step.tops[0]].layout)
        for step in p.forward
        if isinstance(step, Step) and step.kernel == "cpu"
    }


ZOO = Path(__file__).resolve().parents[3] / "zoo"


@pytest.mark.parametrize("name", ["alexnet", "googlenet", "resnet50"])
def test_what_lies_between_convolutions_is_bf16(name: str) -> None:
    """One copy of the data into it; InnerProducts and losses read float32."""
    shapes = {"data": (2, 3, 224, 224), "label": (2,)}
    path = ZOO / name / f"{name}_train_test.prototxt"
    p = bf16_plan(load_graph(path, Phase.TRAIN, shapes=shapes, assume=True))
    found = kinds(p)
    followers = {"Pooling", "LRN", "Concat", "BatchNorm+Scale", "BatchNorm+Scale+ReLU"}
    followers |= {"Convolution", "Convolution+ReLU", "Eltwise+ReLU"}
    followers &= found.keys()
    assert len(followers) >= 3
    last = "pool5" if name != "googlenet" else "pool5/7x7_s1"
    assert {kind for kind in followers if "bf16" not in found[kind]} == set()
    assert found["InnerProduct"] == "None"
    widened = {p.buffers[step.source].name for step in p.reorders if _widens(p, step)}
    assert last in widened


def _widens(p: Plan, step: Reorder) -> bool:
    return p.buffers[step.source].dtype == "uint16" and p.buffers[step.target].dtype == "float32"


def test_training_is_near_float32_and_keeps_params_in_it(tmp_path: Path) -> None:
    losses, params = [], []
    for precision in Precision:
        (tmp_path / "net.prototxt").write_text(LENET, encoding="utf-8")
        (tmp_path / "solver.prototxt").write_text(
            'net: "net.prototxt" base_lr: 0.001 lr_policy: "fixed" momentum: 0.9 max_iter: 50 '
            f'random_seed: 7 snapshot_prefix: "{tmp_path}/snap" precision: "{precision.value}"',
            encoding="utf-8",
        )
        source = read_solver(tmp_path / "solver.prototxt")
        solver = Solver(source, find_backend("cpu", Precision(read_settings(source).precision)))
        assert isinstance(solver.backend, CpuBackend)
        assert solver.backend.precision is precision
        solver.step(50)
        assert all(param.dtype == np.float32 for param in solver.net.params)
        losses.append(solver.losses[-1])
        params.append(
            np.concatenate([a.reshape(-1) for a in map(solver.net.param_array, range(4))])
        )
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert distance(params[1], params[0]) < DISTANCE
    # Rounded to bfloat16 these would be the same.
    assert not np.array_equal(
        params[1].view(np.uint32) & 0xFFFF, np.zeros(params[1].size, np.uint32)
    )


def test_not_a_number_is_found_in_bf16() -> None:
    net = run(graph_of(CHAIN), Precision.BF16)
    assert net.first_nonfinite() is None
    net.params[0].fill(np.nan)
    found = net.first_nonfinite()
    assert found is not None
    assert found.node.name == "first"


CHAIN = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "first" type: "Convolution" bottom: "x" top: "a"
        convolution_param { num_output: 16 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "second" type: "Convolution" bottom: "a" top: "b"
        convolution_param { num_output: 16 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "sum" type: "Reduction" bottom: "b" top: "sum" loss_weight: 1 }
"""


def test_without_the_processor_for_it_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(onednn, "has_bf16", lambda: False)
    backend = find_backend("auto", Precision.BF16)
    assert isinstance(backend, CpuBackend)
    assert backend.precision is Precision.FP32
    assert "no AVX512-BF16 or AMX" in caplog.text
    find_backend("reference", Precision.BF16)
    assert "the reference backend computes in float32 only" in caplog.text


@pytest.mark.parametrize(("channels", "group"), [(16, 2), (16, 16), (20, 1), (20, 4)])
def test_gradients_of_weights_have_a_fast_kernel(channels: int, group: int) -> None:
    """Where groups of channels do not fill blocks, on copies with channels last."""
    text = CHAIN.replace("num_output: 16", f"num_output: {channels}").replace(
        'bottom: "a" top: "b"\n        convolution_param {',
        f'bottom: "a" top: "b"\n        convolution_param {{ group: {group}',
    )
    assert f"group: {group}" in text
    graph = graph_of(text)
    for kernel in bf16_plan(graph).kernels:
        if isinstance(kernel, ConvolutionKernel):
            assert "gemm" not in kernel._weights.implementation
    exact, ours = run(graph, Precision.FP32), run(graph, Precision.BF16)
    assert distance(gradient(ours), gradient(exact)) < DISTANCE


def test_a_bias_that_is_trained_alone() -> None:
    text = CHAIN.replace('top: "b"', 'top: "b" param { lr_mult: 0 } param { lr_mult: 1 }')
    graph = graph_of(text)
    exact, ours = run(graph, Precision.FP32), run(graph, Precision.BF16)
    assert distance(gradient(ours), gradient(exact)) < DISTANCE


def test_what_has_no_bf16_form_runs_in_float32() -> None:
    """A Deconvolution reads and writes float32; the copies stand in the plan."""
    text = CHAIN.replace(
        """"Convolution" bottom: "a" top: "b"\n        convolution_param { num_output: 16""",
        """"Deconvolution" bottom: "a" top: "b"\n        convolution_param { num_output: 16""",
    )
    graph = graph_of(text)
    p = bf16_plan(graph)
    assert "bf16" in kinds(p)["Convolution"]
    assert "bf16" not in kinds(p)["Deconvolution"]
    exact, ours = run(graph, Precision.FP32), run(graph, Precision.BF16)
    assert distance(gradient(ours), gradient(exact)) < DISTANCE
