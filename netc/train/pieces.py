"""Elementwise work on large arrays: a piece at a time, so that it stays in the cache, on all cores.

Every operation is elementwise: neither the pieces nor the threads change a number.
"""

from __future__ import annotations

import functools
import math
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

Blob = NDArray[np.float32]

# Elements that are worked on at a time: gradient, param and history fit into a core's cache
# together.
PIECE = 1 << 15
# From here on the pieces are shared out among threads; below, starting them takes longer.
PIECES_WORTH_THREADS = 16


def in_pieces(arrays: Sequence[Blob], work: Callable[..., None]) -> None:
    """Call `work` with the same piece of every array, for all pieces. Arrays are in C order."""
    assert all(array.flags.c_contiguous for array in arrays), "a piece would be a copy"
    flat = [array.reshape(-1) for array in arrays]

    def piece(start: int) -> None:
        work(*(array[start : start + PIECE] for array in flat))

    starts = range(0, flat[0].size, PIECE)
    if len(starts) < PIECES_WORTH_THREADS:
        for start in starts:
            piece(start)
        return
    for _ in _threads().map(_with_our_state(piece), starts):
        pass


def spare(like: Blob, number: int = 0) -> Blob:
    """Return memory of this thread for a piece's intermediate values: fresh memory is slower.

    Each `number` is another piece of memory, with whatever content.
    """
    if not hasattr(_local, "spare"):
        _local.spare = np.empty((2, PIECE), np.float32)
    memory: Blob = _local.spare[number, : like.size]
    return memory


def norm(*arrays: Blob) -> float:
    """Return the joint L2 norm of arrays. The zeros that pad a layout do not count."""
    return math.sqrt(sum(float(np.vdot(array, array)) for array in arrays))


def bound_norm(arrays: Sequence[Blob], limit: float) -> None:
    """Scale arrays down, in place and all alike, where their joint L2 norm exceeds a limit."""
    found = norm(*arrays)
    if found > limit:
        scale = np.float32(limit / found)
        for array in arrays:
            in_pieces([array], lambda piece: np.multiply(piece, scale, out=piece))


_local = threading.local()


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="netc-update")


def _with_our_state(call: Callable[[int], None]) -> Callable[[int], None]:
    """Return the call for another thread, with what this one does about overflow and the like."""
    state = np.geterr()

    def run(start: int) -> None:
        with np.errstate(**state):
            call(start)

    return run
