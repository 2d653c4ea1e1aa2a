"""Solver states: Caffe's and netc's own, and snapshots as pairs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netc.errors import NetcError
from netc.schema import netc_pb2
from netc.weights import state as states
from netc.weights.atomic import Staged
from netc.weights.caffemodel import read_weights
from netc.weights.state import Cursor, SolverState, read_state, write_snapshot, write_state
from netc.weights.types import SavedBlob, SavedLayer, Weights, frozen
from tests.weights.samples import (
    CAFFE_FILES,
    REFERENCE,
    arrays,
    bytes_field,
    floats,
    names,
    number_field,
    same_values,
    saved_blobs,
)

pytestmark = pytest.mark.usefixtures("unsynced")

overwriting = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
ENDS = ["", ".h5"]


def blob(*shape: int, value: float = 0, legacy: bool = False) -> SavedBlob:
    return SavedBlob(frozen(np.full(shape, value, np.float32)), legacy)


def test_the_numbers_are_those_of_the_schema() -> None:
    for message, numbers in (
        (netc_pb2.SolverState, states.STATE),
        (netc_pb2.NamedBlob, states.NAMED_BLOB),
    ):
        fields = message.DESCRIPTOR.fields_by_name
        assert {name: fields[name].number for name in numbers} == numbers


def test_every_field_of_the_schema_is_kept() -> None:
    known = {
        *("iter", "learned_net", "history", "current_step", "random_seed", "net_digest"),
        *("data_cursor", "kept", "forward_pass", "smoothed_losses", "extension", "solver_type"),
    }
    # The forks' names for what lr_policy "plateau" remembers: `SolverState.plateau`.
    plateau = {"minimum_loss", "iter_last_event"}
    assert set(netc_pb2.SolverState.DESCRIPTOR.fields_by_name) == known | plateau
    cursor = {"layer", "position", "epoch", "state"}
    assert set(netc_pb2.DataCursor.DESCRIPTOR.fields_by_name) == cursor
    assert set(netc_pb2.ExtensionState.DESCRIPTOR.fields_by_name) == {"name", "state"}


@pytest.mark.parametrize("end", ENDS)
def test_states_of_caffe(end: str) -> None:
    state = read_state(CAFFE_FILES / f"model_iter_4.solverstate{end}")
    assert state.iter == REFERENCE["iter"] == 4
    assert state.current_step == REFERENCE["current_step"] == 1
    assert state.learned_net == f"model_iter_4.caffemodel{end}"
    expected = [REFERENCE[f"history:{i}"] for i in range(10)]
    assert len(state.history) == len(expected)
    assert all(same_values(a.data, b) for a, b in zip(state.history, expected, strict=True))
    assert not state.exact
    assert (state.random_seed, state.net_digest, state.cursors) == (None, "", ())


@st.composite
def solver_states(draw: st.DrawFn) -> SolverState:
    counts = st.integers(0, 2**64 - 1)
    return SolverState(
        iter=draw(st.integers(0, 2**31 - 1)),
        learned_net=draw(names),
        history=tuple(draw(st.lists(saved_blobs(legacy=False, diff=False), max_size=4))),
        current_step=draw(st.integers(0, 2**31 - 1)),
        solver_type=draw(names),
        random_seed=draw(st.none() | st.integers(-(2**63), 2**63 - 1)),
        net_digest=draw(names),
        forward_pass=draw(st.none() | counts),
        smoothed_losses=tuple(draw(st.lists(floats, max_size=4))),
        plateau=draw(st.none() | st.tuples(floats, st.integers(0, 2**31 - 1))),
        cursors=tuple(
            draw(st.lists(st.builds(Cursor, names, counts, counts, st.binary()), max_size=3))
        ),
        kept=tuple(draw(st.lists(st.tuples(names, arrays().map(frozen)), max_size=3))),
        extensions=tuple(draw(st.lists(st.tuples(names, st.binary()), max_size=3))),
    )


def same_state(a: SolverState, b: SolverState) -> bool:
    plain = ("iter", "learned_net", "current_step", "solver_type", "random_seed", "net_digest")
    plain += ("forward_pass",)
    return (
        all(getattr(a, name) == getattr(b, name) for name in plain)
        and a.cursors == b.cursors
        and a.extensions == b.extensions
        and same_values(a.smoothed_losses, b.smoothed_losses)
        and len(a.history) == len(b.history)
        and all(same_values(x.data, y.data) for x, y in zip(a.history, b.history, strict=True))
        and [name for name, _ in a.kept] == [name for name, _ in b.kept]
        and all(same_values(x, y) for (_, x), (_, y) in zip(a.kept, b.kept, strict=True))
    )


@overwriting
@pytest.mark.parametrize("end", ENDS)
@given(state=solver_states())
def test_round_trip(tmp_path: Path, end: str, state: SolverState) -> None:
    path = tmp_path / f"a.solverstate{end}"
    write_state(path, state)
    found = read_state(path)
    assert same_state(found, state)
    assert found.file == str(path)
    assert found.exact == (state.forward_pass is not None)


@overwriting
@given(solver_states())
def test_protobuf_reads_what_is_written(tmp_path: Path, state: SolverState) -> None:
    write_state(tmp_path / "a", state)
    message = netc_pb2.SolverState.FromString((tmp_path / "a").read_bytes())
    assert message.iter == state.iter
    assert message.learned_net == state.learned_net
    assert len(message.history) == len(state.history)
    assert [item.name for item in message.kept] == [name for name, _ in state.kept]
    assert len(message.data_cursor) == len(state.cursors)


def test_a_path_that_is_not_utf8_is_kept(tmp_path: Path) -> None:
    for end in ENDS:
        write_state(tmp_path / f"a{end}", SolverState(1, "m\udce9t.caffemodel"))
        assert read_state(tmp_path / f"a{end}").learned_net == "m\udce9t.caffemodel"
    raw = number_field(1, 4) + bytes_field(2, b"m\xe9t.caffemodel")
    (tmp_path / "a").write_bytes(raw)
    assert read_state(tmp_path / "a").learned_net == "m\udce9t.caffemodel"


def test_cut_at_every_length(tmp_path: Path) -> None:
    """An error, or (cut between two fields) less history, which no solver takes."""
    state = SolverState(
        iter=300,
        learned_net="model_iter_300.caffemodel",
        history=(blob(2, 3, value=1), blob(4, value=2)),
        current_step=1,
        random_seed=7,
        net_digest="sha256:00",
        forward_pass=600,
        smoothed_losses=(0.5, 0.25),
        plateau=(0.25, 7),
        cursors=(Cursor("data", 12, 1, b"xyz"),),
        kept=(("lstm/h", np.ones(3, np.float32)),),
    )
    path = tmp_path / "a"
    write_state(path, state)
    raw = path.read_bytes()
    params = [("'a'", (2, 3)), ("'b'", (4,))]
    for length in reversed(range(len(raw))):
        os.truncate(path, length)
        with pytest.raises(NetcError):
            read_state(path).history_for(params)
    path.write_bytes(raw)
    assert len(read_state(path).history_for(params)) == 2


def test_caffes_state_cut_at_every_length(tmp_path: Path) -> None:
    raw = (CAFFE_FILES / "model_iter_4.solverstate").read_bytes()
    (tmp_path / "a").write_bytes(raw)
    n_read = 0
    for length in reversed(range(len(raw))):
        os.truncate(tmp_path / "a", length)
        try:
            state = read_state(tmp_path / "a")
        except NetcError:
            continue
        assert state.iter == 4
        n_read += 1
    assert n_read <= 12  # behind each of the fields


@given(st.binary(max_size=80))
def test_no_bytes_break_it(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.solverstate"
    path.write_bytes(raw)
    try:
        read_state(path)
    except NetcError:
        return


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (number_field(1, 4) + bytes_field(10001, b"\xff"), "a text is not UTF-8"),
        (number_field(1, 4) + bytes_field(10002, b"\x08"), "not a solver state, or a damaged one"),
        (number_field(1, 4) + bytes_field(3, bytes_field(5, bytes(8))), "history blob 0: shape"),
        (number_field(1, 4) + bytes_field(10003, bytes_field(2, b"")), "kept blob 0: shape"),
        (bytes_field(2, b"x.caffemodel"), "which iteration"),
    ],
)
def test_damaged_states(tmp_path: Path, raw: bytes, message: str) -> None:
    (tmp_path / "a").write_bytes(raw)
    with pytest.raises(NetcError, match=message):
        read_state(tmp_path / "a")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model_iter_4.caffemodel", "a caffemodel (weights)"),
        ("weights.h5", "weights (for -weights)"),
        ("solver.prototxt", "text"),
    ],
)
def test_other_files(name: str, words: str) -> None:
    with pytest.raises(NetcError, match="not a solver state") as error:
        read_state(CAFFE_FILES / name)
    assert words in str(error.value)


# -- what a solver asks of it ----------------------------------------------------------------------


def test_history_for_the_params_of_a_solver() -> None:
    legacy = blob(1, 1, 2, 3, value=1, legacy=True)
    state = SolverState(1, history=(legacy, blob(4), blob(2, 3), blob(4)))
    params = [("layer 'ip' param 0", (2, 3)), ("layer 'ip' param 1", (4,))]
    shapes = [values.shape for values in state.history_for(params, per_param=2)]
    assert shapes == [(2, 3), (4,), (2, 3), (4,)]


def test_a_snapshot_of_another_net_or_solver() -> None:
    state = SolverState(1, history=(blob(2, 3), blob(4)), file="a.solverstate")
    with pytest.raises(NetcError, match="another net or another type of solver") as error:
        state.history_for([("'a'", (2, 3)), ("'b'", (4,))], per_param=2)
    assert "4 history blobs (2 per param)" in str(error.value)
    assert "a.solverstate" in str(error.value)
    with pytest.raises(NetcError) as error:
        state.history_for([("'a'", (3, 2)), ("'b'", (5,))])
    text = str(error.value)
    assert "history 0 does not fit 'a'" in text
    assert "history 1 does not fit 'b'" in text
    assert "shape (3, 2)" in text


def test_the_weights_of_a_moved_pair_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("snapshots", "moved"):
        Path(folder).mkdir()
    state_file = Path("moved/m.solverstate")
    write_state(state_file, SolverState(1, "snapshots/m.caffemodel"))
    with pytest.raises(NetcError, match="weights that belong to this solver state") as error:
        read_state(state_file).weights_path()
    for tried in ("moved/m.caffemodel", "snapshots/m.caffemodel"):
        assert str(tmp_path / tried) in str(error.value)
    Path("snapshots/m.caffemodel").touch()
    assert read_state(state_file).weights_path() == Path("snapshots/m.caffemodel")
    # Another run's weights under the old path do not count once the pair's own are beside it.
    Path("moved/m.caffemodel").touch()
    assert read_state(state_file).weights_path() == Path("moved/m.caffemodel")


def test_a_state_without_weights(tmp_path: Path) -> None:
    with pytest.raises(NetcError, match="does not name its weights"):
        SolverState(1, file=str(tmp_path / "a")).weights_path()


# -- pairs -----------------------------------------------------------------------------------------


def weights_of(value: float) -> Weights:
    return Weights((SavedLayer("ip", (blob(3, value=value),), "InnerProduct"),), "net")


@pytest.mark.parametrize("end", ENDS)
def test_a_snapshot_is_a_pair(tmp_path: Path, end: str) -> None:
    model, state_file = tmp_path / f"m.caffemodel{end}", tmp_path / f"m.solverstate{end}"
    for value in (1, 2):
        write_snapshot(model, weights_of(value), state_file, SolverState(value))
        state = read_state(state_file)
        assert (state.iter, state.learned_net) == (value, str(model))
        ((_, (values,)),) = read_weights(state.weights_path())
        assert same_values(values, [value] * 3)
    assert sorted(tmp_path.iterdir()) == [model, state_file]


def test_the_weights_get_their_name_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the folder at each step, if the process were killed there."""
    seen = []
    commit = Staged.commit

    def watched(self: Staged) -> None:
        seen.append({p.name for p in tmp_path.iterdir() if not p.name.startswith(".")})
        commit(self)

    monkeypatch.setattr(Staged, "commit", watched)
    pair = (tmp_path / "m.caffemodel", weights_of(1), tmp_path / "m.solverstate", SolverState(1))
    write_snapshot(*pair)
    assert seen == [set(), {"m.caffemodel"}]
    seen.clear()
    write_snapshot(*pair)
    assert seen == [{"m.caffemodel"}, {"m.caffemodel"}]


def test_an_unwritable_state_leaves_no_weights_either(tmp_path: Path) -> None:
    (tmp_path / "m.solverstate").mkdir()
    with pytest.raises(NetcError, match="a directory of that name"):
        write_snapshot(
            tmp_path / "m.caffemodel",
            weights_of(1),
            tmp_path / "m.solverstate",
            SolverState(1),
        )
    assert [path.name for path in tmp_path.iterdir()] == ["m.solverstate"]
