"""Which names a pattern chooses, what it turns them into, and what is said of one in vain."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from netc.patterns import matches, selected, substituted, unmatched

NAMES = ["conv1", "conv1_bn", "inception_3a/1x1", "fc8", "[odd]*"]


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        (["conv1*"], ["conv1", "conv1_bn"]),
        (["conv?"], ["conv1"]),
        (["inception*"], ["inception_3a/1x1"]),
        (["*", "!conv1*"], ["inception_3a/1x1", "fc8", "[odd]*"]),
        (["!fc8", "fc*"], ["fc8"]),  # the last one decides
        (["[odd]*"], ["[odd]*"]),  # written out, a name is a name
        (["CONV1"], []),
        ([], []),
    ],
)
def test_what_patterns_choose(patterns: list[str], chosen: list[str]) -> None:
    assert selected(patterns, NAMES) == chosen


@pytest.mark.parametrize(
    ("pattern", "replacement", "name", "becomes"),
    [
        ("fc8", "fc8_new", "fc8", "fc8_new"),
        ("conv*", "base/conv*", "conv1_1", "base/conv1_1"),
        ("*_s/*", "*/student/*", "a_s/b", "a/student/b"),
        ("conv?_[ab]", "c*", "conv3_b", "c3"),
        ("conv*", "same", "conv1", "same"),
        ("conv*", "x", "fc8", None),
        ("a.b*", "x*", "aXb1", None),  # a dot is a dot
        ("[!a]1", "*", "b1", "b"),
        ("[^a]1", "*", "^1", "^"),  # as in a shell, where only ! takes characters out
        ("[^a]1", "*", "b1", None),
        ("[\\d]1", "*", "\\1", "\\"),
        ("[]]1", "*", "]1", "]"),
        ("[a-c]1", "*", "b1", "b"),
        ("[c-a]1", "*", "b1", None),
    ],
)
def test_what_a_name_becomes(
    pattern: str, replacement: str, name: str, becomes: str | None
) -> None:
    assert substituted(pattern, name, replacement) == becomes
    assert matches(pattern, name) == (becomes is not None)


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("cnov1*", "did you mean 'conv1'"),
        ("!fc9", "did you mean 'fc8'?"),
        ("inc/*", "did you mean 'inception_3a/1x1'?"),
        ("zzz", "there are 'conv1', 'conv1_bn'"),
    ],
)
def test_the_nearest_names_are_offered(pattern: str, hint: str) -> None:
    assert hint in unmatched(pattern, NAMES, "of the net").hint


@given(st.text("ab[]!^-*?\\", max_size=7), st.text("ab[]!^-\\", max_size=4))
@example("[b-a]*", "a")
@example("[[a]", "[")
def test_what_matches_becomes_something(pattern: str, name: str) -> None:
    assert (substituted(pattern, name, "x") is not None) == matches(pattern, name)
