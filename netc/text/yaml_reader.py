"""Read YAML and JSON into the same tree as prototxt: a mapping is a message, a sequence its values.

Of PyYAML only `compose` is used, which says where each node stands and leaves a scalar's text
alone. What it is (`1e-3`, `no`, `010`) is decided later by the field it is bound to, not by YAML's
rules. Tags that would build other things are refused. Anchors, aliases and the merge key `<<` work.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml

from netc.errors import Problem, Span
from netc.text.tree import Block, Entry, Format, Kind, Scalar, Tree

MAX_VALUES = 5_000_000
"""Most values that a text may expand to: an alias of an alias of ... can be very many."""

MAX_DEPTH = 100
"""Deepest nesting, as in prototxt."""

# libyaml is some ten times as fast; the one in Python explains mistakes in more words.
_FAST_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PLAIN_TAGS = {
    f"tag:yaml.org,2002:{name}"
    for name in ("str", "int", "float", "bool", "null", "timestamp", "value", "map", "seq", "merge")
}
_MERGE = "tag:yaml.org,2002:merge"
_PROTOTXT_LINE = re.compile(r"^\s*(?:\w+\s*:?\s*\{|\}\s*$)", re.MULTILINE)


def parse_yaml(text: str, file: str, format: Format = Format.YAML) -> Tree:
    """Return the tree of a YAML or JSON text, with the problems found in it.

    `text` has its line ends as in Unix. `file` is what the spans name.
    """
    return _Reader(text, file, format).run()


class _Stop(Exception):
    """Nothing more can be read; the problem is noted already."""


class _Reader:
    def __init__(self, text: str, file: str, format: Format) -> None:
        self.text = text
        self.file = file
        self.format = format
        self.problems: list[Problem] = []
        self.reliable = True
        self.values = 0
        self.inside: list[int] = []  # ids of the nodes around the one at hand

    def run(self) -> Tree:
        top = Span(self.file, source=self.text)
        root = Block((), top)
        try:
            node = self._compose()
            if node is None:
                self._stop("there is nothing in this text", top, "a mapping: name: value")
            elif not isinstance(node, yaml.MappingNode):
                self._stop(
                    "a text is one mapping",
                    self._span(node),
                    "name: value",
                    _KIND_OF[type(node)],
                    self._hint(),
                )
            else:
                root = self._block(node, top)
        except _Stop:
            self.reliable = False
        return Tree(root, self.file, self.format, tuple(self.problems), self.reliable)

    def _compose(self) -> yaml.Node | None:
        # Tabs are blanks in JSON, and cannot be part of its strings.
        text = self.text.replace("\t", " ") if self.format is Format.JSON else self.text
        try:
            return yaml.compose(text, Loader=_FAST_LOADER)
        except (yaml.YAMLError, RecursionError):
            pass
        try:
            return yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError as error:
            self._report(error)
        except RecursionError:
            self._add(f"values are nested deeper than {MAX_DEPTH}", Span(self.file))
        raise _Stop

    def _report(self, error: yaml.YAMLError) -> None:
        """Say in other words what PyYAML found wrong."""
        if isinstance(error, yaml.reader.ReaderError):
            span = self._span_at(error.position)
            self._add(f"the character U+{ord(error.character):04X} has no place in YAML", span)
            return
        assert isinstance(error, yaml.MarkedYAMLError)
        mark = error.problem_mark or error.context_mark
        span = Span(self.file, source=self.text)
        if mark:
            span = Span(self.file, mark.line + 1, mark.column + 1, self.text)
        what = error.problem or error.context or "this cannot be read"
        got = ""
        if error.context and error.problem:
            got = error.context
            if error.context_mark and error.context_mark is not mark:
                got += f" that begins in line {error.context_mark.line + 1}"
        if r"'\t'" in what:
            self._add(
                "a tab cannot indent in YAML", span, "spaces", hint="replace each tab by two spaces"
            )
        elif "multiple" in what or "expected a single document" in (error.context or ""):
            self._add("there is a second document", span, "one document, so no further '---'")
        elif "mapping values are not allowed" in what:
            self._add(
                "a ': ' is not expected here",
                span,
                hint=self._hint() or "look at the indentation; put text with ': ' in it in quotes",
            )
        else:
            self._add(f"not {self.format.value}: {what}", span, got=got, hint=self._hint())

    def _hint(self) -> str:
        looks = len(_PROTOTXT_LINE.findall(self.text))
        if looks and looks * 4 >= len(self.text.splitlines()):
            return "this looks like prototxt: name the file .prototxt"
        return ""

    # Nodes

    def _block(self, node: yaml.MappingNode, span: Span) -> Block:
        entries: dict[str, Entry] = {}
        merged: list[Entry] = []
        with _Around(self, node):
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag == _MERGE and not key.style:
                    merged += self._merged(value)
                    continue
                entry = self._entry(key, value)
                if entry is None:
                    continue
                if first := entries.get(entry.name):
                    self._add(
                        f"the key '{entry.name}' occurs twice in one mapping",
                        entry.span,
                        expected=f"each key once; the first is in line {first.span.line}",
                        hint=f"give several values as a list: {entry.name}: [a, b]",
                    )
                    continue
                entries[entry.name] = entry
        for entry in merged:
            entries.setdefault(entry.name, entry)
        return Block(tuple(entries.values()), span)

    def _merged(self, node: yaml.Node) -> Iterator[Entry]:
        """Yield the entries that `<<: *a` or `<<: [*a, *b]` brings in, those that count first."""
        if isinstance(node, yaml.MappingNode):
            yield from self._block(node, self._span(node)).entries
        elif isinstance(node, yaml.SequenceNode):
            with _Around(self, node):
                for item in node.value:
                    yield from self._merged(item)
        else:
            self._add("only mappings can be merged", self._span(node), "<<: *anchor", node.value)

    def _entry(self, key: yaml.Node, value: yaml.Node) -> Entry | None:
        span = self._span(key)
        if not isinstance(key, yaml.ScalarNode):
            self._add("a key is the name of a field", span, "name: value", _KIND_OF[type(key)])
            return None
        if isinstance(value, yaml.SequenceNode):
            with _Around(self, value):
                items = [self._value(item, self._span(item)) for item in value.value]
            return Entry(key.value, span, tuple(i for i in items if i is not None), listed=True)
        single = self._value(
            value, span if isinstance(value, yaml.MappingNode) else self._span(value)
        )
        return None if single is None else Entry(key.value, span, (single,))

    def _value(self, node: yaml.Node, span: Span) -> Scalar | Block | None:
        self.values += 1
        if self.values > MAX_VALUES:
            self._stop(f"the aliases of this text make more than {MAX_VALUES} values of it", span)
        if node.tag not in _PLAIN_TAGS:
            self._add(f"the tag '{_short(node.tag)}' has no meaning here", span, "a plain value")
            return None
        if isinstance(node, yaml.MappingNode):
            return self._block(node, span)
        if isinstance(node, yaml.ScalarNode):
            plain = not node.style  # None or "", by the loader
            if plain and not node.value:
                self._add(
                    "a value is missing",
                    span,
                    expected="name: value",
                    hint="write {} for a message without settings, '' for an empty string",
                )
                return None
            text = node.value
            if any("\ud800" <= char <= "\udfff" for char in text):
                # JSON spells a character beyond U+FFFF as two escapes.
                text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            return Scalar(Kind.PLAIN if plain else Kind.STRING, text, span)
        self._add("a list cannot be part of a list", span, "values or mappings")
        return None

    # Places and problems

    def _span(self, node: yaml.Node) -> Span:
        return Span(self.file, node.start_mark.line + 1, node.start_mark.column + 1, self.text)

    def _span_at(self, offset: int) -> Span:
        before = self.text[:offset]
        return Span(
            self.file, before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1, self.text
        )

    def _add(
        self, what: str, span: Span, expected: str = "", got: str = "", hint: str = ""
    ) -> None:
        self.problems.append(Problem(what, span, "", expected, got, hint))

    def _stop(
        self, what: str, span: Span, expected: str = "", got: str = "", hint: str = ""
    ) -> None:
        self._add(what, span, expected, got, hint)
        raise _Stop


class _Around:
    """Marks a node as the one being read, so that one that contains itself is noticed."""

    def __init__(self, reader: _Reader, node: yaml.Node) -> None:
        self.reader = reader
        self.node = node

    def __enter__(self) -> None:
        inside = self.reader.inside
        if id(self.node) in inside:
            self.reader._stop(
                "an alias stands inside of what it names", self.reader._span(self.node)
            )
        if len(inside) > MAX_DEPTH:
            self.reader._stop(
                f"values are nested deeper than {MAX_DEPTH}", self.reader._span(self.node)
            )
        inside.append(id(self.node))

    def __exit__(self, *_: object) -> None:
        self.reader.inside.pop()


_KIND_OF = {
    yaml.ScalarNode: "a single value",
    yaml.SequenceNode: "a list",
    yaml.MappingNode: "a mapping",
}


def _short(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")
