"""Check every prototxt file below some folders, each from the root of its folder; count and group.

python tools/check_published.py caffe fcn.berkeleyvision.org py-faster-rcnn

The folders are checkouts of repositories with published nets. A text that several hold counts once,
in the first. Files that are no nets or solvers for Caffe either are counted apart: label maps,
templates whose placeholders some program fills in, and solvers that name a net which their
repository does not hold.
"""

from __future__ import annotations

import argparse
import enum
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from command import run

from netc.checking import check
from netc.errors import Problem, fail
from netc.report.table import table

# A number, or a word, of which the text has many: left out of what is grouped.
_DETAIL = re.compile(r"(?<=blob )'[^']*'|(?<![\w'])\d+|'[^']*[/.][^']*'")
_PLACEHOLDER = re.compile(r"\$|\{\{|@|[A-Za-z_]\w*")
_NUMBER_WANTED = re.compile(r"takes a (whole )?number")


class Kind(enum.Enum):
    """What a file turned out to be."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    NO_NET = "label map"
    TEMPLATE = "template"
    INCOMPLETE = "file missing"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found out about one file of a folder."""

    folder: str
    file: str
    kind: Kind
    reasons: tuple[str, ...] = ()


def kind_of(text: str, problems: Sequence[Problem]) -> Kind:
    """Say what a file is, by its text and what the check found."""
    if not problems:
        return Kind.ACCEPTED
    if problems[0].what == "this is a label map, not a net":
        return Kind.NO_NET
    if "${" in text or "{{" in text or any(map(_is_placeholder, problems)):
        return Kind.TEMPLATE
    if any(p.what.endswith(" does not exist") and ".prototxt'" in p.what for p in problems):
        return Kind.INCOMPLETE
    return Kind.REFUSED


def _is_placeholder(problem: Problem) -> bool:
    """Tell whether a word stands where a number must: `num_output: cls6x`."""
    return bool(_NUMBER_WANTED.search(problem.what) and _PLACEHOLDER.match(problem.got))


def verdict(folder: str, file: str) -> Verdict:
    """Check one file, named from the root of its folder."""
    os.chdir(folder)
    text = Path(file).read_text(encoding="utf-8", errors="replace")
    problems = [problem for report in check([file]) for problem in report.problems]
    reasons = dict.fromkeys(_DETAIL.sub("...", problem.what) for problem in problems)
    return Verdict(folder, file, kind_of(text, problems), tuple(reasons))


def texts_of(folders: Iterable[Path]) -> list[tuple[str, str]]:
    """Return (folder, file) for every prototxt file, of equal ones the first."""
    seen: set[bytes] = set()
    found = []
    for folder in folders:
        if not folder.is_dir():
            raise fail("there is no such folder", got=str(folder))
        for file in sorted(folder.rglob("*.prototxt")):
            content = file.read_bytes() if file.is_file() else b""
            if content and content not in seen:
                seen.add(content)
                found.append((str(folder.resolve()), str(file.relative_to(folder))))
    return found


def counted(verdicts: Sequence[Verdict], *, markdown: bool = False) -> str:
    """Return a table with a row for each folder, and one for all."""
    by_folder: dict[str, Counter[Kind]] = {}
    for v in verdicts:
        by_folder.setdefault(Path(v.folder).name, Counter())[v.kind] += 1
    whole = sum(by_folder.values(), Counter())
    header = ["folder", *(kind.value for kind in Kind), "of nets and solvers"]
    *rows, total = (
        [name, *(str(count[kind]) for kind in Kind), share(count)]
        for name, count in [*by_folder.items(), ("all", whole)]
    )
    numbers = range(1, len(header))
    return "\n".join(table(header, rows, total, right=numbers, markdown=markdown))


def share(count: Counter[Kind]) -> str:
    """Return which part of the nets and solvers was accepted: "97.1 %"."""
    whole = count[Kind.ACCEPTED] + count[Kind.REFUSED]
    return f"{100 * count[Kind.ACCEPTED] / whole:.1f} %" if whole else "-"


def grouped(verdicts: Iterable[Verdict]) -> str:
    """Return a line for each reason, the most frequent first, with the first file that has it."""
    files: dict[str, list[Verdict]] = {}
    for v in verdicts:
        if v.kind is Kind.REFUSED:
            for reason in v.reasons:
                files.setdefault(reason, []).append(v)
    lines = []
    for reason, those in sorted(files.items(), key=lambda item: -len(item[1])):
        first = Path(those[0].folder).name + "/" + those[0].file
        lines.append(f"{len(those):5}  {reason}\n       {first}")
    return "\n".join(lines)


def main() -> None:
    """Read the command line, check, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="+", help="a checkout")
    parser.add_argument("-jobs", type=int, default=os.cpu_count() or 1, help="processes at a time")
    parser.add_argument("-markdown", action="store_true", help="print the first table as Markdown")
    options = parser.parse_args()

    texts = texts_of(options.folder)
    with ProcessPoolExecutor(max(options.jobs, 1)) as pool:
        verdicts = list(pool.map(verdict, *zip(*texts, strict=True), chunksize=4)) if texts else []
    print(counted(verdicts, markdown=options.markdown))
    if refusals := grouped(verdicts):
        print(f"\n{refusals}")


if __name__ == "__main__":
    run(main)
