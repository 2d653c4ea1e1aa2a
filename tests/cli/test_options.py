"""Flags: the ways to write them, what they take, and what is said of those that do not exist."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any

import pytest

from netc.backends import BACKENDS
from netc.cli import options
from netc.cli.options import Parser, Usage


@pytest.fixture
def parser() -> Parser:
    found = Parser("verb", "What it does.\n\nexample: netc verb -model net.prototxt")
    options.net_options(found, phase="TEST")
    options.shape_options(found)
    options.iterations_option(found, "rounds")
    found.flag("quiet", action="store_true", help="say nothing")
    return found


def understood(parser: Parser, text: str) -> argparse.Namespace:
    args = parser.understand(text.split())
    assert args is not None
    return args


def refused(parser: Parser, text: str) -> str:
    with pytest.raises(Usage) as told:
        parser.understand(text.split())
    return str(told.value)


@pytest.mark.parametrize(
    "text", ["-model n", "--model n", "-model=n", "--model=n", "-model x -model n"]
)
def test_the_ways_to_write_a_flag(parser: Parser, text: str) -> None:
    assert understood(parser, text).model == "n"


def test_the_values_and_their_defaults(parser: Parser) -> None:
    args = understood(parser, "-model n")
    assert (args.phase, args.level, args.stage, args.shape) == ("TEST", 0, (), [])
    assert (args.iterations, args.quiet) == (50, False)
    args = understood(
        parser, "-model=n -phase train -level -1 -stage a,b, -shape x=1,2 -shape y=3 -quiet"
    )
    assert (args.phase, args.level, args.stage) == ("TRAIN", -1, ("a", "b"))
    assert args.shape == [("x", (1, 2)), ("y", (3,))]
    assert args.quiet


def test_a_value_may_have_an_equals_sign(parser: Parser) -> None:
    assert understood(parser, "-model=a=b").model == "a=b"
    assert understood(parser, "-model n -shape a=b=1,2").shape == [("a=b", (1, 2))]


def test_names_are_never_shortened(parser: Parser) -> None:
    assert refused(parser, "-mod n").startswith("unknown flag -mod\n")
    assert refused(parser, "--iter 3 -model n").startswith("unknown flag --iter\n")


def test_an_unknown_flag_gets_the_nearest_one(parser: Parser) -> None:
    assert refused(parser, "--modle=n") == (
        "unknown flag --modle\n"
        "  expected  -model, -phase, -level, -stage, -shape, -iterations, -quiet\n"
        "  hint      did you mean -model?"
    )


def test_a_flag_that_is_needed(parser: Parser) -> None:
    assert refused(parser, "-quiet") == (
        "the flag -model is missing\n"
        "  expected  -model NET: the net: prototxt or YAML\n"
        "  hint      netc verb --help has an example"
    )
    assert refused(parser, "-model=").startswith("the flag -model is missing")


def test_a_file_without_its_flag(parser: Parser) -> None:
    assert refused(parser, "net.prototxt") == (
        "'net.prototxt' belongs to no flag\n"
        "  got       net.prototxt\n"
        "  hint      did you mean -model net.prototxt?"
    )
    assert refused(parser, "-model n other").endswith("hint      netc verb --help lists its flags")


@pytest.mark.parametrize("text", ["-model", "-model -quiet"])
def test_a_flag_without_its_value(parser: Parser, text: str) -> None:
    told = refused(parser, text)
    assert told.startswith("the flag -model needs a value\n  expected  -model NET: the net")


def test_a_value_for_a_flag_that_has_none(parser: Parser) -> None:
    assert refused(parser, "-model n -quiet=yes").startswith("the flag -quiet takes no value")


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("-phase trian", "'trian', which is none of TRAIN, TEST"),
        ("-level high", "'high', which is no whole number"),
        ("-iterations 0", "'0', which is no whole number from 1 on"),
        ("-iterations 1.5", "'1.5', which is no whole number from 1 on"),
        ("-shape data", "'data'"),
        ("-shape data=1,x", "'data=1,x'"),
        ("-shape data=1,0", "'data=1,0'"),
        ("-shape data=", "'data='"),
        ("-shape =1", "'=1'"),
    ],
)
def test_a_value_that_a_flag_does_not_take(parser: Parser, text: str, got: str) -> None:
    told = refused(parser, f"-model n {text}")
    flag = text.split()[0]
    assert told.startswith(f"the flag {flag} does not take this value\n  expected  {flag} ")
    assert told.endswith(f"\n  got       {got}")


def test_everything_after_two_dashes_is_a_file() -> None:
    parser = Parser("verb", "")
    parser.files("file", "+", help="files")
    args = parser.understand(["--", "-x", "y"])
    assert args is not None
    assert args.file == ["-x", "y"]
    assert refused(parser, "") == "FILE is missing\n  hint      netc verb --help has an example"


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (options.batch, "Dynamic", "dynamic"),
        (options.batch, "8", 8),
        (options.count, "1", 1),
        (options.names, "a, b,,c", ("a", "b", "c")),
        (options.one_of("none", "stop"), "STOP", "stop"),
        (options.unfreezing, "conv2@500, a@b@7", (("conv2", 500), ("a@b", 7))),
        (options.factors, "fc*=10,conv=0.1", (("fc*", 10.0), ("conv", 0.1))),
        (options.renames, "a=b, conv*=base/conv*", (("a", "b"), ("conv*", "base/conv*"))),
        (options.partial, "fc8", ("fc8", ())),
        (options.partial, "fc8=3,0-2", ("fc8", (3, 0, 1, 2))),
    ],
)
def test_readers_of_values(read: Callable[[str], Any], text: str, value: object) -> None:
    assert read(text) == value


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (options.unfreezing, "conv2"),
        (options.unfreezing, "conv2@-1"),
        (options.factors, "fc8"),
        (options.factors, "fc8=fast"),
        (options.factors, "=2"),
        (options.renames, "fc8"),
        (options.renames, "fc8="),
        (options.partial, "fc8="),
        (options.partial, "fc8=2-1"),
        (options.partial, "=1"),
    ],
)
def test_readers_refuse_what_they_do_not_understand(read: Callable[[str], Any], text: str) -> None:
    with pytest.raises(options.Rejected):
        read(text)


def test_weights_are_needed_unless_waived() -> None:
    options.require_weights(argparse.Namespace(weights="w", random_weights=False))
    options.require_weights(argparse.Namespace(weights="", random_weights=True))
    with pytest.raises(Usage, match="the flag -weights is missing"):
        options.require_weights(argparse.Namespace(weights="", random_weights=False))


def test_the_help_shows_what_is_needed(parser: Parser, capsys: pytest.CaptureFixture[str]) -> None:
    parser.files("file", "+", help="files")
    assert parser.understand(["-h"]) is None
    assert capsys.readouterr().out.startswith("usage: netc verb FILE ... -model NET [flags]\n")


def test_the_help_names_every_backend() -> None:
    parser = Parser("verb", "")
    options.backend_options(parser)
    (said,) = (action.help or "" for action in parser._actions if action.dest == "backend")
    assert all(re.search(rf"\b{name}\b", said) for name in BACKENDS)
