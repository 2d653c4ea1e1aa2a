"""Score a net with its weights on its test data: every output, averaged over the batches.

The lines on standard error are worded as Caffe's. Take as many iterations as there are batches in
the test data: iterations * batch size = images.

example: netc test -model train_test.prototxt -weights net_iter_10000.caffemodel -iterations 100
"""

from __future__ import annotations

import argparse

from netc.cli import options


def configure(parser: options.Parser) -> None:
    """Declare the options."""
    options.net_options(parser, phase="TEST")
    options.weights_options(parser, "to score")
    options.iterations_option(parser, "batches to run")
    options.data_threads_option(parser)
    options.backend_options(parser)
    options.format_option(parser, "text", "json")
    options.python_option(parser)


def run(args: argparse.Namespace) -> int:
    """Score."""
    from netc import data
    from netc.assemble import executor, load_net
    from netc.layers.types import Phase
    from netc.learned import load_weights
    from netc.report.machine import to_json
    from netc.train.log import log_to, logger
    from netc.train.scoring import score
    from netc.weights import split_list

    options.require_weights(args)
    data.use_threads(args.data_threads)
    with log_to():
        options.mention_gpu(args.gpu, logger)
        net = load_net(
            args.model, Phase[args.phase], args.level, args.stage, host=options.code_host(args)
        )
        for note in net.graph.notes:
            logger.warning("%s", note)
        scored = executor(net, options.chosen_backend(args), train=False)
        files = split_list(args.weights) if args.weights else []
        load_weights(scored, files, exact=not args.random_weights, tell=logger.info)
        scores = score(scored, args.iterations)
    if args.format == "json":
        print(to_json(scores.as_dict() | {"iterations": args.iterations}))
    return 0
