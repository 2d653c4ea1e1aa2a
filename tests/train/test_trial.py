"""Trials: a dry run, one batch learnt by heart, a sweep of the learning rate."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netc.backends import find_backend
from netc.errors import NetcError
from netc.schema import Source, netc_pb2, read_solver
from netc.train.extension import Point
from netc.train.overfit import overfit
from netc.train.rehearsal import rehearse
from netc.train.settings import read_settings
from netc.train.solver import Action, Solver
from netc.train.sweep import sweep
from netc.train.trial import sweeping, training_only
from tests.support.furnished import furnish

BASE = """
net: "net.prototxt" base_lr: 0.05 momentum: 0.9 lr_policy: "fixed" random_seed: 1
max_iter: 100 display: 0 test_iter: 2 test_interval: 50 snapshot: 20
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(furnish(tmp_path))
    return tmp_path


def source_in(folder: Path, extra: str = "") -> Source[netc_pb2.SolverParameter]:
    text = f'{BASE} snapshot_prefix: "{folder}/run" {extra}'
    return read_solver(folder / "own.prototxt", text)


def solver_of(source: Source[netc_pb2.SolverParameter], **options: Any) -> Solver:
    return Solver(source, find_backend("reference"), **options)


def change_net(old: str, new: str) -> None:
    text = Path("net.prototxt").read_text()
    assert old in text
    Path("net.prototxt").write_text(text.replace(old, new))


def files(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# -- -dry_run --------------------------------------------------------------------------------------


def test_a_dry_run_says_what_the_run_will_take_and_leaves_nothing(folder: Path) -> None:
    extra = 'snapshot_prefix: "new/folder/run" json_log: "log/run.jsonl"'
    source = read_solver(folder / "own.prototxt", f"{BASE} {extra}")
    before = files(folder)
    first, *lines = rehearse(solver_of(source))
    assert files(folder) == before
    assert not (folder / "new").exists()
    assert not (folder / "log").exists()
    assert first == "dry run: everything is there and fits together; nothing was written"
    said = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines}
    params = 4 * 3 * 9 + 4 + 5 * 4 * 36 + 5
    assert said["net"] == f"tiny: 5 layers, {params} params"
    assert said["batch"] == "4 items, 1 in an iteration"
    assert float(said["loss"]) == pytest.approx(math.log(5), rel=0.2)
    assert "params 3.3 KiB, history 3.3 KiB, gradients 0 B, blobs " in said["memory"]
    assert said["snapshots"] == "5 of about 6.5 KiB each"
    assert said["tests"].startswith("3 of ")
    assert said["time"].endswith("for 100 iterations and the tests")


def test_a_dry_run_counts_from_where_a_run_goes_on(folder: Path) -> None:
    first = solver_of(source_in(folder))
    first.step(50)
    second = solver_of(source_in(folder))
    second.restore(folder / "run_iter_40.solverstate")
    text = "\n".join(rehearse(second))
    assert "for 60 iterations" in text
    assert "snapshots  3 of" in text
    assert "tests      2 of" in text


def test_a_dry_run_finds_what_would_end_the_run(folder: Path) -> None:
    source = read_solver(folder / "own.prototxt", f'{BASE} snapshot_prefix: "net.prototxt/run"')
    with pytest.raises(NetcError, match="the folder for snapshots cannot be written to"):
        rehearse(solver_of(source))
    change_net("num_output: 5", "num_output: 3")
    with pytest.raises(NetcError, match=r"label \d is outside 0\.\.2"):
        rehearse(solver_of(source_in(folder)))


# -- -overfit_batch --------------------------------------------------------------------------------


def test_trials_neither_test_nor_write(folder: Path) -> None:
    extra = 'score: "loss" patience: 2 keep_best: true keep_last: 1 json_log: "x" tensorboard: "y"'
    settings = read_settings(training_only(source_in(folder, extra), 7))
    plain = read_settings(read_solver("s", 'net: "n" base_lr: 0.05 lr_policy: "fixed"'))
    for name in ("test_iter", "test_interval", "snapshot", "json_log", "patience", "keep_best"):
        assert getattr(settings, name) == getattr(plain, name)
    assert (settings.max_iter, settings.momentum) == (7, 0.9)
    assert not settings.snapshot_after_train


def test_one_batch_is_learnt_by_heart(folder: Path) -> None:
    before = files(folder)
    solver = solver_of(training_only(source_in(folder), 500))
    (line,) = overfit(solver)
    assert line.startswith("learnt one batch by heart: loss 1.")
    assert solver.loss <= 0.01 * math.log(5) * 1.2
    assert solver.iter < 500
    assert files(folder) == before


def test_only_the_first_batch_is_seen(folder: Path) -> None:
    solver = solver_of(training_only(source_in(folder), 3))
    seen: list[np.ndarray] = []
    solver.on(Point.LOSS, lambda solver: seen.append(np.array(solver.net.data("label"))))
    with pytest.raises(NetcError):
        overfit(solver)
    assert len(seen) == 3
    for labels in seen:
        np.testing.assert_array_equal(labels, seen[0])


def test_a_signal_ends_it_and_leaves_no_snapshot(folder: Path) -> None:
    asked = [Action.STOP, Action.SNAPSHOT]
    solver = solver_of(training_only(source_in(folder), 9), action=lambda: asked.pop())
    (line,) = overfit(solver)
    assert line.startswith("asked to: loss 1.")
    assert line.endswith(" in 2 iterations")
    assert not list(folder.glob("run*"))


def test_layers_that_do_not_learn_are_named_with_the_reason(folder: Path) -> None:
    change_net(
        'name: "conv1"\n  type: "Convolution"',
        'name: "conv1"\n  type: "Convolution"\n  param { lr_mult: 0 } param { lr_mult: 0 }',
    )
    change_net(
        'layer { name: "loss"',
        'layer { name: "side" type: "InnerProduct" bottom: "conv1" top: "side"\n'
        "        inner_product_param { num_output: 2 } }\n"
        'layer { name: "quiet" type: "Silence" bottom: "side" }\n'
        'layer { name: "loss"',
    )
    solver = solver_of(training_only(source_in(folder), 4))
    with pytest.raises(NetcError) as caught:
        overfit(solver)
    message = str(caught.value)
    assert "did not learn one batch by heart in 4 iterations" in message
    assert "layer 'conv1' (Convolution) did not change: it is frozen (lr_mult 0)" in message
    assert "layer 'side' (InnerProduct) did not change: it is disconnected" in message
    assert "'ip'" not in message


def test_a_layer_behind_dead_units_is_named(folder: Path) -> None:
    change_net("kernel_size: 3 weight", "kernel_size: 3 bias_filler { value: -1e6 } weight")
    with pytest.raises(NetcError) as caught:
        overfit(solver_of(training_only(source_in(folder), 4)))
    assert "layer 'conv1' (Convolution) did not change: its gradient is 0" in str(caught.value)


# -- lr_find ---------------------------------------------------------------------------------------


def swept(folder: Path, least: float, most: float, n: int, extra: str = "") -> Any:
    return sweep(solver_of(sweeping(source_in(folder, extra), least, most, n)))


def test_the_rate_grows_and_the_steepest_fall_is_suggested(folder: Path) -> None:
    before = files(folder)
    extra = 'lr_policy: "step" gamma: 0.5 stepsize: 3 warmup_iter: 5'
    source = read_solver("own.prototxt", BASE.replace('lr_policy: "fixed"', extra))
    found = sweep(solver_of(sweeping(source, 1e-5, 100, 80)))
    assert files(folder) == before
    np.testing.assert_allclose(
        found.rates, 1e-5 * 1e7 ** (np.arange(len(found.rates)) / 79), rtol=1e-4
    )
    assert len(found.rates) < 80, "it ends where the loss explodes"
    assert found.suggestion is not None
    assert 1e-3 < found.suggestion < found.rates[found.lowest] < 10
    assert found.smoothed[found.steepest] < found.smoothed[0]


def test_without_a_fall_there_is_no_suggestion(folder: Path) -> None:
    found = swept(folder, 1e-9, 1e-8, 20)
    assert found.suggestion is None


def test_a_loss_that_explodes_at_once_is_an_error(folder: Path) -> None:
    with pytest.raises(NetcError, match=r"the loss is not finite after \d iterations, at lr "):
        swept(folder, 1e20, 1e30, 20)
