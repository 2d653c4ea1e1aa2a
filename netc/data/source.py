"""What the readers of data have in common: how they are opened, and what they hand on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from netc.data.randomness import Draws
from netc.errors import NetcError, Span
from netc.layers.types import BlobType, Phase, Refusal
from netc.schema import resolve

# The tops of one batch, float32, contiguous.
Batch = tuple[NDArray[np.float32], ...]


class DataAbsent(Refusal):
    """The data is not there, or in a form that netc does not read: its shape might be assumed."""


@dataclass(frozen=True, slots=True)
class Opening:
    """The circumstances under which a layer's data is opened.

    `span` is the layer's place in its text: relative paths start from the folder of that file.
    `seed` and the layer's `name` determine everything random.
    """

    span: Span | None = None
    name: str = ""
    phase: Phase = Phase.TEST
    seed: int = 0

    @property
    def draws(self) -> Draws:
        """The layer's random numbers."""
        return Draws(self.seed, self.name)


@dataclass(frozen=True, slots=True)
class Item:
    """What a probe finds: the types of one item's blobs, untransformed and without a batch axis.

    `assumed` says what was assumed where data is absent, "" where it was looked at.
    """

    types: tuple[BlobType, ...]
    assumed: str = ""


class Source(Protocol):
    """An endless sequence of items: `size` of them, then the same again, perhaps in another order.

    A position counts items from the start of the first pass on, over all passes. What lies at a
    position depends on nothing else, so that reading can begin anywhere. Not for two threads at a
    time.
    """

    @property
    def size(self) -> int:
        """The number of items in one pass."""
        ...

    @property
    def start(self) -> int:
        """The position at which a fresh run begins."""
        ...

    def item(self) -> tuple[BlobType, ...]:
        """Return the types of the first item's blobs."""
        ...

    def load(self, position: int, count: int, reuse: Batch) -> Batch:
        """Return `count` items from `position` on, in the arrays of `reuse` where these fit."""
        ...

    def close(self) -> None:
        """Let go of files and threads. May be called twice."""
        ...


def arrays_for(shapes: tuple[tuple[int, ...], ...], reuse: Batch) -> Batch:
    """Return arrays of these shapes, content undefined: those of `reuse` where the shapes agree."""
    if tuple(array.shape for array in reuse) == shapes:
        return reuse
    return tuple(np.empty(shape, np.float32) for shape in shapes)


def locate(path: str, named_in: Span | None, what: str) -> Path:
    """Return the path that a setting or a list means; `named_in` is the place that names it.

    Raises NetcError, begun with `what` ("database"), where there is none.
    """
    try:
        return resolve(path, named_in)
    except NetcError as error:
        raise NetcError(*(replace(p, what=f"{what} {p.what}") for p in error.problems)) from error


def locate_setting(path: str, opening: Opening, setting: str, what: str) -> Path:
    """Return the path that a layer's setting means; DataAbsent where there is none."""
    try:
        return locate(path, opening.span, what)
    except NetcError as error:
        (problem,) = error.problems
        raise DataAbsent(
            problem.what,
            expected=problem.expected,
            got=problem.got,
            hint=problem.hint,
            setting=setting,
        ) from error
