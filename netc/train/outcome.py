"""What a training run leaves behind, and what to do with it next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from netc.errors import NetcError
from netc.schema import resolve
from netc.train.solver import Solver


def outcome(solver: Solver, overrides: Sequence[str] = ()) -> list[str]:
    """Return lines: how far the run came, where its snapshot lies, the commands that may follow.

    `overrides` are the KEY=VALUE words of the command line, which hold for those commands too.
    """
    done, wanted = solver.iter, solver.settings.max_iter
    what = "stopped at" if solver.stopped else "trained to"
    why = f": {solver.stopped}" if solver.stopped else ""
    lines = [f"{what} iteration {done}" + (f" of {wanted}" if done < wanted else "") + why]
    more = [line for extension in solver.extensions for line in extension.outcome()]
    if solver.last_snapshot is None:
        lines.append("no snapshot was written (see snapshot and snapshot_after_train)")
        return lines + more
    weights, state = map(_short, solver.last_snapshot)
    lines += [f"  weights  {weights}", *more]
    solver_file = solver.source.file
    go_on = _command("train", solver=solver_file, snapshot=state)
    lines.append(" ".join(["  go on    " + go_on, *map(shlex.quote, overrides)]))
    if not solver.stopped and (net := _net_file(solver)):
        output = str(Path(weights.removesuffix(".h5")).with_suffix(".onnx"))
        lines.append(f"  export   {_command('export', model=net, weights=weights, output=output)}")
    return lines


def _net_file(solver: Solver) -> str:
    message = solver.source.message
    for name in ("net", "train_net"):
        if message.HasField(name):
            try:
                return _short(resolve(getattr(message, name), solver.source.span(name)))
            except NetcError:  # it was there when the run began
                return ""
    return ""


def _short(path: Path) -> str:
    """Return a path as one would type it: from the working directory where it lies below that."""
    real = path.resolve()
    try:
        return str(real.relative_to(Path.cwd()))
    except ValueError:
        return str(real)


def _command(verb: str, **flags: str) -> str:
    given = (f"-{name} {shlex.quote(value)}" for name, value in flags.items())
    return " ".join(["netc", verb, *given])
