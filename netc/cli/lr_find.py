"""Find a learning rate: train a little while the rate grows, and draw the loss over it.

The rate grows from -min_lr to -max_lr, by the same factor in each iteration, until the loss
explodes. The suggestion is the rate at which the loss falls fastest. No weights are written or
changed.

example: netc lr_find -solver solvers/lenet.prototxt
         netc lr_find -solver solver.yaml -weights base.caffemodel -freeze 'conv*' -output lr.html
"""

from __future__ import annotations

import argparse

from netc.cli import options


def configure(parser: options.Parser) -> None:
    """Declare the options."""
    options.solver_options(parser)
    parser.flag(
        "weights",
        default="",
        metavar="A,B",
        help="start from these weights, by layer name; of several the last wins",
    )
    parser.flag("min_lr", type=options.rate, default=1e-6, metavar="X", help="(default 1e-6)")
    parser.flag("max_lr", type=options.rate, default=10.0, metavar="X", help="(default 10)")
    parser.flag("iterations", type=options.count, default=100, metavar="N", help="(default 100)")
    parser.flag(
        "output",
        default="",
        metavar="FILE",
        help="where the curve goes: .html, a page that opens offline, or .svg "
        "(default SOLVER_lr.html)",
    )
    options.tuning_options(parser)
    options.state_options(parser)
    options.backend_options(parser)
    options.python_option(parser)


def run(args: argparse.Namespace) -> int:
    """Sweep, draw, and suggest."""
    from functools import partial
    from pathlib import Path

    from netc.assemble import assembled
    from netc.report.lr_curve import page, svg
    from netc.schema import override, read_solver
    from netc.train import tuning
    from netc.train.log import log_to, logger
    from netc.train.settings import read_settings
    from netc.train.solver import Solver
    from netc.train.sweep import sweep
    from netc.train.trial import sweeping
    from netc.weights import atomic_write, check_writable

    if args.max_lr <= args.min_lr or args.iterations < 10:
        raise options.Usage(
            "this is no sweep",
            expected="-min_lr < -max_lr, and -iterations of 10 or more",
            got=f"-min_lr {args.min_lr:g} -max_lr {args.max_lr:g} -iterations {args.iterations}",
        )
    output = args.output or f"{Path(args.solver).stem}_lr.html"
    if Path(output).suffix not in (".html", ".svg"):
        raise options.Usage("the output is .html or .svg", got=f"-output {output}")
    check_writable(output)
    source, _ = override(read_solver(args.solver), options.overrides(args))
    source = sweeping(source, args.min_lr, args.max_lr, args.iterations)
    with log_to():
        options.mention_gpu(args.gpu, logger)
        solver = Solver(
            source,
            options.chosen_backend(args, read_settings(source).precision),
            level=args.level,
            stages=args.stage,
            make=partial(assembled, host=options.code_host(args)),
        )
        tuning.start(solver, options.asked(args))
        found = sweep(solver)
    if found.suggestion is None:
        lines = ["the loss did not fall at any rate: no suggestion"]
    else:
        lines = [
            f"suggestion: base_lr = {found.suggestion:.2g}, where the loss falls fastest",
            f"from {found.rates[found.lowest or 0]:.2g} on it falls no more: stay below",
        ]
    picture = svg(found.rates, found.losses, found.smoothed, found.suggestion)
    title = f"Learning rates for {args.solver}"
    table = [("lr", "loss", "smoothed")] + [
        (f"{rate:.4g}", f"{loss:.6g}", f"{smooth:.6g}")
        for rate, loss, smooth in zip(found.rates, found.losses, found.smoothed, strict=True)
    ]
    text = picture if output.endswith(".svg") else page(title, lines, picture, table)
    with atomic_write(output) as file:
        file.write(text.encode())
    print(*lines, f"  curve    {output}", sep="\n")
    return 0
