"""Print a table of a net's layers: shapes, params, multiply-adds, activation memory, totals.

example: netc summary -model zoo/lenet/lenet_train_test.prototxt -phase TEST
"""

from __future__ import annotations

import argparse

from netc.cli import options


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    options.net_options(parser, phase="TRAIN")
    options.shape_options(parser)
    options.flag(
        parser, "format", choices=("text", "json", "markdown"), default="text", help="output form"
    )


def run(args: argparse.Namespace) -> int:
    """Print the summary."""
    from netc.assemble import load_graph
    from netc.layers.types import Phase
    from netc.report.summary import render, summarize

    graph = load_graph(
        args.model,
        Phase[args.phase.upper()],
        args.level,
        options.stages(args.stage),
        shapes=options.shapes(args.shape),
    )
    print(render(summarize(graph), args.format))
    return 0
