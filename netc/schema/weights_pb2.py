"""The schema with the arrays of `BlobProto` left as bytes: what weights files are read through.

A packed `repeated float` has the same wire format as a `bytes` field, so a file of 500 MB is read
without making a Python float of each value. Every message of `netc_pb2` exists here under the same
name; only `BlobProto.data`, `diff`, `double_data` and `double_diff` differ: each is a list of
chunks of little-endian values. Read them with `array_bytes`, write them with one assignment:

    net = weights_pb2.NetParameter.FromString(raw)
    values = numpy.frombuffer(weights_pb2.array_bytes(net.layer[0].blobs[0], "data"), "<f4")
    blob.data[:] = [values.tobytes()]

What is serialised from these messages, every reader of caffemodel files understands.
"""

from __future__ import annotations

import sys
from array import array
from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pool, message_factory, unknown_fields
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.message import Message

from netc.errors import fail
from netc.schema import netc_pb2

ARRAY_FIELDS = {"data": "f", "diff": "f", "double_data": "d", "double_diff": "d"}
"""The array fields of `BlobProto` and the type code of their values, as in the module `array`."""


def _load() -> dict[str, type[Message]]:
    described = FileDescriptorProto()
    netc_pb2.DESCRIPTOR.CopyToProto(described)
    (blob,) = (m for m in described.message_type if m.name == "BlobProto")
    for field in blob.field:
        if field.name in ARRAY_FIELDS:
            # Repeated, because a writer may split a packed array over several chunks.
            field.type = FieldDescriptorProto.TYPE_BYTES
            field.ClearField("options")
    # A pool of its own: the default one already has these names.
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(described.SerializeToString())
    file = pool.FindFileByName(described.name)
    return {
        name: message_factory.GetMessageClass(message)
        for name, message in file.message_types_by_name.items()
    }


def array_bytes(blob: Message, field: str) -> bytes:
    """Return an array of `blob`, a `BlobProto` of this module, as little-endian bytes.

    `field` is a key of `ARRAY_FIELDS`: data and diff hold float32, the others float64. Files
    written without packing are understood as well. Raises NetcError where one array comes in both
    encodings, whose order is lost.
    """
    chunks: list[bytes] = list(getattr(blob, field))
    number = blob.DESCRIPTOR.fields_by_name[field].number
    unknown: Any = unknown_fields.UnknownFieldSet(blob)
    unpacked = any(other.field_number == number for other in unknown)
    if not unpacked:
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)
    if chunks:
        raise fail(
            f"the array '{field}' of a blob is stored partly packed, partly not",
            expected="one encoding for the whole array",
        )
    plain = netc_pb2.BlobProto.FromString(blob.SerializeToString())
    values = array(ARRAY_FIELDS[field], getattr(plain, field))
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()


if TYPE_CHECKING:
    # The fields are known at run time only; Any says so.
    NetParameter: Any
    BlobProto: Any
    BlobProtoVector: Any
    SolverState: Any
    LayerParameter: Any
    Datum: Any
else:
    globals().update(_load())
