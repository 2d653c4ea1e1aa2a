from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import quickstart_predict
from make_digits import held_out, load_digits
from onnx import TensorProto, helper, numpy_helper

from netc.errors import NetcError


def nearest_mean(path: Path, batch: int | str) -> float:
    """Write a linear classifier made from the class means; return its accuracy in percent."""
    images, labels = load_digits()
    tests = held_out(labels)
    x = images.reshape(len(images), 64).astype(np.float32) / 16
    means = np.stack([x[(labels == digit) & ~tests].mean(axis=0) for digit in range(10)])
    # |x - m|^2 is smallest where x.m - |m|^2 / 2 is largest.
    bias = -0.5 * (means**2).sum(axis=1)
    shape = [batch, 1, 8, 8]
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["data"], ["flat"]),
            helper.make_node("Gemm", ["flat", "w", "b"], ["prob"], transB=1),
        ],
        "means",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("prob", TensorProto.FLOAT, [batch, 10])],
        [numpy_helper.from_array(means, "w"), numpy_helper.from_array(bias, "b")],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return 100 * float(((x @ means.T + bias).argmax(axis=1) == labels)[tests].mean())


@pytest.mark.parametrize("batch", ["N", 64])
def test_the_accuracy_is_the_models(
    batch: int | str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    percent = nearest_mean(tmp_path / "net.onnx", batch)
    assert 80 < percent < 95  # so that it is neither right nor wrong throughout
    monkeypatch.setattr(sys, "argv", ["quickstart_predict.py", str(tmp_path / "net.onnx")])
    quickstart_predict.main()
    printed = capsys.readouterr().out
    assert f"{percent:.2f} %" in printed
    assert printed.count("predicted") == 10

    sys.argv += ["-at_least", "98"]
    with pytest.raises(SystemExit, match="at least 98 %"):
        quickstart_predict.main()


def test_a_picture_goes_from_paper_to_ink() -> None:
    image = np.arange(64, dtype=np.uint8).reshape(8, 8) % 17
    lines = quickstart_predict.picture(image)
    assert len(lines) == 8 and {len(line) for line in lines} == {16}
    assert lines[0][:2] == "  " and lines[2][:2] == "@@"  # grey levels 0 and 16


def test_what_is_not_onnx_is_told(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"no")
    images, _ = load_digits()
    with pytest.raises(NetcError, match="ONNX Runtime cannot load it"):
        quickstart_predict.predict(tmp_path / "net.onnx", images)
