"""Time every layer, forward and backward, or print the plan that is run.

The net reads its data as in training; where the data is absent, and for Input layers, random values
stand for it. Backward is timed where training needs it. Standard error tells each iteration.

example: netc time -model zoo/lenet/lenet_train_test.prototxt -iterations 20
         netc time -model deploy.prototxt -shape data=32,3,224,224 -format markdown
         netc time -model net.prototxt -plan
"""

from __future__ import annotations

import argparse

from netc.cli import options


def configure(parser: options.Parser) -> None:
    """Declare the options."""
    options.net_options(parser, phase="TRAIN")
    options.iterations_option(parser, "iterations to average over, after one that does not count")
    parser.flag("plan", action="store_true", help="print the plan, and run nothing")
    options.shape_options(parser)
    options.backend_options(parser)
    options.format_option(parser, "text", "json", "markdown")
    options.python_option(parser)


def run(args: argparse.Namespace) -> int:
    """Time the layers."""
    from netc.assemble import Plans, load_net, timed_executor
    from netc.layers.types import Phase
    from netc.report.timing import render, timing
    from netc.runtime.timing import measure
    from netc.train.log import log_to, logger

    shapes = dict(args.shape)
    net = load_net(
        args.model,
        Phase[args.phase],
        args.level,
        args.stage,
        shapes=shapes,
        assume=True,
        host=options.code_host(args),
    )
    with log_to():
        options.mention_gpu(args.gpu, logger)
        backend = options.chosen_backend(args)
        if args.plan:
            print(Plans(net, backend, train=True).first.render())
            return 0
        timed, remarks = timed_executor(net, backend, train=True, replaced=shapes)
        durations = measure(
            timed,
            args.iterations,
            lambda i, s: logger.info("Iteration: %d forward-backward time: %g ms.", i, 1000 * s),
        )
    found = timing(
        timed.plan,
        durations,
        backend=backend.name,
        iterations=args.iterations,
        notes=[*net.graph.notes, *remarks],
    )
    print(render(found, args.format))
    return 0
