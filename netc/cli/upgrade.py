"""Rewrite an old net, solver or file of weights in today's form, and say what has changed.

The content tells what OLD is; the suffix of NEW says how it is written: .yaml as YAML, .h5 as HDF5,
else as prototxt (a net, a solver) or as a caffemodel (weights). So this turns prototxt into YAML
and back, too.

example: netc upgrade v1_train.prototxt train.prototxt
         netc upgrade v1.caffemodel current.caffemodel
         netc upgrade solver.prototxt solver.yaml
"""

from __future__ import annotations

import argparse
from pathlib import Path

from netc.cli import options


def configure(parser: options.Parser) -> None:
    """Declare the options."""
    parser.files("old", help="the file to read")
    parser.files("new", help="the file to write")
    parser.flag("force", action="store_true", help="replace NEW where it exists")


def run(args: argparse.Namespace) -> int:
    """Upgrade."""
    from netc.upgrading import upgrade

    done = upgrade(Path(args.old), Path(args.new), force=args.force)
    state = "rewritten" if done.changes else "in the current form already"
    print(f"{args.old}: {done.kind}, {state}")
    for change in done.changes:
        print(f"  {change}")
    for remark in done.remarks:
        print(f"note: {remark}")
    print(f"wrote {args.new}")
    return 0
