"""The examination: versions compared, packages that are broken, drivers that do not answer."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from netc.report import doctor
from netc.report.doctor import Finding, Status, examine, render


@pytest.mark.parametrize(
    ("version", "requirement", "good"),
    [
        ("2.0", "numpy>=2.0", True),
        ("2", "numpy>=2.0", True),
        ("2.0.0rc1", "numpy>=2.0", True),
        ("1.26.4", "numpy>=2.0", False),
        ("2.10", "numpy>=2.9", True),
        ("4.14.0.94", "opencv-python-headless>=4.9,<5", True),
        ("5.0", "opencv-python-headless<5,>=4.9", False),
        ("5.0.1", "opencv-python-headless<5,>=4.9", False),
        ("anything", "lmdb", True),
    ],
)
def test_versions(version: str, requirement: str, good: bool) -> None:
    assert doctor._satisfies(version, requirement) == good


def test_the_requirements_are_those_of_the_project() -> None:
    assert doctor._requirement(("numpy",)).startswith("numpy>=")
    assert doctor._requirement(("opencv-python-headless",)).count("<5") == 1
    assert doctor._requirement(("onnxruntime", "onnxruntime-gpu")).startswith("onnxruntime")
    needed = {
        name.lower() for distributions, _ in doctor._MODULES.values() for name in distributions
    }
    needed.add("onednn-cpu-gomp")  # without it a backend is absent, which is told there
    for line in doctor._requirements():
        name = line.split(";")[0].split("[")[0].rstrip("<>=0123456789.,! ").lower()
        if "extra" not in line:
            assert name in needed, f"nobody examines {name}"


def found(module: str) -> Finding:
    return doctor._module(module)


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: "")
    finding = found("cv2")
    assert finding.status is Status.MISSING
    assert finding.found == "needed for images in files and databases"
    assert finding.hint.startswith(f'{sys.executable} -m pip install "opencv-python-headless')


def test_a_package_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ImportError("libGL.so.1: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", fail)
    finding = found("cv2")
    assert finding.status is Status.BROKEN
    assert finding.found.endswith("cannot be imported: libGL.so.1: cannot open shared object file")


def test_a_package_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: "1.26.0")
    finding = found("numpy")
    assert finding.status is Status.BROKEN
    assert finding.found.startswith("1.26.0, but netc needs numpy>=")


def test_two_packages_with_one_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: "99.0" if "onnxr" in name else "")
    finding = found("onnxruntime")
    assert finding.status is Status.OK
    assert finding.hint.endswith("keep one of onnxruntime and onnxruntime-gpu")


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Finding]:
    """Put a program of that name first on the path; return what is found then."""

    def install(script: str) -> Finding:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])
        return doctor._gpu()

    return install


def test_a_gpu(nvidia_smi: Callable[[str], Finding]) -> None:
    finding = nvidia_smi("echo 'NVIDIA H200, 143771 MiB, 570.1'")
    assert finding.status is Status.OK
    assert finding.found.startswith("0: NVIDIA H200, 143771 MiB, 570.1\n")


def test_a_driver_that_is_broken(nvidia_smi: Callable[[str], Finding]) -> None:
    finding = nvidia_smi("echo 'no devices were found'; exit 6")
    assert finding.status is Status.ABSENT
    assert finding.found == "nvidia-smi finds none: no devices were found"


def test_a_driver_that_hangs(
    nvidia_smi: Callable[[str], Finding], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_PATIENCE", 0.2)
    assert nvidia_smi("exec sleep 20").found.startswith("nvidia-smi does not answer")


def test_no_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    finding = doctor._gpu()
    assert finding.status is Status.ABSENT
    assert not finding.status.bad
    assert finding.found.startswith("none (there is no nvidia-smi")


def test_threads_that_are_bound_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert any(f.name == "threads" and "OMP_NUM_THREADS=1" in f.found for f in examine({}))


def test_the_backend_that_is_taken() -> None:
    found = doctor._backends({"a": (False, "no a here"), "b": (True, "B 1.0"), "c": (True, "C")})
    assert [(f.name, f.status, f.found) for f in found] == [
        ("a", Status.ABSENT, "no a here"),
        ("b", Status.OK, "B 1.0; -backend auto takes it"),
        ("c", Status.OK, "C"),
    ]


def test_text_and_json() -> None:
    findings = [
        Finding("netc", "python", Status.OK, "3.13"),
        Finding("packages", "lmdb", Status.MISSING, "needed for Data layers", "pip install lmdb"),
        Finding("packages", "h5py", Status.BROKEN, "cannot be imported", "reinstall it"),
        Finding("devices", "GPU", Status.ABSENT, "none\nat all"),
    ]
    assert render(findings).splitlines() == [
        "netc",
        "  python  3.13",
        "packages",
        "  lmdb    MISSING: needed for Data layers",
        "          -> pip install lmdb",
        "  h5py    BROKEN: cannot be imported",
        "          -> reinstall it",
        "devices",
        "  GPU     none",
        "          at all",
        "2 of the things that netc needs are not in order",
    ]
    assert json.loads(render(findings, "json"))[1] == {
        "section": "packages",
        "name": "lmdb",
        "status": "missing",
        "found": "needed for Data layers",
        "hint": "pip install lmdb",
    }
