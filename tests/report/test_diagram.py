"""Where boxes and arrows go."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netc.report.diagram import DIRECTIONS, Arrow, Box, Diagram, Drawing, draw


def diagram(n: int, *ends: tuple[int, int]) -> Diagram:
    boxes = tuple(Box((f"box {i}", "x" * (3 * i % 17))) for i in range(n))
    return Diagram("test", boxes, tuple(Arrow(*pair) for pair in ends))


def extents(drawing: Drawing) -> list[tuple[float, float, float, float]]:
    """Return left, top, right and bottom of each box."""
    return [
        (x, y, x + box.size[0], y + box.size[1])
        for box, (x, y) in zip(drawing.diagram.boxes, drawing.corners, strict=True)
    ]


def middles(drawing: Drawing) -> list[float]:
    return [(left + right) / 2 for left, _, right, _ in extents(drawing)]


@st.composite
def diagrams(draw_: st.DrawFn) -> Diagram:
    n = draw_(st.integers(1, 12))
    pairs = [(i, j) for j in range(n) for i in range(j)]
    return diagram(n, *draw_(st.lists(st.sampled_from(pairs), unique=True)) if pairs else ())


@given(diagrams(), st.sampled_from(DIRECTIONS))
def test_boxes_and_arrows_keep_apart(given_: Diagram, direction: str) -> None:
    drawing = draw(given_, direction)
    boxes = extents(drawing)
    width, height = drawing.size
    for i, one in enumerate(boxes):
        assert one[0] >= -1e-6 and one[1] >= -1e-6
        assert one[2] <= width + 1e-6 and one[3] <= height + 1e-6
        for other in boxes[:i]:
            apart = (one[0] - other[2], other[0] - one[2], one[1] - other[3], other[1] - one[3])
            assert max(apart) > 1
    for arrow, way in zip(given_.arrows, drawing.ways, strict=True):
        along = [point[0 if drawing.across else 1] for point in way]
        assert along == sorted(along, reverse=drawing.back)
        for box, end in ((arrow.source, way[0]), (arrow.target, way[-1])):
            left, top, right, bottom = boxes[box]
            assert left - 1e-6 <= end[0] <= right + 1e-6 and top - 1e-6 <= end[1] <= bottom + 1e-6
        for i, (left, top, right, bottom) in enumerate(boxes):
            for (x0, y0), (x1, y1) in pairwise(way):
                # The straight parts pass between boxes; what bends is between ranks.
                if i not in (arrow.source, arrow.target) and (x0 == x1 or y0 == y1):
                    middle = (x0 + x1) / 2, (y0 + y1) / 2
                    assert not (left < middle[0] < right and top < middle[1] < bottom)


def test_a_chain_is_straight_and_what_goes_around_it_is_outside() -> None:
    drawing = draw(diagram(8, *pairwise(range(7)), (6, 7), (0, 7)))
    chain = middles(drawing)
    # The arrow around it pulls its first and last box aside a little.
    assert max(chain) - min(chain) < 20
    (start, *passing, end) = drawing.ways[-1]
    assert len(passing) == 2 * 6
    assert max(passing)[0] - min(passing)[0] < 5
    right = max(edge for _, _, edge, _ in extents(drawing)[1:7])
    left = min(edge for edge, _, _, _ in extents(drawing)[1:7])
    assert passing[0][0] > right or passing[0][0] < left
    assert start[1] < passing[0][1] < end[1]


def test_branches_lie_beside_each_other_around_what_they_meet_in() -> None:
    drawing = draw(diagram(5, (0, 1), (0, 2), (0, 3), (1, 4), (2, 4), (3, 4)))
    boxes, centre = extents(drawing), middles(drawing)
    assert len({(top + bottom) / 2 for _, top, _, bottom in boxes[1:4]}) == 1
    assert centre[0] == pytest.approx(centre[4], abs=1)
    assert centre[0] == pytest.approx(sum(centre[1:4]) / 3, abs=8)


def test_arrows_that_need_not_cross_do_not() -> None:
    # Boxes 3, 4 and 5 belong to 2, 1 and 0.
    drawing = draw(diagram(6, (2, 3), (1, 4), (0, 5)))
    centre = middles(drawing)
    assert sorted(range(3), key=centre.__getitem__) == [
        5 - i for i in sorted((3, 4, 5), key=centre.__getitem__)
    ]


def test_what_comes_from_nowhere_lies_before_what_it_leads_to() -> None:
    drawing = draw(diagram(5, (0, 1), (1, 3), (2, 4), (3, 4)))
    tops = [top for _, top, _, _ in extents(drawing)]
    assert tops[2] == tops[3] > tops[1]


def test_nothing_is_a_drawing_too() -> None:
    assert draw(Diagram("empty", (), ())).size == (0, 0)


def test_very_many_arrows_take_fewer_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    everywhere = diagram(20, *pairwise(range(20)), *((i, 19) for i in range(18)))
    monkeypatch.setattr("netc.report.diagram._MANY", 10)
    quick = draw(everywhere)
    monkeypatch.undo()
    assert quick.size[1] == draw(everywhere).size[1]
    for one, other in pairwise(extents(quick)):
        assert other[1] > one[3]
