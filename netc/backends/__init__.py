"""Where kernels live. `netc.backends.base` is the contract.

`find_backend` the way to one by name.
"""

from __future__ import annotations

from netc.backends.base import Backend
from netc.errors import fail, nearest

BACKENDS = ("auto", "reference")


def find_backend(name: str = "auto") -> Backend:
    """Return a backend by name; "auto" is the fastest that works on this machine."""
    if name not in BACKENDS:
        raise fail(
            f"unknown backend '{name}'",
            expected=", ".join(BACKENDS),
            got=name,
            hint=nearest(name, BACKENDS),
        )
    from netc.backends.reference import ReferenceBackend

    return ReferenceBackend()
