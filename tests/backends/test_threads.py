"""One number of threads for all pools of the process, and what OpenMP is told as it is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from netc import threads
from netc.backends import states, use_threads
from netc.backends.cpu import library, onednn
from netc.backends.reference import blas
from netc.errors import NetcError
from tests.support.nets import require


@pytest.fixture
def _as_before() -> Iterator[None]:
    """Leave the numbers as they were: OMP_NUM_THREADS may have set them."""
    require("cpu")
    products, primitives = blas.threads(), onednn.threads()
    yield
    blas.set_threads(products or threads.processors())
    onednn.set_threads(primitives)
    threads.set_computing(0)


@pytest.mark.usefixtures("_as_before")
def test_every_pool_takes_the_number() -> None:
    for n in (1, threads.processors()):
        use_threads(n)
        assert threads.computing() == n
        assert onednn.threads() == n
        assert blas.threads() in (n, None)
        assert all(words.endswith(f": {n}") for _, words in states().values())


@pytest.mark.parametrize("n", [0, -1, 100_000])
def test_a_number_without_processors_is_refused(n: int) -> None:
    with pytest.raises(NetcError, match=f"{n} threads cannot compute here") as caught:
        use_threads(n)
    assert "the processors that this process may use" in str(caught.value)
    assert threads.computing() == threads.processors()


def test_other_threads_of_the_process_obey_too() -> None:
    """OpenMP keeps a number for each thread: later ones have that of the environment."""
    require("cpu")
    code = """
import os, threading
from netc.backends import use_threads
from netc.backends.cpu import onednn
use_threads(1)
found = []
thread = threading.Thread(target=lambda: found.append(onednn.threads()))
thread.start(); thread.join()
assert found == [1], found
assert "OMP_NUM_THREADS" not in os.environ and "GOMP_SPINCOUNT" not in os.environ
"""
    told = ("OMP_NUM_THREADS", "GOMP_SPINCOUNT")
    env = {name: value for name, value in os.environ.items() if name not in told}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)


def test_openmp_is_told_to_wait_briefly_unless_the_user_says_how(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    with library._settings_of_openmp():
        assert os.environ["GOMP_SPINCOUNT"] == "10000"
    assert "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    with library._settings_of_openmp():
        assert "GOMP_SPINCOUNT" not in os.environ


def test_processors_are_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 8}, raising=False)
    assert threads.processors() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert threads.processors() == 1
