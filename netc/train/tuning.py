"""How a training run starts: fresh, from other weights, or where a snapshot stopped."""

from __future__ import annotations

from pathlib import Path

from netc.errors import fail
from netc.train.finetuning import Asked
from netc.train.solver import Solver


def check_start(asked: Asked, snapshot: str) -> None:
    """Refuse what Caffe refuses: a run that starts in two places."""
    if snapshot and (asked.rename_file or asked.transfer.renames or asked.transfer.partial):
        raise fail(
            "a resumed run copies no other weights, so that none are renamed or copied in part",
            expected="-snapshot without -rename, -rename_file and -partial_copy",
            got=f"-snapshot {snapshot}",
        )
    if asked.weights and snapshot:
        raise fail(
            "a run cannot both resume and fine-tune",
            expected="-weights or -snapshot",
            got=f"-weights {','.join(asked.weights)} -snapshot {snapshot}",
            hint="-snapshot already loads the weights saved with it",
        )


def start(solver: Solver, asked: Asked, snapshot: str = "") -> None:
    """Resume from a snapshot, or load weights by layer name and log what came from where.

    `asked` is what the command line says besides the solver file. Raises NetcError.
    """
    solver.fine_tuning.follow(asked.wishes)
    if snapshot:
        solver.restore(Path(snapshot))
    else:
        solver.fine_tuning.load(asked)
