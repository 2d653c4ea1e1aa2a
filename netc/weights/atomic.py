"""Files that are either the old one or the new one, whatever happens in between.

A file is written under a temporary name in the directory where it shall lie, brought to the disk,
and only then given its name, which is one step for the file system. A crash, a kill or a full disk
leaves the earlier file as it was. What a killed process leaves behind is called
`.NAME.XXXXXXXX.netc.tmp` and goes with the next file written to that directory.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self

from netc.errors import NetcError, Span, fail

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

if sys.platform != "win32":
    import fcntl

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.netc\.tmp")
"""What the names of temporary files look like."""

_MOST_NAME = 255  # bytes in a file name, on every common file system


class Staged:
    """A file under way: write to `file`, then `commit` or `discard`.

    Used as a context manager it discards what was not committed. Several staged files can be
    committed together once all of them are complete (a snapshot is a pair).

    A symbolic link is followed, and a device or a pipe (`/dev/stdout`) is written directly.
    `size` is the number of bytes to come, if known; messages about a full disk name it.
    Raises NetcError when the file cannot be created, and `file.write` when it cannot be written.
    """

    def __init__(self, path: str | Path, *, size: int | None = None) -> None:
        self.path = Path(path)
        self._size = size
        self._target = Path(os.path.realpath(self.path))
        self._temporary: Path | None = None
        mode = self._target_mode()
        if mode is None or stat.S_ISREG(mode):
            remove_temporaries(self._target.parent)
            self._raw = self._create()
            self.file: BinaryIO = io.BufferedRandom(self._raw)
        else:
            with _told(self.path, size):
                self._raw = _Raw(self._target, "wb", shown=self.path, size=size)
            self.file = io.BufferedWriter(self._raw)

    def finish(self) -> None:
        """Bring what was written to the disk, under its temporary name. `commit` does it too."""
        if self.file.closed:
            return
        self.file.flush()
        with _told(self.path, self._size):
            if self._temporary:
                os.fsync(self._raw.fileno())
            self._raw.close()

    def commit(self) -> None:
        """Give the file its name; from here on it is there, even after a power failure."""
        try:
            self.finish()
            if self._temporary:
                with _told(self.path, self._size):
                    os.replace(self._temporary, self._target)
                    self._temporary = None
                    sync_directory(self._target.parent)
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove what was written and is not committed; do nothing after `commit`."""
        # Closing flushes once more, to a disk that may be full.
        self._raw.drop = True
        self.file.close()
        if self._temporary:
            with contextlib.suppress(OSError):
                self._temporary.unlink()
            self._temporary = None

    @contextlib.contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """Discard the file when the block raises; for code that hands it on when complete."""
        try:
            yield
        except BaseException:
            self.discard()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.discard()

    def _target_mode(self) -> int | None:
        """Return the mode of what bears the name already; refuse what must not be replaced."""
        try:
            mode = os.stat(self._target).st_mode
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:  # the temporary name would hide it till the end
                raise _explain(error, self.path, self._size) from error
            return None
        if stat.S_ISDIR(mode):
            raise fail("cannot write the file: there is a directory of that name", span=self._span)
        # Replacing needs no permission on the old file, but a file set read-only is meant to stay.
        if not os.access(self._target, os.W_OK):
            raise fail("cannot write the file: it is read-only", span=self._span)
        return mode

    def _create(self) -> _Raw:
        with _told(self.path, self._size):
            while True:
                end = f".{secrets.token_hex(4)}.netc.tmp"
                most = _MOST_NAME - len(end) - 1
                stem = os.fsencode(self._target.name)[:most].decode("utf-8", "ignore") or "_"
                self._temporary = self._target.parent / f".{stem}{end}"
                try:
                    # Through an opener, so that the umask decides about permissions as usual.
                    raw = _Raw(self._temporary, "xb+", shown=self.path, size=self._size)
                except FileExistsError:
                    continue
                # The lock tells others that a living process writes here. It dies with us.
                if _lock(raw.fileno()) is not False and os.fstat(raw.fileno()).st_nlink:
                    return raw
                raw.close()  # another process took it for a left-over, between the two steps

    @property
    def _span(self) -> Span:
        return Span(str(self.path))


@contextlib.contextmanager
def atomic_write(path: str | Path, *, size: int | None = None) -> Iterator[BinaryIO]:
    """Write a file as a whole or not at all: `with atomic_write("net.onnx") as f: f.write(raw)`.

    The file appears when the block ends without an exception; otherwise an earlier file of that
    name stays as it was. `size` is the number of bytes to come, if known. Raises NetcError when it
    cannot be written: no such directory, no permission, disk full.
    """
    with Staged(path, size=size) as staged:
        yield staged.file
        staged.commit()


def check_writable(path: str | Path) -> None:
    """Raise the NetcError that writing `path` would raise at once; leave nothing behind.

    For runs of hours whose first snapshot comes late.
    """
    with Staged(path):
        pass


def remove_temporaries(directory: str | Path) -> list[Path]:
    """Remove what killed processes left in `directory`, and return it. Files being written stay."""
    removed = []
    try:
        with os.scandir(directory) as entries:
            names = [entry.path for entry in entries if TEMPORARY.fullmatch(entry.name)]
    except OSError:
        return []  # writing there will say what is wrong
    for name in names:
        with contextlib.suppress(OSError):
            # Opened for writing, because some file systems want that for an exclusive lock.
            handle = os.open(name, os.O_RDWR)
            try:
                # Without locks nobody can tell a left-over from a file under way: let it be.
                if _lock(handle):
                    os.unlink(name)
                    removed.append(Path(name))
            finally:
                os.close(handle)
    return removed


def sync_directory(directory: str | Path) -> None:
    """Bring new names in `directory` to the disk, where the system has such a thing."""
    if sys.platform == "win32":
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
            raise
    finally:
        os.close(handle)


def _lock(handle: int) -> bool | None:
    """Take the lock of a temporary file: False if another has it, None if there are no locks."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a network file system without them
        return None
    return True


class _Raw(io.FileIO):
    """The file beneath the buffer. Its errors are about `shown`, the name that the user gave.

    With `drop` set it takes what is written and forgets it.
    """

    def __init__(self, path: Path, mode: str, *, shown: Path, size: int | None) -> None:
        super().__init__(path, mode)
        self._shown = shown
        self._expected = size
        self.drop = False

    def write(self, data: ReadableBuffer, /) -> int:
        if self.drop:
            return memoryview(data).nbytes
        with _told(self._shown, self._expected):
            return super().write(data) or 0


@contextlib.contextmanager
def _told(path: Path, size: int | None) -> Iterator[None]:
    """Turn an OSError about `path` into a NetcError."""
    try:
        yield
    except OSError as error:
        raise _explain(error, path, size) from error


def _explain(error: OSError, path: Path, size: int | None) -> NetcError:
    span = Span(str(path))
    directory = path.parent
    needed = f"{size:,} bytes for this file" if size else "room for this file"
    untouched = "earlier files are untouched"
    if error.errno == errno.ENOSPC:
        return fail(
            "disk full, the file was not written",
            span=span,
            expected=needed,
            got=_free(directory),
            hint=f"free some space or write to another disk; {untouched}",
        )
    if error.errno == errno.EDQUOT:
        return fail(
            "disk full: your quota is used up, the file was not written",
            span=span,
            expected=needed,
            hint=f"free some space or write to another disk; {untouched}",
        )
    if error.errno == errno.EFBIG:
        return fail(
            "the file is larger than the file system or a limit (ulimit -f) allows",
            span=span,
            expected=needed,
            hint=f"raise the limit or write to another disk; {untouched}",
        )
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return fail(
            "cannot write the file: there is no such directory",
            span=span,
            expected=f"a directory {os.path.abspath(directory)}",
            hint="create it, or change the path" + _typed_relative(path),
        )
    if error.errno == errno.ENAMETOOLONG:
        return fail("cannot write the file: its name is too long", span=span)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return fail(
            "cannot write the file: no permission to write in its directory",
            span=span,
            got=f"{os.path.abspath(directory)}: {error.strerror}",
        )
    return fail(f"cannot write the file: {error.strerror or error}", span=span, hint=f"{untouched}")


def _typed_relative(path: Path) -> str:
    return "" if path.is_absolute() else f" (relative to {os.getcwd()})"


def _free(directory: Path) -> str:
    try:
        status = os.statvfs(directory)
    except (OSError, AttributeError):
        return "no free space"
    return f"{status.f_bavail * status.f_frsize:,} bytes free in {os.path.abspath(directory)}"
