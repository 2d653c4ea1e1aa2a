"""The threads that decode and transform data, of the whole process: however many layers read.

They must not take processors from the net that computes, and must use all of them when it waits
for data. So one at a time works while the net computes, and as many as there are processors while
somebody waits for a batch; or, if the user says so, a fixed number at any time. What they make does
not depend on their number.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from netc.threads import processors

# More threads than this decode faster than any net here consumes.
_MOST = 8
# Pieces of a batch for each thread: enough for the last ones to end at about the same time.
_PIECES = 4


class Workers:
    """A pool of threads, of which as many work at a time as the budget allows.

    `threads` is that number, or 0 for one while nobody waits and all of them while somebody does.
    """

    def __init__(self, threads: int = 0) -> None:
        self._fixed = threads
        self._most = threads or min(_MOST, processors())
        self._busy = 0
        self._waiting = 0
        self._changed = threading.Condition()
        self._pool: ThreadPoolExecutor | None = None

    def run(self, work: Callable[[int], None], count: int) -> None:
        """Call work(0) ... work(count - 1), several at a time; return when all is done.

        Of several errors the first in order is raised. None of the calls is still running then.
        """
        if self._most == 1 or count == 1:
            for i in range(count):
                work(i)
            return
        n_pieces = min(count, self._most * _PIECES)
        ends = [count * (k + 1) // n_pieces for k in range(n_pieces)]
        with self._changed:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._most, thread_name_prefix="netc-data")
        futures = [
            self._pool.submit(self._piece, work, start, end)
            for start, end in zip([0, *ends], ends, strict=False)
        ]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            # Those behind an error need not begin; pieces in front of it may hold an earlier one.
            failed = [k for k, f in enumerate(futures) if f.done() and f.exception()]
            for future in futures[min(failed, default=len(futures)) + 1 :]:
                future.cancel()
            wait(futures)
        for future in futures:
            if not future.cancelled():
                future.result()

    @contextlib.contextmanager
    def waited_for(self) -> Iterator[None]:
        """Lend all processors to the work while the block runs: its thread waits for data."""
        with self._changed:
            self._waiting += 1
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._waiting -= 1

    def _piece(self, work: Callable[[int], None], start: int, end: int) -> None:
        for i in range(start, end):
            with self._changed:
                while self._busy >= self._allowed():
                    self._changed.wait()
                self._busy += 1
            try:
                work(i)
            finally:
                with self._changed:
                    self._busy -= 1
                    self._changed.notify()

    def _allowed(self) -> int:
        return self._most if self._fixed or self._waiting else 1


_workers = Workers()


def workers() -> Workers:
    """Return the workers of this process."""
    return _workers


def use_threads(threads: int) -> None:
    """Let so many threads work from now on; 0 leaves the number to the moment."""
    global _workers  # a budget of the process, like its processors
    _workers = Workers(threads)
