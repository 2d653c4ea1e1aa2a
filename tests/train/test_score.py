"""Early stopping, a target, the best snapshot and the last few, also in a run that was resumed."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from netc.backends import find_backend
from netc.errors import NetcError
from netc.learned import load_weights
from netc.schema import netc_pb2, read_solver
from netc.train import testing
from netc.train.outcome import outcome
from netc.train.scoring import Scores
from netc.train.solver import Action, Solver
from netc.weights import read_state
from tests.support.furnished import furnish

BASE = """
net: "net.prototxt" base_lr: 0.01 momentum: 0.9 lr_policy: "fixed" random_seed: 1
max_iter: 12 test_iter: 1 test_interval: 1 snapshot: 1
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(furnish(tmp_path))
    return tmp_path


def solver_in(folder: Path, extra: str) -> Solver:
    text = f'{BASE} snapshot_prefix: "{folder}/run" {extra}'
    return Solver(read_solver(folder / "own.prototxt", text), find_backend("reference"))


def scored(
    monkeypatch: pytest.MonkeyPatch, accuracies: Iterable[float], *, losses: bool = False
) -> None:
    """Let the tests find these accuracies, or losses, one per iteration from 0."""
    values = list(accuracies)

    def test(solver: Solver, index: int) -> Scores:
        value = values[solver.iter]
        pair = (0.5, value) if losses else (value, 1 - value)
        outputs = (("accuracy", pair[:1], 0.0), ("loss", pair[1:], 1.0))
        return Scores(index, outputs, pair[1])

    monkeypatch.setattr(testing, "test", test)


def test_no_better_score_in_so_many_tests_ends_the_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scored(monkeypatch, [0.1, 0.5, 0.4, 0.5, 0.3] + [0.9] * 9)
    solver = solver_in(folder, 'score: "accuracy" patience: 3')
    with caplog.at_level(logging.INFO, logger="netc"):
        solver.solve()
    assert solver.iter == 4
    assert solver.stopped == "accuracy was not better than 0.5 in 3 tests in a row (patience)"
    assert "Score: test net output accuracy of test net #0, the highest is best" in caplog.messages
    assert outcome(solver)[0] == f"stopped at iteration 4 of 12: {solver.stopped}"


@pytest.mark.parametrize(
    ("extra", "stops_at"),
    [
        ('score: "loss" patience: 2', 4),  # in the objective: lower is better
        ('score: "loss" patience: 2 min_delta: 0.25', 2),
        ('score: "loss" patience: 2 score_goal: HIGHEST', 2),
        ('score: "loss" target_score: 0.3', 2),
        ('score: "accuracy" patience: 12', 12),  # the last test has nothing left to stop
    ],
)
def test_what_counts_as_better(
    folder: Path, monkeypatch: pytest.MonkeyPatch, extra: str, stops_at: int
) -> None:
    scored(monkeypatch, [0.5, 0.4, 0.29, 0.3, 0.3] + [0.3] * 9, losses=True)
    solver = solver_in(folder, extra)
    solver.solve()
    assert solver.iter == stops_at
    assert bool(solver.stopped) == (stops_at < 12)


def test_a_score_that_is_no_number_is_never_better(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, [np.nan, 0.2, np.nan, np.nan] + [0.9] * 9)
    solver = solver_in(folder, 'score: "accuracy" patience: 2 keep_best: true')
    solver.solve()
    assert solver.iter == 3
    assert read_state(folder / "run_best.solverstate").iter == 1


def test_the_best_snapshot_is_kept_apart_and_the_last_few(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, [0.1, 0.2, 0.7, 0.3, 0.6] + [0.4] * 9)
    (folder / "run_iter_999.solverstate").write_text("the user's own")
    earlier = solver_in(folder, "")
    earlier.step(2)
    solver = solver_in(folder, 'score: "accuracy" keep_best: true keep_last: 2')
    solver.restore(folder / "run_iter_2.solverstate")
    solver.solve()
    states = sorted(path.stem for path in folder.glob("run*.solverstate"))
    kept = ["run_iter_1", "run_iter_11", "run_iter_12", "run_iter_2", "run_iter_999"]
    assert states == ["run_best", *kept], "what another process wrote stays"
    assert {path.stem for path in folder.glob("run*.caffemodel")} == set(states) - {"run_iter_999"}
    assert read_state(folder / "run_best.solverstate").iter == 2
    assert outcome(solver)[2].startswith("  best     accuracy = 0.7 at iteration 2: ")


@pytest.mark.parametrize("stop", range(1, 8))
def test_a_resumed_run_waits_on_where_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    accuracies = [0.1, 0.5, 0.4, 0.45, 0.6, 0.2, 0.3, 0.55] + [0.9] * 5
    scored(monkeypatch, accuracies)
    extra = 'score: "accuracy" patience: 3 min_delta: 0.05'
    first = solver_in(folder, extra)
    first.step(stop)
    if first.stopped:
        pytest.fail("it stops at 7 only")
    second = solver_in(folder, extra)
    second.restore(folder / f"run_iter_{stop}.solverstate")
    second.solve()
    assert second.iter == 7
    assert second.stopped == (
        "accuracy was not better than 0.6 by more than 0.05 in 3 tests in a row (patience)"
    )


def test_a_snapshot_from_after_a_test_leads_to_no_second_one(folder: Path) -> None:
    """The test nets read on in their data: a second test would see other images."""
    extra = 'score: "loss" patience: 12 keep_best: true test_iter: 1'
    whole = solver_in(folder, extra)
    whole.step(5)
    best = read_state(folder / "run_best.solverstate")
    again = solver_in(folder, extra)
    again.restore(folder / "run_best.solverstate")
    assert again.iter == best.iter
    again.step(7 - best.iter)
    whole.step(2)
    assert again.scores == whole.scores
    for a, b in zip(whole.net.params, again.net.params, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_test_that_is_cut_short_leaves_the_data_where_it_was(folder: Path) -> None:
    extra = "test_iter: 1 test_state { } test_state { }"
    whole = solver_in(folder, extra)
    whole.step(3)
    cut = solver_in(folder, extra)
    cut.step(1)
    asked = iter([Action.NONE, Action.STOP])
    cut.action = lambda: next(asked)
    cut.step(9)
    assert (cut.iter, cut.scores) == (1, [])
    cut.action = lambda: Action.NONE
    cut.step(2)
    assert cut.scores == whole.scores


def test_time_is_limited(folder: Path) -> None:
    solver = solver_in(folder, "time_limit: 0.000001")
    solver.solve()
    assert solver.iter == 1
    assert solver.stopped == "time_limit 1e-06 s is over"


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ('score: "acuracy" patience: 1', 'got       score: "acuracy"\n  hint      did you mean'),
        ("patience: 1", "which output of the test net is the score?"),
        ("patience: 1", 'score: "..." with one of its outputs: accuracy, loss'),
        ('score: "loss" score_net: 1 patience: 1', "there is no test net #1"),
        ("patience: -1", "patience is negative"),
        ('score: "loss" patience: 1 test_iter: 0 test_state { } test_state { } score_net: 1', "#1"),
        ("time_limit: 0", "time_limit is too small"),
        ("min_delta: 0.1", "min_delta is set, but nothing uses it"),
        ('score: "loss"', "score is set, but nothing uses it"),
    ],
)
def test_mistakes(folder: Path, extra: str, says: str) -> None:
    with pytest.raises(NetcError) as caught:
        solver_in(folder, extra)
    assert says in str(caught.value)
    assert "own.prototxt" in str(caught.value)


def test_a_score_needs_tests(folder: Path) -> None:
    text = BASE.replace("test_iter: 1 test_interval: 1", "") + "keep_best: true"
    with pytest.raises(NetcError, match="keep_best looks at tests, but none are made"):
        Solver(read_solver(folder / "own.prototxt", text), find_backend("reference"))


def test_the_best_weights_are_those_that_were_tested(folder: Path) -> None:
    """With a running average that is the average; the test data is seen as a whole each time."""
    extra = 'score: "loss" keep_best: true ema_decay: 0.9'
    text = BASE.replace("test_iter: 1", "test_iter: 2") + f'snapshot_prefix: "{folder}/run" '
    solver = Solver(read_solver(folder / "own.prototxt", text + extra), find_backend("reference"))
    solver.solve()
    best = netc_pb2.ScoreState.FromString(
        dict(read_state(folder / "run_best.solverstate").extensions)["score"]
    )
    again = Solver(read_solver(folder / "own.prototxt", text), find_backend("reference"))
    load_weights(again.net, [str(folder / "run_best.caffemodel")])
    assert testing.test(again, 0).loss == best.best
