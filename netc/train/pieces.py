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
# Elements of a row whose squares are summed in float32, and rows that are worked on at a time.
ROW, ROWS = 1 << 12, 1 << 8
# From here on the pieces are shared out among threads; below, starting them takes longer.
PIECES_WORTH_THREADS = 16


def in_pieces(arrays: Sequence[Blob], work: Callable[..., None]) -> None:
    """Call `work` with the same piece of every array, for all pieces. Arrays are in C order."""
    whole = [flat(array) for array in arrays]
    _share_out(
        range(0, whole[0].size, PIECE),
        lambda start: work(*(array[start : start + PIECE] for array in whole)),
    )


def flat(array: Blob) -> Blob:
    """Return an array in C order as a vector, in the same memory."""
    assert array.flags.c_contiguous, "a piece would be a copy"
    return array.reshape(-1)


def _share_out(starts: range, work: Callable[[int], None]) -> None:
    """Call `work` for the start of every piece, on several threads if they are worth it."""
    left = iter(starts)

    def share() -> None:
        # Whoever is done with a piece takes the next: an iterator gives each of them once.
        for start in left:
            work(start)

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
    """Return the joint L2 norm of arrays. The zeros that pad a layout do not count.

    A dot product of BLAS is off by 6e-4 for 60 million values, and depends on its threads.
    """
    return math.sqrt(sum(_squares(array) for array in arrays))


def _squares(array: Blob) -> float:
    values = flat(array)
    n_rows = values.size // ROW
    rows = values[: n_rows * ROW].reshape(n_rows, 1, ROW)
    sums = np.empty((n_rows, 1, 1), np.float32)

    def add(start: int) -> None:
        some = rows[start : start + ROWS]
        np.matmul(some, some.transpose(0, 2, 1), out=sums[start : start + ROWS])

    _share_out(range(0, n_rows, ROWS), add)
    rest = values[n_rows * ROW :]
    return float(sums.sum(dtype=np.float64)) + float(np.vdot(rest, rest))


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
