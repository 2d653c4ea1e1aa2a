"""Solver states: what a solver needs besides the weights to go on as if it had never stopped.

Caffe's four fields, and netc's own (numbers from 10000 up, which Caffe passes over): with those a
resumed run ends bit-identical to one that was never stopped.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from google.protobuf.message import DecodeError

from netc.errors import Problem, Problems, Span, fail
from netc.schema import netc_pb2
from netc.weights import hdf5, wire
from netc.weights.atomic import Staged, sync_directory
from netc.weights.binaryproto import (
    BadBlob,
    Place,
    blob_chunks,
    explained,
    read_blob_message,
)
from netc.weights.caffemodel import staged_chunks, staged_weights
from netc.weights.files import is_hdf5_name, not_a, opened
from netc.weights.sniff import Kind, guess_message
from netc.weights.types import FloatArray, SavedBlob, Weights, describe_shape, frozen
from netc.weights.wire import LENGTH, Chunk, WireError, WireReader

STATE = {"iter": 1, "learned_net": 2, "history": 3, "current_step": 4, "kept": 10003}
NAMED_BLOB = {"name": 1, "blob": 2}


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a data layer stands in its source.

    `position` counts the records of the current epoch already read, `epoch` the complete passes;
    `state` is whatever else that kind of source needs, in its own format.
    """

    layer: str
    position: int
    epoch: int = 0
    state: bytes = b""


@dataclass(frozen=True, slots=True, eq=False)
class SolverState:
    """The content of a solver state.

    `history` holds momentum and other running means in Caffe's order: one array for each param,
    then (Adam, AdaDelta) a second one for each. The fields after `current_step` are netc's own,
    `solver_type` that of the history; those that a file of Caffe lacks are None or empty. `kept` is
    (name, values) of state that is no param, such as a recurrent cell; `extensions` (name, message)
    of what else goes on beside the updates, such as the best score so far. `plateau` is what
    lr_policy `plateau` remembers besides its step: the least loss, and the iteration of the last
    event; forks save it too. `file` is the path it was read from.
    """

    iter: int
    learned_net: str = ""
    history: tuple[SavedBlob, ...] = ()
    current_step: int = 0
    solver_type: str = ""
    random_seed: int | None = None
    net_digest: str = ""
    forward_pass: int | None = None
    smoothed_losses: tuple[float, ...] = ()
    plateau: tuple[float, int] | None = None
    cursors: tuple[Cursor, ...] = ()
    kept: tuple[tuple[str, FloatArray], ...] = ()
    extensions: tuple[tuple[str, bytes], ...] = ()
    file: str = ""

    @property
    def exact(self) -> bool:
        """Whether netc wrote it, so that a run can go on bit-identically."""
        return self.forward_pass is not None

    def history_for(
        self, params: Sequence[tuple[str, tuple[int, ...]]], per_param: int = 1
    ) -> tuple[FloatArray, ...]:
        """Return the history with the shapes of the solver's params.

        `params` are (words for messages, shape) in the solver's order, `per_param` the number of
        history blobs that the solver keeps for each. Raises NetcError, naming every blob that does
        not fit: the state then belongs to another net or to another type of solver.
        """
        span = Span(self.file) if self.file else None
        wanted = list(params) * per_param
        if len(self.history) != len(wanted):
            raise fail(
                "this snapshot is of another net or another type of solver",
                span=span,
                expected=f"{len(wanted)} history blobs ({per_param} per param)",
                got=f"{len(self.history)} history blobs",
            )
        problems = Problems()
        for index, (blob, (label, shape)) in enumerate(zip(self.history, wanted, strict=True)):
            if not blob.fits(shape):
                problems.add(
                    Problem(
                        f"this snapshot is of another net: history {index} does not fit {label}",
                        span,
                        expected=f"shape {describe_shape(shape)}",
                        got=f"shape {describe_shape(blob.shape)}",
                    )
                )
        problems.raise_any()
        return tuple(
            blob.shaped(shape) for blob, (_, shape) in zip(self.history, wanted, strict=True)
        )

    def weights_path(self) -> Path:
        """Return the weights file that was saved with this state.

        It lies beside the state under the name noted there, unless it was moved; then the noted
        path is tried as it is. Raises NetcError that lists what was tried.
        """
        span = Span(self.file) if self.file else None
        if not self.learned_net:
            raise fail(
                "the solver state does not name its weights",
                span=span,
                expected="learned_net, the path of a caffemodel",
            )
        # Snapshots are pairs in one directory, and directories get moved: beside comes first.
        beside = Path(self.file).parent / Path(self.learned_net.replace("\\", "/")).name
        tried = list(dict.fromkeys((beside, Path(self.learned_net))))
        for path in tried:
            if path.is_file():
                return path
        raise fail(
            "the weights that belong to this solver state are missing",
            span=span,
            expected="one of\n" + "\n".join(f"  {os.path.abspath(path)}" for path in tried),
            hint=self._renamed() or "copy the weights beside the solver state",
        )

    def _renamed(self) -> str:
        """Point at weights that were given another name together with the state."""
        path = Path(self.file)
        stem, dot, end = path.name.rpartition(".solverstate")
        twin = path.with_name(f"{stem}.caffemodel{end}")
        if not dot or not twin.is_file():
            return ""
        noted = Path(self.learned_net.replace("\\", "/")).name
        return f"if {twin} belongs to it, call it {noted}"


def read_state(path: str | Path) -> SolverState:
    """Read a solver state of Caffe or of netc, binary or HDF5 (told from the content).

    Raises NetcError when the file is missing, cut off or something else.
    """
    with opened(path, "solver state") as (kind, file):
        if kind is Kind.HDF5:
            parts = hdf5.read_state(str(path))
            fields = _read_fields(io.BytesIO(parts.extras), str(path))
            return replace(
                _state(fields, str(path)),
                iter=parts.iter,
                current_step=parts.current_step,
                learned_net=parts.learned_net,
                history=tuple(SavedBlob(values) for values in parts.history),
            )
        if kind is Kind.TEXT:
            raise not_a("solver state", path, "text")
        fields = _read_fields(file, str(path))
        if not fields.message.HasField("iter"):
            guess = guess_message(file)
            raise fail(
                "not a solver state: it does not say at which iteration it was saved",
                span=Span(str(path)),
                expected="a SolverState message with `iter`",
                got=guess,
            )
        return _state(fields, str(path))


def write_state(path: str | Path, state: SolverState) -> None:
    """Write a solver state atomically, as HDF5 where the name ends in `.h5`.

    Raises NetcError when it cannot be written; an earlier file is then untouched.
    """
    with _staged_state(path, state) as staged:
        staged.commit()


def write_snapshot(
    weights_path: str | Path,
    weights: Weights,
    state_path: str | Path,
    state: SolverState,
    *,
    diffs: bool = False,
) -> None:
    """Write weights and solver state as a pair of which never one half is there alone and wrong.

    Both are complete on the disk before either gets its name, the weights first: a solver state
    that is there has its weights. An older pair under the same names gives up its solver state in
    between, so that no moment joins the state of one run to the weights of another. `learned_net`
    is set to `weights_path`. Raises NetcError when one cannot be written; earlier files are then
    untouched.
    """
    state = replace(state, learned_net=str(weights_path))
    with (
        staged_weights(weights_path, weights, diffs=diffs) as first,
        _staged_state(state_path, state) as second,
    ):
        first.finish()
        second.finish()
        old = Path(os.path.realpath(state_path))
        if old.is_file():
            old.unlink()
            sync_directory(old.parent)
        first.commit()
        second.commit()


def _staged_state(path: str | Path, state: SolverState) -> Staged:
    if not is_hdf5_name(path):
        return staged_chunks(path, _state_chunks(state))
    parts = hdf5.StateParts(
        state.iter,
        state.current_step,
        state.learned_net,
        tuple(blob.data for blob in state.history),
        b"".join(bytes(chunk) for chunk in _extra_chunks(state)),
    )
    staged = Staged(path)
    with staged.undone_on_error():
        hdf5.write_state(staged.file, parts)
    return staged


def _state_chunks(state: SolverState) -> list[Chunk]:
    # The history comes last: a file that is cut between two fields then lacks some of it, which
    # the solver notices, instead of netc's own fields, which would make it a file of Caffe.
    chunks: list[Chunk] = [wire.varint_field(STATE["iter"], state.iter)]
    chunks += wire.field(STATE["learned_net"], [os.fsencode(state.learned_net)])
    chunks.append(wire.varint_field(STATE["current_step"], state.current_step))
    chunks += _extra_chunks(state)
    for blob in state.history:
        chunks += wire.field(STATE["history"], blob_chunks(blob))
    return chunks


def _extra_chunks(state: SolverState) -> list[Chunk]:
    """Return netc's own fields. The message classes know all but the arrays."""
    message = netc_pb2.SolverState(
        solver_type=state.solver_type or None,
        random_seed=state.random_seed,
        net_digest=state.net_digest or None,
        forward_pass=state.forward_pass,
        smoothed_losses=state.smoothed_losses,
        minimum_loss=state.plateau[0] if state.plateau else None,
        iter_last_event=state.plateau[1] if state.plateau else None,
        data_cursor=[
            netc_pb2.DataCursor(
                layer=cursor.layer,
                position=cursor.position,
                epoch=cursor.epoch,
                state=cursor.state or None,
            )
            for cursor in state.cursors
        ],
        extension=[
            netc_pb2.ExtensionState(name=name, state=content) for name, content in state.extensions
        ],
    )
    chunks: list[Chunk] = [message.SerializeToString()]
    for name, values in state.kept:
        content = wire.field(NAMED_BLOB["name"], [name.encode()])
        content += wire.field(NAMED_BLOB["blob"], blob_chunks(SavedBlob(frozen(values))))
        chunks += wire.field(STATE["kept"], content)
    return chunks


@dataclass(slots=True)
class _Fields:
    """The fields of a SolverState message: the arrays, and the message of all others."""

    message: netc_pb2.SolverState
    learned_net: str
    history: list[SavedBlob]
    kept: list[tuple[str, FloatArray]]


def _read_fields(file: BinaryIO, path: str) -> _Fields:
    reader = WireReader(file)
    place = Place(path, "solver state")
    history: list[SavedBlob] = []
    kept: list[tuple[str, FloatArray]] = []
    learned_net = ""
    others: list[bytes] = []
    problems = Problems()
    with explained(place, file):
        for number, wire_type in reader.fields(reader.size):
            place.inside = ""
            if wire_type == LENGTH and number == STATE["learned_net"]:
                # A path: it can have bytes that are not UTF-8, and must be found again.
                learned_net = os.fsdecode(reader.string(reader.size))
                continue
            if wire_type != LENGTH or number not in (STATE["history"], STATE["kept"]):
                others.append(reader.copy(number, wire_type, reader.size))
                continue
            end = reader.message(reader.size)
            try:
                if number == STATE["history"]:
                    place.inside = f"history blob {len(history)}"
                    history.append(read_blob_message(reader, end, diffs=False))
                else:
                    place.inside = f"kept blob {len(kept)}"
                    kept.append(_read_kept(reader, end))
            except BadBlob as bad:
                what = f"{place.inside}: {bad.what}"
                problems.add(Problem(what, Span(path), expected=bad.expected, got=bad.got))
        place.inside = ""
        try:
            message = netc_pb2.SolverState.FromString(b"".join(others))
        except DecodeError as error:
            raise WireError(str(error), reader.position) from error
        for text in (
            message.net_digest,
            message.solver_type,
            *(cursor.layer for cursor in message.data_cursor),
            *(extension.name for extension in message.extension),
        ):
            _check_text(text, reader.position)
    problems.raise_any()
    return _Fields(message, learned_net, history, kept)


def _check_text(text: object, position: int) -> None:
    # protobuf hands out bytes where a string is not UTF-8.
    if not isinstance(text, str):
        raise WireError("a text is not UTF-8", position)


def _read_kept(reader: WireReader, end: int) -> tuple[str, FloatArray]:
    name, values = "", frozen(np.empty(0, np.float32))
    for number, wire_type in reader.fields(end):
        if number == NAMED_BLOB["name"] and wire_type == LENGTH:
            name = reader.string(end).decode("utf-8", "backslashreplace")
        elif number == NAMED_BLOB["blob"] and wire_type == LENGTH:
            values = read_blob_message(reader, reader.message(end), diffs=False).data
        else:
            reader.skip(wire_type, end)
    return name, values


def _state(fields: _Fields, path: str) -> SolverState:
    message = fields.message
    return SolverState(
        iter=message.iter,
        learned_net=fields.learned_net,
        history=tuple(fields.history),
        current_step=message.current_step,
        solver_type=message.solver_type,
        random_seed=message.random_seed if message.HasField("random_seed") else None,
        net_digest=message.net_digest,
        forward_pass=message.forward_pass if message.HasField("forward_pass") else None,
        smoothed_losses=tuple(message.smoothed_losses),
        plateau=(message.minimum_loss, message.iter_last_event)
        if message.HasField("minimum_loss")
        else None,
        cursors=tuple(
            Cursor(cursor.layer, cursor.position, cursor.epoch, cursor.state)
            for cursor in message.data_cursor
        ),
        kept=tuple(fields.kept),
        extensions=tuple((extension.name, extension.state) for extension in message.extension),
        file=path,
    )
