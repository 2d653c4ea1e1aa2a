"""Snapshots: a weights file and a solver state, written together.

From which a run goes on bit for bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from netc import data
from netc.errors import NetcError, Problem, Span, fail
from netc.layers.types import Array
from netc.learned import load_weights, read_params, weights_of
from netc.runtime import Executor
from netc.train import policy
from netc.train.extension import Extension, Point, every
from netc.train.log import logger
from netc.train.settings import SnapshotFormat
from netc.weights import Cursor, SavedBlob, SolverState, atomic, read_state, write_snapshot

if TYPE_CHECKING:
    from netc.train.solver import Solver


class Snapshots(Extension):
    """Writes a snapshot every `snapshot` iterations, and when one is asked for.

    With `keep_last` it removes the older ones that it wrote itself. What was there before this
    process began, a snapshot that the run was resumed from among it, stays.
    """

    def __init__(self) -> None:
        self._written: list[tuple[Path, Path]] = []

    def attach(self, solver: Solver) -> None:
        """Add the calls."""
        due = every(lambda settings: settings.snapshot)

        def between(solver: Solver) -> None:
            solver.ask()
            if solver.snapshot_asked or due(solver):
                solver.snapshot()

        solver.on(
            Point.SOLVE,
            lambda solver: check_writable(solver.snapshot_prefix),
            lambda solver: (
                bool(solver.settings.snapshot)
                or solver.settings.snapshot_after_train
                or solver.settings.keep_best
            ),
        )
        solver.on(Point.AFTER, between)
        solver.on(Point.SNAPSHOT, self._remove_older)

    def _remove_older(self, solver: Solver) -> None:
        if not solver.settings.keep_last:
            return
        assert solver.last_snapshot
        if solver.last_snapshot in self._written:
            self._written.remove(solver.last_snapshot)
        self._written.append(solver.last_snapshot)
        while len(self._written) > solver.settings.keep_last:
            weights, state = self._written.pop(0)
            logger.info("Removing %s and %s (keep_last)", weights, state)
            # The state first: a state without its weights would be of no use.
            for path in (state, weights):
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    logger.warning("%s cannot be removed: %s", path, error.strerror)


def save(solver: Solver, label: str = "") -> tuple[Path, Path]:
    """Write `PREFIX_iter_N.caffemodel` and `.solverstate`, or their HDF5 forms; return both paths.

    `label` stands in the place of `iter_N`. Raises NetcError when they cannot be written; earlier
    snapshots are then untouched, and the message names the last one.
    """
    hdf5 = ".h5" if solver.settings.snapshot_format is SnapshotFormat.HDF5 else ""
    stem = f"{solver.snapshot_prefix}_{label or f'iter_{solver.iter}'}"
    weights_path, state_path = Path(f"{stem}.caffemodel{hdf5}"), Path(f"{stem}.solverstate{hdf5}")
    diffs = solver.settings.snapshot_diff
    logger.info("Snapshotting to %s file %s", "HDF5" if hdf5 else "binary proto", weights_path)
    with solver.average.in_place(solver.net.params):
        weights = weights_of(solver.net, solver.messages, diffs=diffs)
    try:
        write_snapshot(weights_path, weights, state_path, state_of(solver), diffs=diffs)
    except NetcError as error:
        raise NetcError(*error.problems, *_what_is_left(solver)) from error
    logger.info(
        "Snapshotting solver state to %s file %s", "HDF5" if hdf5 else "binary proto", state_path
    )
    return weights_path, state_path


def _what_is_left(solver: Solver) -> Iterator[Problem]:
    if solver.last_snapshot is None:
        return
    weights, state = solver.last_snapshot
    yield Problem(
        f"there is no snapshot of iteration {solver.iter}",
        expected="a pair of weights and solver state",
        got=f"the last pair is {weights} and {state}",
        hint=f"-snapshot {state} goes on from there",
    )


def state_of(solver: Solver) -> SolverState:
    """Return all that a solver needs, besides the weights, to go on."""
    n_params = len(solver.rule.params)
    return SolverState(
        iter=solver.iter,
        history=tuple(
            SavedBlob(np.array(solver.net.to_plain(i % n_params, history)))
            for i, history in enumerate(solver.rule.history)
        ),
        current_step=policy.current_step(solver.settings, solver.iter, solver.plateau),
        plateau=(solver.plateau.minimum_loss, solver.plateau.iter_last_event)
        if solver.settings.lr_policy == "plateau"
        else None,
        solver_type=solver.settings.type,
        random_seed=solver.seed,
        net_digest=net_digest(solver.net),
        forward_pass=solver.net.forward_pass,
        smoothed_losses=solver.losses,
        cursors=tuple(
            Cursor(name, at.position % at.size, at.position // at.size, str(at.size).encode())
            for name, feed in _feeds(solver)
            for at in [feed.state()]
        ),
        kept=tuple(
            (name, np.array(net.backend.to_host(values), np.float32))
            for label, net in _nets(solver)
            for name, values in ((f"{label}{n}", v) for n, v in net.persistent().items())
        )
        + tuple(
            (name, np.array(solver.backend.to_host(values), np.float32))
            for name, values in _arrays(solver)
        )
        + tuple(solver.average.saved(solver.net)),
        extensions=tuple(
            (extension.name, state)
            for extension in solver.extensions
            if (state := extension.state())
        ),
    )


def restore(solver: Solver, path: Path) -> None:
    """Set a solver to a snapshot.

    Raises NetcError when it is of another net, another type of solver or other data, or incomplete;
    the solver is then as it was, unless its weights turn out to be damaged.
    """
    logger.info("Restoring previous solver status from %s", path)
    state = read_state(path)
    _check(solver, state, path)
    graph = solver.net.plan.graph
    labels = [
        (f"param {param.index} of layer '{graph.nodes[param.owner].name}'", param.shape)
        for param in graph.params
    ]
    history = state.history_for(labels, solver.rule.slots)
    kept = _kept_for(solver, state)
    cursors = _cursors_for(solver, state, path)
    load_weights(solver.net, [str(state.weights_path())], exact=True)
    for i, (ours, saved) in enumerate(zip(solver.rule.history, history, strict=True)):
        solver.net.from_plain(i % len(labels), saved, ours)
    solver.iter = state.iter
    solver.losses = state.smoothed_losses
    if state.plateau:
        solver.plateau = policy.Plateau(*state.plateau, state.current_step)
    if not state.exact:
        logger.warning(
            "%s was not written by netc: data starts from its beginning, with random seed %d",
            path,
            solver.seed,
        )
        solver.net.forward_pass = state.iter * solver.settings.iter_size
        return
    if state.random_seed is not None:
        solver.reseed(state.random_seed)
    solver.net.forward_pass = state.forward_pass or 0
    for name, feed in _feeds(solver):
        if name in cursors:
            feed.restore(cursors[name])
    _restore_extensions(solver, state)
    solver.average.restore_params(solver, dict(state.kept))
    for ours, values in kept:
        ours[...] = values.reshape(ours.shape)


def _check(solver: Solver, state: SolverState, path: Path) -> None:
    """Refuse the state of another net, or of another type of solver."""
    if state.solver_type and state.solver_type != solver.settings.type:
        raise fail(
            "this snapshot is of another type of solver",
            expected=f'type: "{solver.settings.type}", as in {solver.source.file}',
            got=f'type: "{state.solver_type}" in {path}, iteration {state.iter}',
            hint=f'type: "{state.solver_type}" goes on with it; to start from its weights only, '
            "use -weights with the .caffemodel",
        )
    if state.net_digest and state.net_digest != net_digest(solver.net):
        other = fail(
            "this snapshot is of another net",
            expected=f"a snapshot of the net of {solver.source.file}: same params, same shapes",
            got=f"{path}, iteration {state.iter}",
            hint="to start from its weights only, use -weights with the .caffemodel",
        )
        try:
            read_params(solver.net.plan.graph, [str(state.weights_path())])
        except NetcError as difference:
            raise NetcError(*other.problems, *difference.problems) from None
        raise other


def _kept_for(solver: Solver, state: SolverState) -> list[tuple[Array, Array]]:
    """Return what goes on beside the params, as pairs of an array of ours and its saved values."""
    saved, found = dict(state.kept), []
    ours = [(f"{label}{n}", v) for label, net in _nets(solver) for n, v in net.persistent().items()]
    for name, values in (*ours, *_arrays(solver)):
        if name not in saved:
            continue
        if saved[name].size != values.size:
            raise fail(
                f"this snapshot is of another net: '{name}' has another size",
                span=Span(state.file),
                expected=f"{values.size} values, of shape {tuple(values.shape)}",
                got=f"{saved[name].size} values",
                hint="the state of a recurrent layer belongs to a batch size",
            )
        found.append((values, saved[name]))
    return found


def _cursors_for(solver: Solver, state: SolverState, path: Path) -> dict[str, data.Cursor]:
    """Return where the data layers stood; refuse data of another size, and tell what is new."""
    saved = {cursor.layer: cursor for cursor in state.cursors}
    found = {}
    for name, feed in _feeds(solver):
        if name in saved:
            cursor = saved.pop(name)
            size = int(cursor.state)
            found[name] = data.Cursor(cursor.epoch * size + cursor.position, size)
            feed.check(found[name])
        elif state.exact:
            logger.warning("%s has no position for '%s': its data starts anew", path, name)
    for name in saved:
        logger.warning("%s has a position for '%s', which this net does not read", path, name)
    return found


def _restore_extensions(solver: Solver, state: SolverState) -> None:
    saved = dict(state.extensions)
    for extension in solver.extensions:
        if extension.name in saved:
            extension.restore(saved.pop(extension.name))
    for name in saved:
        logger.warning("the snapshot remembers '%s', which this solver does not use", name)


def check_writable(prefix: str) -> None:
    """Make the directory of a snapshot prefix and check that files can be made there.

    Before any work is done.
    """
    directory = Path(prefix).parent
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise fail(
            "the directory for snapshots cannot be made",
            expected="a directory that can be written to",
            got=f"{directory}: {error.strerror}",
            hint="change snapshot_prefix in the solver",
        ) from None
    atomic.check_writable(Path(f"{prefix}_iter_0.caffemodel"))


def net_digest(net: Executor) -> str:
    """Return a digest of what a snapshot must agree with: the params' layers and shapes.

    In order.
    """
    graph = net.plan.graph
    lines = [
        f"{graph.nodes[param.owner].name}/{param.index}{param.shape}" for param in graph.params
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _nets(solver: Solver) -> Iterator[tuple[str, Executor]]:
    """Yield every net with the prefix of its names in a solver state."""
    yield "", solver.net
    for i, net in enumerate(solver.test_nets):
        yield f"test{i}:", net


def _arrays(solver: Solver) -> Iterator[tuple[str, Array]]:
    """Yield the arrays of the extensions, with their names in a solver state."""
    for extension in solver.extensions:
        for name, values in extension.arrays().items():
            yield f"{extension.name}:{name}", values


def _feeds(solver: Solver) -> Iterator[tuple[str, data.Feed]]:
    for label, net in _nets(solver):
        for index, feed in net.feeds.items():
            assert isinstance(feed, data.Feed)
            yield f"{label}{net.plan.graph.nodes[index].name}", feed
