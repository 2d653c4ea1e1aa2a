"""Where kernels live. `netc.backends.base` is the contract.

`find_backend` the way to one by name.
"""

from __future__ import annotations

from netc.backends.base import Backend
from netc.errors import fail, nearest

BACKENDS = ("auto", "cpu", "reference")


def find_backend(name: str = "auto") -> Backend:
    """Return a backend by name; "auto" is the fastest that works on this machine.

    Raises NetcError for an unknown one, and for one that does not work here.
    """
    if name not in BACKENDS:
        raise fail(
            f"unknown backend '{name}'",
            expected=", ".join(BACKENDS),
            got=name,
            hint=nearest(name, BACKENDS),
        )
    if name in ("auto", "cpu"):
        from netc.backends.cpu import CpuBackend, status

        works, words = status()
        if works:
            return CpuBackend()
    if name == "cpu":
        raise fail(
            "the backend 'cpu' does not work on this machine",
            expected="oneDNN",
            got=words,
            hint="-backend reference runs everywhere",
        )
    from netc.backends.reference import ReferenceBackend

    return ReferenceBackend()


def states() -> dict[str, tuple[bool, str]]:
    """Say of each backend, the fastest first, whether it works and what it runs on or lacks."""
    from netc.backends.cpu import status

    return {"cpu": status(), "reference": (True, "NumPy")}
