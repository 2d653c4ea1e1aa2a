"""Fine-tuning: where a net's training starts, what of it is trained, and how far that moved it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from netc.errors import NetcError, fail
from netc.graph.types import Graph
from netc.learned import load_weights, start_of
from netc.schema import Source, netc_pb2, resolve
from netc.train.extension import Extension, Point
from netc.train.freezing import AS_TEXT, Schedule, Wishes
from netc.train.log import logger
from netc.train.settings import SolverSettings
from netc.weights import Fate, Match
from netc.weights.transfer import AS_SAVED, PartialCopy, Rename, Transfer, read_renames

if TYPE_CHECKING:
    from netc.train.solver import Solver


@dataclass(frozen=True, slots=True)
class Asked:
    """What a command line says besides the solver file, which it adds to.

    `weights` take the place of the file's.
    """

    weights: tuple[str, ...] = ()
    wishes: Wishes = AS_TEXT
    transfer: Transfer = AS_SAVED
    rename_file: str = ""


def schedule_of(
    settings: SolverSettings,
    source: Source[netc_pb2.SolverParameter],
    graph: Graph,
    asked: Wishes = AS_TEXT,
) -> Schedule | None:
    """Return what a solver file, and what is asked besides, mean for a net; None for nothing.

    Raises NetcError with all that is wrong with it.
    """
    wishes = Wishes.of(settings, source) + asked
    if wishes.rates and (settings.larc or settings.local_lr_auto):
        raise fail(
            "rates of layers have no effect: each param's comes from its norms",
            span=wishes.rates[0].span,
            expected="layer_rate, or larc or local_lr_auto",
            got="both",
        )
    return Schedule(graph, wishes, settings.max_iter) if wishes else None


class FineTuning(Extension):
    """Keeps the net's plan to the schedule of what is frozen, and remembers where it started.

    What only the command line said is part of a snapshot, so that a run goes on as it was; said
    anew when it is resumed, it counts instead.
    """

    name: ClassVar[str] = "fine-tuning"

    def __init__(self) -> None:
        self._asked = AS_TEXT
        self._start: netc_pb2.FineTuning | None = None
        self.schedule: Schedule | None = None
        self._stage = 0

    def attach(self, solver: Solver) -> None:
        """Add the calls, and begin with what the solver file says."""
        self._solver = solver
        self._graph = solver.net.plan.graph
        self._follow(AS_TEXT)
        solver.on(Point.ITERATION, lambda solver: self._keep_to_schedule())
        solver.on(Point.END, lambda solver: _say(self.report()))

    def follow(self, asked: Wishes) -> None:
        """Follow the solver file and what is asked besides, and say so in the log.

        Raises NetcError with everything that is wrong with it, and nothing has changed then.
        """
        self._follow(asked)
        if self.schedule:
            _say(self.schedule.describe())

    def _follow(self, asked: Wishes) -> None:
        solver = self._solver
        before = self.schedule
        self.schedule = schedule_of(solver.settings, solver.source, self._graph, asked)
        self._asked = asked
        if before or self.schedule:
            self._apply()

    def _keep_to_schedule(self) -> None:
        schedule, iteration = self.schedule, self._solver.iter
        if schedule is None or schedule.stage(iteration) == self._stage:
            return
        begun = [n for n in schedule.frozen(iteration - 1) if n not in schedule.frozen(iteration)]
        self._apply()
        if begun:
            logger.info("Iteration %d, trained from here on: %s", iteration, ", ".join(begun))

    def _apply(self) -> None:
        solver, schedule = self._solver, self.schedule or Schedule(self._graph, AS_TEXT)
        self._stage = schedule.stage(solver.iter)
        iteration = solver.iter
        solver.adapt(lambda graph: schedule.applied(graph, iteration))

    # -- where it starts ---------------------------------------------------------------------------

    def load(self, asked: Asked) -> None:
        """Load weights by layer name, and log what came from where.

        Raises NetcError before anything is copied.
        """
        solver = self._solver
        place = solver.source.span
        files = list(asked.weights) or [
            str(resolve(path, place("weights", i)))
            for i, path in enumerate(solver.settings.weights)
        ]
        transfer = self._transfer(asked)
        frozen = self.schedule.frozen(0) if self.schedule else ()
        if not files:
            if frozen:
                logger.warning("Not trained, and never learned: no weights are loaded")
            _refuse_without_weights(transfer)
            return
        logger.info("Finetuning from %s", ",".join(files))
        found = load_weights(solver.net, files, transfer=transfer, tell=logger.info)
        self._start = netc_pb2.FineTuning(weights=map(_absolute, files))
        for rename in transfer.renames:
            self._start.rename.add(old=rename.old, new=rename.new)
        for partial in transfer.partial:
            self._start.partial_copy.add(layer=partial.layer, row=partial.rows)
        if fresh := [row.name for row in found.of(Fate.FRESH) if row.name in frozen]:
            logger.warning(
                "Not trained, and never learned: the weights do not have %s", ", ".join(fresh)
            )

    def _transfer(self, asked: Asked) -> Transfer:
        settings, place = self._solver.settings, self._solver.source.span
        renames = [
            Rename(rename.old, rename.new, place("rename", i))
            for i, rename in enumerate(settings.rename)
        ]
        if settings.rename_file:
            renames += read_renames(resolve(settings.rename_file, place("rename_file")))
        if asked.rename_file:
            renames += read_renames(asked.rename_file)
        partial = tuple(
            PartialCopy(partial.layer, partial.row, place("partial_copy", i))
            for i, partial in enumerate(settings.partial_copy)
        )
        return Transfer((*renames, *asked.transfer.renames), (*partial, *asked.transfer.partial))

    # -- snapshots ---------------------------------------------------------------------------------

    def state(self) -> bytes:
        """Return a FineTuning message, or nothing where there is nothing to tell."""
        message = netc_pb2.FineTuning()
        if self._start is not None:
            message.CopyFrom(self._start)
        self._asked.put_into(message)
        return message.SerializeToString()

    def restore(self, state: bytes) -> None:
        """Go on as the snapshot's run did, except for what is asked for anew."""
        message = netc_pb2.FineTuning.FromString(state)
        asked = Wishes.taken_from(message)
        # What is kept of it is the start alone: the wishes are this run's own from here on.
        for wish in ("freeze", "unfreeze", "layer_rate"):
            message.ClearField(wish)
        self._start = message if message.weights else None
        if self._asked:
            self._apply()
        else:
            self.follow(asked)

    # -- what has become of it ---------------------------------------------------------------------

    def report(self) -> list[str]:
        """Return a line for each layer with params: how far it is from where it started.

        As the L2 norm of the difference over that of the start, all params of the layer together;
        exactly 0 for what was frozen throughout. Nothing for a net that was not started from
        weights.
        """
        if self._start is None:
            return []
        start = self._start
        transfer = Transfer(
            tuple(Rename(rename.old, rename.new) for rename in start.rename),
            tuple(PartialCopy(partial.layer, tuple(partial.row)) for partial in start.partial_copy),
        )
        try:
            rows = self._moved(list(map(os.fsdecode, start.weights)), transfer)
        except NetcError as error:
            reason = error.problems[0].headline()
            return [f"How far the layers moved cannot be told: {reason}"]
        width = max(len(name) for name, *_ in rows)
        lines = ["Moved from the start, relative to it (L2):"]
        for name, moved, remark in rows:
            lines.append(f"    {name:<{width}}  {moved:<9}  {remark}".rstrip())
        return lines

    def _moved(self, files: Sequence[str], transfer: Transfer) -> list[tuple[str, str, str]]:
        net, graph = self._solver.net, self._graph
        found, starts = start_of(graph, files, transfer, self._solver.seed)
        sums: dict[int, np.ndarray] = {}
        for index, start in enumerate(starts):
            now = np.asarray(net.backend.to_host(net.param_array(index)), np.float64)
            pair = np.array([np.sum((now - start) ** 2), np.sum(start.astype(np.float64) ** 2)])
            owner = graph.params[index].owner
            sums[owner] = sums.get(owner, 0) + pair
        remarks = self._remarks(found)
        return [
            (graph.nodes[owner].name, _share(*pair), remarks.get(owner, ""))
            for owner, pair in sorted(sums.items())
        ]

    def _remarks(self, found: Match) -> dict[int, str]:
        """Return what to say of layers, by their place in the net."""
        until = self.schedule.until if self.schedule else {}
        words = {Fate.FRESH: "began freshly filled", Fate.PARTLY: "began partly freshly filled"}
        remarks = {}
        for row in found.rows:
            if row.layer is None:
                continue
            said = [words[row.fate]] if row.fate in words else []
            if row.name in until:
                at = until[row.name]
                said.append("not trained" + ("" if at is None else f" before iteration {at}"))
            remarks[row.layer] = ", ".join(said)
        return remarks


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        logger.info("%s", line)


def _share(moved: float, start: float) -> str:
    if not moved:
        return "0"
    return f"{np.sqrt(moved / start):.3g}" if start else f"{np.sqrt(moved):.3g} from 0"


def _absolute(path: str) -> bytes:
    # As bytes: a path need not be UTF-8.
    return os.fsencode(Path(path).resolve())


def _refuse_without_weights(transfer: Transfer) -> None:
    """Raise where renames or partial copies are asked for, and there is nothing to copy."""
    spans = [rename.span for rename in transfer.renames]
    spans += [partial.span for partial in transfer.partial]
    if spans:
        raise fail(
            "weights are to be renamed or copied in part, but none are loaded",
            span=spans[0],
            expected="-weights A.caffemodel, or weights in the solver",
            got="none",
        )
