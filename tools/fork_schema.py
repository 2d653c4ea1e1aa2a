"""Read a text as one fork of Caffe does: with the schema of that fork, and nothing of netc's.

A fork's schema, `src/caffe/proto/caffe.proto`, says which fields its nets and solvers may have.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from generate_schema import described
from google.protobuf import descriptor_pool, message_factory, text_format
from google.protobuf.message import Message

SCHEMA = Path("src/caffe/proto/caffe.proto")

_NET_FIELDS = ("net", "train_net", "test_net")
_POSITION = re.compile(r"^\d+:\d+ : ")


def own_schemas(root: Path, file: Path) -> list[Path]:
    """Return the schema in a checkout that a file of it belongs to, or nothing.

    It is that of the nearest folder above the file; or else the only one there is.
    """
    for parent in (root / file).parents:
        if (parent / SCHEMA).is_file():
            return [parent / SCHEMA]
        if parent == root:
            break
    return list(found) if len(found := _schemas_below(root)) == 1 else []


@cache
def _schemas_below(root: Path) -> tuple[Path, ...]:
    return tuple(path for path in root.rglob(SCHEMA.name) if path.match(str(SCHEMA)))


def refusal(text: str, schemas: Sequence[Path], *, solver: bool) -> str:
    """Return why none of the schemas has such a text, or ""; no schemas refuse nothing."""
    why = ""
    for schema in schemas:
        try:
            _parse(text, schema, "SolverParameter" if solver else "NetParameter")
            return ""
        except text_format.ParseError as error:
            why = why or _POSITION.sub("", str(error))
    return why


def nets_of(solver: str, schemas: Sequence[Path]) -> list[str]:
    """Return the paths of the nets that the text of a solver names."""
    for schema in schemas:
        try:
            fields = _parse(solver, schema, "SolverParameter").ListFields()
        except text_format.ParseError:
            continue
        values = [value for field, value in fields if field.name in _NET_FIELDS]
        return [path for v in values for path in ([v] if isinstance(v, str) else v)]
    return []


def _parse(text: str, schema: Path, name: str) -> Message:
    message = _message_class(schema, name)()
    text_format.Parse(text.removeprefix("\ufeff"), message)
    if not message.IsInitialized():
        raise text_format.ParseError("a required field is absent")
    return message


@cache
def _message_class(schema: Path, name: str) -> type[Message]:
    """Return a message of a schema, each schema in a pool of its own: all have the same names."""
    descriptor = described(schema)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(descriptor.SerializeToString())
    found = pool.FindMessageTypeByName(f"{descriptor.package}.{name}")
    return message_factory.GetMessageClass(found)
