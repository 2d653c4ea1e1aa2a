"""Train a net as a solver file says; fine-tune from weights, or resume from a snapshot.

KEY=VALUE sets a field of the solver in place of the file: momentum=0.95 stepvalue=100,200.
Ctrl-C finishes the running iteration, writes a snapshot and ends; a second one ends at once.

example: netc train -solver solvers/lenet.prototxt
         netc train -solver solver.yaml -weights base.caffemodel
         netc train -solver solver.yaml -weights base.caffemodel -freeze 'conv*' -layer_rate fc8=10
         netc train -solver solver.yaml -snapshot run_iter_500.solverstate
         netc train -solver solver.yaml -dry_run
         netc train -solver solver.yaml -max_iter 500 base_lr=0.001 type=Adam
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from typing import Any

from netc.cli import options

_EFFECTS = ("snapshot", "stop", "none")


def configure(parser: options.Parser) -> None:
    """Declare the options."""
    flag = parser.flag
    effect: dict[str, Any] = {"type": options.one_of(*_EFFECTS), "metavar": "|".join(_EFFECTS)}
    options.solver_options(parser)
    flag(
        "weights",
        default="",
        metavar="A,B",
        help="start from these weights, by layer name; of several the last wins",
    )
    flag("snapshot", default="", metavar="FILE", help="resume from this .solverstate")
    flag("sigint_effect", default="stop", help="what Ctrl-C does (default stop)", **effect)
    flag("sighup_effect", default="snapshot", help="what SIGHUP does (default snapshot)", **effect)
    options.tuning_options(parser)
    options.state_options(parser)
    flag(
        "dry_run",
        action="store_true",
        help="check everything, run one iteration, estimate memory and time; write nothing",
    )
    flag(
        "overfit_batch",
        type=options.count,
        default=0,
        metavar="N",
        help="train up to N iterations on the first batch alone, which must bring the loss near "
        "zero; write nothing",
    )
    flag("quiet", action="store_true", help="no progress row on the terminal")
    options.backend_options(parser)
    options.python_option(parser)


def run(args: argparse.Namespace) -> int:
    """Train."""
    from functools import partial

    from netc.assemble import assembled
    from netc.schema import override, read_solver
    from netc.train import signals, tuning
    from netc.train.extension import Point
    from netc.train.log import log_to, logger
    from netc.train.outcome import outcome
    from netc.train.overfit import overfit
    from netc.train.progress import progress_row
    from netc.train.rehearsal import rehearse
    from netc.train.settings import read_settings
    from netc.train.solver import Action, Solver
    from netc.train.trial import training_only

    asked = options.asked(args)
    tuning.check_start(asked, args.snapshot)
    actions = signals.SignalActions(
        Action(args.sigint_effect), Action(args.sighup_effect), tell=_say_at_once
    )
    words = options.overrides(args)
    source, overridden = override(read_solver(args.solver), words)
    if args.dry_run and args.overfit_batch:
        raise options.Usage("-dry_run and -overfit_batch are two things", expected="one of them")
    if args.overfit_batch:
        source = training_only(source, args.overfit_batch)
    with (
        actions.installed(),
        progress_row(sys.stderr, enabled=not args.quiet) as row,
        log_to(row.stream),
    ):
        options.mention_gpu(args.gpu, logger)
        for line in overridden:
            logger.info("Override: %s", line)
        solver = Solver(
            source,
            options.chosen_backend(args, read_settings(source).precision),
            action=actions,
            level=args.level,
            stages=args.stage,
            make=partial(assembled, host=options.code_host(args)),
        )
        solver.on(Point.ITERATED, lambda solver: row.show(solver.progress()))
        tuning.start(solver, asked, args.snapshot)
        if args.dry_run or args.overfit_batch:
            lines = rehearse(solver) if args.dry_run else overfit(solver)
            print(*lines, sep="\n")
            return 0
        solver.solve()
    print(*outcome(solver, words), sep="\n")
    return 0


def _say_at_once(line: str) -> None:
    """Write past all buffers: a signal may come in the middle of another line."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.write(sys.stderr.fileno(), f"\nnetc: {line}\n".encode())
