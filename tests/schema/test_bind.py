"""Binding agrees with protobuf's own reader, and says of every value where it stands."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.errors import NetcError
from netc.schema import bind, netc_pb2, print_prototxt, print_yaml
from netc.text import Format, parse
from tests.support.messages import messages

NET = messages(netc_pb2.NetParameter)
LAYER = messages(netc_pb2.LayerParameter)
SOLVER = messages(netc_pb2.SolverParameter)
STATE = messages(netc_pb2.SolverState)
ANY = st.one_of(LAYER, NET, SOLVER, STATE, messages(netc_pb2.Datum), messages(netc_pb2.BlobProto))


def read(text: str, kind: type[Message], format: Format = Format.PROTOTXT) -> Any:
    return bind(parse("<text>", text, format=format), kind).message


def read_layer(text: str) -> Any:
    return read(text, netc_pb2.LayerParameter)


def refused(text: str, kind: type[Message] = netc_pb2.LayerParameter) -> NetcError:
    with pytest.raises(NetcError) as caught:
        read(text, kind)
    return caught.value


PRINTERS: dict[str, Callable[[Message], str]] = {
    "usual": text_format.MessageToString,
    "one line": lambda m: text_format.MessageToString(m, as_one_line=True),
    "angles": lambda m: text_format.MessageToString(m, pointy_brackets=True),
    "lists": lambda m: text_format.MessageToString(m, use_short_repeated_primitives=True),
    "characters": lambda m: text_format.MessageToString(m, as_utf8=True),
    "by index": lambda m: text_format.MessageToString(m, use_index_order=True, indent=4),
}


@pytest.mark.parametrize("style", PRINTERS)
@given(message=ANY)
def test_reads_what_protobuf_writes(style: str, message: Message) -> None:
    assert read(PRINTERS[style](message), type(message)) == message


@given(ANY)
def test_protobuf_reads_what_netc_writes(message: Message) -> None:
    assert text_format.Parse(print_prototxt(message), type(message)()) == message


@given(ANY)
def test_reads_what_netc_writes(message: Message) -> None:
    assert read(print_prototxt(message), type(message)) == message


@given(
    st.one_of(
        messages(netc_pb2.NetParameter, as_yaml=True),
        messages(netc_pb2.LayerParameter, as_yaml=True),
        messages(netc_pb2.SolverParameter, as_yaml=True),
    )
)
def test_yaml_means_the_same(message: Message) -> None:
    assert read(print_yaml(message), type(message), Format.YAML) == message


CHARACTERS = "{}<>[]:;,#\"'\\-+.=/ \n\t01289eExfnaT_é\x00"
EDITS = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 3), st.text(CHARACTERS, max_size=3)),
    min_size=1,
    max_size=4,
)


def edited(text: str, edits: list[tuple[int, int, str]]) -> str:
    for at, deleted, inserted in edits:
        at %= len(text) + 1
        text = text[:at] + inserted + text[at + deleted :]
    return text


def as_protobuf_reads(text: str, kind: type[Message]) -> Message | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes that Python does not know
        try:
            return text_format.Parse(text, kind())
        except (text_format.ParseError, UnicodeDecodeError):
            return None


@settings(max_examples=400)
@given(message=st.one_of(LAYER, NET, SOLVER), edits=EDITS, one_line=st.booleans())
def test_damaged_text_is_read_as_protobuf_reads_it_or_refused(
    message: Message, edits: list[tuple[int, int, str]], one_line: bool
) -> None:
    text = edited(text_format.MessageToString(message, as_one_line=one_line), edits)
    expected = as_protobuf_reads(text, type(message))
    try:
        found = read(text, type(message))
    except NetcError as error:
        assert str(error)
        # protobuf's reader in Python is more lenient than the one in C++, Caffe's, in a few things.
        lenient = ("out of range", "octal", "takes a number", "is not an escape", "no '+'")
        allowed = any(word in str(error) for word in lenient)
        # It also takes Python's way to group digits, 1_000.
        allowed |= "not a number" in str(error) and re.search(r"\d_\d", text) is not None
        assert expected is None or allowed, text
    else:
        assert expected is None or found.SerializeToString() == expected.SerializeToString(), text


@settings(max_examples=200)
@given(message=messages(netc_pb2.NetParameter, as_yaml=True), edits=EDITS)
def test_damaged_yaml_is_read_or_refused(
    message: Message, edits: list[tuple[int, int, str]]
) -> None:
    text = edited(print_yaml(message), edits)
    try:
        read(text, netc_pb2.NetParameter, Format.YAML)
    except NetcError as error:
        assert str(error)


# Values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("-0", 0),
        ("12", 12),
        ("- 12", -12),
        ("-12", -12),
        ("0x1F", 31),
        ("-0x1f", -31),
        ("017", 15),
        ("-010", -8),
        ("2147483647", 2147483647),
        ("-2147483648", -2147483648),
    ],
)
def test_integers(text: str, value: int) -> None:
    assert read_layer(f"concat_param {{ axis: {text} }}").concat_param.axis == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1.0),
        ("0.5", 0.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("1.5f", 1.5),
        ("2F", 2.0),
        ("1e-3", float.fromhex("0x1.0624dep-10")),
        ("1E+3", 1000.0),
        ("- 2.5", -2.5),
        ("inf", math.inf),
        ("-inf", -math.inf),
        ("infinity", math.inf),
        ("INF", math.inf),
        ("0", 0.0),
        ("1e-60", 0.0),
    ],
)
def test_reals(text: str, value: float) -> None:
    assert read_layer(f"power_param {{ shift: {text} }}").power_param.shift == value


def test_nan() -> None:
    assert math.isnan(read_layer("loss_weight: nan").loss_weight[0])
    assert math.isnan(read_layer("loss_weight: -nan").loss_weight[0])


@pytest.mark.parametrize("text", ["true", "True", "t", "1", "0x1"])
def test_true(text: str) -> None:
    assert read_layer(f"propagate_down: {text}").propagate_down == [True]


@pytest.mark.parametrize("text", ["false", "False", "f", "0"])
def test_false(text: str) -> None:
    assert read_layer(f"propagate_down: {text}").propagate_down == [False]


def test_enums_by_name_and_number() -> None:
    layer = read_layer("include { phase: TEST } include { phase: 0 } include { phase: 0x1 }")
    assert [rule.phase for rule in layer.include] == [netc_pb2.TEST, netc_pb2.TRAIN, netc_pb2.TEST]


@pytest.mark.parametrize("text", ["2", "-1", "1.0", "train", '"TRAIN"', "TRAIN2"])
def test_other_enum_values_are_refused(text: str) -> None:
    assert "one of: TRAIN, TEST" in str(refused(f"include {{ phase: {text} }}"))


@pytest.mark.parametrize("text", ["2147483648", "-2147483649", "1.0", "1e3", "08", "x", '"1"'])
def test_other_integers_are_refused(text: str) -> None:
    (problem,) = refused(f"concat_param {{ axis: {text} }}").problems
    assert problem.span is not None and problem.span.column == 22


@pytest.mark.parametrize("text", ["0x10", "010", "01.5", "1e39", "-1e39", "x", '"1"', "true"])
def test_other_reals_are_refused(text: str) -> None:
    (problem,) = refused(f"power_param {{ shift: {text} }}").problems
    assert problem.span is not None and problem.span.column == 22


@pytest.mark.parametrize("text", ["2", "yes", "TRUE", '"true"', "-1", "0.0"])
def test_other_bools_are_refused(text: str) -> None:
    assert "true or false" in str(refused(f"propagate_down: {text}"))


def test_strings_and_bytes() -> None:
    assert read_layer(r'name: "a\x41\101é\u00e9\U0001F600\n" "b" ' + r"'\'c'").name == (
        "aAAéé\N{GRINNING FACE}\nb'c"
    )
    assert read(r'data: "\xff\000é"', netc_pb2.Datum).data == b"\xff\0\xc3\xa9"
    assert "not UTF-8" in str(refused(r'name: "\xff"'))


def test_required_fields() -> None:
    assert read_layer("clip_param { min: -1 max: 1 }").clip_param.max == 1
    error = refused("clip_param { min: -1 }")
    assert [p.what for p in error.problems] == ["ClipParameter lacks the field 'max'"]


def test_a_required_field_in_a_damaged_message_is_not_missed() -> None:
    error = refused("clip_param { min: -1 max: 1x }")
    assert [p.what for p in error.problems] == ["this is not a number"]


def test_empty_message_counts_as_set() -> None:
    for text in ("relu_param { }", "relu_param: <>"):
        assert read_layer(text).HasField("relu_param")
    yaml = read("relu_param: {}", netc_pb2.LayerParameter, Format.YAML)
    assert yaml.HasField("relu_param")


# The nets of the conformance vectors

CONFORMANCE = Path(__file__).parents[1] / "conformance"


def test_conformance_nets_are_read_as_protobuf_reads_them() -> None:
    files = sorted((CONFORMANCE / "layers").glob("*.npz"))
    assert files
    for file in files:
        with np.load(file) as vectors:
            text = str(vectors["prototxt"])
        expected = text_format.Parse(text, netc_pb2.NetParameter())
        assert read(text, netc_pb2.NetParameter) == expected, file.name


def test_conformance_refusals_are_not_of_the_text_but_one() -> None:
    refused_here = []
    for case in json.loads((CONFORMANCE / "refused_nets.json").read_text("utf-8")):
        try:
            read(case["prototxt"], netc_pb2.NetParameter)
        except NetcError:
            refused_here.append(case["name"])
    assert refused_here == ["bad_enum"]


# Places

NET_TEXT = """\
name: "n"
layer {
  name: "conv1"
  convolution_param { kernel_size: [3, 5] stride: 1 stride: 2 }
  param: [{ lr_mult: 1 }, { lr_mult: 2 }]
}
"""
NET_YAML = """\
name: n
layer:
- name: conv1
  convolution_param: {kernel_size: [3, 5], stride: [1, 2]}
  param:
  - lr_mult: 1
  - {lr_mult: 2}
"""


@pytest.mark.parametrize(
    ("path", "prototxt", "yaml"),
    [
        ((), (0, 0), (0, 0)),
        (("name",), (1, 7), (1, 7)),
        (("layer",), (2, 1), (3, 3)),
        (("layer", 0), (2, 1), (3, 3)),
        (("layer", 0, "name"), (3, 9), (3, 9)),
        (("layer", 0, "convolution_param"), (4, 3), (4, 3)),
        (("layer", 0, "convolution_param", "kernel_size"), (4, 37), (4, 37)),
        (("layer", 0, "convolution_param", "kernel_size", 1), (4, 40), (4, 40)),
        (("layer", 0, "convolution_param", "stride", 1), (4, 61), (4, 56)),
        (("layer", 0, "param", 1), (5, 27), (7, 5)),
        (("layer", 0, "param", 1, "lr_mult"), (5, 38), (7, 15)),
        # The text does not have these: the longest part of the path counts.
        (("layer", 0, "convolution_param", "pad"), (4, 3), (4, 3)),
        (("layer", 0, "convolution_param", "stride", 7), (4, 3), (4, 3)),
        (("layer", 0, "relu_param", "negative_slope"), (2, 1), (3, 3)),
        (("layer", 7, "name"), (0, 0), (0, 0)),
        (("no_such_field",), (0, 0), (0, 0)),
    ],
)
def test_places(
    path: tuple[str | int, ...], prototxt: tuple[int, int], yaml: tuple[int, int]
) -> None:
    for text, format, expected in (
        (NET_TEXT, Format.PROTOTXT, prototxt),
        (NET_YAML, Format.YAML, yaml),
    ):
        span = bind(parse("net", text, format=format), netc_pb2.NetParameter).span(*path)
        assert (span.file, span.line, span.column) == ("net", *expected)


@given(NET)
def test_every_value_has_a_place(net: netc_pb2.NetParameter) -> None:
    text = print_prototxt(net)
    bound = bind(parse("net", text), netc_pb2.NetParameter)
    lines = text.split("\n")

    def check(message: Any, path: tuple[str | int, ...]) -> None:
        for field, value in message.ListFields():
            for i, item in enumerate(value if field.is_repeated else [value]):
                here = (*path, field.name, i)
                span = bound.span(*here)
                line = lines[span.line - 1]
                assert line.strip().startswith(field.name)
                is_message = field.message_type is not None
                before = line[: span.column - 1]
                assert not before.strip() if is_message else before.endswith(f"{field.name}: ")
                if is_message:
                    check(item, here)

    check(net, ())


def test_a_list_of_devices_means_the_first() -> None:
    bound = bind(parse("<text>", "device_id: [3, 1]"), netc_pb2.SolverParameter)
    assert bound.message.device_id == 3
    assert (bound.span("device_id").line, bound.span("device_id").column) == (1, 13)
    assert "device_id" in str(refused("device_id: [3, x]", netc_pb2.SolverParameter))
    error = refused("random_seed: [3, 1]", netc_pb2.SolverParameter)
    assert "takes one value, not a list" in str(error)
