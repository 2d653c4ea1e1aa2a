"""What holds for the repository as a whole, and for what the README promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import netc

ROOT = Path(__file__).resolve().parents[1]

TOP_LEVEL = {
    ".ci", ".gitattributes", ".gitignore", "CHANGELOG.md", "LICENSE", "Makefile", "README.md",
    "docs", "netc", "proto", "pyproject.toml", "solvers", "tests", "tools", "zoo",
}  # fmt: skip

# Bytes; the golden vectors stay under this by far. What does not is no source, or generated.
LARGEST = 150_000
GENERATED = {
    Path("docs/layers.md"),
    Path("netc/schema/netc_pb2.py"),
    Path("netc/schema/netc_pb2.pyi"),
}
# Text that is as it must be: Caffe's results, a licence, and files that are wrong on purpose.
AS_IT_IS = {("tests", "conformance"), ("tests", "schema", "mistakes"), ("LICENSE",)}

# What no tracked text says, and why.
FORBIDDEN = {
    r"""(?:^|[\s"'`(=:])/(?:home|root|Users|mnt|srv|work|opt|tmp|data)/""": (
        "a path of one machine"
    ),
    r"\b(?:TODO|FIXME|XXX)\b": "an unfinished thought: finish it or write an issue",
    r"^(?:<<<<<<<|>>>>>>>) ": "a merge conflict",
    r"[ \t]+$": "blanks at the end of a line",
}


@cache
def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("this is not a git checkout, so that no file is tracked")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def texts() -> list[tuple[Path, str]]:
    found = []
    for path in tracked():
        try:
            found.append((path.relative_to(ROOT), path.read_text(encoding="utf-8")))
        except UnicodeDecodeError:
            continue
    return found


def code_of(markdown: str) -> str:
    """Return the indented and fenced blocks and the `spans` of a Markdown text."""
    fenced = re.findall(r"^```.*?^```", markdown, re.M | re.S)
    indented = re.findall(r"^ {4}.*$", markdown, re.M)
    spans = re.findall(r"`[^`\n]+`", markdown)
    return "\n".join(fenced + indented + spans)


def test_the_top_level_is_the_documented_one() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in tracked()} <= TOP_LEVEL


def test_no_file_is_large() -> None:
    large = {p.relative_to(ROOT) for p in tracked() if p.stat().st_size > LARGEST}
    assert not large - GENERATED


def test_no_text_says_what_none_should() -> None:
    this = Path(__file__).relative_to(ROOT)
    found = []
    for path, text in texts():
        if path == this or any(path.parts[: len(kept)] == kept for kept in AS_IT_IS):
            continue
        for pattern, reason in FORBIDDEN.items():
            for match in re.finditer(pattern, text, re.M):
                line = text.count("\n", 0, match.start()) + 1
                found.append(f"{path}:{line}: {reason}: {match[0]!r}")
    assert not found


def test_the_forbidden_patterns_match() -> None:
    examples = ['open("/home/me/x")', "# TODO: later", ">>>>>>> branch", "x  "]
    for pattern, example in zip(FORBIDDEN, examples, strict=True):
        assert re.search(pattern, example, re.M)
    paths = next(iter(FORBIDDEN))
    assert not re.search(paths, "#!/usr/bin/env bash, tests/data/x, https://host/home/")


def test_golden_files_are_all_here() -> None:
    golden = ROOT / "tests" / "conformance"
    assert len(list(golden.glob("layers/*.npz"))) == 274
    assert len(list(golden.glob("solvers/*.npz"))) == 34
    assert (golden / "files" / "images_lmdb" / "data.mdb").exists()


def test_the_version_has_its_place_in_the_changelog() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## (?:{re.escape(netc.__version__)}\b|Unreleased)", changes, re.M)


def test_a_change_must_pass_what_the_readme_shows() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    readme = code_of((ROOT / "README.md").read_text(encoding="utf-8"))
    commands = re.findall(r"^make \w+", script.read_text(encoding="utf-8"), re.M)
    assert commands == ["make lint", "make test"]
    assert all(command in readme for command in commands)


def test_what_the_readme_names_exists() -> None:
    readme = code_of((ROOT / "README.md").read_text(encoding="utf-8"))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    targets = set(re.findall(r"\bmake ([a-z]+)", readme))
    assert targets >= {"quickstart", "test"}
    assert targets <= set(re.findall(r"^([a-z]+):", makefile, re.M))

    paths = set(re.findall(r"(?<![\w/])(?:zoo|solvers|tools|docs|proto|tests)/[\w./]*\w", readme))
    assert paths
    assert not [path for path in paths if not (ROOT / path).exists()]

    verbs = set(re.findall(r"(?<!from )\bnetc ([a-z]+)\b", readme))
    assert verbs
    assert not [verb for verb in verbs if not (ROOT / "netc" / "cli" / f"{verb}.py").exists()]


def test_the_readme_shows_what_check_prints(tmp_path: Path) -> None:
    net = (ROOT / "zoo" / "lenet" / "lenet_train_test.prototxt").read_text(encoding="utf-8")
    for right, wrong in (("num_output: 500", "num_outputs: 500"), ("pool: MAX", "pool: MAXX")):
        net = net.replace(right, wrong, 1)
    (tmp_path / "my_net.prototxt").write_text(net, encoding="utf-8")
    told = subprocess.run(
        [sys.executable, "-m", "netc", "check", "my_net.prototxt"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 1
    assert "2 mistakes" in told.stdout
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "".join(f"    {line}\n" for line in told.stdout.splitlines()) in readme


def test_the_makefile_names_only_what_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for path in re.findall(r"(?<![\w/])(?:zoo|solvers|tools)/[\w./]*\w", makefile):
        assert (ROOT / path).exists()
