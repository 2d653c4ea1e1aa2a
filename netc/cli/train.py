"""Train a net as a solver file says; fine-tune from weights, or resume from a snapshot.

example: netc train -solver solvers/lenet.prototxt
         netc train -solver solver.yaml -weights base.caffemodel
         netc train -solver solver.yaml -snapshot run_iter_500.solverstate

Ctrl-C finishes the running iteration, writes a snapshot and ends; a second one ends at once.
"""

from __future__ import annotations

import argparse
import sys

from netc.cli import options

_EFFECTS = ("snapshot", "stop", "none")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    flag = options.flag
    flag(parser, "solver", metavar="FILE", required=True, help="the solver: prototxt or YAML")
    flag(
        parser, "weights", default="", metavar="A,B", help="start from these weights, by layer name"
    )
    flag(parser, "snapshot", default="", metavar="FILE", help="resume from this .solverstate")
    flag(parser, "sigint_effect", choices=_EFFECTS, default="stop", help="what Ctrl-C does")
    flag(parser, "sighup_effect", choices=_EFFECTS, default="snapshot", help="what SIGHUP does")
    flag(parser, "level", type=int, default=0, help="level for include/exclude rules (default 0)")
    flag(parser, "stage", default="", metavar="A,B", help="stages for include/exclude rules")
    flag(parser, "quiet", action="store_true", help="no progress row on the terminal")
    options.backend_options(parser)


def run(args: argparse.Namespace) -> int:
    """Train."""
    from netc.backends import find_backend
    from netc.schema import read_solver
    from netc.train import signals, tuning
    from netc.train.log import log_to, logger
    from netc.train.progress import progress_row
    from netc.train.solver import Action, Solver

    tuning.check_start(args.weights, args.snapshot)
    actions = signals.SignalActions(Action(args.sigint_effect), Action(args.sighup_effect))
    source = read_solver(args.solver)
    with (
        actions.installed(),
        progress_row(sys.stderr, enabled=not args.quiet) as row,
        log_to(row.stream),
    ):
        options.mention_gpu(args.gpu, logger)
        solver = Solver(
            source,
            find_backend(args.backend),
            action=actions,
            level=args.level,
            stages=options.stages(args.stage),
        )
        solver.observers.append(row.show)
        tuning.start(solver, options.stages(args.weights), args.snapshot)
        solver.solve()
    return 0
