"""Disks that are full: a small file system of one's own, where one may be mounted."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(path: Path, kib: int) -> Iterator[Path]:
    """Mount a file system of so many KiB at `path`; skip, saying why, where that cannot be."""
    path.mkdir()
    mounting = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", path],
        capture_output=True,
        text=True,
    )
    if mounting.returncode:
        pytest.skip(f"cannot mount a small file system here: {mounting.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)
