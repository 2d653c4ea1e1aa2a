"""The bench: what it tells the peer of a net, its own steps, and a run without a peer."""

from __future__ import annotations

import json
from pathlib import Path

import bench
import bench_runtimes
import bench_start
import bench_torch
import cv2
import numpy as np
import onnxruntime
import pytest


@pytest.mark.parametrize("net", bench.NETS)
def test_every_net_is_described_for_the_peer(net: str) -> None:
    layers = bench.described(net, "train")
    json.dumps(layers)
    assert layers[0]["type"] == "Data"
    weights = [entry["weight"] for entry in layers if "weight" in entry]
    assert weights == pytest.approx([0.3, 0.3, 1.0] if net == "googlenet" else [1.0])
    assert not any("weight" in entry for entry in bench.described(net, "infer"))


@pytest.mark.parametrize("mode", ["train", "infer"])
def test_a_step_runs(mode: str) -> None:
    step = bench.netc_step("lenet", mode, "auto")
    step()
    step()


def test_a_result_without_a_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out.json"
    monkeypatch.setattr(
        bench, "machine", lambda: {"cpu": "x", "cores": 1, "sgemm_gflops": 1, "copy_gbytes": 1}
    )
    arguments = "--net lenet --no-peer --steps 2 --warmup 0 --backend reference --json"
    monkeypatch.setattr("sys.argv", ["bench.py", *arguments.split(), str(file)])
    bench.main()
    (found,) = json.loads(file.read_text(encoding="utf-8"))
    assert (found["net"], found["batch"]) == ("lenet", 64)
    assert found["netc_ms"] > 0 and found["netc_mb"] > 10
    assert "lenet" in capsys.readouterr().out


def test_a_turn_repeats_short_steps_and_leaves_out_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = iter([0.0, 0.03, 0.04, 0.06])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    steps: list[None] = []
    assert bench.turn(lambda: steps.append(None), least=0.05) == pytest.approx(0.015)
    assert len(steps) == 3


def test_a_turn_is_one_step_where_that_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 2.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    assert bench.turn(lambda: None, least=0.05) == 2.0


def test_the_operations_of_a_step() -> None:
    """LeNet by hand: the multiply-adds of its four products, and three passes but for the first."""
    conv1, conv2 = 64 * 20 * 24 * 24 * 25, 64 * 50 * 8 * 8 * 20 * 25
    ip1, ip2 = 64 * 500 * 800, 64 * 10 * 500
    # Additions of a bias are counted too.
    infer, train = 2 * (conv1 + conv2 + ip1 + ip2), 2 * (2 * conv1 + 3 * (conv2 + ip1 + ip2))
    assert bench.operations("lenet", "infer") == pytest.approx(infer, rel=1e-3)
    assert bench.operations("lenet", "train") == pytest.approx(train, rel=1e-3)


def test_the_forms_of_the_peer() -> None:
    assert bench_torch.forms(bf16=False, compiled=False) == ["nchw", "channels_last"]
    names = bench_torch.forms(bf16=True, compiled=True)
    assert len(names) == len(set(map(bench_torch.Form.of, names))) == 8
    assert bench_torch.Form.of("channels_last-bf16") == bench_torch.Form(True, bf16=True)


@pytest.mark.parametrize("net", ["lenet", "cifar10_quick"])
def test_all_runtimes_are_given_the_same_net(net: str, tmp_path: Path) -> None:
    bench_runtimes.write_files(bench.text_of(net), bench.graph_of(net, "infer"), tmp_path)
    x = np.random.default_rng(0).standard_normal(bench.NETS[net], dtype=np.float32)
    session = onnxruntime.InferenceSession(tmp_path / bench_runtimes.ONNX)
    (expected,) = session.run(None, {session.get_inputs()[0].name: x})
    files = (tmp_path / name for name in (bench_runtimes.TEXT, bench_runtimes.WEIGHTS))
    other = cv2.dnn.readNetFromCaffe(*map(str, files))
    other.setInput(x)
    np.testing.assert_allclose(other.forward(), expected, rtol=1e-3, atol=1e-5)
    for runtime in bench.RUNTIMES:
        bench_runtimes.step_of(runtime, tmp_path, bench.NETS[net])()


def test_what_each_convolution_reaches(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        bench, "machine", lambda: {"cpu": "x", "cores": 1, "sgemm_gflops": 1, "copy_gbytes": 1}
    )
    arguments = "--mode convolutions --net lenet --steps 1 --backend auto"
    monkeypatch.setattr("sys.argv", ["bench.py", *arguments.split()])
    bench.main()
    assert "conv2" in capsys.readouterr().out


def test_a_deep_net_is_planned_and_weights_are_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bench_start, "REPEATS", 1)
    monkeypatch.setattr(bench_start, "SHAPE", (1, 10, 10))
    told: list[dict[str, object]] = []
    bench_start.run(told.append)
    assert [found.get("what") for found in told] == [
        "resnet152 text to plan",
        "resnet152 netc check",
        "load",
    ]


def test_onednns_product_is_one() -> None:
    a = np.random.default_rng(0).standard_normal((64, 64), dtype=np.float32)
    out = np.empty_like(a)
    for product in bench.onednn_product(a, out):
        product()
        np.testing.assert_allclose(out, a @ a, rtol=1e-4, atol=1e-4)
