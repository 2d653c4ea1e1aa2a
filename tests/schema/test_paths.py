"""Paths in text files lead from the file, then from the working directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from netc.errors import NetcError, Span
from netc.schema import resolve


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "zoo").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "zoo" / "net.prototxt").touch()
    (tmp_path / "data" / "train.txt").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_beside_the_file_that_names_it(here: Path) -> None:
    assert resolve("net.prototxt", "zoo/solver.prototxt") == Path("zoo/net.prototxt")


def test_from_the_working_directory(here: Path) -> None:
    assert resolve("data/train.txt", "zoo/solver.prototxt") == Path("data/train.txt")
    assert resolve("zoo/net.prototxt", None) == Path("zoo/net.prototxt")


def test_the_file_comes_first(here: Path) -> None:
    (here / "net.prototxt").touch()
    assert resolve("net.prototxt", Span("zoo/solver.prototxt", 3)) == Path("zoo/net.prototxt")


def test_absolute_and_home(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    assert resolve(str(here / "zoo"), "x/y") == here / "zoo"
    assert resolve("~/zoo", "x/y") == here / "zoo"


def refusal(path: str, named_in: Span | str | None) -> str:
    with pytest.raises(NetcError) as caught:
        resolve(path, named_in)
    return str(caught.value)


def test_missing_file_lists_both_places(here: Path) -> None:
    span = Span("zoo/solver.prototxt", 3, 6, '\n\nnet: "nett.prototxt"\n')
    assert refusal("nett.prototxt", span) == (
        "zoo/solver.prototxt:3:6: 'nett.prototxt' does not exist\n"
        '    | net: "nett.prototxt"\n'
        "    |      ^\n"
        "  expected  a file or folder at\n"
        "            zoo/nett.prototxt\n"
        "            nett.prototxt\n"
        "  hint      did you mean 'zoo/net.prototxt'?"
    )


def test_missing_folder_is_named(here: Path) -> None:
    assert f"there is no 'dat' in {here}" in refusal("dat/t.txt", "solver.prototxt")


def test_empty_path_and_impossible_names(here: Path) -> None:
    assert "the path is empty" in refusal("", "s")
    assert "does not exist" in refusal("x" * 300, "s")
    assert "does not exist" in refusal("a\0b", "s")


def test_detours_are_left_out_unless_a_link_makes_them_matter(tmp_path: Path) -> None:
    (tmp_path / "solvers").mkdir()
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "net.prototxt").write_text("")
    named_in = str(tmp_path / "solvers" / "solver.prototxt")
    assert resolve("../zoo/net.prototxt", named_in) == tmp_path / "zoo" / "net.prototxt"
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere" / "zoo").mkdir()
    (tmp_path / "elsewhere" / "zoo" / "other.prototxt").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "deep")
    found = resolve("link/../zoo/other.prototxt", str(tmp_path / "solver.prototxt"))
    assert found.samefile(tmp_path / "elsewhere" / "zoo" / "other.prototxt")
