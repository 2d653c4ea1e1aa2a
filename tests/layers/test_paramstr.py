from __future__ import annotations

import ast
import contextlib

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from netc.layers.paramstr import Settings, parse
from netc.layers.types import Refusal


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("'feat_stride': 16", {"feat_stride": 16}),
        (
            "'feat_stride': 16 \n'scales': !!python/tuple [4, 8, 16, 32]",
            {"feat_stride": 16, "scales": [4, 8, 16, 32]},
        ),
        ("{'phase': 'TRAIN', 'p': '0.1'}", {"phase": "TRAIN", "p": "0.1"}),
        (
            "{'voc_dir': '../data', 'seed': 1337, 'mean': (104.00699, 116.66877, 122.67892)}",
            {"voc_dir": "../data", "seed": 1337, "mean": [104.00699, 116.66877, 122.67892]},
        ),
        ("{\"tops\": [u'color', b'label',], 'x': None, }", {"tops": ["color", "label"], "x": None}),
        (
            "a: true\nb: no news  # a remark\nc: C:/data\n",
            {"a": True, "b": "no news", "c": "C:/data"},
        ),
        ("a: {b: [1, [2, 3]],\n c: ()}", {"a": {"b": [1, [2, 3]], "c": []}}),
        ("{a: 1e-3, b: -2, c: .5}", {"a": 1e-3, "b": -2, "c": 0.5}),
        (r"{'a': 'it\'s', 'b': 'it''s'}", {"a": "it's", "b": "it's"}),
        ("{}", {}),
        (" \n", {}),
    ],
)
def test_forms_in_use(text: str, found: dict[str, object]) -> None:
    assert parse(text) == found


@pytest.mark.parametrize(
    "text",
    ["16", "[1, 2]", "{'a': 1", "{'a' 1}", "{'a': 1 'b': 2}", "a: ]",
     "__import__('os')", "dict(a=1)", "{'a': 1} x", "{'a': }", "'a: 1"],
)  # fmt: skip
def test_no_mapping(text: str) -> None:
    with pytest.raises(Refusal, match="no mapping") as error:
        parse(text)
    assert error.value.expected and error.value.setting == "param_str"


def test_a_name_given_twice() -> None:
    with pytest.raises(Refusal, match="gives 'a' twice"):
        parse("{'a': 1, 'a': 2}")


def test_nothing_is_evaluated(tmp_path) -> None:
    mark = tmp_path / "mark"
    text = f"a: !!python/object/apply:os.mknod ['{mark}']"
    with contextlib.suppress(Refusal):
        parse(text)
    assert not mark.exists()


_WORDS = st.text(
    st.characters(codec="ascii", exclude_characters="\r\n\\", min_codepoint=32, max_codepoint=126)
)
_VALUES = st.recursive(
    st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _WORDS | st.booleans()
    | st.none(),
    lambda inner: st.lists(inner) | st.dictionaries(_WORDS, inner),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(_WORDS, _VALUES))
def test_a_python_dict_is_read_as_python_reads_it(value: dict[str, object]) -> None:
    assert parse(repr(value)) == ast.literal_eval(repr(value))


@given(
    st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.integers() | st.booleans())
)
def test_yaml_is_read_as_yaml_reads_it(value: dict[str, object]) -> None:
    text = yaml.safe_dump(value, default_flow_style=False)
    assert {str(k): v for k, v in (yaml.safe_load(text) or {}).items()} == parse(text)


def test_settings_are_checked_one_by_one() -> None:
    settings = Settings("{'n': 3, 'p': '0.5', 's': [1, '2'], 'one': 4, 'w': ['a'], 'seed': 1}")
    assert settings.integer("n") == 3 and settings.number("p") == 0.5
    assert settings.numbers("s") == (1, 2) and settings.numbers("one") == (4,)
    assert settings.words("w") == ("a",) and settings.integer("absent", 7) == 7
    settings.ignore("seed")
    settings.finish()


def test_what_is_wrong_with_a_setting_is_said() -> None:
    settings = Settings("{'feat_stride': 'x', 'scale': 3, 'p': 1.5, 'b': true}")
    with pytest.raises(Refusal, match="lacks 'scales'") as error:
        settings.numbers("scales")
    assert "scale" in error.value.hint
    with pytest.raises(Refusal, match="'feat_stride' is not a whole number"):
        settings.integer("feat_stride")
    with pytest.raises(Refusal, match="'p' is not a whole number"):
        settings.integer("p")
    with pytest.raises(Refusal, match="'b' is not a number"):
        settings.number("b")
    with pytest.raises(Refusal, match="sets 'scale', which the layer does not read") as error:
        settings.finish()
    assert "scales" in error.value.hint


def test_a_list_may_stand_without_brackets() -> None:
    assert parse("'strides': 4,8, 16\n'more': 1") == {"strides": [4, 8, 16], "more": 1}
    assert parse("'a': 1, 'b': 2") == {"a": 1, "b": 2}
    assert parse("a: 1, b: 2") == {"a": 1, "b": 2}
