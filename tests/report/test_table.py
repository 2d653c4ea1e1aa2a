"""Tables and sizes."""

from __future__ import annotations

import pytest

from netc.report.table import size, table


def test_text_with_a_total() -> None:
    lines = table(("a", "number"), [("x", "1"), ("long name", "22")], ("total", "23"), right=[1])
    assert lines == [
        "a          number",
        "---------  ------",
        "x               1",
        "long name      22",
        "---------  ------",
        "total          23",
    ]


def test_text_without_rows() -> None:
    assert table(("a", "b"), []) == ["a  b", "-  -"]


def test_markdown_escapes_what_would_end_a_cell() -> None:
    lines = table(("a", "b"), [("x|y", "1")], ("total", ""), right=[1], markdown=True)
    assert lines == ["| a | b |", "| --- | ---: |", r"| x\|y | 1 |", "| **total** |  |"]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024**2, "1.0 MiB"),
        (5 * 1024**3, "5.0 GiB"),
        (5000 * 1024**3, "5000.0 GiB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text
