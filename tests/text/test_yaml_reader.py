"""The tree of a YAML or JSON text."""

from __future__ import annotations

import time

import pytest
import yaml

from netc.text import Block, Format, Kind, Scalar, Tree, parse, parse_with_problems
from netc.text.yaml_reader import MAX_VALUES


def read(text: str) -> Tree:
    return parse("net.yaml", text)


def values(block: Block) -> list[object]:
    return [
        (entry.name, values(value) if isinstance(value, Block) else value.text)
        for entry in block.entries
        for value in entry.values
    ]


def entries(text: str) -> list[object]:
    return values(read(text).root)


def told(text: str, file: str = "n.yaml") -> list[str]:
    problems = parse_with_problems(file, text).problems
    return [f"{p.span.line}:{p.span.column} {p.what}" for p in problems if p.span]


@pytest.mark.parametrize(
    "text",
    [
        "a:\n  b: 1\n  c: [x, y]\n",
        "a: {b: 1, c: [x, y]}",
        "a:\n  b: 1\n  c:\n  - x\n  - y\n",
        "---\na:\n  b: 1 # comment\n  c:\n    - x\n    - y\n...\n",
        '{"a": {"b": 1, "c": ["x", "y"]}}',
        "a:\r\n  b: 1\r\n  c: [x,\r\n   y]\r\n",
        "\ufeffa: {b: 1, c: [x, y]}",
        "z: &q [x, y]\na: {b: 1, c: *q}",
    ],
)
def test_notations_of_a_mapping(text: str) -> None:
    found = [entry for entry in entries(text) if entry[0] == "a"]
    assert found == [("a", [("b", "1"), ("c", "x"), ("c", "y")])]


@pytest.mark.parametrize("text", ["1e-3", "no", "0x10", "010", "1_000", "2020-01-01", ".inf", "~"])
def test_yaml_guesses_nothing(text: str) -> None:
    (entry,) = read(f"a: {text}").root.entries
    assert isinstance(entry.values[0], Scalar)
    assert (entry.values[0].kind, entry.values[0].text) == (Kind.PLAIN, text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("'it''s'", "it's"),
        (r'"a\n\x41\u00e9\U0001F600"', "a\nAé\N{GRINNING FACE}"),
        ("|\n  two\n  lines\n", "two\nlines\n"),
        (">-\n  one\n  line\n", "one line"),
        ("''", ""),
        ("'1'", "1"),
    ],
)
def test_quoted_and_block_scalars_are_strings(text: str, value: str) -> None:
    (entry,) = read(f"a: {text}").root.entries
    assert isinstance(entry.values[0], Scalar)
    assert (entry.values[0].kind, entry.values[0].text) == (Kind.STRING, value)


def test_lists_and_places() -> None:
    tree = read("a: 1\nb:\n  c: [2,\n   x]\nd:\n- e: 3\n-   e: 4\n")
    a, b, d = tree.root.entries
    inner = b.values[0]
    assert isinstance(inner, Block)
    (c,) = inner.entries
    assert c.listed and d.listed and not a.listed
    spans = [a.span, a.values[0].span, b.span, inner.span, c.span, *(v.span for v in c.values)]
    spans += [v.span for v in d.values]
    assert [(s.line, s.column) for s in spans] == [
        *((1, 1), (1, 4), (2, 1), (2, 1), (3, 3), (3, 7), (4, 4), (6, 3), (7, 5))
    ]
    assert tree.format is Format.YAML


def test_merge_keys() -> None:
    text = """
conv: &conv {type: Convolution, param: {num_output: 1}}
more: &more {type: Other, name: m}
layer:
- <<: *conv
  name: a
- {name: b, <<: [*conv, *more]}
- {<<: *conv, type: Mine}
"""
    layers = [v for k, v in entries(text) if k == "layer"]
    param = ("param", [("num_output", "1")])
    assert layers == [
        [("name", "a"), ("type", "Convolution"), param],
        [("name", "b"), ("type", "Convolution"), param],
        [("type", "Mine"), param],
    ]


def test_an_alias_of_a_message_stands_where_it_is_used() -> None:
    first, second = read("a: &x {b: 1}\nc: *x\n").root.entries
    assert (first.values[0].span.line, second.values[0].span.line) == (1, 2)


def test_json() -> None:
    text = '{\n\t"a": "\\u00e9\\ud83d\\ude00\\/",\t"b": [1, 2.5e-3,\ttrue]\n}\n'
    tree = parse("net.json", text)
    assert values(tree.root) == [
        ("a", "é\N{GRINNING FACE}/"),
        *(("b", "1"), ("b", "2.5e-3"), ("b", "true")),
    ]
    assert tree.format is Format.JSON
    assert tree.root.entries[1].values[2].span.column == 48


# Mistakes


def test_all_mistakes_of_values_are_told() -> None:
    text = "a: 1\na: 2\nb:\n- [x]\n- !t y\nc: *nothing\nd:\n? {e: 1}\n: 2\nf: {<<: 1}\n"
    assert told(text) == [
        "2:1 the key 'a' occurs twice in one mapping",
        "4:3 a list cannot be part of a list",
        "5:3 the tag '!t' has no meaning here",
        "6:4 there is no anchor '&nothing' before this",
        "7:3 a value is missing",
        "8:3 a key is the name of a field",
        "10:9 only mappings can be merged",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:\n\tb: 1\n", "2:1 a tab cannot indent in YAML"),
        ("a: 1\n---\nb: 2\n", "2:1 there is a second document"),
        ("a: b: c\n", "1:5 a ': ' is not expected here"),
        ('a: "x\nb: 1\n', "1:4 the string is not closed"),
        ("a: [1, 2\nb: 1\n", "1:4 the list is not closed, or a ',' is missing in it"),
        ("a: {b: 1\nc: 1\n", "1:4 the mapping is not closed, or a ',' is missing in it"),
        ("a: 1\nb\nc: 1\n", "2:1 there is no ': ' after this key"),
        ("a:\n  b: 1\n c: 1\n", "3:2 the indentation fits no line above"),
        ("a: @x\n", "1:4 a value cannot begin with this character"),
        ("a: \x07\n", "1:4 the character U+0007 has no place in YAML"),
        ("- a\n", "1:1 a text is one mapping"),
        ("a\n", "1:1 a text is one mapping"),
    ],
)
def test_texts_that_are_no_yaml(text: str, message: str) -> None:
    assert told(text) == [message]
    assert not parse_with_problems("n.yaml", text).reliable


def test_nothing() -> None:
    for text in ("", "# comment\n", "---\n...\n"):
        (problem,) = parse_with_problems("n.yaml", text).problems
        assert problem.what in ("there is nothing in this text", "a value is missing")


def test_prototxt_in_a_yaml_file_is_recognised() -> None:
    text = 'layer {\n  name: "a"\n  type: "b"\n}\n'
    (problem,) = parse_with_problems("n.yaml", text).problems
    assert problem.hint == "this looks like prototxt: name the file .prototxt"


def test_aliases_cannot_explode() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"a{n}: &a{n} {{{', '.join(f'k{i}: *a{n - 1}' for i in range(10))}}}" for n in range(1, 12)
    ]
    start = time.perf_counter()
    (problem,) = parse_with_problems("n.yaml", "\n".join(lines)).problems
    assert str(MAX_VALUES) in problem.what
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_deep_nesting_is_refused_and_ends_no_process(opening: str) -> None:
    for depth in (150, 5_000):
        text = "a: " * (opening not in ("- ", "? ")) + opening * depth
        closing = {"[": "]", "{a: ": "}"}.get(opening, "")
        assert parse_with_problems("n.yaml", text + closing * depth).problems


def test_both_parsers_of_pyyaml_place_values_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(yaml, "CSafeLoader"):
        pytest.skip("this PyYAML comes without libyaml")
    text = "é: [1, 'x']\nb: &a {c: \"\\u00e9\", e: 2}\nf:\n- |\n  é\n- *a\n"
    fast = read(text)
    monkeypatch.setattr("netc.text.yaml_reader._FAST_LOADER", yaml.SafeLoader)
    assert read(text) == fast
