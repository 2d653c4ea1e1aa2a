"""Where oneDNN's shared library is, and whether it can be used here.

It comes with the wheel `onednn-cpu-gomp`, else with the system, and is found without environment
variables. The wheel's build runs its threads on GNU's OpenMP library, which the system has to have.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from netc.threads import computing, processors

WHEEL = "onednn-cpu-gomp"
NAME = "libdnnl.so.3"
OPENMP = "libgomp.so.1"
#: The oldest version whose C API and kernels are known to work.
LEAST = (3, 2)


class Unavailable(Exception):
    """Why oneDNN cannot be used here, in words for the user."""


@dataclass(frozen=True)
class Library:
    """The loaded library with its place and version, and the OpenMP that it runs its threads on."""

    handle: ctypes.CDLL
    openmp: ctypes.CDLL
    place: str
    version: tuple[int, int, int]

    def __str__(self) -> str:
        return f"oneDNN {'.'.join(map(str, self.version))} ({self.place})"


class _Version(ctypes.Structure):
    """The start of what `dnnl_version` points at."""

    _fields_ = (("major", ctypes.c_int), ("minor", ctypes.c_int), ("patch", ctypes.c_int))


@functools.cache
def load() -> Library:
    """Return the library; raise Unavailable where there is none, or none that works.

    The answer, once found, does not change while the process lives.
    """
    if not sys.platform.startswith("linux") or platform.machine() not in ("x86_64", "AMD64"):
        raise Unavailable(f"oneDNN is used on Linux x86-64 only, this is {platform.platform()}")
    try:
        with _settings_of_openmp():
            openmp = ctypes.CDLL(OPENMP)
    except OSError:
        raise Unavailable(
            f"{OPENMP} is missing, on which oneDNN runs its threads: install GNU OpenMP (libgomp1)"
        ) from None
    problems = []
    for place in _places():
        try:
            handle = ctypes.CDLL(place)
        except OSError as error:
            problems.append(str(error))
            continue
        version = _version(handle)
        if version[:2] >= LEAST and version[0] == LEAST[0]:
            return Library(handle, openmp, place, version)
        problems.append(
            f"{place} is oneDNN {'.'.join(map(str, version))}, "
            f"expected {'.'.join(map(str, LEAST))} or a later 3.x"
        )
    raise Unavailable(f"oneDNN cannot be loaded: {'; '.join(problems)}; install {WHEEL}")


@contextlib.contextmanager
def _settings_of_openmp() -> Iterator[None]:
    """Set what OpenMP reads from the environment as it is loaded, unless the user has set it.

    Its threads wait for work in a loop, for some 5 ms by default: meanwhile they take the
    processors from threads that decode data, from NumPy's and from other processes. With LeNet on
    a machine busy with other work a step took 160 ms so, and 70 with the number here, which is
    good for 0.3 ms: longer than the pauses between the kernels of a step.
    """
    wanted = {}
    if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
        wanted["GOMP_SPINCOUNT"] = "10000"
    if computing() < processors():
        wanted["OMP_NUM_THREADS"] = str(computing())
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        # Processes that are started later make their own choice.
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _version(handle: ctypes.CDLL) -> tuple[int, int, int]:
    ask = handle.dnnl_version
    ask.restype = ctypes.POINTER(_Version)
    found = ask().contents
    return found.major, found.minor, found.patch


def _places() -> Iterator[str]:
    """Yield the library of the wheel, then the name that the system's loader looks up."""
    try:
        files = importlib.metadata.files(WHEEL) or ()
    except importlib.metadata.PackageNotFoundError:
        files = ()
    for file in files:
        if file.name == NAME:
            yield str(file.locate())
    yield NAME
