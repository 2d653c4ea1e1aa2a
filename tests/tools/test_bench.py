"""The bench: what it tells the peer of a net, its own steps, and a run without a peer."""

from __future__ import annotations

import json
from pathlib import Path

import bench
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
