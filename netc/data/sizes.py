"""Files of image sizes: `name height width`, for what has to be told in pixels."""

from __future__ import annotations

import numpy as np

from netc.data.source import Batch, Item, Opening, arrays_for, locate_setting
from netc.errors import Problems, Span, fail
from netc.layers.evaluation import SizeFile
from netc.layers.types import BlobType

# Of a file that is something else, the first few lines tell enough.
_MOST_BAD_LINES = 10


class SizeSource:
    """The sizes of all images that a file names, as the only item: (images, 2), height and width.

    White space separates the words; a name has none.
    """

    def __init__(self, layer: SizeFile, opening: Opening) -> None:
        """Read the file; DataAbsent when it is missing, NetcError with the lines that are wrong."""
        path = locate_setting(layer.source, opening, "name_size_file", "file of image sizes")
        try:
            lines = path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
        except OSError as error:
            raise fail(
                "the file of image sizes cannot be read", span=Span(str(path)), got=error.strerror
            ) from error
        found, problems, n_bad = [], Problems(), 0
        for number, line in enumerate(lines, start=1):
            words = line.split()
            if len(words) == 3 and all(w.isdecimal() and int(w) > 0 for w in words[1:]):
                found.append((int(words[1]), int(words[2])))
            elif words:
                n_bad += 1
                if n_bad <= _MOST_BAD_LINES:
                    problems.add(
                        fail(
                            "this line tells no size",
                            span=Span(str(path), number, 1),
                            expected="name height width",
                            got=line.strip(),
                        )
                    )
        problems.raise_any()
        if not found:
            raise fail(
                "the file of image sizes is empty",
                span=Span(str(path)),
                expected="one `name height width` per line",
            )
        self._sizes = np.array(found, np.float32)

    @staticmethod
    def assume(layer: SizeFile, opening: Opening) -> Item | None:
        """Return the size of one image: how many there are matters to no other shape."""
        return Item((BlobType((1, 2)),), "one size of an image is assumed")

    @property
    def size(self) -> int:
        """1."""
        return 1

    @property
    def start(self) -> int:
        """The position at which a fresh run begins."""
        return 0

    def item(self) -> tuple[BlobType, ...]:
        """Return the type of the table."""
        return (BlobType(self._sizes.shape),)

    def load(self, position: int, count: int, reuse: Batch) -> Batch:
        """Return the table, `count` times."""
        (batch,) = arrays_for(((count, *self._sizes.shape),), reuse)
        batch[...] = self._sizes
        return (batch,)

    def close(self) -> None:
        """Do nothing: the file is read at once."""
