"""Report every mistake in nets and solvers, without running them.

Net or solver, prototxt, YAML or JSON: the content tells. A net is built for TRAIN and for TEST, a
solver with all the nets it names. Data that is not there is no mistake where the settings or -shape
tell its shape. Exit code 1 where there is any mistake.

example: netc check zoo/lenet/lenet_train_test.prototxt solvers/lenet.prototxt
         netc check net.prototxt -shape data=1,3,224,224 -format json
"""

from __future__ import annotations

import argparse
import sys

from netc.cli import options


def configure(parser: options.Parser) -> None:
    """Declare the options."""
    parser.files("file", "+", help="nets and solvers")
    options.shape_options(parser)
    options.state_options(parser)
    options.format_option(parser, "text", "json")
    options.python_option(parser)


def run(args: argparse.Namespace) -> int:
    """Check, and print all that was found."""
    from netc.checking import check
    from netc.report.machine import to_json
    from netc.report.problems import as_objects, as_text

    reports = check(
        args.file,
        level=args.level,
        stages=args.stage,
        shapes=dict(args.shape),
        host=options.code_host(args),
    )
    if args.format == "json":
        print(to_json(as_objects(reports)))
        for report in reports:
            for note in report.notes:
                print(f"note: {note}", file=sys.stderr)
    else:
        print(as_text(reports))
    return 1 if any(report.problems for report in reports) else 0
