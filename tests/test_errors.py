"""How a mistake is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from netc.errors import NetcError, Problem, Problems, Span, fail, nearest


def test_the_whole_message() -> None:
    text = "layer {\n\tgroup: 3\n}\n"
    error = fail(
        "group does not divide the channels of its bottom",
        span=Span("net.prototxt", 2, 9, text),
        layer="'conv2' (Convolution)",
        expected="channels % group == 0",
        got="group 3\n20 channels",
        hint="use 1, 2, 4, 5, 10 or 20",
    )
    assert str(error) == (
        "net.prototxt:2:9: layer 'conv2' (Convolution): "
        "group does not divide the channels of its bottom\n"
        "    |     group: 3\n"
        "    |            ^\n"
        "  expected  channels % group == 0\n"
        "  got       group 3\n"
        "            20 channels\n"
        "  hint      use 1, 2, 4, 5, 10 or 20"
    )
    assert error.problems[0].as_dict() == {
        "message": "group does not divide the channels of its bottom",
        "file": "net.prototxt",
        "line": 2,
        "column": 9,
        "layer": "'conv2' (Convolution)",
        "expected": "channels % group == 0",
        "got": "group 3\n20 channels",
        "hint": "use 1, 2, 4, 5, 10 or 20",
    }


def test_the_line_is_read_from_the_file_where_no_text_is_given(tmp_path: Path) -> None:
    path = tmp_path / "n"
    path.write_bytes(b"\xef\xbb\xbfa\x0cb: 1\r\nc: 2\n")
    assert "    | c: 2\n    |    ^" in str(fail("x", span=Span(str(path), 2, 4)))
    # A form feed ends no line; the byte order mark is no column.
    first = str(fail("x", span=Span(str(path), 1, 1)))
    assert "    | a\N{REPLACEMENT CHARACTER}b: 1\n    | ^" in first


@pytest.mark.parametrize("file", ["<text>", "no/such/file", "nul\0"])
def test_no_line_is_shown_where_there_is_none(file: str) -> None:
    assert str(fail("x", span=Span(file, 3, 1))) == f"{file}:3:1: x"
    assert str(fail("x", span=Span(file, 3, 1, "one line"))) == f"{file}:3:1: x"


@pytest.mark.parametrize("column", [1, 50, 150, 299, 300])
def test_a_long_line_is_cut_around_the_caret(column: int) -> None:
    line = "".join(chr(ord("a") + i % 26) for i in range(300))
    shown, caret = str(fail("x", span=Span("f", 1, column, line))).split("\n")[1:3]
    assert len(shown) < 120
    assert shown[len(caret) - 1] == line[column - 1]


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert "\x1b" not in str(fail("x", span=Span("f", 1, 1, "\x1b[31m red")))


def test_problems_are_told_in_order_of_place_and_once() -> None:
    problems = Problems()
    problems.raise_any()
    for span in (Span("b", 1), None, Span("a", 10, 1), Span("a", 9, 5), Span("b", 1)):
        problems.add(Problem("x", span))
    with pytest.raises(NetcError) as caught:
        problems.raise_any()
    spans = [problem.span for problem in caught.value.problems]
    assert spans == [Span("a", 9, 5), Span("a", 10, 1), Span("b", 1), None]


def test_the_place_is_filled_in_where_it_lacks() -> None:
    error = fail("x", layer="'a'").at(Span("f", 1), "'b'")
    assert (error.problems[0].span, error.problems[0].layer) == (Span("f", 1), "'a'")


def test_nearest() -> None:
    assert nearest("kernal_size", ["kernel_size", "stride"]) == "did you mean 'kernel_size'?"
    assert nearest("convolution", ["Convolution", "ReLU"]) == "did you mean 'Convolution'?"
    assert nearest("xyz", ["kernel_size"]) == ""
