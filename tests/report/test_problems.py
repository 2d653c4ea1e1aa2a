"""What was found in files, as text and as objects."""

from __future__ import annotations

from netc.errors import Problem, Span
from netc.report.problems import FileReport, as_objects, as_text

WRONG = Problem("no such thing", Span("a.prototxt", 3, 5, "one\ntwo\nx: y z\n"), hint="try z")
REPORTS = [
    FileReport("a.prototxt", (WRONG,), ("a remark",)),
    FileReport("b.prototxt", (), (), "a net"),
    FileReport("c.prototxt", (), (), "", ("a.prototxt", "d.prototxt")),
]


def test_text() -> None:
    assert as_text(REPORTS) == (
        "a.prototxt:3:5: no such thing\n"
        "    | x: y z\n"
        "    |     ^\n"
        "  hint      try z\n"
        "  note: a remark\n"
        "b.prototxt: ok (a net)\n"
        "c.prototxt: not ok, see the mistakes in a.prototxt and d.prototxt\n"
        "1 mistake in 2 files"
    )


def test_text_of_files_that_are_all_right() -> None:
    assert as_text(REPORTS[1:2]) == "b.prototxt: ok (a net)"


def test_objects_have_the_same_keys_whatever_is_known() -> None:
    blank = Problem("nowhere in particular")
    first, second = as_objects([REPORTS[0], FileReport("e.prototxt", (blank,))])
    assert first == {
        "file": "a.prototxt",
        "line": 3,
        "column": 5,
        "message": "no such thing",
        "layer": "",
        "expected": "",
        "got": "",
        "hint": "try z",
    }
    assert list(second) == list(first)
    assert (second["file"], second["line"]) == ("e.prototxt", 0)
