"""Finding oneDNN: what is said when it is missing, too old, or lacks OpenMP."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from netc.backends import cpu, find_backend
from netc.backends.cpu import library
from netc.backends.reference import ReferenceBackend
from netc.errors import NetcError


@pytest.fixture(autouse=True)
def _ask_anew() -> Iterator[None]:
    library.load.cache_clear()
    yield
    library.load.cache_clear()


def only(*names: str) -> object:
    """Return a loader for which only some libraries exist."""

    def load(name: str) -> object:
        if name in names:
            return SimpleNamespace(name=name)
        raise OSError(f"{name}: cannot open shared object file")

    return load


@pytest.fixture
def linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library.sys, "platform", "linux")
    monkeypatch.setattr(library.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(library, "_places", lambda: iter(["wheel.so", "system.so"]))


def test_another_platform_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library.sys, "platform", "darwin")
    works, words = cpu.status()
    assert not works
    assert "Linux x86-64 only" in words


def test_missing_openmp_is_reported(linux: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", only("wheel.so"))
    works, words = cpu.status()
    assert not works
    assert "libgomp.so.1 is missing" in words


def test_a_missing_library_is_reported_and_auto_does_without(
    linux: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", only(library.OPENMP))
    works, words = cpu.status()
    assert not works
    assert "install onednn-cpu-gomp" in words
    assert isinstance(find_backend("auto"), ReferenceBackend)
    with pytest.raises(NetcError, match="does not work on this machine"):
        find_backend("cpu")


@pytest.mark.parametrize("version", [(2, 7, 4), (3, 1, 0), (4, 0, 0)])
def test_another_version_is_refused(
    version: tuple[int, int, int], linux: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", only(library.OPENMP, "wheel.so"))
    monkeypatch.setattr(library, "_version", lambda handle: version)
    works, words = cpu.status()
    assert not works
    assert "expected 3.2 or a later 3.x" in words


def test_the_system_library_serves_where_there_is_no_wheel(
    linux: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", only(library.OPENMP, "system.so"))
    monkeypatch.setattr(library, "_version", lambda handle: (3, 4, 1))
    for has_bf16, words in ((True, "bf16 too"), (False, "no bf16 on this processor")):
        monkeypatch.setattr(cpu.onednn, "has_bf16", lambda has_bf16=has_bf16: has_bf16)
        assert cpu.status() == (True, f"oneDNN 3.4.1 (system.so), {words}")
