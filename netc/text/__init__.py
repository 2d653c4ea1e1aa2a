"""Text to tree: prototxt, YAML and JSON, each value with its place.

    parse(file)                  -> Tree, or NetcError with every mistake of the text
    print_prototxt(tree)         -> str, and print_yaml(tree)

What a tree means is the next stage's business, `netc.schema`.
"""

from netc.text.printing import print_prototxt, print_yaml
from netc.text.reading import (
    decode,
    is_binary,
    parse,
    parse_with_problems,
    read_bytes,
    read_text,
)
from netc.text.tree import Block, Entry, Format, Kind, Scalar, Tree

__all__ = [
    "Block",
    "Entry",
    "Format",
    "Kind",
    "Scalar",
    "Tree",
    "decode",
    "is_binary",
    "parse",
    "parse_with_problems",
    "print_prototxt",
    "print_yaml",
    "read_bytes",
    "read_text",
]
