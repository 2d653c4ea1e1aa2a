"""Settings of types from outside become typed values; mistakes are told at their place."""

from __future__ import annotations

import enum
from dataclasses import dataclass, make_dataclass
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netc.errors import NetcError
from netc.schema import bind_fields, netc_pb2, read_net


class Mode(enum.Enum):
    HARD = 1
    SOFT = 2


@dataclass(frozen=True)
class Spread:
    std: float
    clip: bool = True


@dataclass(frozen=True)
class Mine:
    slope: float
    axis: int = 1
    mode: Mode = Mode.HARD
    sizes: tuple[int, ...] = ()
    title: str = "none"
    limit: float | None = None
    spread: Spread | None = None
    lambda_: float = 1.0
    top: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bare:
    slope: float = 0.5


@dataclass(frozen=True)
class Slope:
    negative_slope: float = 0.0


@dataclass(frozen=True)
class Demanding:
    spread: Spread
    sizes: tuple[int, ...]


def layer_of(*settings: tuple[str, str]) -> str:
    lines = [f'  custom_param {{ key: "{key}" value: "{value}" }}' for key, value in settings]
    return "\n".join(['layer { name: "x" type: "Mine" top: "t"', *lines, "}"])


def bound(cls: type, text: str, file: str = "net.prototxt") -> tuple[Any, list[tuple[str, ...]]]:
    source = read_net(file, text)
    (layer,) = source.message.layer
    return bind_fields(
        cls, [], outer=layer, custom=layer.custom_param, span=partial(source.span, "layer", 0)
    )


def problems(cls: type, *settings: tuple[str, str]) -> list[tuple[str, int, str, str, str]]:
    with pytest.raises(NetcError) as caught:
        bound(cls, layer_of(*settings))
    return [
        (p.what, p.span.line, p.expected, p.got, p.hint) for p in caught.value.problems if p.span
    ]


def test_every_kind_of_value() -> None:
    found, unread = bound(
        Mine,
        layer_of(
            ("slope", "-.5e-1"),
            ("axis", "0x10"),
            ("mode", "SOFT"),
            ("sizes", "3"),
            ("sizes", "5"),
            ("title", "3"),
            ("limit", "inf"),
            ("spread.std", "2"),
            ("lambda", "7"),
        ),
    )
    assert found == Mine(-0.05, 16, Mode.SOFT, (3, 5), "3", float("inf"), Spread(2.0), 7.0, ("t",))
    assert [path for path in unread if path[0] not in ("name", "type")] == []


def test_defaults_are_the_dataclass_own() -> None:
    assert bound(Mine, layer_of(("slope", "1")))[0] == Mine(1.0, top=("t",))
    assert bound(Bare, 'layer { name: "x" type: "Mine" }')[0] == Bare()


def test_yaml() -> None:
    text = """
layer:
- name: x
  type: Mine
  custom_param:
  - {key: slope, value: 0.25}
  - {key: mode, value: SOFT}
"""
    assert bound(Mine, text, "net.yaml")[0] == Mine(0.25, mode=Mode.SOFT)


@given(st.floats(allow_nan=False), st.integers(-(2**63), 2**63 - 1), st.booleans())
def test_numbers_survive(slope: float, axis: int, clip: bool) -> None:
    text = layer_of(
        ("slope", repr(slope)),
        ("axis", str(axis)),
        ("spread.std", "1"),
        ("spread.clip", str(clip).lower()),
    )
    assert bound(Mine, text)[0] == Mine(slope, axis, spread=Spread(1.0, clip), top=("t",))


def test_a_wrong_type() -> None:
    assert problems(Mine, ("slope", "steep"), ("axis", "1.5"), ("spread.std", "1")) == [
        ("the setting 'slope' takes a number", 2, "a decimal number", '"steep"', ""),
        ("the setting 'axis' takes a whole number", 3, "a whole number", '"1.5"', ""),
    ]
    ((what, line, expected, got, hint),) = problems(
        Mine, ("slope", "1"), ("spread.std", "1"), ("spread.clip", "yes")
    )
    assert (what, line) == ("the setting 'spread.clip' takes true or false", 4)
    assert (expected, got, hint) == ("true or false", '"yes"', "write true")


def test_an_unknown_name_and_an_unknown_value() -> None:
    found = problems(Bare, ("slop", "1"))
    assert found == [
        (
            "unknown setting 'slop' of layer type Bare",
            2,
            "one of: slope",
            "",
            "did you mean 'slope'?",
        )
    ]
    ((what, _, expected, got, hint),) = problems(Mine, ("slope", "1"), ("mode", "SOFTY"))
    assert what == "the setting 'mode' has no value SOFTY"
    assert (expected, got, hint) == ("one of: HARD, SOFT", "SOFTY", "did you mean 'SOFT'?")


def test_given_twice_and_missing() -> None:
    assert problems(Mine, ("axis", "1"), ("axis", "2")) == [
        ("the setting 'slope' is missing", 2, 'custom_param { key: "slope" value: "0.5" }', "", ""),
        (
            "the setting 'axis' is given twice",
            3,
            "it once in this layer",
            "a first one in line 2",
            "",
        ),
    ]


def test_settings_of_a_part() -> None:
    found, _ = bound(Demanding, layer_of(("spread.std", "1"), ("sizes", "2")))
    assert found == Demanding(Spread(1.0), (2,))
    # A list may be empty, as a repeated field may.
    assert [what for what, *_ in problems(Demanding)] == ["the setting 'spread.std' is missing"]
    assert problems(Mine, ("slope", "1"), ("spread.sdt", "1"))[-1][0] == (
        "unknown setting 'spread.sdt' of layer type Mine"
    )


def test_fields_of_other_types_stay_errors() -> None:
    text = (
        'layer { name: "x" type: "Mine" custom_param { key: "slope" value: "1" } relu_param { } }'
    )
    assert ("relu_param",) in bound(Mine, text)[1]


def test_a_type_that_takes_no_custom_settings_does_not_read_them() -> None:
    layer = netc_pb2.LayerParameter()
    layer.custom_param.add(key="slope", value="1")
    _, unread = bind_fields(Slope, [layer.relu_param], outer=layer)
    assert unread == [("custom_param",)]


def test_a_field_named_like_a_word_of_python() -> None:
    @dataclass(frozen=True)
    class Selu:
        lambda_: float

    found, unread = bind_fields(Selu, [netc_pb2.ELUParameter(**{"lambda": 1.5})])
    assert (found.lambda_, unread) == (1.5, [])


@pytest.mark.parametrize(
    ("annotation", "message"),
    [(complex, "has a type that no setting has"), (tuple[Spread, ...], "no list of messages")],
)
def test_a_dataclass_that_no_text_can_fill_is_a_bug(annotation: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        bound(make_dataclass("Odd", [("odd", annotation)]), layer_of())
