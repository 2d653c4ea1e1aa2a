"""Signals to a training process: they ask, the loop answers between two iterations."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from netc.train.solver import Action


class SignalActions:
    """The action that signals have asked for since the last question.

    `sigint` and `sighup` say what Ctrl-C and a hang-up mean; SIGTERM always stops, with the last
    snapshot that a stop includes. A signal without an effect is ignored, as in Caffe. A second
    Ctrl-C while the first is being answered interrupts at once. `tell` gets a line when a signal
    has come in, at any moment: what it does must not get in the way of what is being done.
    """

    def __init__(
        self,
        sigint: Action = Action.STOP,
        sighup: Action = Action.SNAPSHOT,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._tell = tell
        self._effects = {signal.SIGINT: sigint, signal.SIGTERM: Action.STOP}
        if hasattr(signal, "SIGHUP"):  # not on Windows
            self._effects[signal.SIGHUP] = sighup
        self._asked = Action.NONE
        self.stopped_by = ""

    def __call__(self) -> Action:
        """Return the action asked for; a snapshot is asked for once, a stop stays."""
        asked = self._asked
        if asked is Action.SNAPSHOT:
            self._asked = Action.NONE
        return asked

    @contextlib.contextmanager
    def installed(self) -> Iterator[SignalActions]:
        """Catch the signals inside a `with` block, and restore their former handlers after it."""
        former = {
            number: signal.signal(number, signal.SIG_IGN if effect is Action.NONE else self._note)
            for number, effect in self._effects.items()
        }
        try:
            yield self
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        effect = self._effects[signal.Signals(number)]
        if self._asked is Action.STOP and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self._asked is not Action.STOP:
            self._asked = effect
        name = signal.Signals(number).name
        if effect is Action.STOP:
            self.stopped_by = name
            self._tell(f"{name}: stopping after this iteration; Ctrl-C (again) stops at once")
        else:
            self._tell(f"{name}: a snapshot follows this iteration")
