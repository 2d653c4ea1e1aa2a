"""How a training run starts: fresh, from other weights, or where a snapshot stopped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from netc.errors import fail
from netc.learned import load_weights
from netc.schema import resolve
from netc.train.log import logger
from netc.train.solver import Solver


def check_start(weights: str, snapshot: str) -> None:
    """Refuse what Caffe refuses: a run that starts in two places."""
    if weights and snapshot:
        raise fail(
            "a run cannot both resume and fine-tune",
            expected="-weights or -snapshot",
            got=f"-weights {weights} -snapshot {snapshot}",
            hint="-snapshot already loads the weights saved with it",
        )


def start(solver: Solver, weights: Sequence[str], snapshot: str) -> None:
    """Resume from a snapshot, or load weights by layer name and log what came from where.

    Without `weights` those of the solver file count.
    """
    if snapshot:
        solver.restore(Path(snapshot))
        return
    files = list(weights) or [
        str(resolve(path, solver.source.span("weights", i)))
        for i, path in enumerate(solver.settings.weights)
    ]
    if not files:
        return
    logger.info("Finetuning from %s", ",".join(files))
    load_weights(solver.net, files, tell=logger.info)
