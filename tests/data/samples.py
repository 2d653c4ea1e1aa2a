"""Images in the forms that databases and lists hold, and a way to read a few batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from netc.data import Feed
from netc.schema import netc_pb2

MakeDatabase = Callable[..., str]
OpenLayer = Callable[..., Feed]

FILES = Path(__file__).parents[1] / "conformance" / "files"


def raw(image: np.ndarray, label: int = 0) -> netc_pb2.Datum:
    """Return a Datum of raw pixels (C, H, W): bytes for uint8, float_data for anything else."""
    channels, height, width = image.shape
    datum = netc_pb2.Datum(channels=channels, height=height, width=width, label=label)
    if image.dtype == np.uint8:
        datum.data = image.tobytes()
    else:
        datum.float_data.extend(image.ravel().tolist())
    return datum


def encoded(pixels: np.ndarray, label: int = 0, extension: str = ".png") -> netc_pb2.Datum:
    """Return a Datum that holds an image file of pixels (H, W) or (H, W, C)."""
    ok, content = cv2.imencode(extension, pixels)
    assert ok
    return netc_pb2.Datum(data=content.tobytes(), label=label, encoded=True)


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    """Return random uint8 values."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def batches(feed: Feed, count: int) -> list[tuple[np.ndarray, ...]]:
    """Return the next batches of a feed."""
    found = []
    for _ in range(count):
        outs = tuple(np.full(shape, np.nan, np.float32) for shape in feed.next_shapes())
        feed.fill(outs)
        found.append(outs)
    return found
