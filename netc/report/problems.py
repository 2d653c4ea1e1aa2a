"""What was found wrong in files, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from netc.errors import Problem


@dataclass(frozen=True, slots=True)
class FileReport:
    """What was found in one file.

    `summary` says what the file holds, where nothing is wrong with it. `notes` are what the user
    should know besides: assumed shapes, old forms, layers that no check reached. `elsewhere` are
    the files with problems that this one leads to and that an earlier report tells.
    """

    file: str
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()
    summary: str = ""
    elsewhere: tuple[str, ...] = ()


def as_text(reports: Sequence[FileReport]) -> str:
    """Return every problem and note, and a line for each file that has none."""
    lines = []
    for report in reports:
        lines += [problem.render() for problem in report.problems]
        if not report.problems and report.elsewhere:
            lines.append(f"{report.file}: not ok, see the mistakes in {_list(report.elsewhere)}")
        elif not report.problems:
            lines.append(f"{report.file}: ok ({report.summary})")
        lines += [f"  note: {note}" for note in report.notes]
    n_problems = sum(len(report.problems) for report in reports)
    if n_problems:
        n_files = sum(bool(report.problems or report.elsewhere) for report in reports)
        lines.append(f"{_counted(n_problems, 'mistake')} in {_counted(n_files, 'file')}")
    return "\n".join(lines)


def as_objects(reports: Sequence[FileReport]) -> list[dict[str, object]]:
    """Return one object for each problem, all with the same keys.

    `file` is where the mistake stands, which may be another file than the one that was checked;
    `line` and `column` count from 1, and are 0 for a file as a whole.
    """
    blank = {
        "line": 0,
        "column": 0,
        "message": "",
        "layer": "",
        "expected": "",
        "got": "",
        "hint": "",
    }
    return [
        {"file": report.file, **blank, **problem.as_dict()}
        for report in reports
        for problem in report.problems
    ]


def _list(names: Sequence[str]) -> str:
    return " and ".join(names)


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"
