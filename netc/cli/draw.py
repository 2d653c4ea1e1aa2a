"""Draw a net as a picture: a box for each layer, with its settings and the shape that it gives.

The name of the output says the form: .svg for browsers, .png, or .dot for Graphviz. Nothing else
needs to be installed. Where the data is absent its shape is assumed, as for summary.

example: netc draw -model zoo/googlenet/googlenet_train_test.prototxt -output googlenet.svg
         netc draw -model deploy.prototxt -output net.png -direction LR -phase TEST
"""

from __future__ import annotations

import argparse

from netc.cli import options


def configure(parser: options.Parser) -> None:
    """Declare the options."""
    options.net_options(parser, phase="TRAIN")
    options.shape_options(parser)
    parser.flag("output", metavar="FILE", needed=True, help="the picture: .svg, .png or .dot")
    parser.flag(
        "direction",
        type=options.one_of("TB", "LR", "BT", "RL"),
        default="TB",
        metavar="TB|LR|BT|RL",
        help="from top to bottom (the default), left to right, ...",
    )
    options.python_option(parser)


def run(args: argparse.Namespace) -> int:
    """Write the picture."""
    from netc.errors import Span, fail
    from netc.report.draw import diagram_of
    from netc.report.picture import FORMS
    from netc.report.table import size
    from netc.weights import atomic_write

    form = args.output.rpartition(".")[2].lower()
    if form not in FORMS:
        raise fail(
            "no picture has a name that ends like this",
            span=Span(args.output),
            expected=", ".join(f".{known}" for known in FORMS),
            got=args.output,
        )
    graph = options.graph_to_look_at(args)
    for note in graph.notes:
        print(f"note: {note}")
    picture = FORMS[form](diagram_of(graph), args.direction)
    with atomic_write(args.output, size=len(picture)) as file:
        file.write(picture)
    print(f"wrote {args.output} ({size(len(picture))})")
    return 0
