"""The solver's loop on a tiny net with real files: triggers, log, snapshots, resume, guards."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pytest

from netc.backends import find_backend
from netc.data import write_datums
from netc.errors import NetcError
from netc.schema import netc_pb2, read_solver
from netc.train import tuning
from netc.train.finetuning import Asked
from netc.train.solver import Action, Solver

NET = """
name: "tiny"
layer { name: "data" type: "Data" top: "data" top: "label" transform_param { mirror: true }
        data_param { source: "db" backend: LMDB batch_size: 4 } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
        inner_product_param { num_output: 8 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "ip" top: "ip" }
layer { name: "drop" type: "Dropout" bottom: "ip" top: "ip" }
layer { name: "relu" type: "ReLU" bottom: "ip" top: "ip" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip" top: "ip2"
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "acc" type: "Accuracy" bottom: "ip2" bottom: "label" top: "acc"
        include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
"""
SOLVER = """
net: "net.prototxt" base_lr: 0.05 momentum: 0.9 weight_decay: 0.001
lr_policy: "step" gamma: 0.5 stepsize: 5 max_iter: 12
average_loss: 3 display: 4 test_iter: 2 test_interval: 6 random_seed: 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    write_datums(
        tmp_path / "db",
        (
            netc_pb2.Datum(
                channels=1,
                height=3,
                width=3,
                data=rng.integers(0, 255, 9, dtype=np.uint8).tobytes(),
                label=int(i % 3),
            )
            for i in range(10)
        ),
    )
    (tmp_path / "net.prototxt").write_text(NET)
    return tmp_path


def solver_in(folder: Path, extra: str = "", *, base: str = SOLVER, **options: object) -> Solver:
    prefix = f'snapshot_prefix: "{folder}/snap"'
    (folder / "solver.prototxt").write_text(f"{base}\n{prefix}\n{extra}")
    return Solver(read_solver(folder / "solver.prototxt"), find_backend("reference"), **options)  # type: ignore[arg-type]


def params(solver: Solver) -> list[np.ndarray]:
    return [param.copy() for param in solver.net.params]


def equal(a: Solver, b: Solver) -> None:
    for x, y in zip(a.net.params, b.net.params, strict=True):
        np.testing.assert_array_equal(x, y)
    for x, y in zip(a.rule.history, b.rule.history, strict=True):
        np.testing.assert_array_equal(x, y)


def test_the_log_is_in_caffes_words(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="netc"):
        solver_in(folder, "snapshot_after_train: false").solve()
    text = "\n".join(record.getMessage() for record in caplog.records)
    # The patterns are those of caffe/tools/extra/parse_log.py and its kin.
    assert re.findall(r"Iteration (\d+), lr = ([\d.e-]+)", text) == [
        ("0", "0.05"),
        ("4", "0.05"),
        ("8", "0.025"),
    ]
    assert len(re.findall(r"Iteration \d+ \(.* iter/s, .*s/4 iters\), loss = [\d.]+", text)) == 3
    assert len(re.findall(r"Train net output #0: loss = \S+ \(\* 1 = \S+ loss\)", text)) == 3
    assert re.findall(r"Iteration (\d+), Testing net \(#0\)", text) == ["0", "6", "12"]
    assert len(re.findall(r"Test net output #0: acc = [\d.]+", text)) == 3
    assert "Solving tiny" in text
    assert text.endswith("Optimization Done.")


def test_resuming_at_any_iteration_ends_with_the_same_bits(folder: Path) -> None:
    whole = solver_in(folder, "iter_size: 2")
    whole.solve()
    for stop in (1, 5, 6, 11):
        first = solver_in(folder, "iter_size: 2")
        first.step(stop)
        _, state = first.snapshot()
        second = solver_in(folder, "iter_size: 2 random_seed: 99".replace("random_seed: 99", ""))
        second.restore(state)
        assert second.iter == stop
        second.solve()
        equal(whole, second)


def test_a_resumed_run_takes_its_seed_from_the_snapshot(folder: Path) -> None:
    base = SOLVER.replace("random_seed: 3", "")
    first = solver_in(folder, base=base)
    first.step(4)
    _, state = first.snapshot()
    first.step(4)
    second = solver_in(folder, base=base)
    second.restore(state)
    assert second.seed == first.seed
    second.step(4)
    equal(first, second)


@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
def test_snapshots_go_on_in_both_encodings(folder: Path, form: str) -> None:
    whole = solver_in(folder)
    whole.step(7)
    first = solver_in(folder, f"snapshot_format: {form}")
    first.step(3)
    weights, state = first.snapshot()
    assert weights.exists()
    second = solver_in(folder, f"snapshot_format: {form}")
    second.restore(state)
    second.step(4)
    equal(whole, second)


def test_snapshots_come_every_so_often_and_at_the_end(folder: Path) -> None:
    solver_in(folder, "snapshot: 5").solve()
    assert sorted(p.name for p in folder.glob("snap*")) == [
        f"snap_iter_{i}.{kind}" for i in (10, 12, 5) for kind in ("caffemodel", "solverstate")
    ]


def test_a_stop_is_answered_after_the_running_iteration_with_a_snapshot(folder: Path) -> None:
    asked = iter([Action.NONE] * 4 + [Action.STOP] * 9)
    solver = solver_in(folder, action=lambda: next(asked))
    solver.solve()
    assert solver.stopped
    assert (folder / f"snap_iter_{solver.iter}.solverstate").exists()
    assert 0 < solver.iter < 12


def test_training_stops_at_the_first_layer_with_a_nan(folder: Path) -> None:
    solver = solver_in(folder)
    solver.step(1)
    solver.net.params[0][0, 0] = np.nan
    with pytest.raises(NetcError) as caught:
        solver.step(1)
    message = str(caught.value)
    assert "'ip' (InnerProduct)" in message
    assert "at iteration 1" in message
    assert "param 0 not finite" in message


def test_a_label_out_of_range_names_the_layer_and_the_value(folder: Path) -> None:
    text = (folder / "net.prototxt").read_text().replace("num_output: 3", "num_output: 2")
    (folder / "net.prototxt").write_text(text)
    with pytest.raises(NetcError) as caught:
        solver_in(folder).step(3)
    message = str(caught.value)
    assert "(SoftmaxWithLoss)" in message or "(Accuracy)" in message
    assert re.search(r"label.*2|2.*label", message)


def test_a_snapshot_of_another_net_is_refused(folder: Path) -> None:
    _, state = solver_in(folder).snapshot()
    other = (folder / "net.prototxt").read_text().replace("num_output: 8", "num_output: 7")
    (folder / "net.prototxt").write_text(other)
    solver = solver_in(folder)
    before = params(solver)
    with pytest.raises(NetcError, match="of another net"):
        solver.restore(state)
    for a, b in zip(before, solver.net.params, strict=True):
        np.testing.assert_array_equal(a, b)


def test_finetuning_says_what_was_copied_and_what_is_fresh(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = solver_in(folder)
    weights, _ = first.snapshot()
    text = (folder / "net.prototxt").read_text()
    (folder / "net.prototxt").write_text(
        text.replace('name: "ip2"', 'name: "ip2_new"').replace("num_output: 3", "num_output: 5")
    )
    second = solver_in(folder)
    with caplog.at_level(logging.INFO, logger="netc"):
        tuning.start(second, Asked((str(weights),)))
    lines = [record.getMessage() for record in caplog.records]
    assert any(line.split()[:2] == ["copied", "ip"] for line in lines)
    assert any(line.split()[:2] == ["fresh", "ip2_new"] for line in lines)
    assert any(line.split()[:2] == ["unused", "ip2"] for line in lines)
    np.testing.assert_array_equal(first.net.params[0], second.net.params[0])


def test_a_shape_clash_gives_both_shapes_and_the_edit(folder: Path) -> None:
    weights, _ = solver_in(folder).snapshot()
    text = (folder / "net.prototxt").read_text()
    (folder / "net.prototxt").write_text(text.replace("num_output: 3", "num_output: 5"))
    with pytest.raises(NetcError) as caught:
        tuning.start(solver_in(folder), Asked((str(weights),)))
    message = str(caught.value)
    assert "(5, 8)" in message
    assert "(3, 8)" in message
    assert "rename the layer" in message


def test_a_test_net_without_a_pass_is_built_and_not_run(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    solver = solver_in(folder, base=SOLVER.replace("test_iter: 2", "test_iter: 0"))
    with caplog.at_level("INFO"):
        solver.solve()
    assert len(solver.test_nets) == 1 and solver.iter == 12
    assert [scores.outputs for scores in solver.scores] == [()]
    assert "Testing net (#0)" in caplog.text and "Test net output" not in caplog.text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('net: "net.prototxt"', ""), "exactly one training net"),
        (('net: "net.prototxt"', 'net: "nte.prototxt"'), "nte.prototxt"),
        (('lr_policy: "step"', 'lr_policy: "stepp"'), "did you mean 'step'?"),
        (("stepsize: 5", ""), "needs stepsize"),
        (("base_lr: 0.05", ""), "base_lr is missing"),
        (("test_interval: 6", ""), "test_interval is not"),
        (("test_iter: 2", ""), "test_iter is not"),
        (("test_iter: 2", "test_iter: -1"), "test_iter is negative"),
        (("momentum: 0.9", 'type: "Adagrad"'), "did you mean 'AdaGrad'?"),
        (("momentum: 0.9", 'momentum: 0.9 type: "RMSProp"'), "has no momentum"),
        (("average_loss: 3", "average_loss: 0"), "average_loss is too small"),
    ],
)
def test_mistakes_in_a_solver_file(folder: Path, change: tuple[str, str], says: str) -> None:
    with pytest.raises(NetcError) as caught:
        solver_in(folder, base=SOLVER.replace(*change))
    assert says in str(caught.value)
    assert "solver.prototxt" in str(caught.value)


def test_all_mistakes_of_a_solver_file_are_told_at_once(folder: Path) -> None:
    base = SOLVER.replace("base_lr: 0.05", "").replace("stepsize: 5", "").replace("0.9", "-1")
    with pytest.raises(NetcError) as caught:
        solver_in(folder, base=base)
    assert len(caught.value.problems) == 3


def test_resume_and_finetuning_exclude_each_other() -> None:
    with pytest.raises(NetcError, match="cannot both"):
        tuning.check_start(Asked(("a.caffemodel",)), "b.solverstate")


def test_a_prefix_that_cannot_be_written_is_told_before_training(folder: Path) -> None:
    (folder / "file").write_text("")
    (folder / "solver.prototxt").write_text(f'{SOLVER}\nsnapshot_prefix: "{folder}/file/snap"')
    solver = Solver(read_solver(folder / "solver.prototxt"), find_backend("reference"))
    with pytest.raises(NetcError, match="snapshot"):
        solver.solve()
    assert solver.iter == 0


def test_training_to_the_end_needs_one(folder: Path) -> None:
    solver = solver_in(folder, base=SOLVER.replace("max_iter: 12", ""))
    solver.step(1)  # a program may do without
    with pytest.raises(NetcError, match="max_iter is missing"):
        solver.solve()


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_updates_in_the_backward_pass_change_no_number(folder: Path, kind: str) -> None:
    """Gradients that are clipped together must all be there; a limit that is never met shows it."""
    base = SOLVER if kind == "SGD" else SOLVER.replace("momentum: 0.9", "")
    at_once = solver_in(folder, f'type: "{kind}"', base=base)
    together = solver_in(folder, f'type: "{kind}" clip_gradients: 1e9', base=base)
    assert at_once.net.plan.updated
    assert not together.net.plan.updated
    for solver in (at_once, together):
        solver.step(7)
    equal(at_once, together)


def test_a_loss_that_is_not_finite_changes_no_param(folder: Path) -> None:
    solver = solver_in(folder)
    solver.step(1)
    history = [blob.copy() for blob in solver.rule.history]
    solver.net.params[0][0, 0] = np.inf
    last = solver.net.params[-2].copy()
    with pytest.raises(NetcError):
        solver.step(1)
    for ours, earlier in zip(solver.rule.history, history, strict=True):
        np.testing.assert_array_equal(ours, earlier)
    np.testing.assert_array_equal(solver.net.params[-2], last)


def test_layers_can_ask_how_much_of_the_training_is_done(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text("""
        layer { name: "x" type: "DummyData" top: "x" top: "objects" top: "mean"
                dummy_data_param { shape { dim: 1 dim: 1 dim: 2 dim: 2 }
                                   shape { dim: 1 dim: 1 dim: 1 dim: 5 }
                                   shape { dim: 1 dim: 2 dim: 2 }
                                   data_filler { value: 0 } data_filler { value: 1 }
                                   data_filler { value: 3 } } }
        layer { name: "ae" type: "AssistedExcitation" bottom: "x" bottom: "objects" bottom: "mean"
                top: "y" }
        layer { name: "sum" type: "Reduction" bottom: "y" top: "sum" loss_weight: 1 }
    """)
    solver = solver_in(
        tmp_path, base='net: "net.prototxt" base_lr: 0.1 max_iter: 4\nlr_policy: "fixed"'
    )
    sums = []
    for _ in range(4):
        solver.step(1)
        sums.append(solver.loss / 3)  # the object covers one pixel
    np.testing.assert_allclose(sums, np.cos(np.pi / 2 * np.array([0, 1, 2, 3]) / 3), atol=1e-6)
