"""Fine-tuning on a tiny net: what stays still, what goes on bit for bit, what is reported."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from netc.backends import find_backend
from netc.data import write_datums
from netc.errors import NetcError
from netc.plan.types import Direction, Step
from netc.schema import read_solver
from netc.train import tuning
from netc.train.finetuning import Asked
from netc.train.freezing import Freeze, Rate, Unfreeze, Wishes
from netc.train.solver import Solver
from netc.weights.transfer import PartialCopy, Rename, Transfer
from tests.data.samples import pixels, raw
from tests.support.nets import require

NET = """
name: "tiny"
layer { name: "data" type: "Data" top: "data" top: "label" transform_param { scale: 0.004 }
        data_param { source: "db" backend: LMDB batch_size: 4 } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
        inner_product_param { num_output: 6 weight_filler { type: "xavier" } } }
layer { name: "drop" type: "Dropout" bottom: "ip" top: "ip" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip" top: "ip2"
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
"""
SOLVER = """
net: "net.prototxt" base_lr: 0.05 weight_decay: 0.001 lr_policy: "fixed" max_iter: 9
random_seed: 3 snapshot_after_train: false
"""
BACKENDS = ["reference", "cpu"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_datums(tmp_path / "db", (raw(pixels(1, 6, 6, seed=i), i % 3) for i in range(10)))
    (tmp_path / "net.prototxt").write_text(NET)
    return tmp_path


def solver_in(
    folder: Path,
    extra: str = 'type: "SGD" momentum: 0.9',
    backend: str = "reference",
    net: str = NET,
) -> Solver:
    require(backend)
    (folder / "net.prototxt").write_text(net)
    (folder / "solver.prototxt").write_text(f'{SOLVER} snapshot_prefix: "{folder}/snap"\n{extra}')
    return Solver(read_solver(folder / "solver.prototxt"), find_backend(backend))


def arrays(solver: Solver) -> dict[str, list[np.ndarray]]:
    net = solver.net
    return {
        node.name: [np.array(net.param_array(use.param)) for use in node.params]
        for node in net.plan.graph.nodes
        if node.params
    }


def equal(a: Solver, b: Solver) -> None:
    for x, y in zip(a.net.params, b.net.params, strict=True):
        np.testing.assert_array_equal(x, y)
    for x, y in zip(a.rule.history, b.rule.history, strict=True):
        np.testing.assert_array_equal(x, y)


def backward_layers(solver: Solver) -> set[str]:
    plan = solver.net.plan
    return {
        plan.graph.nodes[node].name
        for step in plan.backward
        if isinstance(step, Step) and step.direction is Direction.BACKWARD
        for node in step.nodes
    }


@pytest.fixture
def weights(folder: Path) -> str:
    first = solver_in(folder)
    first.step(3)
    return str(first.snapshot()[0].rename(folder / "base.caffemodel"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", ['type: "SGD" momentum: 0.9', 'type: "Adam" momentum: 0.9'])
@pytest.mark.parametrize("more", ["", "iter_size: 2 clip_gradients: 1"])
def test_frozen_layers_stay_and_cost_nothing(
    folder: Path, weights: str, backend: str, rule: str, more: str
) -> None:
    solver = solver_in(
        folder, f'{rule} {more} freeze: "conv" freeze: "bn" freeze: "scale"', backend
    )
    tuning.start(solver, Asked((weights,)))
    before = arrays(solver)
    assert backward_layers(solver) == {"ip", "drop", "ip2", "loss"}
    solver.step(4)
    after = arrays(solver)
    for name, values in before.items():
        same = all(np.array_equal(x, y) for x, y in zip(values, after[name], strict=True))
        assert same == (name in ("conv", "bn", "scale")), name
    for index, param in enumerate(solver.net.plan.graph.params):
        owner = solver.net.plan.graph.nodes[param.owner].name
        if owner in ("conv", "scale"):
            assert solver.net._param_diffs[index] is None
            assert not solver.rule.history[index].any()


def test_a_frozen_layer_is_one_without_rate_and_decay(folder: Path, weights: str) -> None:
    frozen = solver_in(folder, 'momentum: 0.9 freeze: "ip"')
    tuning.start(frozen, Asked((weights,)))
    still = "param { lr_mult: 0 decay_mult: 0 }"
    text = NET.replace('top: "ip"\n', f'top: "ip" {still} {still}\n', 1)
    assert text != NET
    fixed = solver_in(folder, "momentum: 0.9", net=text)
    tuning.start(fixed, Asked((weights,)))
    for solver in (frozen, fixed):
        solver.step(5)
    equal(frozen, fixed)


def test_a_rate_by_pattern_is_one_in_the_text(folder: Path, weights: str) -> None:
    one = solver_in(folder, 'momentum: 0.9 layer_rate { layer: "ip*" lr_mult: 3 }')
    tuning.start(one, Asked((weights,)))
    fast = "param { lr_mult: 3 } param { lr_mult: 3 }"
    text = NET.replace("        inner_product_param", f"        {fast} inner_product_param")
    other = solver_in(folder, "momentum: 0.9", net=text)
    tuning.start(other, Asked((weights,)))
    for solver in (one, other):
        solver.step(5)
    equal(one, other)


SCHEDULE = """
freeze: "conv" freeze: "bn" freeze: "scale" freeze: "ip"
unfreeze { layer: "ip" iter: 3 } unfreeze { layer: "*" iter: 6 } unfreeze { layer: "ip" iter: 3 }
"""


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "rule", ['type: "SGD" momentum: 0.9', 'type: "Adam" momentum: 0.9 iter_size: 2']
)
def test_scheduled_unfreezing_goes_on_bit_for_bit_wherever_it_is_stopped(
    folder: Path, weights: str, backend: str, rule: str
) -> None:
    whole = solver_in(folder, f"{rule} {SCHEDULE}", backend)
    tuning.start(whole, Asked((weights,)))
    places = [id(array) for array in whole.net.params]
    seen = []
    for _ in range(9):
        whole.step(1)
        seen.append(frozenset(backward_layers(whole)))
    assert places == [id(array) for array in whole.net.params]
    assert seen[0] == seen[2] == {"ip2", "loss"}
    assert seen[3] == seen[5] == {"ip2", "loss", "drop", "ip"}
    assert {"conv", "ip"} < seen[6]
    for stop in (1, 3, 5, 6):
        first = solver_in(folder, f"{rule} {SCHEDULE}", backend)
        tuning.start(first, Asked((weights,)))
        first.step(stop)
        _, state = first.snapshot()
        second = solver_in(folder, f"{rule} {SCHEDULE}", backend)
        tuning.start(second, Asked(), str(state))
        second.step(9 - stop)
        equal(whole, second)


def test_an_unfrozen_layer_starts_with_no_history(folder: Path, weights: str) -> None:
    schedule = 'freeze: "ip" unfreeze { layer: "ip" iter: 3 }'
    solver = solver_in(folder, f'type: "Adam" momentum: 0.9 {schedule}')
    tuning.start(solver, Asked((weights,)))
    (index,) = (
        i
        for i, param in enumerate(solver.net.plan.graph.params)
        if solver.net.plan.graph.nodes[param.owner].name == "ip" and param.index == 0
    )
    solver.step(3)
    assert not solver.rule.history[index].any()
    solver.step(1)
    assert solver.rule.history[index].any()


ASKED = Asked(
    wishes=Wishes((Freeze("conv"),), (Unfreeze("conv", 4),), (Rate("ip2", 2.5),)),
)


def test_what_the_command_line_asked_for_is_in_the_snapshot(
    folder: Path, weights: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = solver_in(folder)
    asked = Asked((weights,), ASKED.wishes)
    tuning.start(whole, asked)
    whole.step(2)
    _, state = whole.snapshot()
    whole.step(5)
    second = solver_in(folder)
    with caplog.at_level(logging.INFO, logger="netc"):
        tuning.start(second, Asked(), str(state))
    assert "Not trained before iteration 4: conv" in caplog.text
    second.step(5)
    equal(whole, second)
    assert second.fine_tuning.report() == whole.fine_tuning.report()

    # And in that of the run that went on, once each.
    assert second.fine_tuning.state() == whole.fine_tuning.state()
    _, later = second.snapshot()
    third = solver_in(folder)
    tuning.start(third, Asked(), str(later))
    assert third.fine_tuning.state() == whole.fine_tuning.state()

    anew = solver_in(folder)
    tuning.start(anew, Asked(wishes=Wishes((Freeze("ip"),))), str(state))
    assert anew.fine_tuning.schedule is not None
    assert anew.fine_tuning.schedule.frozen(3) == ("ip",)


def test_how_far_the_layers_moved(folder: Path, weights: str) -> None:
    text = NET.replace('name: "ip2"', 'name: "new"').replace("num_output: 6", "num_output: 5")
    solver = solver_in(folder, 'momentum: 0.9 freeze: "conv"', net=text)
    transfer = Transfer(partial=(PartialCopy("ip"),))
    tuning.start(solver, Asked((weights,), transfer=transfer))
    start = arrays(solver)
    solver.step(4)
    end = arrays(solver)
    lines = solver.fine_tuning.report()
    assert lines[0] == "Moved from the start, relative to it (L2):"
    told = {line.split()[0]: line.split()[1:] for line in lines[1:]}
    assert list(told) == list(start)
    for name, values in start.items():
        before, after = (np.concatenate([v.ravel() for v in vs]) for vs in (values, end[name]))
        wanted = np.linalg.norm(after - before) / np.linalg.norm(before)
        # Three digits are printed.
        np.testing.assert_allclose(float(told[name][0]), wanted, rtol=5e-3, atol=0)
    assert told["conv"] == ["0", "not", "trained"]
    assert " ".join(told["new"][1:]) == "began freshly filled"

    Path(weights).unlink()
    (line,) = solver.fine_tuning.report()
    assert "cannot be told" in line
    assert "base.caffemodel" in line


def test_a_run_from_scratch_has_nothing_to_report(folder: Path) -> None:
    solver = solver_in(folder)
    tuning.start(solver, Asked())
    assert solver.fine_tuning.report() == []


def test_frozen_layers_that_never_learned_are_told(
    folder: Path, weights: str, caplog: pytest.LogCaptureFixture
) -> None:
    solver = solver_in(folder, 'freeze: "conv"')
    tuning.start(solver, Asked())
    assert "no weights are loaded" in caplog.text
    caplog.clear()
    text = NET.replace('name: "conv"', 'name: "conv_new"')
    solver = solver_in(folder, 'freeze: "conv*"', net=text)
    tuning.start(solver, Asked((weights,)))
    assert "the weights do not have conv_new" in caplog.text


def test_renames_and_rows_of_a_solver_file(folder: Path, weights: str) -> None:
    text = NET.replace('name: "conv"', 'name: "base/conv"').replace(
        "num_output: 3", "num_output: 2"
    )
    (folder / "names.txt").write_text("conv base/conv\n")
    solver = solver_in(
        folder,
        f'weights: "{weights}" rename_file: "names.txt" rename {{ old: "s*" new: "s*" }}'
        ' partial_copy { layer: "ip2" row: [2, 0] }',
        net=text,
    )
    tuning.start(solver, Asked())
    base = solver_in(folder)
    tuning.start(base, Asked((weights,)))
    ours, theirs = arrays(solver), arrays(base)
    np.testing.assert_array_equal(ours["base/conv"][0], theirs["conv"][0])
    np.testing.assert_array_equal(ours["ip2"][0], theirs["ip2"][0][[2, 0]])


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ('freeze: "cnov"', "solver.prototxt:5:9: no layer of the net"),
        ('freeze: "conv" unfreeze { layer: "conv" iter: 9 }', "solver.prototxt:5:"),
        ('layer_rate { layer: "relu" lr_mult: 2 }', "have no rate"),
        (
            'layer_rate { layer: "ip" lr_mult: 2 } larc: true',
            "solver.prototxt:5:1: rates of layers",
        ),
    ],
)
def test_mistakes_in_a_solver_file_have_a_place(folder: Path, extra: str, says: str) -> None:
    with pytest.raises(NetcError) as caught:
        solver_in(folder, extra)
    assert says in str(caught.value)


def test_renames_need_weights(folder: Path) -> None:
    solver = solver_in(folder)
    with pytest.raises(NetcError, match="none are loaded"):
        tuning.start(solver, Asked(transfer=Transfer((Rename("a", "b"),))))
    with pytest.raises(NetcError, match="copies no other weights"):
        tuning.check_start(Asked(transfer=Transfer((Rename("a", "b"),))), "x.solverstate")
