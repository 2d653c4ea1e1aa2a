"""The threads of the BLAS that NumPy brings along: OpenBLAS, under one of several names.

NumPy has no function for their number. A pool of its own beside oneDNN's is no harm as long as
both are bounded alike: the two never compute at the same time.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import numpy as np

# Builds differ in the prefix of the wheels and in the suffix for 64-bit integers.
_NAMES = tuple(
    f"{prefix}openblas_{{}}_num_threads{suffix}"
    for prefix in ("scipy_", "")
    for suffix in ("64_", "_64", "")
)


@functools.cache
def _library() -> tuple[Any, str] | None:
    """Return OpenBLAS and the pattern of its names; None where NumPy uses something else."""
    folder = Path(np.__file__).parent
    for place in sorted(folder.with_name("numpy.libs").glob("*openblas*")):
        try:
            found = ctypes.CDLL(str(place))
        except OSError:
            continue
        for name in _NAMES:
            if hasattr(found, name.format("set")):
                return found, name
    return None


def threads() -> int | None:
    """Return how many threads a matrix product uses; None where that cannot be found out."""
    if (found := _library()) is None:
        return None
    library, name = found
    return int(library[name.format("get")]())


def set_threads(n: int) -> None:
    """Let matrix products use n threads, where that can be told."""
    if (found := _library()) is not None:
        library, name = found
        library[name.format("set")](ctypes.c_int(n))
