"""Elementwise work on large arrays: a piece at a time, so that it stays in the cache, on all cores.

Every operation is elementwise: neither the pieces nor the threads change a number.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from netc.threads import computing

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

    starts = range(0, flat[0].size, PIECE)
    left = iter(starts)

    def share() -> None:
        # Whoever is done with a piece takes the next: an iterator gives each of them once.
        for start in left:
            work(*(array[start : start + PIECE] for array in flat))

    if len(starts) < PIECES_WORTH_THREADS:
        share()
        return
    state = np.geterr()

    def share_of_thread() -> None:
        # What a thread does about overflow and the like is its own affair otherwise.
        with np.errstate(**state):
            share()

    n = computing()
    helping = [_threads(n).submit(share_of_thread) for _ in range(n)]
    for helper in helping:
        helper.result()


def spare(like: Blob, number: int = 0) -> Blob:
    """Return memory of this thread for a piece's intermediate values: fresh memory is slower.

    Each `number` is another piece of memory, with whatever content.
    """
    memory: Blob | None = getattr(_local, "spare", None)
    if memory is None or memory.shape[1] < like.size:
        memory = _local.spare = np.empty((2, PIECE), np.float32)
    return memory[number, : like.size]


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
def _threads(n: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n, thread_name_prefix="netc-update")
