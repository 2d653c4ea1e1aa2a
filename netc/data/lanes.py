"""The LaneData layer's source: images with the lanes of a road, in `AnnotatedDatum` messages."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netc.data.annotated import AnnotatedSource
from netc.data.augment import WHOLE
from netc.data.augmenting import Objects
from netc.data.images import opencv
from netc.data.source import Opening
from netc.errors import fail
from netc.layers.annotated import LANE_POINTS, LANES, OBJECT, LaneData
from netc.schema import netc_pb2

_NOTHING: Objects = np.empty((0, OBJECT))


class LaneSource(AnnotatedSource):
    """The records of an LMDB in key order, each image changed at random with its lanes."""

    def __init__(self, layer: LaneData, opening: Opening) -> None:
        """Open the database; DataAbsent when it is missing or a LevelDB."""
        super().__init__(layer, opening)
        self._boxed = True

    @property
    def _most_needed(self) -> int:
        return 1

    def _objects(self, message: netc_pb2.AnnotatedDatum) -> Objects:
        return _NOTHING.copy()

    def _label(
        self,
        out: NDArray[np.float32],
        messages: Sequence[netc_pb2.AnnotatedDatum],
        found: Sequence[Objects],
        position: int,
        resizing: float,
    ) -> None:
        out[...] = 0, 0, -1
        for i, message in enumerate(messages):
            for lane, points in enumerate(self._lanes(message, position + i, resizing)):
                inside = _inside(points)
                out[i, lane, : len(points), :2] = points
                out[i, lane, : len(points), 2] = np.where(inside, lane, -1)

    def _segment(
        self,
        message: netc_pb2.AnnotatedDatum,
        position: int,
        resizing: float,
        out: NDArray[np.float32],
    ) -> None:
        canvas = np.zeros(out.shape[1:], np.uint8)
        ends = np.array(canvas.shape[::-1], np.float32)
        for points in self._lanes(message, position, resizing):
            seen = (points[_inside(points)] * ends).astype(int).tolist()
            for before, after in itertools.pairwise(seen):
                opencv().line(canvas, after, before, 1)
        out[0] = canvas[:, ::-1] if self._augmenter.mirrored(position) else canvas

    def _lanes(
        self, message: netc_pb2.AnnotatedDatum, position: int, resizing: float
    ) -> Iterator[NDArray[np.float32]]:
        """Yield the points (n, 2) of each lane, in fractions of the part that is left."""
        groups = message.annotation_group
        longest = max((len(group.annotation) for group in groups), default=0)
        if len(groups) > LANES or longest > LANE_POINTS:
            raise fail(
                "a record of the database has too many lanes, or points in one",
                expected=f"{LANES} lanes of {LANE_POINTS} points",
                got=f"{len(groups)} lanes of up to {longest} points: {self._name(position)}",
            )
        part = self._augmenter.part(_NOTHING.copy(), position, resizing)
        # In float32, as the fork: 0.9 of 10 pixels are 9 then.
        low, high = np.split((WHOLE if part is None else part).astype(np.float32), 2)
        for group in groups:
            points = [(one.lanes.x, one.lanes.y) for one in reversed(group.annotation)]
            yield (np.array(points, np.float32).reshape(-1, 2) - low) / (high - low)


def _inside(points: NDArray[np.float32]) -> Any:
    return ((points >= 0) & (points <= 1)).all(axis=1)
