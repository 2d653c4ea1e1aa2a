"""Which notation a file is read in. Other files and encodings: tests/schema/test_source.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from netc.errors import NetcError
from netc.text import Format, decode, is_binary, parse, read_bytes, read_text


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("net.prototxt", Format.PROTOTXT),
        ("net.pbtxt", Format.PROTOTXT),
        ("net", Format.PROTOTXT),
        ("net.yaml", Format.YAML),
        ("NET.YML", Format.YAML),
        ("net.json", Format.JSON),
    ],
)
def test_the_suffix_tells_the_notation(name: str, format: Format) -> None:
    text = '{"a": 1}' if format is Format.JSON else "a: 1"
    assert parse(name, text).format is format
    assert parse("other", text, format=format).format is format


def test_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "n"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb\rc\n")
    assert read_text(path) == "a\nb\nc\n"
    assert read_bytes(path).startswith(b"\xef\xbb\xbf")
    assert parse("n", "\ufeffa: 1\r\nb: 2").root.entries[1].span.line == 2


def test_bytes_that_are_not_utf8_survive_decoding() -> None:
    assert decode(b"# \xe9", "n").encode("utf-8", "surrogateescape") == b"# \xe9"


def test_what_is_binary() -> None:
    assert is_binary(b"a\0b") and is_binary(b"\n\x05LeNet\x12")
    assert not is_binary(b"") and not is_binary("é\t\r\n\x0c\x1b[0m".encode())


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)  # permissions do not bind root
    with pytest.raises(NetcError, match="no permission to read this file"):
        read_bytes(tmp_path / "n")
