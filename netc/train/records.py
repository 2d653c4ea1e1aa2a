"""The training log for machines: one record at a start, for each display, for each test.

`docs/training.md` documents the records. They go to a file of JSON lines and to TensorBoard, as the
solver's settings ask.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from netc.errors import Span, fail
from netc.report.machine import to_json
from netc.report.training_log import MEASURES
from netc.train.extension import Extension, Point, every
from netc.train.log import logger
from netc.train.scoring import by_name, outputs_of
from netc.weights import check_writable

if TYPE_CHECKING:
    from netc.train.solver import Solver

Record = dict[str, Any]


class Writer(Protocol):
    """What takes records."""

    def write(self, record: Record) -> None:
        """Take one; it must be safe once this returns. Raises OSError."""
        ...

    def close(self) -> None:
        """Finish."""
        ...


class Records(Extension):
    """Writes a record for each display and each test, to wherever the settings say.

    A log that cannot be written any more (a full disk) is given up with a warning: the training is
    worth more.
    """

    def __init__(self) -> None:
        self._writers: list[Writer] = []
        self._since = (0, 0.0, 0.0)

    def attach(self, solver: Solver) -> None:
        """Add the calls. Raises NetcError where tensorboardX is missing."""
        settings = solver.settings
        if not (settings.json_log or settings.tensorboard):
            return
        if settings.tensorboard:
            _summary_writer(solver.source.span("tensorboard"))
        solver.on(Point.STEP, self._start)
        solver.on(Point.GRADIENTS, self._train, every(lambda settings: settings.display))
        solver.on(Point.TESTED, self._test)
        solver.on(Point.END, self._end)

    def _start(self, solver: Solver) -> None:
        self._since = (solver.iter, time.monotonic(), solver.net.data_seconds)
        if self._writers:
            return
        settings, span = solver.settings, solver.source.span
        if settings.json_log:
            _check(settings.json_log, span("json_log"))
        if settings.tensorboard:
            _check(str(Path(settings.tensorboard) / "events"), span("tensorboard"))
        with self._kept_going():
            if settings.json_log:
                self._writers.append(JsonLines(Path(settings.json_log)))
            if settings.tensorboard:
                writer = _summary_writer(span("tensorboard"))
                self._writers.append(_TensorBoard(writer, settings.tensorboard, solver.iter))
        self._write(
            solver,
            "start",
            net=solver.net.plan.graph.name,
            solver=solver.source.file,
            type=settings.type,
            max_iter=settings.max_iter,
            random_seed=solver.seed,
        )

    def _train(self, solver: Solver) -> None:
        from netc.train.solver import batch_size

        since, then, waited = self._since
        now, waiting = time.monotonic(), solver.net.data_seconds
        # The passes of this iteration are done, those of the one at `since` too, but for the first.
        images = max(solver.iter - since, 1) * batch_size(solver.net) * solver.settings.iter_size
        self._write(
            solver,
            "train",
            smoothed_loss=solver.smoothed_loss,
            lr=solver.rate,
            outputs=by_name(outputs_of(solver.net), scores_only=True),
            images_per_s=images / max(now - then, 1e-9),
            data_wait_s=waiting - waited,
            peak_memory_mib=peak_memory(),
        )
        self._since = (solver.iter, now, waiting)

    def _test(self, solver: Solver) -> None:
        for scores in solver.scores:
            self._write(
                solver,
                "test",
                net=scores.net,
                loss=scores.loss,
                outputs=by_name(scores.outputs, scores_only=True),
            )

    def _end(self, solver: Solver) -> None:
        self._write(solver, "end", stopped=solver.stopped)
        for writer in self._writers:
            with self._kept_going():
                writer.close()
        self._writers = []

    def _write(self, solver: Solver, event: str, /, **content: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        record = {"event": event, "iter": solver.iter, "time": now, **content}
        for writer in list(self._writers):
            with self._kept_going(writer):
                writer.write(record)

    @contextlib.contextmanager
    def _kept_going(self, writer: Writer | None = None) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            logger.warning("a training log is given up: %s", error)
            if writer is not None:
                self._writers.remove(writer)


class JsonLines:
    """A file with one JSON object per line, appended to; a line cut off by a kill is removed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with open(path, "a+b") as file:
            size = file.seek(0, os.SEEK_END)
            while size:
                # Complete lines end in a newline; look for the last one, a piece at a time.
                start = max(0, size - (1 << 16))
                file.seek(start)
                at = file.read(size - start).rfind(b"\n")
                size = start + at + 1
                if at >= 0:
                    break
            file.truncate(size)

    def write(self, record: Record) -> None:
        """Add a line, which is in the file when this returns."""
        with open(self._path, "ab") as file:
            file.write(to_json(record, indent=None).encode() + b"\n")

    def close(self) -> None:
        """Nothing is open between two lines."""


class _TensorBoard:
    """TensorBoard's event files, by tensorboardX."""

    def __init__(self, writer: Any, folder: str, iteration: int) -> None:
        # What an earlier process wrote from here on is not part of the run.
        self._writer = writer(folder, purge_step=iteration or None)

    def write(self, record: Record) -> None:
        """Add the numbers of a record."""
        step = record["iter"]
        label = "train" if record["event"] == "train" else f"test{record.get('net', '')}"
        if record["event"] not in ("train", "test"):
            return
        for name in ("loss", "lr", *MEASURES):
            if record.get(name) is not None:
                self._writer.add_scalar(f"{label}/{name}", record[name], step)
        for name, value in record["outputs"].items():
            values = value if isinstance(value, list) else [value]
            for i, each in enumerate(values):
                place = f"/{i}" if len(values) > 1 else ""
                self._writer.add_scalar(f"{label}/output/{name}{place}", each, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the files."""
        self._writer.close()


def _summary_writer(span: Span | None) -> Any:
    """Return tensorboardX's class, or say how to get it."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise fail(
            "event files for TensorBoard need the package tensorboardX",
            span=span,
            expected="an installed tensorboardX",
            got=str(error),
            hint="pip install 'netc[tensorboard]', or leave the setting out",
        ) from None
    return SummaryWriter


def _check(path: str, span: Span | None) -> None:
    """Make the folder of a log, and see that a file can be made there."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise fail(
            "the folder of a training log cannot be made",
            span=span,
            expected="a folder that can be written to",
            got=f"{Path(path).parent}: {error.strerror}",
        ) from None
    check_writable(path)


def peak_memory() -> float | None:
    """Return the most memory that the process has held so far, in MiB; None where nobody says."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
