"""`netc export`: the file, the table, and what stands in the way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from netc.export import deliver
from tests.cli.conftest import Netc

WEIGHTS = ("-weights", "run_iter_6.caffemodel")
CALL = ("export", "-model", "net.prototxt", *WEIGHTS, "-output", "net.onnx")


def ends_of(path: str) -> tuple[dict[str, list[object]], dict[str, list[object]]]:
    """Return name -> shape of the inputs and of the outputs of a file."""
    graph = onnx.load(path).graph
    both = []
    for values in (graph.input, graph.output):
        both.append(
            {
                value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
                for value in values
            }
        )
    return both[0], both[1]


def test_a_training_net_becomes_a_proven_file(folder: Path, netc: Netc) -> None:
    told = netc(*CALL)
    assert told.code == 0
    lines = told.out.splitlines()
    assert lines[0] == "weights: 2 layers copied, 0 freshly filled, 0 in the weights but unused"
    assert lines[1] == "opset 17, inputs data (N, 3, 8, 8)"
    assert lines[3].startswith("prob    Nx5 ")
    assert lines[3].endswith("  ok")
    assert lines[-1].startswith("wrote net.onnx (")
    assert ends_of("net.onnx") == ({"data": ["N", 3, 8, 8]}, {"prob": ["N", 5]})
    names = {p.key: p.value for p in onnx.load("net.onnx").metadata_props}
    assert names["netc.model.file"] == "net.prototxt"
    assert names["netc.weights.file"] == "run_iter_6.caffemodel"


@pytest.mark.parametrize(
    ("flags", "inputs", "outputs"),
    [
        ("-batch 4", [4, 3, 8, 8], {"prob": [4, 5]}),
        ("-batch dynamic -outputs ip", ["N", 3, 8, 8], {"ip": ["N", 5]}),
        ("-batch 1 -outputs prob,conv1", [1, 3, 8, 8], {"conv1": [1, 4, 6, 6], "prob": [1, 5]}),
    ],
)
def test_batch_and_outputs(
    flags: str, inputs: list[object], outputs: dict[str, object], folder: Path, netc: Netc
) -> None:
    assert netc(*CALL, *flags.split()).code == 0
    assert ends_of("net.onnx") == ({"data": inputs}, outputs)


def test_an_opset(folder: Path, netc: Netc) -> None:
    assert netc(*CALL, "-opset", "13").code == 0
    assert onnx.load("net.onnx").opset_import[0].version == 13


def test_a_net_for_deployment_is_exported_as_it_is(folder: Path, netc: Netc) -> None:
    told = netc("export", "-model", "deploy.prototxt", *WEIGHTS, "-output", "net.onnx")
    assert told.code == 0
    assert ends_of("net.onnx") == ({"data": [2, 3, 8, 8]}, {"prob": [2, 5]})


def test_both_texts_of_a_net_give_the_same_numbers(folder: Path, netc: Netc) -> None:
    import onnxruntime

    netc(*CALL)
    netc("export", "-model", "deploy.prototxt", *WEIGHTS, "-output", "deploy.onnx")
    image = np.random.default_rng(0).random((2, 3, 8, 8), np.float32)
    one, other = (
        onnxruntime.InferenceSession(name, providers=["CPUExecutionProvider"]).run(
            None, {"data": image}
        )[0]
        for name in ("net.onnx", "deploy.onnx")
    )
    np.testing.assert_array_equal(one, other)


def test_json(folder: Path, netc: Netc) -> None:
    told = netc(*CALL, "-format", "json")
    found = json.loads(told.out)
    assert found["ok"] is True
    assert [output["name"] for output in found["outputs"]] == ["prob"]
    assert found["remarks"][0].startswith("weights: 2 layers copied")


def test_a_net_without_its_data(folder: Path, netc: Netc) -> None:
    net = Path("net.prototxt")
    net.write_text(net.read_text().replace('source: "db"', 'source: "away"'))
    assert netc(*CALL).code == 1
    told = netc(*CALL, "-shape", "data=1,3,8,8")
    assert told.code == 0
    assert told.out.startswith("note: net.prototxt:11:1: database 'away' does not exist")


def test_a_mismatch_is_told_and_not_written(
    folder: Path, netc: Netc, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(deliver.Forward):
        def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {name: value + 0.01 for name, value in super().__call__(inputs).items()}

    monkeypatch.setattr(deliver, "Forward", Wrong)
    Path("net.onnx").write_bytes(b"an earlier file")
    told = netc(*CALL)
    assert told.code == 1
    assert "MISMATCH" in told.out
    assert "wrote" not in told.out
    assert told.err.startswith("'prob': ONNX Runtime and netc do not agree\n")
    assert Path("net.onnx").read_bytes() == b"an earlier file"


def test_weights_are_needed(folder: Path, netc: Netc) -> None:
    told = netc("export", "-model", "net.prototxt", "-output", "net.onnx")
    assert told.code == 2
    assert "hint      -random_weights does without" in told.err
    assert netc(*CALL[:3], "-output", "net.onnx", "-random_weights").code == 0


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("-weights nope.caffemodel", "nope.caffemodel: there is no such file"),
        ("-output nowhere/net.onnx", "nowhere/net.onnx: cannot write the file"),
        ("-output net.prototxt", "net.prototxt: the output would replace what it is made from"),
        ("-opset 3", "opset 3 is not supported"),
        ("-outputs pron", "did you mean 'prob'?"),
        ("-phase TRAIN", "a net for training cannot be exported"),
        ("-model solver.prototxt", "solver.prototxt: this is a solver, not a net"),
    ],
)
def test_mistakes_are_told_in_words(flags: str, told: str, folder: Path, netc: Netc) -> None:
    answer = netc(*CALL, *flags.split())
    assert answer.code == 1
    assert told in answer.err
    assert not Path("net.onnx").exists()


def test_weights_that_lack_a_layer(folder: Path, netc: Netc) -> None:
    net = Path("net.prototxt")
    net.write_text(net.read_text().replace('name: "ip"', 'name: "ip_new"'))
    told = netc(*CALL)
    assert told.code == 1
    assert "layer 'ip_new': the weights do not have this layer" in told.err
    told = netc(*CALL, "-random_weights")
    assert told.code == 0
    assert "  layer 'ip_new' is filled by its filler" in told.out.splitlines()
