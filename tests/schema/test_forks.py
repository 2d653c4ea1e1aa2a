"""The fields of Caffe's forks are in the schema, under the forks' names."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from netc.schema import netc_pb2
from tests.schema.test_netc_pb2 import LABELS, default_text, type_name

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent


def rows_of(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((HERE / name).read_text("utf-8").splitlines()))


ROWS = rows_of("fork_wire_schema.csv")
FIELDS = [row for row in ROWS if row["label"] != "enum"]
ENUM_VALUES = [row for row in ROWS if row["label"] == "enum"]
CAFFE = {(row["message_or_enum"], row["name"]) for row in rows_of("caffe_wire_schema.csv")}
CAFFE_MESSAGES = {row["message_or_enum"].split(".")[0] for row in rows_of("caffe_wire_schema.csv")}
OWN_BLOCK = range(20000, 21000)
NETC_BLOCK = range(10000, 11000)

# Fork, field, its number there, its number here: the tables of docs/forks.md.
_CLASH = re.compile(r"^\| (\w+) \| `([\w.]+)\.(\w+)` \| (\d+) \| (\d+) \|$", re.M)
CLASHES = {
    (fork, message, name): (int(there), int(here))
    for fork, message, name, there, here in _CLASH.findall((ROOT / "docs/forks.md").read_text())
}
# One default had to be chosen: 0 means what the absence of the field meant in CaffeWindows.
OTHER_DEFAULTS = {
    ("CaffeWindows", "ResizeParameter", "height"): "0",
    ("CaffeWindows", "ResizeParameter", "width"): "0",
}


def key_of(row: dict[str, str]) -> tuple[str, str, str]:
    return row["fork"], row["message_or_enum"], row["name"]


def label_of(row: dict[str, str]) -> str:
    return ".".join(key_of(row))


def message_of(name: str) -> Descriptor:
    outer, *inner = name.split(".")
    found = netc_pb2.DESCRIPTOR.message_types_by_name[outer]
    for step in inner:
        found = found.nested_types_by_name[step]
    return found


def enum_of(name: str) -> EnumDescriptor:
    *outer, last = name.split(".")
    if not outer:
        return netc_pb2.DESCRIPTOR.enum_types_by_name[last]
    return message_of(".".join(outer)).enum_types_by_name[last]


def every_message(message: Descriptor) -> list[Descriptor]:
    inner = [m for nested in message.nested_types for m in every_message(nested)]
    return [message, *inner]


MESSAGES = [
    m for top in netc_pb2.DESCRIPTOR.message_types_by_name.values() for m in every_message(top)
]


def test_number_is_the_forks_or_a_documented_clash() -> None:
    clashes = {}
    for row in ROWS:
        if row["label"] == "enum":
            here = enum_of(row["message_or_enum"]).values_by_name[row["name"]].number
        else:
            here = message_of(row["message_or_enum"]).fields_by_name[row["name"]].number
        if here != int(row["number"]):
            clashes[key_of(row)] = (int(row["number"]), here)
    assert clashes == CLASHES


@pytest.mark.parametrize("row", FIELDS, ids=label_of)
def test_field_is_the_forks(row: dict[str, str]) -> None:
    field = message_of(row["message_or_enum"]).fields_by_name[row["name"]]
    assert (field.is_required, field.is_repeated) == LABELS[row["label"]]
    assert type_name(field) == row["type"]
    given = row["default"].strip('"')
    if row["type"] == "float" and given:
        assert field.default_value == pytest.approx(float(given), rel=1e-6)  # as float32
    else:
        assert default_text(field) == OTHER_DEFAULTS.get(key_of(row), given)


@pytest.mark.parametrize("row", ENUM_VALUES, ids=label_of)
def test_enum_value_is_the_forks(row: dict[str, str]) -> None:
    assert row["name"] in enum_of(row["message_or_enum"]).values_by_name


def test_clashes_have_numbers_of_a_block_or_of_a_fork() -> None:
    numbers = {}
    for row in ROWS:
        numbers.setdefault((row["message_or_enum"], row["name"]), set()).add(int(row["number"]))
    for (_, message, name), (_, here) in CLASHES.items():
        known = numbers[message, name]
        assert here in known or here in OWN_BLOCK or (message, name) in CAFFE


def test_every_other_field_is_numbered_from_10000() -> None:
    known = CAFFE | {(row["message_or_enum"], row["name"]) for row in ROWS}
    forks = {row["message_or_enum"] for row in ROWS}

    def numbered(field: FieldDescriptor) -> bool:
        return field.number in NETC_BLOCK

    for message in MESSAGES:
        name = message.full_name.removeprefix("netc.")
        if name in CAFFE_MESSAGES or name in forks:
            others = [f for f in message.fields if (name, f.name) not in known]
            assert all(map(numbered, others)), [f.full_name for f in others]
        for enum in message.enum_types:
            full = f"{name}.{enum.name}"
            if full in forks or name in CAFFE_MESSAGES:
                assert {(full, value.name) for value in enum.values} <= known
    for enum in netc_pb2.DESCRIPTOR.enum_types_by_name.values():
        assert {(enum.name, value.name) for value in enum.values} <= known
