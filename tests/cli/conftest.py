"""A user's folder to work in, and the command line as a function."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from netc.cli import main
from tests.support.furnished import furnish


@dataclass(frozen=True)
class Told:
    """What a call gave: the exit code, standard output, standard error."""

    code: int
    out: str
    err: str


Netc = Callable[..., Told]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a run has ended: `run_iter_6.caffemodel` and its solver state."""
    folder = furnish(tmp_path_factory.mktemp("trained"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "-solver", "solver.prototxt", "-quiet"]) == 0
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the working directory."""
    copy = tmp_path / "work"
    shutil.copytree(trained, copy)
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture
def netc(capsys: pytest.CaptureFixture[str]) -> Netc:
    """`netc("check", "net.prototxt")`: one call within this process."""

    def call(*arguments: object) -> Told:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Told(code, out, err)

    return call
