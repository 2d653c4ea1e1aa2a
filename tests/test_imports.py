"""The line: each stage takes a finished value from its left, and nothing imports to its right.

Every import statement in netc/ is read from the source (also those inside functions, which are only
later, not elsewhere) and looked up in the table below.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "netc"

# stage: (the stages it may use, the third-party modules it may use)
#
# `errors`, `patterns`, `threads` and `_version` know nothing of netc and may be used everywhere. A
# module with a line of its own is a stage of its own: plans are made against the backends'
# contract, while the backends themselves take the plan's words.
ALLOWED: dict[str, tuple[str, str]] = {
    "text": ("", "yaml"),
    "schema": ("text", "google"),
    "layers": ("", ""),  # handed its array namespace and its ONNX builder
    "graph": ("schema layers", "google"),
    "weights": ("schema", "google numpy h5py"),
    "data": ("schema layers graph weights", "google numpy lmdb h5py cv2"),
    "backends.base": ("layers graph", ""),
    "plan": ("layers graph backends.base", "numpy"),
    "runtime": ("layers graph backends.base plan", "numpy"),
    "backends": ("layers graph backends.base plan", "numpy cupy"),
    # The stages in a row, for those who run nets.
    "assemble": ("schema layers graph data backends.base plan runtime", "numpy"),
    # Between a net that runs and its weights files.
    "learned": ("schema layers graph weights backends.base plan runtime", "numpy"),
    "export": (
        "schema layers graph weights backends backends.base plan runtime assemble learned",
        "google numpy onnx onnxruntime",
    ),
    "ingest": ("schema layers graph weights", "google numpy onnx"),
    "report": ("schema layers graph plan", "numpy cv2"),
    "train": (
        "schema layers graph weights data backends backends.base plan runtime assemble learned "
        "report",
        "google numpy rich tensorboardX",
    ),
    # What is wrong with files, found without running them.
    "checking": ("schema layers graph weights plan assemble report train", ""),
    # Old files, written anew.
    "upgrading": ("text schema weights", "google"),
    "pycaffe": (
        "text schema layers graph weights data backends backends.base plan runtime assemble "
        "learned report train",
        "google numpy cv2 h5py pydot pydotplus",
    ),
    "cli": (
        "text schema layers graph weights data backends backends.base plan runtime assemble "
        "learned export ingest report train checking upgrading pycaffe",
        "google numpy",
    ),
    "__main__": ("cli", ""),
}
EVERYWHERE = {"errors", "patterns", "threads", "_version"}

# `_typeshed` is the standard library's own types, for type checkers only.
STANDARD = sys.stdlib_module_names | {"_typeshed"}

# What no one may pay for who asks for help or checks a file.
HEAVY = {"cupy", "cv2", "h5py", "lmdb", "onnx", "onnxruntime", "rich", "tensorboardX", "torch"}


@dataclass(frozen=True)
class Import:
    """One imported module, by its full name, and where it is imported."""

    module: str
    place: str


def imports_of(path: Path) -> Iterator[Import]:
    """Yield what a source file imports, relative imports made absolute."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, place)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield Import(module, place)
            # `from netc import plan` imports a stage that the module name does not show.
            if module == "netc":
                for alias in node.names:
                    yield Import(f"netc.{alias.name}", place)


def stage_of(path: Path) -> str:
    """Return the stage of a source file, "" for the package's own __init__."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts == ("__init__",) else stage_of_module(parts)


def stage_of_module(parts: Sequence[str]) -> str:
    """Return the stage of a module, given without the leading "netc"."""
    two = ".".join(parts[:2])
    return two if two in ALLOWED else parts[0]


def violations(path: Path) -> list[str]:
    """Return, for each import that the table does not allow, one line that says so."""
    stage = stage_of(path)
    if stage in EVERYWHERE or not stage:
        stages, packages = set(), set()
    else:
        stages, packages = ({*part.split()} for part in ALLOWED[stage])
    found = []
    for imported in imports_of(path):
        top, *rest = imported.module.split(".")
        if top == "netc":
            target = stage_of_module(rest) if rest else stage
            if target == stage or target.startswith("__") or target in EVERYWHERE | stages:
                continue
            found.append(f"{imported.place}: netc.{stage} may not use netc.{target}")
        elif top not in STANDARD and top not in packages:
            found.append(f"{imported.place}: netc.{stage} may not use {top}")
    return found


SOURCES = sorted(p for p in PACKAGE.rglob("*.py") if not p.name.endswith("netc_pb2.py"))


def test_the_sources_are_found() -> None:
    assert {stage_of(p) for p in SOURCES} >= {"text", "schema", "graph", "layers"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_to_its_left(path: Path) -> None:
    assert stage_of(path) in {*ALLOWED, *EVERYWHERE, ""}, "a new stage belongs in the table above"
    assert not violations(path)


def test_the_table_has_no_cycle() -> None:
    # Stages in the order in which each uses only earlier ones; a cycle leaves some over.
    waiting = {stage: set(stages.split()) for stage, (stages, _) in ALLOWED.items()}
    while ready := [stage for stage, needs in waiting.items() if not needs & waiting.keys()]:
        for stage in ready:
            del waiting[stage]
    assert not waiting


def test_a_wrong_import_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path / "netc")
    file = tmp_path / "netc" / "layers" / "bad.py"
    file.parent.mkdir(parents=True)
    file.write_text(
        "import os, numpy.linalg\nfrom netc import plan\nfrom ..export import onnx_file\n"
        "def f():\n    import onnx\n",
        encoding="utf-8",
    )
    assert violations(file) == [
        "netc/layers/bad.py:1: netc.layers may not use numpy",
        "netc/layers/bad.py:2: netc.layers may not use netc.plan",
        "netc/layers/bad.py:3: netc.layers may not use netc.export",
        "netc/layers/bad.py:5: netc.layers may not use onnx",
    ]


def test_importing_the_command_line_is_light() -> None:
    if not (PACKAGE / "cli" / "__init__.py").exists():
        pytest.skip("netc has no command line yet")
    code = f"import sys, netc.cli; print(*sorted({HEAVY!r} & sys.modules.keys()))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.split() == []
