"""What the readers of files have in common that list images with windows in them.

For each image such a file has these lines, then a line for each window:

    # 0
    path
    channels
    height
    width
    number of windows
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from netc.data.images import decode
from netc.data.source import locate
from netc.errors import NetcError, Span, fail


def c_round(x: float | np.float32) -> int:
    """Return x as the `round` of C does: halves away from zero."""
    return int(math.copysign(math.floor(abs(float(x)) + 0.5), float(x)))


class Lines:
    """The lines of a window file, counted. Empty ones do not matter.

    With `masked`, the number of an image's masks and their paths follow its own path.
    """

    def __init__(self, file: Path, stream: Iterator[bytes], *, masked: bool = False) -> None:
        self._file = file
        self._stream = stream
        self._masked = masked
        self.number = 0
        #: The line with the path of the last image.
        self.image_line = 0
        #: The paths of its masks.
        self.image_masks: tuple[str, ...] = ()

    def check(self, good: bool, expected: str, got: object) -> None:
        """Raise NetcError at this line unless it is good."""
        if not good:
            shown = got.decode("utf-8", "replace") if isinstance(got, bytes) else got
            raise fail(
                "the window file is damaged",
                span=Span(str(self._file), self.number, 1),
                expected=expected,
                got=shown if shown != "" else "the end of the file",
            )

    def take(self, expected: str, *, end: bool = False) -> bytes | None:
        """Return the next line; None at the end of the file, where it may end."""
        for line in self._stream:
            self.number += 1
            if stripped := line.strip():
                return stripped
        self.check(end, expected, "")
        return None

    def header(self, number: int | None = None) -> tuple[str, int, int] | None:
        """Return path, height and width of the next image, the first lines of which are read so.

        None at the end of the file. With `number` the image must have that one.
        """
        expected = f"# {'and a number' if number is None else number}"
        header = self.take(f"{expected}, or the end", end=True)
        if header is None:
            return None
        numbered = number is None or header[1:].strip() == str(number).encode()
        self.check(header.startswith(b"#") and numbered, expected, header)
        path = self.take("the path of an image") or b""
        self.image_line = self.number
        if self._masked:
            self.image_masks = self._masks()
        channels = self.integer("channels")
        self.check(channels == 3, "3 channels: images are decoded in colour", channels)
        return os.fsdecode(path), self.integer("height"), self.integer("width")

    def _masks(self) -> tuple[str, ...]:
        """Return the paths of the masks of an image."""
        count = self.integer("the number of masks")
        self.check(count > 0, "1 mask or more", count)
        return tuple(os.fsdecode(self.take("the path of a mask") or b"") for _ in range(count))

    def integer(self, what: str) -> int:
        """Return the next line as a number."""
        line = self.take(what) or b""
        self.check(line.isdigit(), what, line)
        return int(line)

    def block(self, count: int, values: str) -> NDArray[np.float64]:
        """Return the next lines, a window each, (count, columns); `values` names the columns."""
        columns = len(values.split())
        lines = list(islice(self._stream, count))
        words = b" ".join(lines).split()
        try:
            found = np.array(words, dtype="S").astype(np.float64) if words else np.empty(0)
        except ValueError:
            found = np.empty(0)
        good = len(lines) == count and len(found) == count * columns
        if not good:
            # Say which line it is.
            for line in lines:
                self.number += 1
                self.check(_is_window(line, columns), values, line.strip())
            self.check(False, f"{count} windows", f"{len(lines)} lines more in the file")
        self.number += count
        return found.reshape(count, columns)


def _is_window(line: bytes, columns: int) -> bool:
    words = line.split()
    try:
        return len(words) == columns and all(math.isfinite(float(word)) for word in words)
    except ValueError:
        return False


def load_image(
    root: str, name: str, layer_span: Span | None, span: Span, *, color: bool = True
) -> NDArray[np.uint8]:
    """Return an image as (3, H, W), or in grey (1, H, W), whose name follows `root` as it is.

    `layer_span` is the place of the root, `span` that of the name.
    """
    try:
        file = locate(root + name, layer_span if root else span, "image")
    except NetcError as error:
        raise NetcError(*(replace(p, span=span) for p in error.problems)) from error
    try:
        image = decode(file.read_bytes(), color)
    except OSError as error:
        raise fail(
            "the image cannot be read", span=span, got=f"'{file}': {error.strerror}"
        ) from error
    if image is None:
        raise fail(
            "the image cannot be decoded",
            span=span,
            expected="JPEG, PNG or another format that OpenCV reads",
            got=f"'{file}'",
        )
    return image
