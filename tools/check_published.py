"""Check every prototxt file below some folders, each from the root of its folder; count and group.

python tools/check_published.py caffe fcn.berkeleyvision.org py-faster-rcnn

The folders are checkouts of repositories with published nets. A text that several hold counts once,
in the first. Files that are no nets or solvers for Caffe either are counted apart: label maps,
templates whose placeholders some program fills in, and files that name others which their
repository does not hold: solvers a net, lists their images. Apart, too, are those that their own
fork does not take, whether netc accepts them or not: it cannot read them, by its schema; or it
refuses them, as `published_refusals.tsv` says of each. A repository's own schema counts, or the one
of the fork that `published_forks.tsv` names for it, whose checkout OWNER+NAME then has to lie in a
folder given by `-forks`; where neither is there, every file counts. Reading schemas needs grpcio-
tools.
"""

from __future__ import annotations

import argparse
import enum
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import fork_schema
from command import run

from netc.checking import check
from netc.errors import Problem, fail
from netc.report.table import table
from netc.schema.kinds import is_solver
from netc.schema.paths import candidates

# A number, or a word, of which the text has many: left out of what is grouped.
_DETAIL = re.compile(r"(?<=blob )'[^']*'|(?<![\w'])\d+|'[^']*[/.][^']*'")
_PLACEHOLDER = re.compile(r"\$|\{\{|@|[A-Za-z_]\w*")
_FILE_MISSING = re.compile(r"('.*\.prototxt'|image '.*') does not exist", re.S)
_NUMBER_WANTED = re.compile(r"takes a (whole )?number")


class Kind(enum.Enum):
    """What a file turned out to be."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    NO_NET = "label map"
    TEMPLATE = "template"
    INCOMPLETE = "file missing"
    UNREADABLE = "fork cannot read"
    FORK_REFUSES = "fork refuses"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found out about one file of a folder: the reasons are netc's, or its fork's."""

    folder: str
    file: str
    kind: Kind
    reasons: tuple[str, ...] = ()
    accepted: bool = False


@dataclass(frozen=True, slots=True)
class Objection:
    """Why a fork does not take a file. A solver has the objection to the net that it names."""

    kind: Kind
    reason: str


@dataclass(frozen=True, slots=True)
class Forks:
    """What is known about forks: the schemas given for folders, and the files that forks refuse.

    Both by the resolved path of the folder; the files also by their name from there.
    """

    schemas: Mapping[str, Sequence[Path]]
    refused: Mapping[tuple[str, str], str]

    def objection(self, folder: str, file: str) -> Objection | None:
        """Return what the fork that a file is for has against it, or against the nets it names."""
        path = Path(folder, file)
        text = path.read_text(encoding="utf-8", errors="replace")
        solver = is_solver(path, text)
        if found := self._objection(folder, file, text, solver=solver):
            return found
        for net in self._nets(folder, file, text) if solver else []:
            text = Path(folder, net).read_text(encoding="utf-8", errors="replace")
            if found := self._objection(folder, net, text, solver=False):
                return Objection(found.kind, f"{net}: {found.reason}")
        return None

    def _objection(self, folder: str, file: str, text: str, *, solver: bool) -> Objection | None:
        if reason := self.refused.get((folder, file)):
            return Objection(Kind.FORK_REFUSES, reason)
        why = fork_schema.refusal(text, self._schemas(folder, file), solver=solver)
        return Objection(Kind.UNREADABLE, why) if why else None

    def _nets(self, folder: str, solver: str, text: str) -> Iterator[str]:
        """Yield the files of the nets that a solver names, sought where netc seeks them."""
        for path in fork_schema.nets_of(text, self._schemas(folder, solver)):
            for place in candidates(path, solver):
                if Path(folder, place).is_file():
                    yield os.path.normpath(place)
                    break

    def _schemas(self, folder: str, file: str) -> Sequence[Path]:
        return self.schemas.get(folder) or fork_schema.own_schemas(Path(folder), Path(file))


def kind_of(text: str, problems: Sequence[Problem]) -> Kind:
    """Say what a file is, by its text and what the check found."""
    if not problems:
        return Kind.ACCEPTED
    if problems[0].what == "this is a label map, not a net":
        return Kind.NO_NET
    if "${" in text or "{{" in text or any(map(_is_placeholder, problems)):
        return Kind.TEMPLATE
    if any(_FILE_MISSING.fullmatch(problem.what) for problem in problems):
        return Kind.INCOMPLETE
    return Kind.REFUSED


def _is_placeholder(problem: Problem) -> bool:
    """Tell whether a word stands where a number must: `num_output: cls6x`."""
    return bool(_NUMBER_WANTED.search(problem.what) and _PLACEHOLDER.match(problem.got))


def verdict(forks: Forks, holders: Sequence[tuple[str, str]]) -> Verdict:
    """Check one text, for the first of its holders whose fork takes it, or the first of all.

    A holder is a folder and a file, named from its root.
    """
    (folder, file), objection = holders[0], forks.objection(*holders[0])
    for other in holders[1:]:
        if objection and forks.objection(*other) is None:
            (folder, file), objection = other, None
    os.chdir(folder)
    text = Path(file).read_text(encoding="utf-8", errors="replace")
    problems = [problem for report in check([file]) for problem in report.problems]
    reasons = dict.fromkeys(_DETAIL.sub("...", problem.what) for problem in problems)
    kind = kind_of(text, problems)
    if objection and kind in (Kind.ACCEPTED, Kind.REFUSED):
        return Verdict(folder, file, objection.kind, (objection.reason,), kind is Kind.ACCEPTED)
    return Verdict(folder, file, kind, tuple(reasons), kind is Kind.ACCEPTED)


def texts_of(folders: Iterable[Path]) -> list[list[tuple[str, str]]]:
    """Return every text of a prototxt file, as the (folder, file) of those that hold it."""
    holders: dict[bytes, list[tuple[str, str]]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise fail("there is no such folder", got=str(folder))
        for file in sorted(folder.rglob("*.prototxt")):
            content = file.read_bytes() if file.is_file() else b""
            if content:
                place = str(folder.resolve()), str(file.relative_to(folder))
                holders.setdefault(content, []).append(place)
    return list(holders.values())


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
        for reason in v.reasons:
            files.setdefault(reason, []).append(v)
    lines = []
    for reason, those in sorted(files.items(), key=lambda item: -len(item[1])):
        accepted = sum(v.accepted for v in those)
        note = f" (netc accepts {accepted})" if accepted else ""
        first = Path(those[0].folder).name + "/" + those[0].file
        lines.append(f"{len(those):5}  {reason}{note}\n       {first}")
    return "\n".join(lines)


def forks_of(folders: Sequence[Path], places: Sequence[Path], given: Sequence[str]) -> Forks:
    """Return what the tables beside this file and the command line say about some folders.

    `places` hold checkouts of forks. What is `given`, FOLDER=CAFFE_PROTO, goes before the tables.
    """
    by_name = {folder.name.replace("+", "/", 1): str(folder.resolve()) for folder in folders}
    schemas: dict[str, list[Path]] = {}
    for repository, fork, _ in _rows("published_forks.tsv"):
        if places and repository in by_name:
            checkouts = [place / fork.replace("/", "+", 1) for place in places]
            found = [path for c in checkouts if (path := c / fork_schema.SCHEMA).is_file()]
            if not found:
                raise fail(
                    f"the fork {fork}, which {repository} is for, is in no folder given by -forks",
                    expected="\n".join(f"a file {c / fork_schema.SCHEMA}" for c in checkouts),
                )
            schemas.setdefault(by_name[repository], []).append(found[0].resolve())
    for pair in given:
        folder, separator, schema = pair.partition("=")
        if not separator or not Path(schema).is_file():
            raise fail(
                "-schema takes a folder and a schema", expected="FOLDER=CAFFE_PROTO", got=pair
            )
        schemas[str(Path(folder).resolve())] = [Path(schema).resolve()]
    refused = {}
    for repository, file, where, reason in _rows("published_refusals.tsv"):
        if folder := by_name.get(repository, ""):
            if not Path(folder, file).is_file():
                raise fail(
                    f"published_refusals.tsv speaks of a file that {repository} lacks", got=file
                )
            refused[folder, file] = f"{reason} ({where})"
    return Forks(schemas, refused)


def _rows(name: str) -> Iterator[list[str]]:
    """Yield the rows of a table that lies beside this file."""
    for line in Path(__file__).with_name(name).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            yield line.split("\t")


def main() -> None:
    """Read the command line, check, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="+", help="a checkout")
    parser.add_argument("-jobs", type=int, default=os.cpu_count() or 1, help="processes at a time")
    parser.add_argument("-markdown", action="store_true", help="print the first table as Markdown")
    parser.add_argument(
        "-forks",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="where checkouts of forks lie, OWNER+NAME each; may be given again",
    )
    parser.add_argument(
        "-schema",
        action="append",
        default=[],
        metavar="FOLDER=CAFFE_PROTO",
        help="the schema of the fork that a folder's nets are for; may be given again",
    )
    options = parser.parse_args()

    folders = list(dict.fromkeys(options.folder))
    texts = texts_of(folders)
    judge = partial(verdict, forks_of(folders, options.forks, options.schema))
    with ProcessPoolExecutor(max(options.jobs, 1)) as pool:
        verdicts = list(pool.map(judge, texts, chunksize=4))
    order = [str(folder.resolve()) for folder in folders]
    verdicts.sort(key=lambda v: order.index(v.folder))
    print(counted(verdicts, markdown=options.markdown))
    if refusals := grouped(v for v in verdicts if v.kind is Kind.REFUSED):
        print(f"\n{refusals}")
    apart = [v for v in verdicts if v.kind in (Kind.UNREADABLE, Kind.FORK_REFUSES)]
    if apart:
        accepted = sum(v.accepted for v in apart)
        print(f"\nNot taken by their own forks: {len(apart)}, of which netc accepts {accepted}")
        print(f"\n{grouped(apart)}")


if __name__ == "__main__":
    run(main)
