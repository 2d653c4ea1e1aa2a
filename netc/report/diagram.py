"""Boxes and arrows, and where they go: a drawing in layers, from top to bottom or otherwise.

The steps are Sugiyama's: a rank for every box, an order within each rank that crosses few arrows,
then positions at which boxes lie near what they are connected with.

Source: Sugiyama, Tagawa and Toda, IEEE Trans. SMC 11(2), 1981; ordering by medians, Gansner et al.,
IEEE Trans. Software Engineering 19(3), 1993; positions as isotonic regressions, Best and
Chakravarti, Mathematical Programming 47, 1990.
"""

from __future__ import annotations

import bisect
import enum
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

#: The directions of a drawing, by the letters of Graphviz: from top to bottom, left to right, ...
DIRECTIONS = ("TB", "LR", "BT", "RL")

# In pixels of a screen. A character is as wide as the widest sans-serif font makes it on average.
LINE = 15.0
CHARACTER = 6.6
MARGIN = 7.0
_BESIDE = 16.0
_BETWEEN = 30.0
_WAY = 10.0

# Arrows past more ranks than this go around what lies between.
_FAR = 4

_SWEEPS_TO_ORDER = 24
# With more spots than this they become fewer.
_MANY = 2000
_SWEEPS_TO_PLACE = 120


class Kind(enum.Enum):
    """What a box does; the value is its colour."""

    DATA = "#fdf0c4"
    LEARNS = "#cfe2f8"
    WINDOW = "#fbd9b5"
    JOIN = "#e3d6f2"
    ELEMENTWISE = "#d5efd0"
    LOSS = "#f6cccc"
    OTHER = "#ececec"


@dataclass(frozen=True, slots=True)
class Box:
    """A box with lines of text, of which the first is its name."""

    lines: tuple[str, ...]
    kind: Kind = Kind.OTHER

    @property
    def size(self) -> tuple[float, float]:
        """Width and height."""
        longest = max(map(len, self.lines))
        return longest * CHARACTER + 2 * MARGIN, len(self.lines) * LINE + MARGIN


@dataclass(frozen=True, slots=True)
class Arrow:
    """An arrow from one box to a later one, by number."""

    source: int
    target: int
    label: str = ""


@dataclass(frozen=True, slots=True)
class Diagram:
    """What is to be drawn: boxes in an order in which every arrow goes forward."""

    title: str
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]


Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Drawing:
    """Where it goes: the size of the whole, the corner of each box, the way of each arrow."""

    diagram: Diagram
    size: Point
    corners: tuple[Point, ...]
    ways: tuple[tuple[Point, ...], ...]
    direction: str

    @property
    def across(self) -> bool:
        """Whether arrows go to the side."""
        return self.direction in ("LR", "RL")

    @property
    def back(self) -> bool:
        """Whether arrows go up, or to the left."""
        return self.direction in ("BT", "RL")


def draw(diagram: Diagram, direction: str = "TB") -> Drawing:
    """Place boxes and arrows, in one of `DIRECTIONS`."""
    sizes = [box.size for box in diagram.boxes]
    if direction in ("LR", "RL"):
        sizes = [(height, width) for width, height in sizes]
    ranks = _ranks(len(sizes), diagram.arrows)
    net = _Net(ranks, [width for width, _ in sizes], diagram.arrows)
    net.order()
    net.place()
    return _drawn(diagram, net, sizes, direction)


def _ranks(count: int, arrows: Iterable[Arrow]) -> list[int]:
    """Return the rank of each box: one behind the last of those that it comes from.

    What comes from nowhere lies right before what it leads to.
    """
    before: list[list[int]] = [[] for _ in range(count)]
    behind: list[list[int]] = [[] for _ in range(count)]
    for arrow in arrows:
        assert arrow.source < arrow.target, "an arrow goes back"
        before[arrow.target].append(arrow.source)
        behind[arrow.source].append(arrow.target)
    ranks = [0] * count
    for box in range(count):
        ranks[box] = max((ranks[source] + 1 for source in before[box]), default=0)
    for box in range(count):
        if not before[box] and behind[box]:
            ranks[box] = min(ranks[target] for target in behind[box]) - 1
    return ranks


@dataclass(slots=True)
class _Spot:
    """A box, or a place where the arrows of a box pass a rank: `box` is None then."""

    rank: int
    width: float
    box: int | None
    above: list[int] = field(default_factory=list)
    below: list[int] = field(default_factory=list)
    x: float = 0.0
    passes_far: bool = False


class _Net:
    """The spots, rank by rank. Arrows from one box to several ranks share their way."""

    def __init__(
        self, ranks: Sequence[int], widths: Sequence[float], arrows: Iterable[Arrow]
    ) -> None:
        self.spots = [
            _Spot(rank, width, box)
            for box, (rank, width) in enumerate(zip(ranks, widths, strict=True))
        ]
        #: (box, rank) -> the spot where the box's arrows pass that rank.
        self.passing: dict[tuple[int, int], int] = {}
        for arrow in arrows:
            last = arrow.source
            for rank in range(ranks[arrow.source] + 1, ranks[arrow.target]):
                spot = self.passing.setdefault((arrow.source, rank), len(self.spots))
                if spot == len(self.spots):
                    self.spots.append(_Spot(rank, _WAY, None))
                    self._connect(last, spot)
                last = spot
            if arrow.target not in self.spots[last].below:
                self._connect(last, arrow.target)
        passed = Counter(box for box, _ in self.passing)
        for (box, _), passing in self.passing.items():
            self.spots[passing].passes_far = passed[box] > _FAR
        self.rows: list[list[int]] = [[] for _ in range(max(ranks, default=-1) + 1)]
        for index, lying in enumerate(self.spots):
            self.rows[lying.rank].append(index)

    def _connect(self, above: int, below: int) -> None:
        self.spots[above].below.append(below)
        self.spots[below].above.append(above)

    # -- order -------------------------------------------------------------------------------------

    def order(self) -> None:
        """Order the spots of each rank so that few arrows cross."""
        at = {spot: place for row in self.rows for place, spot in enumerate(row)}
        best, fewest = [list(row) for row in self.rows], self._crossings(at)
        for sweep in range(self._affordable(_SWEEPS_TO_ORDER)):
            if not fewest:
                break
            down = sweep % 2 == 0
            for row in self.rows if down else reversed(self.rows):
                row.sort(key=lambda spot: self._median(spot, at, down))
                at.update((spot, place) for place, spot in enumerate(row))
            crossings = self._crossings(at)
            if crossings < fewest:
                best, fewest = [list(row) for row in self.rows], crossings
        self.rows = best

    def _affordable(self, sweeps: int) -> int:
        """Return how many sweeps there are time for: fewer if there are very many spots."""
        return max(sweeps // 6, min(sweeps, sweeps * _MANY // max(1, len(self.spots))))

    def _median(self, index: int, at: dict[int, int], down: bool) -> float:
        spot = self.spots[index]
        near = sorted(at[other] for other in (spot.above if down else spot.below))
        if not near:
            return at[index]
        middle = len(near) // 2
        return near[middle] if len(near) % 2 else (near[middle - 1] + near[middle]) / 2

    def _crossings(self, at: dict[int, int]) -> int:
        total = 0
        for row in self.rows:
            seen: list[int] = []
            for spot in row:
                ends = sorted(at[below] for below in self.spots[spot].below)
                total += sum(len(seen) - bisect.bisect_right(seen, end) for end in ends)
                for end in ends:
                    bisect.insort(seen, end)
        return total

    # -- positions ---------------------------------------------------------------------------------

    def place(self) -> None:
        """Give each spot its x: near its neighbours, arrows as straight as can be."""
        for row in self.rows:
            x = 0.0
            for spot in row:
                self.spots[spot].x = x + self.spots[spot].width / 2
                x += self.spots[spot].width + _BESIDE
        sweeps = self._affordable(_SWEEPS_TO_PLACE)
        for sweep in range(sweeps):
            # At first only what is above counts, or below, in turn; then both.
            use = ("above", "below")[sweep % 2] if sweep < sweeps // 4 else "both"
            for row in self.rows if sweep % 2 == 0 else reversed(self.rows):
                self._place_row(row, use)
        left = min((s.x - s.width / 2 for s in self.spots), default=0.0)
        for placed in self.spots:
            placed.x -= left

    def _place_row(self, row: Sequence[int], use: str) -> None:
        wanted, weights, offset = [], [], 0.0
        for left, index in pairwise([None, *row]):
            assert index is not None
            spot = self.spots[index]
            if left is not None:
                offset += (self.spots[left].width + spot.width) / 2 + _BESIDE
            near = [
                *(spot.above if use != "below" else ()),
                *(spot.below if use != "above" else ()),
            ]
            pulls = [(self.spots[n].x, self._stiffness(spot, self.spots[n])) for n in near]
            weight = sum(w for _, w in pulls)
            mean = sum(x * w for x, w in pulls) / weight if pulls else spot.x
            wanted.append(mean - offset)
            weights.append(weight or 0.01)
        offset = 0.0
        for at, (index, x) in enumerate(zip(row, _increasing(wanted, weights), strict=True)):
            if at:
                offset += (self.spots[row[at - 1]].width + self.spots[index].width) / 2 + _BESIDE
            self.spots[index].x = x + offset

    def _stiffness(self, one: _Spot, other: _Spot) -> float:
        """Return how hard two spots pull each other.

        Long arrows are to be straight, but not to bend the chain of boxes that they go around.
        """
        if one.box is None and other.box is None:
            return 8.0
        return 0.05 if one.passes_far or other.passes_far else 1.0


def _increasing(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Return the increasing sequence that is nearest to the values, by weighted squares."""
    blocks: list[tuple[float, float, int]] = []
    for value, weight in zip(values, weights, strict=True):
        count = 1
        while blocks and blocks[-1][0] > value:
            other, more, n = blocks.pop()
            value = (value * weight + other * more) / (weight + more)
            weight, count = weight + more, count + n
        blocks.append((value, weight, count))
    return [value for value, _, count in blocks for _ in range(count)]


def _drawn(
    diagram: Diagram, net: _Net, sizes: Sequence[tuple[float, float]], direction: str
) -> Drawing:
    heights = [
        max((sizes[box][1] for s in row if (box := net.spots[s].box) is not None), default=0.0)
        for row in net.rows
    ]
    across, back = direction in ("LR", "RL"), direction in ("BT", "RL")
    # To the side, labels lie between the boxes.
    longest = max((len(arrow.label) for arrow in diagram.arrows), default=0)
    between = max(_BETWEEN, (longest + 1) * CHARACTER) if across else _BETWEEN
    tops, y = [], 0.0
    for height in heights:
        tops.append(y)
        y += height + between
    width = max((s.x + s.width / 2 for s in net.spots), default=0.0)
    height = max(y - between, 0.0)

    def turned(x: float, y: float) -> Point:
        y = height - y if back else y
        return (y, x) if across else (x, y)

    def edge(box: int, side: int) -> float:
        """Return the y of a box's upper (-1) or lower (1) edge."""
        rank = net.spots[box].rank
        return tops[rank] + heights[rank] / 2 + side * sizes[box][1] / 2

    corners = []
    for box, (w, _) in enumerate(sizes):
        corners.append(turned(net.spots[box].x - w / 2, edge(box, 1 if back else -1)))
    ways = []
    for arrow in diagram.arrows:
        source, target = net.spots[arrow.source], net.spots[arrow.target]
        points = [turned(source.x, edge(arrow.source, 1))]
        for rank in range(source.rank + 1, target.rank):
            x = net.spots[net.passing[arrow.source, rank]].x
            points += [turned(x, tops[rank]), turned(x, tops[rank] + heights[rank])]
        points.append(turned(target.x, edge(arrow.target, -1)))
        ways.append(tuple(points))
    size = (height, width) if across else (width, height)
    return Drawing(diagram, size, tuple(corners), tuple(ways), direction)
