"""A stopwatch."""

from __future__ import annotations

import time


class Timer:
    """A stopwatch for wall-clock time: `start()`, `stop()`, then `ms`."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._seconds = 0.0

    def start(self) -> None:
        """Start; while it runs this changes nothing."""
        if self._since is None:
            self._since = time.perf_counter()

    def stop(self) -> None:
        """Stop; once it has stopped this changes nothing."""
        if self._since is not None:
            self._seconds = time.perf_counter() - self._since
            self._since = None

    @property
    def ms(self) -> float:
        """The milliseconds from the last start to its stop; asking for them stops the watch."""
        self.stop()
        return self._seconds * 1000
