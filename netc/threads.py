"""How many threads compute at a time: one number for the whole process.

Whatever has a pool of threads for computing asks here. Reading data has a budget of its own
(`netc.data.workers`): its threads mostly wait.
"""

from __future__ import annotations

import os

_asked = 0  # a budget of the process, like its processors; 0: all of them


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def computing() -> int:
    """Return how many threads may compute at a time."""
    return _asked or processors()


def set_computing(threads: int) -> None:
    """Let so many threads compute; 0 means one for each processor.

    Pools that exist already learn of it from `netc.backends.use_threads`, which is to be called.
    """
    global _asked
    _asked = threads
