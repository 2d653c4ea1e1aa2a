"""Print a tree so that reading it again gives the same tree."""

from __future__ import annotations

import re
from typing import Any

import yaml

from netc.errors import fail
from netc.text.tree import Block, Entry, Kind, Scalar, Tree

_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}
_NEEDS_ESCAPE = re.compile(r"[\x00-\x1f\x7f\x80-\x9f\"\\\u2028\u2029\ud800-\udfff]")
_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./+-]*")
_FLOW_WIDTH = 88


def print_prototxt(tree: Tree | Block) -> str:
    """Return `tree` in protobuf's text notation, indented by two spaces, one field a line."""
    lines: list[str] = []
    _add_prototxt(_root(tree), "", lines)
    return "".join(f"{line}\n" for line in lines)


def print_yaml(tree: Tree | Block) -> str:
    """Return `tree` as YAML. Fields that occur several times become lists.

    Raises NetcError for strings that are not text: YAML has no notation for them but prototxt has.
    """
    lines: list[str] = []
    _add_yaml(_root(tree), "", lines)
    return "".join(f"{line}\n" for line in lines) or "{}\n"


def _root(tree: Tree | Block) -> Block:
    return tree.root if isinstance(tree, Tree) else tree


def _add_prototxt(block: Block, indent: str, lines: list[str]) -> None:
    for entry in block.entries:
        if entry.listed and not entry.values:
            lines.append(f"{indent}{entry.name}: []")
        for value in entry.values:
            if isinstance(value, Scalar):
                lines.append(f"{indent}{entry.name}: {_prototxt_scalar(value)}")
            else:
                lines.append(f"{indent}{entry.name} {{")
                _add_prototxt(value, indent + "  ", lines)
                lines.append(f"{indent}}}")


def _prototxt_scalar(value: Scalar) -> str:
    if value.kind is not Kind.STRING:
        return value.text
    return f'"{_NEEDS_ESCAPE.sub(_prototxt_escape, value.text)}"'


def _prototxt_escape(match: re.Match[str]) -> str:
    char = match.group()
    if char in _ESCAPES:
        return _ESCAPES[char]
    # Octal, three digits: a digit that follows cannot become part of it, as it would of \x.
    return "".join(f"\\{byte:03o}" for byte in char.encode("utf-8", "surrogateescape"))


def _add_yaml(block: Block, indent: str, lines: list[str]) -> None:
    together: dict[str, list[Entry]] = {}
    for entry in block.entries:
        together.setdefault(entry.name, []).append(entry)
    for name, entries in together.items():
        values = [value for entry in entries for value in entry.values]
        if len(values) == 1 and not entries[0].listed:
            _add_yaml_field(f"{indent}{name}:", values[0], indent, lines)
        elif all(isinstance(value, Scalar) for value in values):
            items = [_yaml_scalar(value) for value in values if isinstance(value, Scalar)]
            flow = f"{indent}{name}: [{', '.join(items)}]"
            if len(flow) <= _FLOW_WIDTH:
                lines.append(flow)
            else:
                lines.append(f"{indent}{name}:")
                lines += [f"{indent}- {item}" for item in items]
        else:
            lines.append(f"{indent}{name}:")
            for value in values:
                _add_yaml_item(value, indent, lines)


def _add_yaml_field(start: str, value: Scalar | Block, indent: str, lines: list[str]) -> None:
    if isinstance(value, Scalar):
        lines.append(f"{start} {_yaml_scalar(value)}")
    elif not value.entries:
        lines.append(f"{start} {{}}")
    else:
        lines.append(start)
        _add_yaml(value, indent + "  ", lines)


def _add_yaml_item(value: Scalar | Block, indent: str, lines: list[str]) -> None:
    if isinstance(value, Scalar):
        lines.append(f"{indent}- {_yaml_scalar(value)}")
    elif not value.entries:
        lines.append(f"{indent}- {{}}")
    else:
        first = len(lines)
        _add_yaml(value, indent + "  ", lines)
        lines[first] = f"{indent}- {lines[first].lstrip()}"


def _yaml_scalar(value: Scalar) -> str:
    if value.kind is not Kind.STRING:
        return value.text
    try:
        value.text.encode()
    except UnicodeEncodeError as error:
        raise fail(
            "YAML cannot hold bytes that are not text",
            span=value.span,
            hint="write prototxt instead",
        ) from error
    # Another YAML reader would take a plain `no` or `1e3` for something else than a string.
    if _PLAIN.fullmatch(value.text) and _resolved(value.text) == "tag:yaml.org,2002:str":
        return value.text
    return f'"{"".join(map(_yaml_character, value.text))}"'


def _yaml_character(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable():
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\U{code:08x}"


def _resolved(text: str) -> str:
    loader: Any = yaml.SafeLoader("")  # whose stub leaves `resolve` untyped
    return str(loader.resolve(yaml.ScalarNode, text, (True, False)))
