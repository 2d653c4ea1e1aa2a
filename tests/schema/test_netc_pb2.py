"""The schema is Caffe's, field by field, and its module is made from the proto file."""

from __future__ import annotations

import csv
import importlib.util
import keyword
import re
from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from netc.schema import netc_pb2

ROOT = Path(__file__).parents[2]
ROWS = list(
    csv.DictReader(
        (Path(__file__).parent / "caffe_wire_schema.csv").read_text("utf-8").splitlines()
    )
)
FIELDS = [row for row in ROWS if row["label"] != "enum"]
ENUM_VALUES = [row for row in ROWS if row["label"] == "enum"]

LABELS = {"optional": (False, False), "required": (True, False), "repeated": (False, True)}
TYPES = {
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_UINT64: "uint64",
    FieldDescriptor.TYPE_FLOAT: "float",
    FieldDescriptor.TYPE_DOUBLE: "double",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "bytes",
}


def local_name(descriptor: object) -> str:
    return descriptor.full_name.removeprefix("netc.")


def type_name(field: FieldDescriptor) -> str:
    return TYPES.get(field.type) or local_name(field.message_type or field.enum_type)


def default_text(field: FieldDescriptor) -> str:
    if not field.has_default_value:
        return ""
    if field.enum_type:
        return field.enum_type.values_by_number[field.default_value].name
    if field.type == FieldDescriptor.TYPE_BOOL:
        return str(field.default_value).lower()
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return f"{field.default_value:.6g}"  # float32, printed to fewer digits than it has
    return str(field.default_value)


def every_enum() -> dict[str, EnumDescriptor]:
    file = netc_pb2.DESCRIPTOR
    found = dict(file.enum_types_by_name)
    for message in file.message_types_by_name.values():
        found |= {f"{message.name}.{name}": e for name, e in message.enum_types_by_name.items()}
    return found


@pytest.mark.parametrize("row", FIELDS, ids=lambda r: f"{r['message_or_enum']}.{r['name']}")
def test_field_is_caffes(row: dict[str, str]) -> None:
    message = netc_pb2.DESCRIPTOR.message_types_by_name[row["message_or_enum"]]
    field = message.fields_by_name[row["name"]]
    options = field.GetOptions()
    assert field.number == int(row["number"])
    assert (field.is_required, field.is_repeated) == LABELS[row["label"]]
    assert type_name(field) == row["type"]
    assert default_text(field) == row["default"]
    assert options.packed == (row["packed"] != "")
    assert options.deprecated == (row["deprecated"] != "")


@pytest.mark.parametrize("row", ENUM_VALUES, ids=lambda r: f"{r['message_or_enum']}.{r['name']}")
def test_enum_value_is_caffes(row: dict[str, str]) -> None:
    enum = every_enum()[row["message_or_enum"]]
    assert enum.values_by_name[row["name"]].number == int(row["number"])


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "tools/generate_schema.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_module_is_made_from_the_proto_file() -> None:
    pytest.importorskip("grpc_tools", reason="protoc comes with grpcio-tools")
    generate = generator()
    descriptor, _ = generate.run_protoc()
    assert generate.MODULE.read_text("utf-8") == generate.module_text(descriptor), (
        "run tools/generate_schema.py"
    )


def test_stub_knows_every_field() -> None:
    # Not the stub's text: that differs between versions of protoc.
    stub = (ROOT / "netc/schema/netc_pb2.pyi").read_text("utf-8")
    classes = dict(
        re.findall(r"^class (\w+)\(_message.Message\):\n(.*?)(?=^\S|\Z)", stub, re.M | re.S)
    )
    assert set(classes) == set(netc_pb2.DESCRIPTOR.message_types_by_name)
    for message in netc_pb2.DESCRIPTOR.message_types_by_name.values():
        named = [field.name for field in message.fields]
        # Names in capitals are mostly values of enums.
        fields = [
            name
            for name in re.findall(r"^    (\w+): (?!_ClassVar)", classes[message.name], re.M)
            if name in named or name[0].islower()
        ]
        assert fields == [name for name in named if not keyword.iskeyword(name)]


def test_messages_live_in_their_module() -> None:
    assert netc_pb2.NetParameter.__module__ == "netc.schema.netc_pb2"
    assert (netc_pb2.TRAIN, netc_pb2.TEST) == (0, 1)
    assert netc_pb2.Phase.Name(1) == "TEST"
    assert netc_pb2.PoolingParameter.AVE == 1
