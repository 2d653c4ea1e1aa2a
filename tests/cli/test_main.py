"""The frame around the verbs: help, wrong calls, signals, pipes, and what an import costs."""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from netc import __version__
from netc.cli import VERBS, main
from netc.cli.options import Parser
from tests.cli.conftest import Netc

ROOT = Path(__file__).resolve().parents[2]

# Python itself brings fewer than 60 modules, argparse and netc.errors about 40 more.
MOST_MODULES = 160


def process(*arguments: str, **settings: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "netc", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        **settings,
    )


def modules_after(*arguments: str) -> set[str]:
    """Return what a call imports, in an interpreter of its own without the site's own imports."""
    code = (
        "import sys; from netc.cli import main\n"
        f"try: main({list(arguments)!r})\n"
        "finally: print('\\n' + ' '.join(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


# -- help ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["--help", "-help", "-h", "help"])
def test_help_lists_the_verbs(word: str, netc: Netc) -> None:
    told = netc(word)
    assert told.code == 0
    for verb, line in VERBS.items():
        assert re.search(rf"^  {verb} +{re.escape(line)}$", told.out, re.M)


def test_a_call_without_a_verb_is_a_wrong_one(netc: Netc) -> None:
    told = netc()
    assert told.code == 2
    assert not told.out
    assert "usage: netc VERB" in told.err


@pytest.mark.parametrize("word", ["--version", "-version"])
def test_the_version(word: str, netc: Netc) -> None:
    assert netc(word).out == f"netc {__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("call", ["{} --help", "{} -h", "help {}", "{} -model x --help"])
def test_each_verb_has_help_with_an_example(verb: str, call: str, netc: Netc) -> None:
    told = netc(*call.format(verb).split())
    assert told.code == 0
    assert told.out.startswith(f"usage: netc {verb} ")
    assert f"\nexample: netc {verb}" in told.out
    assert "--" not in told.out.replace("--help", ""), "flags are shown with one dash"


def examples() -> list[tuple[str, str]]:
    found = []
    for verb in VERBS:
        documentation = import_module(f"netc.cli.{verb}").__doc__ or ""
        lines = documentation.partition("\nexample:")[2].splitlines()
        found += [(verb, line.strip()) for line in lines if line.strip()]
    overview = import_module("netc.cli")._EXAMPLES
    found += [(line.split()[1], line.strip()) for line in overview.splitlines()[1:]]
    return found


@pytest.mark.parametrize(("verb", "example"), examples())
def test_the_examples_are_calls_that_can_be_understood(verb: str, example: str) -> None:
    program, named, *arguments = shlex.split(example)
    assert (program, named) == ("netc", verb)
    module = import_module(f"netc.cli.{verb}")
    parser = Parser(verb, module.__doc__)
    module.configure(parser)
    assert parser.understand(arguments) is not None


# -- what an import costs --------------------------------------------------------------------------


def test_help_imports_next_to_nothing() -> None:
    loaded = modules_after("--help")
    assert {name for name in loaded if name.split(".")[0] == "netc"} == {
        "netc",
        "netc._version",
        "netc.cli",
    }
    assert not loaded & {"argparse", "numpy", "google.protobuf", "yaml", "dataclasses"}


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_imports_no_stage(verb: str) -> None:
    loaded = modules_after(verb, "--help")
    assert {name for name in loaded if name.split(".")[0] == "netc"} == {
        "netc",
        "netc._version",
        "netc.cli",
        f"netc.cli.{verb}",
        "netc.cli.options",
        "netc.errors",
    }
    assert len(loaded) < MOST_MODULES


# -- wrong calls -----------------------------------------------------------------------------------


def test_an_unknown_verb_gets_the_nearest_one(netc: Netc) -> None:
    told = netc("trian")
    assert told.code == 2
    assert told.err == (
        "netc: unknown verb 'trian'\n"
        f"  expected  {', '.join(VERBS)}\n"
        "  got       trian\n"
        "  hint      did you mean 'train'?\n"
    )


def test_what_caffe_calls_otherwise(netc: Netc) -> None:
    assert "hint      netc calls this: netc doctor" in netc("device_query").err
    assert "hint      netc calls this: netc upgrade" in netc("upgrade_net_proto_text").err


def test_a_verb_that_is_far_from_all(netc: Netc) -> None:
    assert "hint      netc --help says what each of them does" in netc("qqq").err


def test_flags_before_the_verb(netc: Netc) -> None:
    told = netc("-solver", "s.prototxt", "train")
    assert told.code == 2
    assert "the verb comes first" in told.err
    assert "expected  netc train -solver s.prototxt" in told.err


# -- ends that are no answer -----------------------------------------------------------------------


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], int]:
    """Run a verb that ends with an exception."""

    def end(error: BaseException) -> int:
        def run(args: object) -> int:
            raise error

        monkeypatch.setattr(import_module("netc.cli.doctor"), "run", run)
        return main(["doctor"])

    return end


def test_an_interrupt_is_one_line(
    ending: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "netc: interrupted\n"


def test_too_little_memory_is_told(
    ending: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending(MemoryError("Unable to allocate 9 PiB")) == 1
    told = capsys.readouterr().err
    assert told.startswith("netc: there is not enough memory\n  got       Unable to allocate 9 PiB")


def test_output_that_cannot_be_written_is_told(
    ending: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) == 1
    assert capsys.readouterr().err == (
        "netc: the output cannot be written\n  got       No space left on device\n"
    )


def test_a_missing_package_leads_to_the_doctor(
    ending: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending(ModuleNotFoundError("No module named 'lmdb'", name="lmdb")) == 1
    assert capsys.readouterr().err == (
        "netc: a package that netc needs is missing or broken\n"
        "  got       lmdb: No module named 'lmdb'\n"
        "  hint      netc doctor says what is missing, and how to get it\n"
    )


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        FileNotFoundError(2, "gone"),
        ModuleNotFoundError("No module named 'netc.typo'", name="netc.typo"),
        ImportError("cannot import name 'typo'"),
    ],
)
def test_a_bug_keeps_its_traceback(
    error: Exception, ending: Callable[[BaseException], int]
) -> None:
    with pytest.raises(type(error)):
        ending(error)


def test_a_reader_that_goes_away_is_no_error() -> None:
    with process("--help", stdout=subprocess.PIPE) as netc:
        assert netc.stdout and netc.stderr
        netc.stdout.close()
        assert netc.stderr.read() == b""
    assert netc.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_the_output_is_told() -> None:
    with open("/dev/full", "wb") as full, process("--help", stdout=full) as netc:
        assert netc.stderr
        assert b"netc: the output cannot be written" in netc.stderr.read()
    assert netc.returncode == 1


def test_a_name_that_is_not_text_can_be_told(netc: Netc) -> None:
    told = netc("check", os.fsdecode(b"caf\xe9.prototxt"))
    assert told.code == 1
    assert told.out.startswith("caf\\udce9.prototxt: no such file")


# -- from outside ----------------------------------------------------------------------------------


def test_the_module_runs() -> None:
    with process("upgrad", stdout=subprocess.PIPE) as netc:
        assert netc.stdout and netc.stderr
        assert netc.stdout.read() == b""
        assert b"did you mean 'upgrade'?" in netc.stderr.read()
    assert netc.returncode == 2


def test_the_installed_script_runs() -> None:
    script = shutil.which("netc", path=str(Path(sys.executable).parent))
    if not script:
        pytest.skip("netc is not installed beside this interpreter")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"netc {__version__}\n"
