"""Printed trees read back as they were."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from netc.errors import NetcError, Span
from netc.text import Block, Entry, Format, Kind, Scalar, parse, print_prototxt, print_yaml

NOWHERE = Span("?")
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,6}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
BYTES = st.binary(max_size=6).map(lambda data: data.decode("utf-8", "surrogateescape"))


def blocks(strings: st.SearchStrategy[str]) -> st.SearchStrategy[Block]:
    scalars = st.one_of(
        st.builds(Scalar, st.just(Kind.STRING), strings, st.just(NOWHERE)),
        st.builds(Scalar, st.just(Kind.NUMBER), st.integers().map(str), st.just(NOWHERE)),
        st.builds(Scalar, st.just(Kind.WORD), NAMES, st.just(NOWHERE)),
    )

    def around(values: st.SearchStrategy[Scalar | Block]) -> st.SearchStrategy[Block]:
        one = st.builds(Entry, NAMES, st.just(NOWHERE), st.tuples(values))
        return st.builds(
            Block,
            st.lists(one, max_size=4, unique_by=lambda e: e.name).map(tuple),
            st.just(NOWHERE),
        )

    return around(st.recursive(scalars, around, max_leaves=6))


def plain(block: Block) -> list[object]:
    return [
        (e.name, plain(v) if isinstance(v, Block) else v.text)
        for e in block.entries
        for v in e.values
    ]


@given(blocks(st.one_of(TEXTS, BYTES)))
def test_prototxt_reads_back(block: Block) -> None:
    text = print_prototxt(block)
    tree = parse("n", text)
    assert plain(tree.root) == plain(block)
    assert print_prototxt(tree) == text


@given(blocks(TEXTS))
def test_yaml_reads_back(block: Block) -> None:
    assert plain(parse("n", print_yaml(block), format=Format.YAML).root) == plain(block)


@given(TEXTS)
def test_other_yaml_readers_see_a_string(text: str) -> None:
    block = Block((Entry("a", NOWHERE, (Scalar(Kind.STRING, text, NOWHERE),)),), NOWHERE)
    assert yaml.safe_load(print_yaml(block)) == {"a": text}


def test_layout() -> None:
    tree = parse("n", 'name: "n" l { a: 1 b: [2, 3] c { } d: "x\\ty" } l { e { f: g } } h: []')
    assert print_prototxt(tree) == (
        'name: "n"\nl {\n  a: 1\n  b: 2\n  b: 3\n  c {\n  }\n  d: "x\\ty"\n}\n'
        "l {\n  e {\n    f: g\n  }\n}\nh: []\n"
    )
    assert print_yaml(tree) == (
        'name: n\nl:\n- a: 1\n  b: [2, 3]\n  c: {}\n  d: "x\\ty"\n- e:\n    f: g\nh: []\n'
    )


def test_strings_that_yaml_would_take_for_something_else_are_quoted() -> None:
    words = ["no", "true", "null", "1e3", "0x1", "2020-01-01", "1:30", ".inf", "a b", "-", "a: b"]
    text = print_yaml(parse("n", "".join(f'a: "{word}" ' for word in words)))
    assert yaml.safe_load(text) == {"a": words}
    assert print_yaml(parse("n", 'a: "conv1/3x3_s2.w+b-1"')) == "a: conv1/3x3_s2.w+b-1\n"


def test_long_lists_of_yaml_are_one_value_a_line() -> None:
    text = print_yaml(parse("n", f"a: [{', '.join(['123456789'] * 12)}]"))
    assert text.splitlines() == ["a:", *["- 123456789"] * 12]


def test_yaml_cannot_hold_bytes() -> None:
    with pytest.raises(NetcError, match="YAML cannot hold bytes"):
        print_yaml(parse("n", r'a: "\xff"'))
