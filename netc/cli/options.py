"""Options that several verbs share: Caffe's flags, with one dash or two."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from typing import Any

from netc.errors import fail


def flag(parser: argparse.ArgumentParser, name: str, **settings: Any) -> None:
    """Add an option that is accepted as `-name` and as `--name`."""
    parser.add_argument(f"-{name}", f"--{name}", **settings)


def net_options(parser: argparse.ArgumentParser, *, phase: str) -> None:
    """Add -model, -phase, -level and -stage."""
    flag(parser, "model", metavar="NET", required=True, help="the net: prototxt or YAML")
    flag(
        parser,
        "phase",
        choices=("TRAIN", "TEST", "train", "test"),
        default=phase,
        help=f"which of the two nets in the text (default {phase})",
    )
    flag(parser, "level", type=int, default=0, help="level for include/exclude rules (default 0)")
    flag(parser, "stage", default="", metavar="A,B", help="stages for include/exclude rules")


def backend_options(parser: argparse.ArgumentParser) -> None:
    """Add -backend and Caffe's -gpu."""
    flag(parser, "backend", default="auto", help="auto or reference (default auto)")
    flag(
        parser,
        "gpu",
        default="",
        metavar="ID",
        help="accepted as in Caffe's command lines; this version runs on the CPU and says so",
    )


def stages(text: str) -> tuple[str, ...]:
    """Split a comma-separated list, as Caffe's flags have it."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def shape_options(parser: argparse.ArgumentParser) -> None:
    """Add -shape, which overrides the shape of inputs."""
    flag(
        parser,
        "shape",
        action="append",
        default=[],
        metavar="BLOB=1,3,224,224",
        help="shape of an input or data blob, instead of the one in the text; may be repeated",
    )


def shapes(given: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Parse `-shape` options; a malformed one is an error that shows the form."""
    found = {}
    for text in given:
        name, _, dims = text.partition("=")
        try:
            found[name] = tuple(int(dim) for dim in dims.split(",") if dim)
        except ValueError:
            found[name] = ()
        if not name or not found[name] or min(found[name]) < 0:
            raise fail("cannot read a -shape", expected="BLOB=N,C,H,W", got=text)
    return found


def mention_gpu(gpu: str, logger: logging.Logger) -> None:
    """Tell a user who asked for a GPU that this version runs on the CPU."""
    if gpu:
        logger.warning("-gpu %s: this version of netc has no GPU backend; running on the CPU", gpu)
