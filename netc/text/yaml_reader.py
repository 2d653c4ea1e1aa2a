"""Read YAML and JSON into the same tree as prototxt: a mapping is a message, a sequence its values.

Of PyYAML only the parser is used, which says where each value stands and leaves a scalar's text
alone. What that is (`1e-3`, `no`, `010`) is decided later by the field it is bound to, not by
YAML's rules. Tags are refused: there is nothing to construct. Anchors, aliases and the merge key
`<<` work.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import yaml

from netc.errors import Problem, Span, nearest
from netc.text.tree import Block, Entry, Format, Kind, Scalar, Tree

MAX_VALUES = 2_000_000
"""Most values that a text may expand to: an alias of an alias of ... can be very many."""

MAX_DEPTH = 100
"""Deepest nesting of messages, as in prototxt."""

# libyaml is some ten times as fast; the parser in Python explains mistakes in more words.
_FAST_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNDECODED = re.compile(r"[\ud800-\udfff]")  # what reading makes of bytes that are not UTF-8
_PROTOTXT_LINE = re.compile(r"^\s*(?:\w+\s*:?\s*\{|\}\s*$)", re.MULTILINE)


def parse_yaml(text: str, file: str, format: Format = Format.YAML) -> Tree:
    """Return the tree of a YAML or JSON text, with the problems found in it.

    `text` has its line ends as in Unix. `file` is what the spans name.
    """
    return _Reader(text, file, format).run()


# Where PyYAML is and what it says; that in other words; whether to point at where it began; a hint.
_EXPLAINED = (
    ("", r"'\t'", "a tab cannot indent in YAML", False, "replace each tab by two spaces"),
    ("quoted scalar", "", "the string is not closed", True, ""),
    ("flow sequence", "", "the list is not closed, or a ',' is missing in it", True, ""),
    ("flow mapping", "", "the mapping is not closed, or a ',' is missing in it", True, ""),
    (
        *("", "mapping values are not allowed", "a ': ' is not expected here", False),
        "look at the indentation; put text with ': ' in it in quotes",
    ),
    ("simple key", "could not find expected ':'", "there is no ': ' after this key", True, ""),
    (
        *("block", "expected <block end>", "the indentation fits no line above", False),
        "fields of one message begin in the same column",
    ),
    (
        *("", "cannot start any token", "a value cannot begin with this character", False),
        "put it in quotes",
    ),
)


class _Stop(Exception):
    """Nothing more can be read; the problem is noted already."""


@dataclass(frozen=True, slots=True)
class _List:
    """A sequence, before it becomes the values of a field."""

    items: tuple[Scalar | Block, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class _Node:
    """A value, or None after a complaint about it, and how many values it is made of."""

    value: Scalar | Block | _List | None
    size: int = 1


class _Reader:
    def __init__(self, text: str, file: str, format: Format) -> None:
        self.text = text
        self.file = file
        self.format = format
        self.problems: list[Problem] = []
        self.events: Iterator[Any] = iter(())  # PyYAML's stubs do not tell what an event has
        self.anchors: dict[str, _Node] = {}
        self.depth = 0

    def run(self) -> Tree:
        top = Span(self.file, source=self.text)
        root = Block((), top)
        reliable = True
        try:
            self.events = iter(self._parse())
            first = next(self.events, None)
            if first is None:
                self._stop("there is nothing in this text", top, "a mapping: name: value")
            value = self._node(first).value
            if isinstance(value, Block):
                root = replace(value, span=top)
            elif value is not None:
                kind = "a list" if isinstance(value, _List) else "a single value"
                self._stop("a text is one mapping", value.span, "name: value", kind, self._hint())
        except _Stop:
            reliable = False
        return Tree(root, self.file, self.format, tuple(self.problems), reliable)

    # What PyYAML reads

    def _parse(self) -> list[Any]:
        """Return the events of the one document in the text."""
        if undecoded := _UNDECODED.search(self.text):
            self._stop("the text is not UTF-8", self._span_at(undecoded.start()), "UTF-8")
        # Tabs are blanks in JSON, and cannot be part of its strings.
        text = self.text.replace("\t", " ") if self.format is Format.JSON else self.text
        try:
            events = list(yaml.parse(text, Loader=_FAST_LOADER))
        except yaml.YAMLError:
            try:
                events = list(yaml.parse(text, Loader=yaml.SafeLoader))
            except yaml.YAMLError as error:
                self._report(error)
        starts = [e for e in events if isinstance(e, yaml.DocumentStartEvent)]
        if len(starts) > 1:
            self._stop(
                "there is a second document",
                self._marked(starts[1].start_mark),
                "one document",
                hint="delete the '---' before it",
            )
        frame = (
            yaml.StreamStartEvent,
            yaml.StreamEndEvent,
            yaml.DocumentStartEvent,
            yaml.DocumentEndEvent,
        )
        return [e for e in events if not isinstance(e, frame)]

    def _report(self, error: yaml.YAMLError) -> NoReturn:
        """Say in other words what PyYAML found wrong."""
        if isinstance(error, yaml.reader.ReaderError):
            span = self._span_at(error.position)
            self._stop(f"the character U+{int(error.character):04X} has no place in YAML", span)
        assert isinstance(error, yaml.MarkedYAMLError)
        problem, context = error.problem or "", error.context or ""
        span = self._marked(error.problem_mark or error.context_mark)
        start = self._marked(error.context_mark or error.problem_mark)
        for in_context, in_problem, what, at_start, hint in _EXPLAINED:
            if in_context in context and in_problem in problem:
                got = f"no end of it until line {span.line}" if at_start else ""
                self._stop(what, start if at_start else span, "", got, self._hint() or hint)
        got = f"{context} that begins in line {start.line}" if context and start != span else ""
        self._stop(f"not {self.format.value}: {problem or context}", span, "", got, self._hint())

    def _hint(self) -> str:
        looks = len(_PROTOTXT_LINE.findall(self.text))
        if looks and looks * 4 >= len(self.text.splitlines()):
            return "this looks like prototxt: name the file .prototxt"
        return ""

    # Values

    def _node(self, event: Any) -> _Node:
        """Return the value that begins with `event`."""
        span = self._marked(event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(str(event.anchor), span)
        if isinstance(event, yaml.ScalarEvent):
            node = _Node(self._scalar(event, span))
        elif self.depth > MAX_DEPTH:
            self._stop(f"messages are nested deeper than {MAX_DEPTH}", span)
        else:
            self.depth += 1
            is_list = isinstance(event, yaml.SequenceStartEvent)
            node = self._sequence(span) if is_list else self._mapping(span)
            self.depth -= 1
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self._add(f"the tag '{tag}' has no meaning here", span, "the value alone")
            node = _Node(None)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        if node.size > MAX_VALUES:
            self._stop(f"the aliases of this text make more than {MAX_VALUES} values of it", span)
        return node

    def _alias(self, name: str, span: Span) -> _Node:
        if name not in self.anchors:
            # Not known before its end either: an alias inside of what it names would have none.
            self._add(
                f"there is no anchor '&{name}' before this", span, hint=nearest(name, self.anchors)
            )
            return _Node(None)
        node = self.anchors[name]
        if isinstance(node.value, Block | _List):
            return replace(node, value=replace(node.value, span=span))
        return node

    def _scalar(self, event: Any, span: Span) -> Scalar | None:
        plain = not event.style  # None or "", by the parser
        text = event.value
        if plain and not text:
            self._add(
                "a value is missing",
                span,
                expected="name: value",
                hint="write {} for a message without settings, '' for an empty string",
            )
            return None
        if _UNDECODED.search(text):
            # JSON spells a character beyond U+FFFF as two escapes.
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return Scalar(Kind.PLAIN if plain else Kind.STRING, text, span)

    def _sequence(self, span: Span) -> _Node:
        items: list[Scalar | Block] = []
        size = 1
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            node = self._node(event)
            size += node.size
            if isinstance(node.value, _List):
                self._add("a list cannot be part of a list", node.value.span, "values or mappings")
            elif node.value is not None:
                items.append(node.value)
        return _Node(_List(tuple(items), span), size)

    def _mapping(self, span: Span) -> _Node:
        entries: dict[str, Entry] = {}
        merged: list[Entry] = []
        size = 1
        damaged = False
        while not isinstance(key := next(self.events), yaml.MappingEndEvent):
            is_merge = isinstance(key, yaml.ScalarEvent) and key.value == "<<" and not key.style
            name = self._key(key)
            node = self._node(next(self.events))
            size += node.size
            if name is None or node.value is None:
                damaged = True
                continue
            key_span = self._marked(key.start_mark)
            if is_merge:
                merged += self._merged(node.value)
            elif first := entries.get(name):
                self._add(
                    f"the key '{name}' occurs twice in one mapping",
                    key_span,
                    expected="each key once",
                    got=f"a first one in line {first.span.line}",
                    hint=f"give several values as a list: {name}: [a, b]",
                )
            elif isinstance(node.value, _List):
                entries[name] = Entry(name, key_span, node.value.items, listed=True)
            elif isinstance(node.value, Block):
                entries[name] = Entry(name, key_span, (replace(node.value, span=key_span),))
            else:
                entries[name] = Entry(name, key_span, (node.value,))
        for entry in merged:
            entries.setdefault(entry.name, entry)
        return _Node(Block(tuple(entries.values()), span, damaged), size)

    def _key(self, event: Any) -> str | None:
        """Return the name that a key is, or None after a complaint."""
        if isinstance(event, yaml.ScalarEvent) and event.tag is None:
            return str(event.value)
        kind = {yaml.SequenceStartEvent: "a list", yaml.MappingStartEvent: "a mapping"}
        self._node(event)
        span = self._marked(event.start_mark)
        self._add("a key is the name of a field", span, "name: value", kind.get(type(event), ""))
        return None

    def _merged(self, value: Scalar | Block | _List) -> list[Entry]:
        """Return the entries that `<<: *a` or `<<: [*a, *b]` brings in, those that count first."""
        if isinstance(value, Block):
            return list(value.entries)
        if isinstance(value, _List):
            return [entry for item in value.items for entry in self._merged(item)]
        self._add("only mappings can be merged", value.span, "<<: *anchor", value.text)
        return []

    # Places and problems

    def _marked(self, mark: Any) -> Span:
        if mark is None:
            return Span(self.file, source=self.text)
        return Span(self.file, mark.line + 1, mark.column + 1, self.text)

    def _span_at(self, offset: int) -> Span:
        before = self.text[:offset]
        column = offset - (before.rfind("\n") + 1) + 1
        return Span(self.file, before.count("\n") + 1, column, self.text)

    def _add(
        self, what: str, span: Span, expected: str = "", got: str = "", hint: str = ""
    ) -> None:
        self.problems.append(Problem(what, span, "", expected, got, hint))

    def _stop(
        self, what: str, span: Span, expected: str = "", got: str = "", hint: str = ""
    ) -> NoReturn:
        self._add(what, span, expected, got, hint)
        raise _Stop
