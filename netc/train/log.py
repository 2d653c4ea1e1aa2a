"""The training log: Caffe's wording behind glog's prefix, so that existing log parsers work."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any

logger = logging.getLogger("netc")


class GlogFormatter(logging.Formatter):
    """`I1121 03:40:18.123456 12345 solver.py:88] text`, as glog writes it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for a record; several lines get the prefix each."""
        when = datetime.fromtimestamp(record.created)
        prefix = (
            f"{record.levelname[0]}{when:%m%d %H:%M:%S.%f} {record.process:5d} "
            f"{record.filename}:{record.lineno}] "
        )
        return "\n".join(prefix + line for line in record.getMessage().splitlines() or [""])


@contextlib.contextmanager
def log_to(stream: Any = None) -> Iterator[logging.Handler]:
    """Send the log to a stream (standard error by default) inside a `with` block.

    The stream needs `write` and `flush` only.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(GlogFormatter())
    former = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.setLevel(former)
