"""Read protobuf's text notation, keep every place, and go on after a mistake.

Accepts what the parser of protobuf that Caffe uses accepts: `name: value`, `name { ... }`,
`name: < ... >`, lists `[a, b]`, `,` or `;` after a field, adjacent strings joined, `#` comments,
all escapes, numbers in decimal, hex and octal, floats with an `f` behind, `- 5`, `inf` and `nan`.
Extensions (`[package.name]`) are refused: Caffe's schema has none.

After a mistake reading goes on where the author most likely meant it to, so that one run tells all
of them. A missing or superfluous brace is found from the indentation: a field that stands as far
left as the line that opened its block is outside of that block.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from enum import Enum

from netc.errors import Problem, Span
from netc.text.tree import Block, Entry, Format, Kind, Scalar, Tree

MAX_DEPTH = 100
"""Deepest nesting of messages; protobuf's own readers stop there too."""


def parse_prototxt(text: str, file: str) -> Tree:
    """Return the tree of a text in protobuf's notation, with the problems found in it.

    `text` has its line ends as in Unix. `file` is what the spans name.
    """
    source = _Source(text, file)
    tokens = _Lexer(source).run()
    parser = _Parser(source, tokens)
    root = parser.run(by_indentation=False)
    braces = parser.brace_problems
    reliable = not parser.gave_up
    if braces and reliable:
        second = _Parser(source, tokens)
        second_root = second.run(by_indentation=True)
        # In a text that is not indented every line looks misplaced: then the plain count is better.
        if len(second.brace_problems) <= len(braces) + 2 * source.is_indented():
            parser, root = second, second_root
        else:
            reliable = False
    problems = (*source.found(), *parser.problems, *parser.brace_problems)
    return Tree(root, file, Format.PROTOTXT, problems, reliable)


class _Source:
    """The text, its places, and the problems of its characters and tokens."""

    def __init__(self, text: str, file: str) -> None:
        self.text = text
        self.file = file
        self._line_starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._problems: list[Problem] = []
        self._repeated: dict[tuple[str, str, str], list[Span]] = defaultdict(list)

    def span(self, offset: int) -> Span:
        line = bisect_right(self._line_starts, offset)
        return Span(self.file, line, offset - self._line_starts[line - 1] + 1, self.text)

    def line_start(self, offset: int) -> int:
        return self._line_starts[bisect_right(self._line_starts, offset) - 1]

    def indent(self, offset: int) -> int:
        """Return how far the line of `offset` is indented, in columns of a tab width of 8."""
        return len(self._blanks_before(offset).expandtabs(8))

    def starts_line(self, offset: int) -> bool:
        return self.line_start(offset) + len(self._blanks_before(offset)) == offset

    def _blanks_before(self, offset: int) -> str:
        blanks = _BLANKS.match(self.text, self.line_start(offset))
        assert blanks
        return blanks.group()

    def is_indented(self) -> bool:
        """Tell whether indentation says something in this text: a third of its lines have it."""
        lines = [line for line in self.text.split("\n") if line.strip()]
        return sum(line[0] in " \t" for line in lines) * 3 >= len(lines)

    def line_end(self, offset: int) -> int:
        end = self.text.find("\n", offset)
        return len(self.text) if end < 0 else end

    def add(self, what: str, at: int, expected: str = "", got: str = "", hint: str = "") -> None:
        self._problems.append(Problem(what, self.span(at), "", expected, got, hint))

    def add_repeated(self, what: str, at: int, expected: str = "", hint: str = "") -> None:
        """Note a mistake that an author makes all over a file: it is told once, with a count."""
        self._repeated[what, expected, hint].append(self.span(at))

    def found(self) -> list[Problem]:
        told = list(self._problems)
        for (what, expected, hint), spans in self._repeated.items():
            told.append(Problem(_with_count(what, spans), spans[0], "", expected, "", hint))
        return told


def _with_count(what: str, spans: list[Span]) -> str:
    more = len(spans) - 1
    return f"{what}, here and at {more} further place{'s' * (more > 1)}" if more else what


class _T(Enum):
    WORD = "word"
    NUMBER = "number"
    STRING = "string"
    PUNCT = "punct"
    BAD = "bad"  # begins like a number and is none
    END = "end"


@dataclass(slots=True)
class _Token:
    type: _T
    text: str
    at: int

    def shown(self) -> str:
        if self.type is _T.END:
            return "the end of the file"
        return f'"{self.text}"' if self.type is _T.STRING else f"'{self.text}'"


_BLANKS = re.compile(r"[ \t]*")
_SKIP = re.compile(r"(?:[ \t\n\f\v]+|#[^\n]*)+")
_TOKEN = re.compile(
    r"""
      (?P<word>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<number>0[xX][0-9a-fA-F]+ | (?:[0-9]+\.?[0-9]* | \.[0-9]+)(?:[eE][+-]?[0-9]+)?[fF]?)
    | (?P<string>"(?:[^"\\\n]|\\.)*" | '(?:[^'\\\n]|\\.)*')
    | (?P<punct>[{}<>\[\]:,;=+.-] | /(?![/*]))
    """,
    re.VERBOSE,
)
_NUMBER_RUN = re.compile(r"[\w.]+(?:(?<=[eE])[+-]\w*)?", re.ASCII)
_NEXT_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*[ \t]*[:{<]")
# A string that swallowed the start of the next field, because its closing quote was forgotten.
_SWALLOWED = re.compile(r"""(?P<own>.[^\s]*)(?P<rest>\s+[A-Za-z_]\w*\s*:\s*.)""", re.DOTALL)
_TRAILING_CLOSERS = re.compile(r"[\s;,]*[}>\]][\s}>\];,]*$")
_LOOKALIKES = {
    "\N{FULLWIDTH COLON}": ":",
    "\N{FULLWIDTH COMMA}": ",",
    "\N{FULLWIDTH SEMICOLON}": ";",
    "\N{FULLWIDTH LEFT CURLY BRACKET}": "{",
    "\N{FULLWIDTH RIGHT CURLY BRACKET}": "}",
    "\N{FULLWIDTH LEFT SQUARE BRACKET}": "[",
    "\N{FULLWIDTH RIGHT SQUARE BRACKET}": "]",
    "\N{IDEOGRAPHIC COMMA}": ",",
    "\N{EN DASH}": "-",
    "\N{MINUS SIGN}": "-",
}
_TYPOGRAPHIC_QUOTES = "\u201c\u201d\u201e\u201f\u2018\u2019\u201a\u201b\uff02\uff07"
_SIMPLE_ESCAPES = {
    **{"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"},
    **{"\\": "\\", "'": "'", '"': '"', "?": "?"},
}
_ESCAPE = re.compile(
    r"\\(?:(?P<octal>[0-7]{1,3})|[xX](?P<hex>[0-9a-fA-F]{1,2})|u(?P<u4>[0-9a-fA-F]{4})"
    r"|U(?P<u8>[0-9a-fA-F]{8})|(?P<one>.))",
    re.DOTALL,
)


class _Lexer:
    def __init__(self, source: _Source) -> None:
        self.source = source
        self.text = source.text
        self.tokens: list[_Token] = []

    def run(self) -> list[_Token]:
        text, at, end = self.text, 0, len(self.text)
        while True:
            if skipped := _SKIP.match(text, at):
                at = skipped.end()
            if at >= end:
                break
            found = _TOKEN.match(text, at)
            if found is None:
                at = self._unclosed_string(at) if text[at] in "\"'" else self._other(at)
            elif found.lastgroup == "number":
                at = self._number(at, found.end())
            elif found.lastgroup == "string":
                at = self._string(at, found.group())
            else:
                self.tokens.append(_Token(_T(found.lastgroup), found.group(), at))
                at = found.end()
        self.tokens.append(_Token(_T.END, "", end))
        return self.tokens

    def _number(self, at: int, end: int) -> int:
        run = _NUMBER_RUN.match(self.text, at)
        assert run
        # protobuf lets a field name follow a number without a space.
        if run.end() > end and not _NEXT_FIELD.match(self.text, end):
            self.tokens.append(_Token(_T.BAD, run.group(), at))
            return run.end()
        self.tokens.append(_Token(_T.NUMBER, self.text[at:end], at))
        return end

    def _string(self, at: int, quoted: str) -> int:
        end = at + len(quoted)
        swallowed = _SWALLOWED.fullmatch(quoted)
        if (
            swallowed
            and end < len(self.text)
            and (self.text[end].isalnum() or self.text[end] in "_./")
        ):
            self._report_unclosed(at)
            self.tokens.append(_Token(_T.STRING, swallowed["own"][1:], at))
            return at + len(swallowed["own"])
        self.tokens.append(_Token(_T.STRING, self._unescape(quoted[1:-1], at + 1), at))
        return end

    def _unclosed_string(self, at: int) -> int:
        end = self.source.line_end(at)
        closers = _TRAILING_CLOSERS.search(self.text, at + 1, end)
        if closers:
            end = closers.start()
        self._report_unclosed(at)
        self.tokens.append(_Token(_T.STRING, self.text[at + 1 : end].rstrip(), at))
        return end

    def _report_unclosed(self, at: int) -> None:
        self.source.add(
            "the string is not closed",
            at,
            expected=f"a closing {self.text[at]} on the same line",
            hint="\\n inside the quotes writes a line end; adjacent strings are joined",
        )

    def _unescape(self, body: str, at: int) -> str:
        if "\\" not in body:
            return body
        data = bytearray()
        done = 0
        for escape in _ESCAPE.finditer(body):
            data += body[done : escape.start()].encode("utf-8", "surrogateescape")
            data += self._escaped(escape, at + escape.start())
            done = escape.end()
        data += body[done:].encode("utf-8", "surrogateescape")
        return data.decode("utf-8", "surrogateescape")

    def _escaped(self, escape: re.Match[str], at: int) -> bytes:
        if octal := escape["octal"]:
            if int(octal, 8) > 255:
                self.source.add(
                    "the octal escape is more than a byte", at, "up to \\377", f"\\{octal}"
                )
            return bytes([int(octal, 8) & 255])
        if hexa := escape["hex"]:
            return bytes([int(hexa, 16)])
        if digits := escape["u4"] or escape["u8"]:
            code = int(digits, 16)
            if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
                self.source.add(
                    "there is no such character", at, "a Unicode code point", f"U+{code:X}"
                )
                return b""
            return chr(code).encode()
        if (one := escape["one"]) in _SIMPLE_ESCAPES:
            return _SIMPLE_ESCAPES[one].encode()
        self.source.add(
            f"'\\{one}' is not an escape",
            at,
            expected="\\n, \\t, \\\\, \\\", \\', \\x41, \\101, \\u0041 or another of C's",
            hint="write \\\\ for a backslash, or / in a path",
        )
        return one.encode("utf-8", "surrogateescape")

    def _other(self, at: int) -> int:
        char = self.text[at]
        if self.text.startswith(("//", "/*"), at):
            self.source.add_repeated("comments begin with '#'", at, "'#'")
            if self.text[at + 1] == "/":
                return self.source.line_end(at)
            closed = self.text.find("*/", at)
            return closed + 2 if closed >= 0 else len(self.text)
        if same := _LOOKALIKES.get(char):
            self.source.add_repeated(f"'{char}' ({_name(char)}) is not '{same}'", at, f"'{same}'")
            self.tokens.append(_Token(_T.PUNCT, same, at))
            return at + 1
        if char in _TYPOGRAPHIC_QUOTES:
            self.source.add_repeated(
                "typographic quotes do not make a string", at, "straight quotes", 'retype them as "'
            )
            end = self.source.line_end(at)
            closing = re.compile(f"[{_TYPOGRAPHIC_QUOTES}\"']").search(self.text, at + 1, end)
            stop = closing.start() if closing else end
            self.tokens.append(_Token(_T.STRING, self.text[at + 1 : stop], at))
            return min(stop + 1, end)
        if "\udc80" <= char <= "\udcff":
            self.source.add_repeated(
                "the text is not UTF-8", at, "UTF-8", "save the file in the encoding UTF-8"
            )
        elif char.isspace() or not char.isprintable():
            self.source.add_repeated(
                f"there is an invisible character, {_name(char)}",
                at,
                hint="delete it; it often comes along when text is copied from a web page",
            )
        else:
            self.source.add(f"'{char}' has no meaning here", at, "a field or a value")
        return at + 1


def _name(char: str) -> str:
    return f"U+{ord(char):04X} {unicodedata.name(char, 'control character')}"


@dataclass(slots=True)
class _Open:
    """A message or list whose end has not been read yet."""

    name: str
    span: Span  # of the field's name
    bracket: str  # "{", "<" or "["; "" for the file
    at: int
    entries: list[Entry] = field(default_factory=list)
    values: list[Scalar | Block] = field(default_factory=list)
    damaged: bool = False
    colon: bool = True


_CLOSER = {"{": "}", "<": ">", "[": "]"}
_STARTS_VALUE = (_T.STRING, _T.NUMBER, _T.WORD, _T.BAD)


class _Parser:
    """One pass over the tokens. A stack instead of recursion: no text can exhaust Python's."""

    def __init__(self, source: _Source, tokens: list[_Token]) -> None:
        self.source = source
        self.tokens = tokens
        self.next = 0
        self.problems: list[Problem] = []
        self.brace_problems: list[Problem] = []
        self.gave_up = False
        self.by_indentation = False
        self._quoted_names: list[Span] = []
        self.open: list[_Open] = []

    def run(self, *, by_indentation: bool) -> Block:
        self.by_indentation = by_indentation
        self.open = [_Open("", Span(self.source.file, source=self.source.text), "", 0)]
        while not self.gave_up and self._token.type is not _T.END:
            if by_indentation and self._is_extra_by_indentation():
                continue
            if self.open[-1].bracket == "[":
                self._list_item()
            else:
                self._field()
        while len(self.open) > 1:
            if not self.gave_up:
                self._report_unclosed(self.open[-1])
            self._close()
        if self._quoted_names:
            what = _with_count("the name of a field stands without quotes", self._quoted_names)
            self.problems.append(Problem(what, self._quoted_names[0]))
        root = self.open[0]
        return Block(tuple(root.entries), root.span, root.damaged)

    # Tokens

    @property
    def _token(self) -> _Token:
        return self.tokens[self.next]

    def _after(self, ahead: int = 1) -> _Token:
        return self.tokens[min(self.next + ahead, len(self.tokens) - 1)]

    def _is(self, *texts: str, ahead: int = 0) -> bool:
        token = self._after(ahead)
        return token.type is _T.PUNCT and token.text in texts

    def _accept(self, *texts: str) -> bool:
        if self._is(*texts):
            self.next += 1
            return True
        return False

    def _add(
        self, what: str, token: _Token, expected: str = "", got: str = "", hint: str = ""
    ) -> None:
        span = self.source.span(token.at)
        self.problems.append(Problem(what, span, "", expected, got, hint))
        self.open[-1].damaged = True

    def _skip_line(self) -> None:
        """Go to the next line, or to a bracket that closes what is open; skip whole blocks."""
        end = self.source.line_end(self._token.at)
        depth = 0
        while self._token.type is not _T.END and (depth or self._token.at < end):
            if self._is("{", "<", "["):
                depth += 1
            elif self._is("}", ">", "]"):
                if not depth:
                    return
                depth -= 1
            self.next += 1

    def _skip_group(self) -> None:
        """Go behind the bracket that closes the one at hand."""
        depth = 0
        while self._token.type is not _T.END:
            depth += self._is("{", "<", "[") - self._is("}", ">", "]")
            self.next += 1
            if depth <= 0:
                return

    # Fields and values

    def _field(self) -> None:
        token = self._token
        if token.type is _T.WORD:
            if self._names_a_field():
                self._value(token.text, self.source.span(token.at))
            else:
                self._word_without_value(token)
        elif self._is("}", ">"):
            self._closing(token)
        elif token.type is _T.STRING and self._is(":", "{", ahead=1):
            self._quoted_names.append(self.source.span(token.at))
            self._value(token.text, self.source.span(token.at))
        else:
            self._misplaced(token)

    def _names_a_field(self) -> bool:
        """Tell whether the word at hand is followed by what follows a field's name."""
        follower = self._after()
        if self._is(":", "{", "<", "[", "=", ahead=1):
            return True
        same_line = follower.at < self.source.line_end(self._token.at)
        if follower.type in (_T.STRING, _T.NUMBER, _T.BAD):
            return same_line
        # `bottom data` without a colon; not the `Layer` of `type: Convolution Layer`.
        return (
            follower.type is _T.WORD
            and same_line
            and not self._is(":", "{", "<", "=", ahead=2)
            and not self._follows_value(self._token)
        )

    def _word_without_value(self, token: _Token) -> None:
        text, end = self._run(self.next)
        if "-" in text and self.tokens[end].text in (":", "{", "<"):
            meant = text.replace("-", "_")
            self._add("a name has no '-' in it", token, meant, text)
            self.next = end - 1  # where a name of one word would stand
            self._value(meant, self.source.span(token.at))
            return
        self._add(
            f"'{token.text}' is neither a field nor part of one",
            token,
            expected=f"{token.text}: value, or {token.text} {{ ... }}",
            hint="a string stands in quotes" if self._follows_value(token) else "",
        )
        self.next += 1

    def _run(self, first: int) -> tuple[str, int]:
        """Return the text of the tokens that stand together without a blank, and where it ends."""
        text, end = "", first
        while (token := self.tokens[end]).at == self.tokens[first].at + len(text):
            if token.type not in (_T.WORD, _T.NUMBER, _T.BAD) and token.text not in tuple("./-+"):
                break
            text += token.text
            end += 1
        return text, end

    def _follows_value(self, token: _Token) -> bool:
        before = self.tokens[self.next - 1] if self.next else None
        return (
            before is not None
            and before.type is _T.WORD
            and token.at <= self.source.line_end(before.at)
        )

    def _misplaced(self, token: _Token) -> None:
        before = self.tokens[self.next - 1] if self.next else None
        at_root = len(self.open) == 1
        if at_root and self._is("{") and self._after().type is _T.STRING:
            self._give_up("this looks like JSON, not like prototxt", token, "name the file .json")
        elif self._is_yaml_item():
            self._give_up("this looks like YAML, not like prototxt", token, "name the file .yaml")
        elif self._is("["):
            self._add("extensions have no place here: Caffe's formats have none", token)
            self._skip_line()
        elif self._is("{", "<"):
            self._add("a message without a name", token, expected="name { ... }")
            self._push("", self.source.span(token.at))
        elif self._is(",", ";"):
            self._add(f"superfluous '{token.text}'", token)
            self.next += 1
        elif self._is("]"):
            self._add("']' without '['", token)
            self.next += 1
        elif token.type is _T.NUMBER and before and before.text == ",":
            first = self.tokens[self.next - 2].text
            hint = f"write {first}.{token.text} for a fraction, [{first}, {token.text}] for a list"
            self._add(f"{token.shown()} follows a ','", token, "a field", hint=hint)
            self.next += 1
        elif token.type in (_T.NUMBER, _T.STRING) and before and before.type in _STARTS_VALUE:
            self._add(
                f"a second value, {token.shown()}, after the first",
                token,
                expected="one value for a field",
                hint="write a list, name: [a, b], where the field takes several",
            )
            self.next += 1
            while self._token.type in (_T.NUMBER, _T.STRING) and not self._is(":", ahead=1):
                self.next += 1
        elif token.type is _T.BAD:
            self._report_bad(token)
        else:
            self._add(f"{token.shown()} is not the start of a field", token, expected="name: value")
            self._skip_line_after_one()

    def _is_yaml_item(self) -> bool:
        return (
            self._is("-")
            and self.source.starts_line(self._token.at)
            and self._after().type in (_T.WORD, _T.STRING)
            and not _is_float_word(self._after().text)
        )

    def _skip_line_after_one(self) -> None:
        end = self.source.line_end(self._token.at)
        self.next += 1
        if self._token.at < end:
            self._skip_line()

    def _give_up(self, what: str, token: _Token, hint: str) -> None:
        self._add(what, token, hint=hint)
        self.gave_up = True

    def _value(self, name: str, span: Span) -> None:
        """Read what follows a field's name."""
        name_token = self._token
        self.next += 1
        colon = self._accept(":")
        if not colon and self._is("="):
            self._add(f"':' stands between name and value, not '=': '{name}'", self._token, "':'")
            self.next += 1
            colon = True
        if colon:
            while self._is(":", "="):
                self._add(f"superfluous '{self._token.text}'", self._token)
                self.next += 1
        if self._is("{", "<", "["):
            self._push(name, span)
            self.open[-1].colon = colon
        elif self._value_is_missing():
            self._add(
                f"the field '{name}' has no value",
                name_token,
                expected=f"{name}: value",
                got=self._token.shown(),
            )
            if self._is(",", ";"):
                self.next += 1
            elif not self._is("}", ">") and self._token.type not in (_T.WORD, _T.END):
                self._skip_line()
        else:
            if not colon:
                self._add(f"':' is missing after '{name}'", self._token, "':'", self._token.shown())
            if (scalar := self._scalar()) is not None:
                self.open[-1].entries.append(Entry(name, span, (scalar,)))
            self._accept(",", ";")

    def _value_is_missing(self) -> bool:
        token = self._token
        if self._is_yaml_item():
            self._give_up("this looks like YAML, not like prototxt", token, "name the file .yaml")
            return False
        if self._is("-", "+", ".", "/"):
            return False
        if token.type is _T.WORD:
            # A word that is itself followed by a value is the next field.
            return self._is(":", "{", "<", "=", ahead=1)
        return token.type not in _STARTS_VALUE

    def _scalar(self) -> Scalar | None:
        """Read one value; None where it is one that was reported."""
        first = self._token
        span = self.source.span(first.at)
        sign = ""
        if (unquoted := self._unquoted_text()) is not None:
            self._add("this text lacks its quotes", first, f'"{unquoted}"', unquoted)
            return Scalar(Kind.STRING, unquoted, span)
        if self._is("-", "+"):
            if first.text == "+":
                self._add("a number has no '+' before it", first)
            else:
                sign = "-"
            self.next += 1
        token = self._token
        if token.type is _T.STRING and not sign:
            parts = []
            while self._token.type is _T.STRING and not self._is(":", "{", ahead=1):
                parts.append(self._token.text)
                self.next += 1
            return Scalar(Kind.STRING, "".join(parts), span)
        if token.type is _T.NUMBER:
            self.next += 1
            return Scalar(Kind.NUMBER, sign + token.text, span)
        if token.type is _T.WORD and (not sign or _is_float_word(token.text)):
            self.next += 1
            return Scalar(Kind.WORD, sign + token.text, span)
        if token.type is _T.BAD:
            self._report_bad(token)
        elif not self.gave_up:
            self._add("this is not a value", token, "a number after the sign", token.shown())
            self._skip_line()
        return None

    def _report_bad(self, token: _Token) -> None:
        self._add("this is not a number", token, "digits", token.shown())
        self.next += 1

    def _unquoted_text(self) -> str | None:
        """Take in a path or another text that lacks its quotes: data/train.txt, ./x, conv1-a."""
        if self._token.type is not _T.WORD and not self._is(".", "/"):
            return None
        text, end = self._run(self.next)
        if end == self.next + 1 and self._token.type is _T.WORD:
            return None
        self.next = end
        return text

    # Lists

    def _list_item(self) -> None:
        inside = self.open[-1]
        token = self._token
        if self._is("]"):
            self.next += 1
            self._close()
        elif self._is("{", "<"):
            self._push("", self.source.span(token.at))
        elif (
            token.type in _STARTS_VALUE and not self._is(":", "{", "<", "=", ahead=1)
        ) or self._is("-", "+", ".", "/"):
            if (scalar := self._scalar()) is not None:
                inside.values.append(scalar)
            self._after_list_item()
        elif self._is(","):
            self._add("a value is missing in the list", token, "[a, b, ...]")
            self.next += 1
        elif self._is("["):
            self._add("a list cannot be part of a list", token, "values or messages")
            self._skip_group()
            self._after_list_item()
        else:
            self._unclosed_list(token)

    def _after_list_item(self) -> None:
        if self._is("]"):
            return
        comma = self._token
        if self._accept(","):
            if self._is("]"):
                self._add("superfluous ',' at the end of the list", comma)
        elif self._token.type in (_T.STRING, _T.NUMBER, _T.BAD) or self._is("{", "<", "-"):
            self._add("',' is missing in the list", self._token, "','", self._token.shown())
        elif self._token.type is not _T.WORD or self._is(":", "{", "<", "=", ahead=1):
            self._unclosed_list(self._token)
        else:
            self._add("',' is missing in the list", self._token, "','", self._token.shown())

    def _unclosed_list(self, token: _Token) -> None:
        opened = self.open[-1]
        self.problems.append(
            Problem(
                f"the list of '{opened.name}' is not closed",
                self.source.span(opened.at),
                expected="']'",
                got=token.shown(),
            )
        )
        opened.damaged = True
        self._close()

    # Opening and closing

    def _push(self, name: str, span: Span) -> None:
        token = self._token
        if len(self.open) > MAX_DEPTH:
            self._add(f"messages are nested deeper than {MAX_DEPTH}", token)
            self.gave_up = True
            return
        self.open.append(_Open(name, span, token.text, token.at))
        self.next += 1

    def _close(self) -> None:
        """End the innermost open message or list and hand it to the one around it."""
        inner = self.open.pop()
        outer = self.open[-1]
        if inner.bracket == "[":
            outer.damaged |= inner.damaged
            if not inner.colon and any(isinstance(value, Scalar) for value in inner.values):
                what = f"':' is missing after '{inner.name}'"
                self.problems.append(Problem(what, self.source.span(inner.at), "", "':'", "'['"))
            outer.entries.append(Entry(inner.name, inner.span, tuple(inner.values), listed=True))
            self._accept(",", ";")
            return
        block = Block(tuple(inner.entries), inner.span, inner.damaged)
        if outer.bracket == "[":
            outer.values.append(block)
            if self._token.type is not _T.END and not self.gave_up:
                self._after_list_item()
            return
        if inner.name:
            outer.entries.append(Entry(inner.name, inner.span, (block,)))
        self._accept(",", ";")

    def _closing(self, token: _Token) -> None:
        """Deal with `}` or `>`."""
        inside = self.open[-1]
        if not inside.bracket:
            self._report_extra(token)
            self.next += 1
            return
        if token.text != _CLOSER[inside.bracket]:
            self._add(
                f"'{inside.bracket}' of '{inside.name}' is closed by '{token.text}'",
                token,
                expected=f"'{_CLOSER[inside.bracket]}'",
            )
        self.next += 1
        self._close()

    def _is_extra_by_indentation(self) -> bool:
        """Before a token that begins a line: put right the nesting that indentation contradicts.

        Returns True where the token was a superfluous bracket, which is passed over.
        """
        token = self._token
        if self.open[-1].bracket in ("", "[") or not self.source.starts_line(token.at):
            return False
        column = self.source.indent(token.at)
        if self._is("}", ">"):
            line = self.source.line_start(token.at)
            indents = [self.source.indent(o.at) for o in self.open if o.bracket and o.at < line]
            if column in indents:
                self._close_unclosed(column + 1)
            elif indents and column > indents[-1]:
                self._report_extra(token)
                self.next += 1
                return True
        elif token.type is _T.WORD and self._is(":", "{", "<", ahead=1):
            self._close_unclosed(column)
        return False

    def _close_unclosed(self, column: int) -> None:
        """Close what was opened on earlier lines that are indented by `column` or more."""
        line = self.source.line_start(self._token.at)
        while (inside := self.open[-1]).bracket in ("{", "<") and inside.at < line:
            if self.source.indent(inside.at) < column:
                return
            self._report_unclosed(inside)
            self._close()

    def _report_unclosed(self, opened: _Open) -> None:
        closer = _CLOSER[opened.bracket]
        hint = ""
        if self.by_indentation and self._token.type is not _T.END:
            line = self.source.span(self._token.at).line
            hint = f"by the indentation, it should be closed before line {line}"
        of = f" of '{opened.name}'" if opened.name else ""
        self.brace_problems.append(
            Problem(
                f"'{opened.bracket}'{of} is never closed",
                self.source.span(opened.at),
                expected=f"'{closer}'",
                hint=hint,
            )
        )
        opened.damaged = True

    def _report_extra(self, token: _Token) -> None:
        opener = "{" if token.text == "}" else "<"
        self.brace_problems.append(
            Problem(f"'{token.text}' without a '{opener}' before it", self.source.span(token.at))
        )


def _is_float_word(text: str) -> bool:
    return text.lower() in ("inf", "infinity", "nan")
