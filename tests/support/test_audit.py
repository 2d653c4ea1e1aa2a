"""The audit fails a whole run in which a check is missing, in one process and in several."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.demands import EXEMPT, demands, vector_types

ROOT = Path(__file__).parents[2]

CONFTEST = """
from pathlib import Path
from tests.support.audit import Audit

def pytest_configure(config):
    config.pluginmanager.register(
        Audit(Path(__file__).parent, lambda: {"A": {"definition", "onnx"}, "B": {"gradient"}})
    )
"""
ALL_OF_A = """
from tests.support.audit import definition, note

@definition("A")
def slow(x): return x + 1

def test_a(): assert slow(1) == 2
def test_a_in_onnx(): note("onnx", "A")
"""
B = "from tests.support.audit import note\ndef test_b(): note('gradient', 'B')\n"
FAILING_B = B.replace("\n", "; assert False\n").replace("; assert False", "", 1)
UNCALLED = ALL_OF_A.replace("slow(1) == 2", "True")


def run(folder: Path, *arguments: str, **files: str) -> tuple[int, str]:
    """Run pytest on a suite of its own; return the exit status and what it says."""
    for name, text in ({"conftest": CONFTEST} | files).items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=folder, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "two workers"])
def test_what_is_missing_fails_a_whole_run(tmp_path: Path, workers: tuple[str, ...]) -> None:
    status, text = run(tmp_path, *workers, test_a=ALL_OF_A, test_b=B)
    assert status == 0, text
    status, text = run(tmp_path, *workers, test_a=UNCALLED, test_b="def test_b(): pass")
    assert status == 1
    assert "A: no definition\nB: no gradient\n" in text and "A: no onnx" not in text


def test_a_test_that_fails_is_no_evidence_and_a_part_is_not_judged(tmp_path: Path) -> None:
    status, text = run(tmp_path, test_a=ALL_OF_A, test_b=FAILING_B)
    assert status == 1 and "not checked" not in text
    for part in (("-k", "a"), ("test_a.py",), ("test_a.py::test_a",), ("--deselect", "test_b.py")):
        status, text = run(tmp_path, *part, test_a=ALL_OF_A, test_b=B)
        assert status == 0, text
    # Given by its folder, it is whole.
    status, text = run(tmp_path, ".", test_a=ALL_OF_A, test_b="def test_b(): pass")
    assert status == 1 and "B: no gradient" in text


def test_what_is_demanded_of_types_known_by_heart() -> None:
    found = demands()
    assert found["ReLU"] == {"gradient", "onnx"}
    assert found["ReLU6"] == {"definition", "gradient", "onnx"}
    assert found["Transpose"] == {"definition"}
    assert found["AnchorTarget"] == {"definition"}
    assert found["Data"] == set()
    assert {"LSTM", "MVN"} <= vector_types() and "Lstm" not in vector_types()
    assert not found.keys() & EXEMPT.keys()
    # A type whose backward rule is inherited has one.
    assert "gradient" in found["L1Loss"]
