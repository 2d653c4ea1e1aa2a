"""The text of messages: each file in mistakes/ is refused in the words of the .txt beside it.

    python -m tests.schema.test_mistakes     writes those texts anew; read the difference

A new kind of mistake is a new file there.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from netc.errors import NetcError
from netc.schema import read_net

FOLDER = Path(__file__).parent / "mistakes"
FILES = sorted(p for p in FOLDER.iterdir() if p.suffix != ".txt")


def message_of(path: Path) -> str:
    try:
        read_net(path.name, path.read_text(encoding="utf-8"))
    except NetcError as error:
        return f"{error}\n"
    return "no message\n"


def wording_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.txt")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_mistake_is_told_in_these_words(path: Path) -> None:
    assert message_of(path) == wording_of(path).read_text(encoding="utf-8")


def test_every_wording_has_its_mistake() -> None:
    assert {p for p in FOLDER.iterdir() if p.suffix == ".txt"} == {wording_of(p) for p in FILES}


if __name__ == "__main__":
    for file in FILES:
        wording_of(file).write_text(message_of(file), encoding="utf-8")
