"""Turn a training log into CSV: LOG.train and LOG.test, as Caffe's parse_log.py names them.

The log is what `caffe train` or `netc train` wrote to standard error, or the JSON lines that the
solver's setting json_log asks for. The tests of further test nets go to LOG.test1 and so on.

example: netc parse_log caffe.INFO
         netc parse_log run.jsonl tables -delimiter ';'
"""

from __future__ import annotations

import argparse
from pathlib import Path

from netc.cli import options


def configure(parser: options.Parser) -> None:
    """Declare the options."""
    parser.files("log", help="the log: of Caffe, of netc, or JSON lines")
    parser.files("folder", "?", help="where the tables go (default: beside the log)")
    parser.flag("delimiter", default=",", metavar="C", help="what separates columns (default ,)")


def run(args: argparse.Namespace) -> int:
    """Read the log and write the tables."""
    from netc.report.training_log import parse_log, to_csv
    from netc.weights import atomic_write

    if len(args.delimiter) != 1:
        raise options.Usage("the delimiter is one character", got=args.delimiter)
    log = parse_log(args.log)
    folder = Path(args.folder or Path(args.log).parent)
    tables = {"train": log.train}
    tables |= {f"test{net or ''}": rows for net, rows in log.tests.items()}
    for suffix, rows in tables.items():
        if not rows:
            continue
        path = folder / f"{Path(args.log).name}.{suffix}"
        with atomic_write(path) as file:
            file.write(to_csv(rows, args.delimiter).encode())
        print(f"{path}: {len(rows)} rows")
    return 0
