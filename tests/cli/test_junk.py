"""Whatever file is given for another: words, an exit code, and no traceback, from every verb."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Netc

FILES = Path(__file__).resolve().parents[1] / "conformance" / "files"


def _truncated() -> bytes:
    return Path("run_iter_6.caffemodel").read_bytes()[:500]


# Name -> content, for what is not in the folder anyway.
JUNK: dict[str, bytes | Callable[[], bytes]] = {
    "empty": b"",
    "zeros": bytes(3000),
    "noise": bytes(range(256)) * 8,
    "words": b"hello world, this is no net\n",
    "open.yaml": b"a: [1, 2\n b: {",
    "list.yaml": b"- a\n- b\n",
    "number.json": b"3",
    "deep.prototxt": b"layer {" * 3000,
    "deep.yaml": b"[" * 300,
    "nul.prototxt": rb"name: 'a\0b'",
    "utf16.prototxt": "name: 'x'".encode("utf-16"),
    "latin1.prototxt": b"name: '\xe9'\nlayer { name: '\xe9' type: 'ReLU' bottom: '\xe9' top: 'y' }",
    "name.prototxt": b'name: "only a name"',
    "page.html": b"<!DOCTYPE html><html>404</html>",
    "cut.caffemodel": _truncated,
}
FOUND = [
    *(".", "nope", "db", "db/data.mdb", "net.prototxt", "solver.prototxt", "deploy.prototxt"),
    *("run_iter_6.caffemodel", "run_iter_6.solverstate", "x" * 300, "~", "~nobody/x"),
]
ELSEWHERE = ["weights.h5", "model_iter_4.solverstate.h5", "mean.binaryproto"]

CALLS = [
    "check {}",
    "summary -model {}",
    "time -model {} -iterations 1",
    "time -model {} -phase TEST -plan",
    "train -solver {}",
    "train -solver solver.prototxt -weights {}",
    "train -solver solver.prototxt -snapshot {}",
    "test -model {} -random_weights -iterations 1",
    "test -model net.prototxt -weights {} -iterations 1",
    "export -model {} -random_weights -output out.onnx",
    "export -model net.prototxt -weights {} -output out.onnx",
    "export -model net.prototxt -weights run_iter_6.caffemodel -output {}/out.onnx",
    "upgrade {} new.prototxt -force",
    "upgrade {} new.yaml -force",
    "upgrade {} new.caffemodel -force",
    "upgrade {} new.h5 -force",
    "upgrade net.prototxt {}/new.prototxt",
]


@pytest.mark.parametrize("name", [*JUNK, *FOUND, *ELSEWHERE])
def test_no_verb_breaks(name: str, folder: Path, netc: Netc) -> None:
    content = JUNK.get(name)
    if content is not None:
        Path(name).write_bytes(content if isinstance(content, bytes) else content())
    path = str(FILES / name) if name in ELSEWHERE else name
    for call in CALLS:
        # Not split after filling in: a name may have blanks.
        told = netc(*(word.format(path) for word in call.split()))
        assert told.code in (0, 1), call
        if told.code:
            said = told.out if call.startswith("check") else told.err
            assert said.strip(), f"{call}: no word about what is wrong"


def test_memory_that_no_machine_has(folder: Path, netc: Netc) -> None:
    told = netc("time", "-model", "net.prototxt", "-shape", "data=1000000000,3,900,900")
    assert told.code == 1
    assert told.err.startswith("netc: there is not enough memory\n")
    assert "hint      a smaller batch_size, or smaller images, need less\n" in told.err
