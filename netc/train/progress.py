"""The row at the bottom of a terminal: iteration, smoothed loss, rate, images/s, time left."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol, TextIO

from netc.train.solver import Progress

if TYPE_CHECKING:
    from rich.console import Console

# Seconds between two drawings: often enough to look alive, rare enough to cost nothing.
_INTERVAL = 0.2
# The speed shown is that of the last iterations, not of the whole run.
_WINDOW = 50


class SupportsWrite(Protocol):
    """What a log needs of a stream."""

    def write(self, text: str, /) -> int:
        """Take a piece of text."""
        ...

    def flush(self) -> None:
        """Pass on what was held back."""
        ...


class Row:
    """Shows progress on a terminal; `stream` is where the log must go meanwhile.

    So that it scrolls above the row.
    """

    def __init__(self, stream: SupportsWrite) -> None:
        self.stream = stream

    def show(self, progress: Progress) -> None:
        """Note an iteration; without a terminal nothing is drawn."""


class _TerminalRow(Row):
    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        self._text = Text
        console = Console(file=stream)
        self.live = Live(console=console, refresh_per_second=4, transient=True, auto_refresh=False)
        super().__init__(_Lines(console))
        self._times: deque[tuple[float, int]] = deque(maxlen=_WINDOW)
        self._drawn = 0.0

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        self._times.append((now, progress.images))
        if now - self._drawn < _INTERVAL:
            return
        self._drawn = now
        # One line, whatever the terminal's width: the row must not push the log about.
        row = self._text(self.line(progress), no_wrap=True, overflow="ellipsis")
        self.live.update(row, refresh=True)

    def line(self, progress: Progress) -> str:
        """Return the row's text."""
        elapsed = self._times[-1][0] - self._times[0][0]
        steps = len(self._times) - 1
        images = sum(count for _, count in list(self._times)[1:])
        left = (
            duration((progress.max_iter - progress.iteration) * elapsed / steps)
            if steps and elapsed
            else "?"
        )
        speed = f"{images / elapsed:,.0f}" if elapsed else "?"
        done = progress.iteration / max(progress.max_iter, 1)
        return (
            f"{progress.iteration}/{progress.max_iter} ({done:.0%})  "
            f"loss {progress.smoothed_loss:.4g}  lr {progress.rate:.3g}  "
            f"{speed} images/s  {left} left"
        )


class _Lines:
    """A text stream that prints whole lines above the live row."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def write(self, text: str) -> int:
        if line := text.rstrip("\n"):
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""


@contextlib.contextmanager
def progress_row(stream: TextIO, *, enabled: bool = True) -> Iterator[Row]:
    """Offer a row: a live one when the stream is a terminal, else one that draws nothing."""
    if not enabled or not stream.isatty():
        yield Row(stream)
        return
    row = _TerminalRow(stream)
    with row.live:
        yield row


def duration(seconds: float) -> str:
    """Return a duration as H:MM:SS, or M:SS."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
