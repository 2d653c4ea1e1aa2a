"""The tree of a prototxt text: values, places, and what is left of it after a mistake."""

from __future__ import annotations

import time

import pytest

from netc.errors import NetcError, in_order
from netc.text import Block, Format, Kind, Scalar, Tree, parse, parse_with_problems


def read(text: str) -> Tree:
    return parse("net.prototxt", text)


def values(block: Block) -> list[object]:
    """The fields as nested lists: [("name", "x"), ("layer", [...])]."""
    return [
        (entry.name, values(value) if isinstance(value, Block) else value.text)
        for entry in block.entries
        for value in entry.values
    ]


def entries(text: str) -> list[object]:
    return values(read(text).root)


def told(text: str) -> list[str]:
    problems = in_order(parse_with_problems("n", text).problems)
    return [f"{p.span.line}:{p.span.column} {p.what}" for p in problems if p.span]


@pytest.mark.parametrize(
    "text",
    [
        "a { b: 1 }",
        "a: { b: 1 }",
        "a < b: 1 >",
        "a: < b: 1 >",
        "a{b:1}",
        "a { b: 1, }",
        "a { b: 1; };",
        "a: [{ b: 1 }]",
        "a [ < b: 1 > ]",
        "# comment\na # comment {\n{ b # comment\n: # 2\n1 }",
        "a\t{\r\n\tb: 1\r\n}\r\n",
        "\ufeffa { b: 1 }",
    ],
)
def test_notations_of_a_message(text: str) -> None:
    assert entries(text) == [("a", [("b", "1")])]


def test_lists() -> None:
    (entry,) = read("a: [1, -2 , inf,\n x, 'y' \"z\"]").root.entries
    assert entry.listed and [v.text for v in entry.values if isinstance(v, Scalar)] == [
        *("1", "-2", "inf", "x", "yz")
    ]
    (entry,) = read("a: []").root.entries
    assert entry.listed and entry.values == ()


def test_kinds() -> None:
    kinds = [e.values[0].kind for e in read("a: 1 b: x c: 'x' d: -inf").root.entries]
    assert kinds == [Kind.NUMBER, Kind.WORD, Kind.STRING, Kind.WORD]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'"a" "b"' + "\n 'c' # comment\n 'd'", "abcd"),
        (r'"\a\b\f\n\r\t\v\\\?\'\""', "\a\b\f\n\r\t\v\\?'\""),
        (r'"\1\12\1234\x4\x41B\X41"', "\1\nS4\x04AB" + "A"),
        (r'"\u00e9\U0001F600é"', "é\N{GRINNING FACE}é"),
        ('"it\'s # not a comment { }"', "it's # not a comment { }"),
        ("'say \"x\"'", 'say "x"'),
        ('""', ""),
    ],
)
def test_strings(text: str, value: str) -> None:
    assert entries(f"a: {text} b: 1") == [("a", value), ("b", "1")]


def test_strings_of_any_bytes() -> None:
    (entry,) = read(r'a: "\xff\0é\303\251"').root.entries
    assert isinstance(entry.values[0], Scalar)
    assert entry.values[0].data == b"\xff\0" + "éé".encode()


@pytest.mark.parametrize(
    "number", ["1", "-1", "- 1", "0x1F", "017", "1.", ".5", "1e5", "1.5E-3", "2f", "1.5F", "1.f"]
)
def test_numbers_are_kept_as_written(number: str) -> None:
    assert entries(f"a: {number} b: 2") == [("a", number.replace(" ", "")), ("b", "2")]


def test_a_field_may_follow_a_number_at_once() -> None:
    assert entries("a: 1b: 2.5c { d: 0x1e }") == [("a", "1"), ("b", "2.5"), ("c", [("d", "0x1e")])]


def test_places() -> None:
    tree = read("a: 1\n\tb {\n  c: [2,\n 'x' 'y']\n}\nd: - 5")
    a, b, d = tree.root.entries
    inner = b.values[0]
    assert isinstance(inner, Block)
    (c,) = inner.entries
    spans = [a.span, a.values[0].span, b.span, inner.span, c.span, *(v.span for v in c.values)]
    spans += [d.values[0].span]
    assert [(s.line, s.column) for s in spans] == [
        *((1, 1), (1, 4), (2, 2), (2, 2), (3, 3), (3, 7), (4, 2), (6, 4))
    ]
    assert {s.file for s in spans} == {"net.prototxt"}
    assert tree.format is Format.PROTOTXT and tree.reliable


def test_empty_text_is_an_empty_message() -> None:
    assert entries("") == entries("# nothing\n") == []


# Mistakes


def test_one_mistake_hides_no_other() -> None:
    text = 'a: "x\nb = 2\nc 3\nd:\ne: 1x\nf: @\ng: [1 2]\nh: 5 6\n\u00a0i: +7\n"j": 8\nk-l: 9\n'
    assert told(text) == [
        "1:4 the string is not closed",
        "2:3 ':' stands between name and value, not '=': 'b'",
        "3:3 ':' is missing after 'c'",
        "4:1 the field 'd' has no value",
        "5:4 this is not a number",
        "6:1 the field 'f' has no value",
        "6:4 '@' has no meaning here",
        "7:7 ',' is missing in the list",
        "8:6 a second value, '6', after the first",
        "9:1 there is an invisible character, U+00A0 NO-BREAK SPACE",
        "9:5 a number has no '+' before it",
        "10:1 the name of a field stands without quotes",
        "11:1 a name has no '-' in it",
    ]


def test_what_can_be_read_is_read() -> None:
    text = 'a: "x\nb = 2\nc 3\nd:\ne: 1x\ng: [1 2]\nh: 5 6\n"j": 8\nk-l: 9\n'
    tree = parse_with_problems("n", text)
    assert values(tree.root) == [
        *(("a", "x"), ("b", "2"), ("c", "3"), ("g", "1"), ("g", "2"), ("h", "5"), ("j", "8")),
        ("k_l", "9"),
    ]
    assert tree.root.damaged and tree.reliable
    with pytest.raises(NetcError) as caught:
        parse("n", text)
    lines = [p.span.line for p in caught.value.problems if p.span]
    assert lines == sorted(lines) and len(lines) == len(tree.problems)


NESTED = """\
a {
  b {
    c: 1
  }
  d: 2
}
a {
  b { c: 3 }
  e {
    f { g: 4 }
  }
}
a { d: 5 }
"""


@pytest.mark.parametrize("line", [4, 6, 11, 12])
def test_a_missing_brace_is_found_by_indentation(line: int) -> None:
    lines = NESTED.split("\n")
    without = "\n".join(lines[: line - 1] + lines[line:])
    tree = parse_with_problems("n", without)
    opener = {4: 2, 6: 1, 11: 9, 12: 7}[line]
    assert [p.span.line for p in tree.problems if p.span] == [opener]
    assert "is never closed" in tree.problems[0].what
    assert values(tree.root) == entries(NESTED)
    assert tree.reliable


@pytest.mark.parametrize("line", range(1, 14))
@pytest.mark.parametrize("brace", ["}", "  }"])
def test_a_superfluous_brace_hides_nothing(line: int, brace: str) -> None:
    lines = NESTED.split("\n")
    tree = parse_with_problems("n", "\n".join([*lines[:line], f"      {brace}", *lines[line:]]))
    assert [p.what for p in tree.problems] == ["'}' without a '{' before it"]
    assert values(tree.root) == entries(NESTED)


def test_without_indentation_braces_are_only_counted() -> None:
    flat = "".join(f"{line.strip()}\n" for line in NESTED.split("\n"))
    assert entries(flat) == entries(NESTED)
    tree = parse_with_problems("n", flat.replace("d: 2\n}", "d: 2"))
    assert [p.what for p in tree.problems] == ["'{' of 'a' is never closed"]
    assert not tree.reliable


def test_odd_indentation_without_mistake_is_no_mistake() -> None:
    assert entries("    a {\nb: 1\n          }\nc {\n d: 2 }\n") == [
        ("a", [("b", "1")]),
        ("c", [("d", "2")]),
    ]


@pytest.mark.parametrize(
    "line",
    [
        'a { b: "x } c { d: 1 }',
        'a { b: "x c: "y" }',
        'a { b: "x c: "y }',
    ],
)
def test_an_open_string_ends_where_it_was_meant_to(line: str) -> None:
    tree = parse_with_problems("n", f"{line}\nz: 1\n")
    assert {p.what for p in tree.problems} == {"the string is not closed"}
    assert tree.reliable
    assert values(tree.root)[-1] == ("z", "1")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"name": "x"}', "this looks like JSON, not like prototxt"),
        ("name: x\nlayer:\n- name: a\n", "this looks like YAML, not like prototxt"),
        ("layer:\n  - {name: a}\n  - b: 1\n", None),
        ("a {" * 200 + "}" * 200, "messages are nested deeper than 100"),
        ("a: [" * 5, None),
        ("a: [[1, 2], [3]] b: 1", "a list cannot be part of a list"),
    ],
)
def test_hopeless_texts(text: str, what: str | None) -> None:
    tree = parse_with_problems("n", text)
    assert tree.problems
    if what:
        assert tree.problems[-1].what == what
        assert tree.reliable == ("list" in what)


def test_long_texts_of_mistakes_take_no_time() -> None:
    start = time.perf_counter()
    for piece in (
        '"',
        "{",
        "}",
        "[",
        "a",
        "a:",
        "1",
        "\\",
        "'\n",
        "a {\n",
        "}\n",
        "@",
        "- a",
        "a-",
    ):
        parse_with_problems("n", piece * 20_000)
    assert time.perf_counter() - start < 20, "each takes a fraction of a second"
