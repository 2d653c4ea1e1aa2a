"""How far bfloat16 moves gradients: the rounding, and the table for a small net."""

from __future__ import annotations

import sys
from pathlib import Path

import bf16_noise
import numpy as np
import pytest

from netc.cli import main as netc
from tests.support.furnished import furnish
from tests.support.nets import require


def test_rounding_is_to_the_nearest_and_halves_to_even() -> None:
    # 8 bits of mantissa: between 1 and 2 the step is 1 / 128.
    step = 1 / 128
    values = np.array(
        [1.0, *(1 + share * step for share in (0.4, 0.6, 0.5, 1.5)), -0.0], np.float32
    )
    wanted = np.array([1, 1, 1 + step, 1, 1 + 2 * step, -0.0], np.float32)
    bf16_noise.round_to_bfloat16(values)
    np.testing.assert_array_equal(values, wanted)
    values = np.float32(10) ** np.arange(-37, 38).astype(np.float32)
    rounded = values.copy()
    bf16_noise.round_to_bfloat16(rounded)
    assert (np.abs(rounded / values - 1) <= 1 / 256).all()
    values = rounded
    assert not (values.view(np.uint32) & 0xFFFF).any()


def test_the_table_has_a_row_for_each_param_that_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    require("cpu")
    monkeypatch.chdir(furnish(tmp_path))
    assert netc(["train", "-solver", "solver.prototxt", "-quiet"]) == 0
    capsys.readouterr()
    arguments = ["bf16_noise.py", "net.prototxt", "run_iter_6.caffemodel", "--batches", "3"]
    monkeypatch.setattr(sys, "argv", arguments)
    bf16_noise.main()
    header, _, *rows = (line.split() for line in capsys.readouterr().out.splitlines())
    assert header == ["param", "bias", "floor", "batches"]
    assert [row[:2] for row in rows] == [["conv1", "0"], ["conv1", "1"], ["ip", "0"], ["ip", "1"]]
    for row in rows:
        bias, floor, batches = map(float, row[2:])
        assert 0 < bias < 10 and floor < 10 < batches
