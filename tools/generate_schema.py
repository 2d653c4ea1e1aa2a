"""Make `netc/schema/netc_pb2.py` and its stub from `proto/netc.proto`.

    python tools/generate_schema.py            write both files
    python tools/generate_schema.py --check    write nothing; exit 1 where they are stale

Needs grpcio-tools, which brings a protoc with it. The module is not protoc's own Python output:
that refuses runtimes older than itself and those two major versions newer, whereas a serialised
descriptor loads everywhere, and its text does not depend on the version of protoc.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

ROOT = Path(__file__).resolve().parents[1]
PROTO = ROOT / "proto" / "netc.proto"
MODULE = ROOT / "netc" / "schema" / "netc_pb2.py"
STUB = MODULE.with_suffix(".pyi")

_MODULE_TEXT = '''\
"""The messages of `proto/netc.proto`, from which tools/generate_schema.py made this file."""

# ruff: noqa
# fmt: off

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

DESCRIPTOR = descriptor_pool.Default().AddSerializedFile(
{descriptor}
)

for _name, _message in DESCRIPTOR.message_types_by_name.items():
    globals()[_name] = message_factory.GetMessageClass(_message)
    globals()[_name].__module__ = __name__
for _name, _enum in DESCRIPTOR.enum_types_by_name.items():
    globals()[_name] = EnumTypeWrapper(_enum)
    globals().update(globals()[_name].items())
del _name, _message, _enum
'''


def run_protoc() -> tuple[FileDescriptorProto, str]:
    """Return the descriptor of the schema and the text of protoc's type stub."""
    with tempfile.TemporaryDirectory() as folder:
        descriptor = described(PROTO, f"--pyi_out={folder}")
        return descriptor, (Path(folder) / "netc_pb2.pyi").read_text(encoding="utf-8")


def described(proto: Path, *options: str) -> FileDescriptorProto:
    """Return the descriptor of a schema, for which protoc runs, with further options."""
    try:
        from grpc_tools import protoc
    except ImportError:
        sys.exit("grpcio-tools is missing: pip install grpcio-tools")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "schema.desc"
        arguments = ["protoc", f"-I{proto.parent}", f"--descriptor_set_out={output}", *options]
        if protoc.main([*arguments, proto.name]) != 0:
            sys.exit(f"protoc refuses {proto}")
        (descriptor,) = FileDescriptorSet.FromString(output.read_bytes()).file
        return descriptor


def module_text(descriptor: FileDescriptorProto) -> str:
    """Return the source of the module that loads `descriptor`."""
    lean = FileDescriptorProto()
    lean.CopyFrom(descriptor)
    for message in lean.message_type:
        for field in message.field:
            field.ClearField("json_name")  # protoc derives it; nothing here writes JSON messages
    raw = lean.SerializeToString(deterministic=True)
    lines = [f"    {raw[start : start + 60]!r}" for start in range(0, len(raw), 60)]
    return _MODULE_TEXT.format(descriptor="\n".join(lines))


def stub_text(protoc_stub: str) -> str:
    """Return protoc's stub under a note of its origin."""
    note = "# Made by tools/generate_schema.py from proto/netc.proto.\n# ruff: noqa\n# fmt: off\n\n"
    return note + re.sub(r"[ \t]+$", "", protoc_stub, flags=re.M)


def main() -> None:
    """Write the generated files, or with --check tell which of them are stale."""
    descriptor, protoc_stub = run_protoc()
    wanted = {MODULE: module_text(descriptor), STUB: stub_text(protoc_stub)}
    if "--check" in sys.argv[1:]:
        stale = [p.name for p, t in wanted.items() if not p.exists() or p.read_text("utf-8") != t]
        sys.exit(f"stale: {', '.join(stale)}; run tools/generate_schema.py" if stale else 0)
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
