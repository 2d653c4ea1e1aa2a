"""Print a table of a net's layers: shapes, params, multiply-adds, activation memory, totals.

Where the data is absent its shape is assumed from the layer's settings, and the table says so.

example: netc summary -model zoo/lenet/lenet_train_test.prototxt -phase TEST
         netc summary -model deploy.prototxt -shape data=1,3,224,224 -format markdown
"""

from __future__ import annotations

import argparse

from netc.cli import options


def configure(parser: options.Parser) -> None:
    """Declare the options."""
    options.net_options(parser, phase="TRAIN")
    options.shape_options(parser)
    parser.flag("backend", default="auto", metavar="NAME", help="whose plan tells the memory")
    options.format_option(parser, "text", "json", "markdown")
    options.python_option(parser)


def run(args: argparse.Namespace) -> int:
    """Print the summary."""
    from functools import partial

    from netc.backends import find_backend
    from netc.plan import plan
    from netc.report.summary import render, summarize

    graph = options.graph_to_look_at(args)
    follow = graph.data_dependent
    make = partial(plan, graph, find_backend(args.backend), follow=follow)
    print(render(summarize(graph, make), args.format))
    return 0
