"""Priors, predictions and objects for the tests of the types that detect."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def priors(n: int, seed: int = 0, *, least: float = 0.1, most: float = 0.5) -> np.ndarray:
    """Return n random priors and their variances: (1, 2, 4 * n). Some stick out of the image."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(-0.05, 0.8, (n, 2))
    boxes = np.concatenate((low, low + rng.uniform(least, most, (n, 2))), axis=1)
    variances = np.tile([0.1, 0.1, 0.2, 0.2], (n, 1))
    return np.stack((boxes, variances)).reshape(1, 2, 4 * n)


def predictions(
    images: int, n: int, classes: int, seed: int = 0, *, shared: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Return locations (images, 4 * n [* classes]) and confidences (images, classes * n).

    The confidences of a prior are probabilities.
    """
    rng = np.random.default_rng(seed)
    location = rng.standard_normal((images, n * 4 * (1 if shared else classes)))
    scores = np.exp(2 * rng.standard_normal((images, n, classes)))
    scores /= scores.sum(axis=2, keepdims=True)
    return location, scores.reshape(images, n * classes)


def objects(rows: Sequence[Sequence[float]]) -> np.ndarray:
    """Return rows of (image, class, xmin, ymin, xmax, ymax[, difficult]) as (1, 1, G, 8)."""
    found = np.zeros((1, 1, len(rows), 8))
    for place, (image, label, *corners) in zip(found[0, 0], rows, strict=True):
        place[:2] = image, label
        place[3 : 3 + len(corners)] = corners
    return found


def random_objects(images: int, most: int, classes: int, seed: int = 0) -> np.ndarray:
    """Return up to `most` objects for each image, some of them difficult, and a row without one."""
    rng = np.random.default_rng(seed)
    rows: list[list[float]] = []
    for image in range(images):
        for _ in range(rng.integers(0, most + 1)):
            low = rng.uniform(0, 0.6, 2)
            high = low + rng.uniform(0.1, 0.4, 2)
            label = int(rng.integers(1, classes))
            rows.append([image, label, *low, *high, int(rng.random() < 0.3)])
    return objects([*rows, [-1, -1, -1, -1, -1, -1, -1]])
